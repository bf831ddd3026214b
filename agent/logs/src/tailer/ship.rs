//! The last steps of a record in the reader: it may be one line of several, the operator may want something done with it, and
//! then it goes into the batch. Where nothing was asked for that is all.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use crate::join::{Joiner, Rule};
use crate::limit::Bucket;
use crate::offsets::Place;
use crate::otlp::Encoder;
use crate::partial::{Record, Room};
use crate::process::Process;
use crate::stats::Counts;

use super::Settings;
use super::output::Output;

/// Pods whose share is known; beyond it all begin with a full one again.
const PODS_MAX: usize = 10_000;

/// What the operator asked for.
pub(super) struct Care {
    join: Option<Rule>,
    room: Room,
    hands: Hands,
    pod_bytes_per_second: Option<u64>,
    pods: HashMap<String, Bucket>,
}

/// What is done with a single record.
struct Hands {
    process: Option<Process>,
    /// Of the pod whose turn it is.
    bucket: Option<Bucket>,
}

impl Care {
    pub(super) fn new(settings: &Settings) -> Self {
        let process = settings.process.clone();
        Self {
            join: settings.join.clone(),
            room: Room::new(settings.partial_bytes_max),
            hands: Hands {
                process: (!process.is_nothing()).then_some(process),
                bucket: None,
            },
            pod_bytes_per_second: settings.pod_bytes_per_second,
            pods: HashMap::new(),
        }
    }

    /// It is this pod's turn.
    pub(super) fn begin(&mut self, uid: &str, now: Duration) {
        if let Some(per_second) = self.pod_bytes_per_second {
            let known = self.pods.remove(uid);
            let mut bucket = known.unwrap_or_else(|| Bucket::new(per_second, now));
            bucket.fill(now);
            self.hands.bucket = Some(bucket);
        }
    }

    /// It was.
    pub(super) fn end(&mut self, uid: &str) {
        if let Some(bucket) = self.hands.bucket.take() {
            if self.pods.len() >= PODS_MAX {
                self.pods.clear();
            }
            self.pods.insert(uid.to_owned(), bucket);
        }
    }
}

/// The batch that a container's records go into.
pub(super) struct Ship<'a> {
    pub(super) out: &'a mut Output,
    pub(super) encoder: &'a Encoder,
    pub(super) counts: &'a mut Counts,
}

impl Ship<'_> {
    /// A record that began at `start`. `valid`: what was read is UTF-8.
    #[expect(
        clippy::too_many_arguments,
        reason = "what `Joiner::push` wants, of one line each"
    )]
    pub(super) fn put(
        &mut self,
        record: Record<'_>,
        valid: bool,
        start: Place,
        joiner: &mut Joiner,
        care: &mut Care,
        cap: usize,
        now: Duration,
    ) {
        let Care {
            join, room, hands, ..
        } = care;
        match join {
            None => self.load(record, valid, hands),
            Some(rule) => {
                let emit = |record: Record<'_>| self.load(record, valid, hands);
                joiner.push(record, start, now, rule, cap, room, emit);
            }
        }
    }

    /// Messages of several lines whose last one came before `before`.
    pub(super) fn flush(&mut self, before: Duration, joiner: &mut Joiner, care: &mut Care) {
        let Care { room, hands, .. } = care;
        joiner.flush(before, room, |record| self.load(record, false, hands));
    }

    fn load(&mut self, mut record: Record<'_>, valid: bool, hands: &mut Hands) {
        if (hands.process.is_some() || hands.bucket.is_some())
            && let Err(reason) = hands.handle(&mut record)
        {
            self.counts.lose(reason, 1, record.content.len() as u64);
            return;
        }
        self.counts.count(record.stream);
        // Parts of a character may be in two lines, and be cut or replaced.
        let valid = valid && !record.truncated && matches!(record.content, Cow::Borrowed(_));
        self.out.push(self.encoder, &record, valid);
    }
}

impl Hands {
    fn handle(&mut self, record: &mut Record<'_>) -> Result<(), &'static str> {
        let bytes = record.content.len() as u64;
        if self
            .bucket
            .as_mut()
            .is_some_and(|bucket| !bucket.take(bytes))
        {
            return Err("rate_limit");
        }
        match &self.process {
            Some(process) => process.apply(record),
            None => Ok(()),
        }
    }
}
