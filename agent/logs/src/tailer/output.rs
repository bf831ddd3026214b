//! The batch in the making and those under way.

use std::sync::Arc;
use std::time::Duration;

use crate::batch::{Builder, SourceId};
use crate::fault;
use crate::offsets::{Ledger, Place};
use crate::otlp::{Encoder, Envelope};
use crate::partial::Record;
use crate::sink::{Loss, Sink};

use super::Settings;

/// A batch is full a little before its bound, so that a line of usual length does not pass it.
const MARGIN: usize = 32 << 10;

pub(super) struct Output {
    sink: Box<dyn Sink>,
    builder: Builder,
    ledger: Ledger,
    full: usize,
    in_flight_max: usize,
    /// Where files are to be read on from once what is in the builder has arrived.
    pub(super) resume: Vec<Place>,
    /// Since when the builder has a record.
    opened: Option<Duration>,
    source: Option<(SourceId, Arc<Envelope>)>,
    /// What may be committed though no answer said so.
    early: Vec<Place>,
}

/// What came of batches.
#[derive(Default)]
pub(super) struct Settled {
    pub(super) resume: Vec<Place>,
    pub(super) lost: Vec<Loss>,
    pub(super) rejected: u64,
}

impl Output {
    pub(super) fn new(settings: &Settings, sink: Box<dyn Sink>) -> Self {
        Self {
            sink,
            builder: Builder::default(),
            ledger: Ledger::default(),
            full: settings.batch_bytes.saturating_sub(MARGIN).max(1),
            in_flight_max: settings.in_flight_max.max(1),
            resume: Vec::new(),
            opened: None,
            source: None,
            early: Vec::new(),
        }
    }

    pub(super) fn turn(&mut self, source: SourceId, envelope: Arc<Envelope>) {
        self.builder.turn(source, &envelope);
        self.source = Some((source, envelope));
    }

    pub(super) fn push(&mut self, encoder: &Encoder, record: &Record<'_>, valid: bool) {
        self.builder.push(encoder, record, valid);
    }

    pub(super) fn is_full(&self) -> bool {
        self.builder.bytes() >= self.full
    }

    /// Something may be read. Sends the batch first if it is full.
    pub(super) fn has_room(&mut self) -> bool {
        if self.is_full() {
            self.try_seal();
        }
        !self.is_full()
    }

    pub(super) fn opened(&self) -> Option<Duration> {
        self.opened
            .filter(|_| self.ledger.unsettled() < self.in_flight_max)
    }

    /// Something was read: the time of the batch runs.
    pub(super) fn note_time(&mut self, now: Duration) {
        if !self.builder.is_empty() || !self.resume.is_empty() {
            self.opened.get_or_insert(now);
        }
    }

    /// Sends what waits long enough.
    pub(super) fn flush_old(&mut self, now: Duration, linger: Duration) {
        if self.opened.is_some_and(|opened| now >= opened + linger) {
            self.try_seal();
        }
    }

    pub(super) fn flush(&mut self) {
        if self.opened.is_some() {
            self.try_seal();
        }
    }

    fn try_seal(&mut self) {
        if self.ledger.unsettled() >= self.in_flight_max {
            return;
        }
        let id = self.ledger.seal(std::mem::take(&mut self.resume));
        self.opened = None;
        if self.builder.is_empty() {
            // Lines that gave no record: nothing to wait for but what came before.
            let resume = self.ledger.settle(id);
            self.early.extend(resume);
            return;
        }
        // Only tests can fail it.
        drop(fault::point("send"));
        let batch = self.builder.seal(id);
        self.sink.send(batch);
        if let Some((source, envelope)) = &self.source {
            self.builder.turn(*source, envelope);
        }
    }

    pub(super) fn settle(&mut self) -> Settled {
        let mut settled = Settled {
            resume: std::mem::take(&mut self.early),
            ..Settled::default()
        };
        for answer in self.sink.answers() {
            settled.resume.extend(self.ledger.settle(answer.id));
            settled.lost.extend(answer.lost);
            settled.rejected += answer.rejected;
        }
        settled
    }

    pub(super) fn in_flight(&self) -> usize {
        self.ledger.unsettled()
    }

    /// Nothing is in the making or under way.
    pub(super) fn is_idle(&self) -> bool {
        self.opened.is_none() && self.ledger.unsettled() == 0
    }
}
