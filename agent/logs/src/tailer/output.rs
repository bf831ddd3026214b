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
            .filter(|_| self.ledger.uncommitted() < self.in_flight_max)
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
        // Those that wait only for an earlier one's answer count too: else one that is stuck lets them become ever more.
        if self.ledger.uncommitted() >= self.in_flight_max {
            return;
        }
        let id = self.ledger.seal(std::mem::take(&mut self.resume));
        self.opened = None;
        if self.builder.is_empty() {
            // Lines that gave no record: nothing to wait for but what came before.
            let resume = self.ledger.settle(id);
            self.early.extend(resume);
            // The turns left what surrounds their records: with none it must not fill the batch.
            self.builder = Builder::default();
            self.turn_again();
            return;
        }
        // Only tests can fail it.
        drop(fault::point("send"));
        let batch = self.builder.seal(id);
        self.sink.send(batch);
        self.turn_again();
    }

    fn turn_again(&mut self) {
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

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;
    use crate::batch::Batch;
    use crate::offsets::{BatchId, FileId};
    use crate::sink::Answer;

    /// Answers what the test says.
    #[derive(Clone, Default)]
    struct Told {
        sent: Arc<Mutex<Vec<BatchId>>>,
        answers: Arc<Mutex<Vec<Answer>>>,
    }

    impl Sink for Told {
        fn send(&mut self, batch: Batch) {
            self.sent.lock().unwrap().push(batch.id);
        }

        fn answers(&mut self) -> Vec<Answer> {
            std::mem::take(&mut self.answers.lock().unwrap_or_else(PoisonError::into_inner))
        }
    }

    fn output(sink: &Told) -> Output {
        let settings = Settings {
            batch_bytes: MARGIN + 10_000,
            in_flight_max: 3,
            ..Settings::new("/".into())
        };
        Output::new(&settings, Box::new(sink.clone()))
    }

    fn envelope(number: u32) -> Arc<Envelope> {
        Arc::new(Envelope::new(&[b'x'; 1_000], &number.to_string(), "", ""))
    }

    fn push(out: &mut Output) {
        let record = Record {
            time: 1,
            stream: None,
            content: b"x".as_slice().into(),
            truncated: false,
            unparsed: false,
            severity: None,
        };
        out.push(&Encoder::new(1), &record, true);
        out.note_time(Duration::ZERO);
    }

    #[test]
    fn behind_one_that_is_stuck_no_more_are_sent_than_may_be_in_flight() {
        let sink = Told::default();
        let mut out = output(&sink);
        out.turn(SourceId(1), envelope(1));
        for _ in 0..10 {
            push(&mut out);
            out.flush();
            // All but the first are answered.
            let sent = sink.sent.lock().unwrap().clone();
            let answers = sent.into_iter().skip(1).map(Answer::arrived);
            sink.answers.lock().unwrap().extend(answers);
            out.settle();
        }
        assert_eq!(sink.sent.lock().unwrap().len(), 3);
        assert_eq!((out.in_flight(), out.opened()), (1, None));
        sink.answers
            .lock()
            .unwrap()
            .push(Answer::arrived(BatchId(0)));
        out.settle();
        out.flush();
        assert_eq!(sink.sent.lock().unwrap().len(), 4);
    }

    #[test]
    fn turns_without_records_do_not_fill_a_batch() {
        let sink = Told::default();
        let mut out = output(&sink);
        for number in 1..=100 {
            assert!(out.has_room(), "after {number} turns");
            out.turn(SourceId(number), envelope(number));
            let file = FileId {
                source: SourceId(number),
                number: 1,
            };
            out.resume.push(Place { file, offset: 1 });
            out.note_time(Duration::ZERO);
        }
        assert!(out.has_room());
        let settled = out.settle();
        assert!(!settled.resume.is_empty() && sink.sent.lock().unwrap().is_empty());
        // What comes next is still of the last turn's source.
        push(&mut out);
        out.flush();
        assert_eq!(sink.sent.lock().unwrap().len(), 1);
    }
}
