//! Brings one batch to the collector, or knows why it is lost: attempts, waits, splits, and the counting of both.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use plumbline_core::time::UnixNanos;
use tokio::sync::watch;

use super::encode::Batch;
use super::lane::Latest;
use super::stats::{LaneState, SharedStats};
use super::transport::Transport;
use super::verdict::{Attempt, Reply, Verdict, backoff, decide};
use crate::clock;

/// How often a batch is halved: 2^8 pieces and 511 requests at most, however often the collector says "too large".
const SPLITS_MAX: u32 = 8;
/// How long to leave a collector alone that only a person can mend.
pub(super) const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// Whether this lane is to end. In the closing state nothing is retried.
pub(super) type Closing = watch::Receiver<bool>;

/// What became of a batch. Its items are counted either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Some of it arrived.
    Arrived,
    /// None of it did.
    Lost,
    /// None of it did, nor will the next: wait for [`REFUSED_PAUSE`].
    Refused,
    /// There is something newer to send. The items are not counted: that is the caller's to do.
    GaveWay(u64),
}

/// Carries the batches of one lane, one at a time. What the collector asked for outlives the batch that it answered.
#[derive(Debug)]
pub(super) struct Courier {
    transport: Transport,
    stats: Arc<SharedStats>,
    closing: Closing,
    gzip: Gzip,
    /// Attempts in a row that are to be repeated.
    failures: u32,
    /// No request before this; absent when the collector may be asked at once.
    not_before: Option<Instant>,
}

/// Whether to compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gzip {
    /// The collector has accepted it.
    Proven,
    /// It may or may not.
    Unproven,
    /// Not asked for, or refused by the collector.
    Off,
}

/// What one piece of a batch came to.
enum Piece {
    Arrived,
    Lost,
    Refused,
    Halves(Batch, Batch),
    GaveWay(u64),
}

impl Courier {
    pub(super) fn new(transport: Transport, stats: Arc<SharedStats>, closing: Closing) -> Self {
        let gzip = if transport.endpoint().gzip {
            Gzip::Unproven
        } else {
            Gzip::Off
        };
        Self {
            transport,
            stats,
            closing,
            gzip,
            failures: 0,
            not_before: None,
        }
    }

    /// Tries until the batch has arrived or is lost, or until `newer` says that waiting is pointless.
    pub(super) async fn deliver(&mut self, batch: Batch, newer: Option<&Latest>) -> Fate {
        let mut fate = Fate::Lost;
        let mut stack = vec![(batch, 0)];
        while let Some((batch, splits)) = stack.pop() {
            match self.deliver_piece(batch, splits, newer).await {
                Piece::Arrived => fate = Fate::Arrived,
                Piece::Lost => {}
                Piece::Halves(first, second) => {
                    stack.extend([(second, splits + 1), (first, splits + 1)])
                }
                Piece::Refused => {
                    self.lose("refused", stack.iter().map(|(batch, _)| batch.items).sum());
                    return Fate::Refused;
                }
                Piece::GaveWay(items) => {
                    return Fate::GaveWay(
                        items + stack.iter().map(|(batch, _)| batch.items).sum::<u64>(),
                    );
                }
            }
        }
        fate
    }

    async fn deliver_piece(&mut self, batch: Batch, splits: u32, newer: Option<&Latest>) -> Piece {
        let mut uncompressed = false;
        loop {
            if self.wait(newer).await == Wait::GiveWay {
                return Piece::GaveWay(batch.items);
            }
            let closing = self.is_closing();
            let gzip = self.gzip != Gzip::Off && !uncompressed;
            let reply = self
                .transport
                .send(&batch.payload, gzip, Duration::MAX)
                .await;
            let attempt = Attempt {
                items: batch.items,
                gzip_unproven: gzip && self.gzip == Gzip::Unproven,
            };
            let verdict = decide(&reply, attempt);
            note(
                &self.stats,
                &self.transport.endpoint().origin(),
                &reply,
                &verdict,
            );
            self.put_off(&verdict);
            match verdict {
                Verdict::Accepted { rejected } => {
                    self.arrived(batch.items, rejected, gzip);
                    return Piece::Arrived;
                }
                Verdict::Uncompressed => {
                    uncompressed = true;
                    continue;
                }
                Verdict::Split if splits < SPLITS_MAX => match batch.split() {
                    Ok((first, second)) => return Piece::Halves(first, second),
                    Err(whole) => return self.lost("too_large", whole.items),
                },
                Verdict::Split => return self.lost("too_large", batch.items),
                Verdict::Drop(reason) => return self.lost(reason, batch.items),
                Verdict::Refused(reason) => {
                    self.lose(reason, batch.items);
                    return Piece::Refused;
                }
                Verdict::Retry { .. } if closing => return self.lost("shutdown", batch.items),
                Verdict::Retry { .. } => {}
            }
            self.transport.reconnect(&reply);
        }
    }

    /// After an attempt that is to be repeated: when the next one may be, whichever batch it carries.
    fn put_off(&mut self, verdict: &Verdict) {
        let Verdict::Retry { after } = verdict else {
            (self.failures, self.not_before) = (0, None);
            return;
        };
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(clock::instant() + backoff(self.failures, *after, random()));
    }

    /// Until the time has come, or the lane closes: then one last attempt is made at once. The time stays for who comes next
    /// when this batch gives way.
    async fn wait(&mut self, newer: Option<&Latest>) -> Wait {
        let Some(not_before) = self.not_before else {
            return Wait::Over;
        };
        let time = not_before.saturating_duration_since(clock::instant());
        let newer = async {
            match newer {
                Some(latest) => latest.offered().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = self.closing.wait_for(|closing| *closing) => Wait::Over,
            () = newer => Wait::GiveWay,
            () = tokio::time::sleep(time) => {
                self.not_before = None;
                Wait::Over
            }
        }
    }

    /// After a refusal; ends early when the lane closes.
    pub(super) async fn pause(&mut self) {
        tokio::select! {
            biased;
            _ = self.closing.wait_for(|closing| *closing) => {}
            () = tokio::time::sleep(REFUSED_PAUSE) => {}
        }
    }

    fn is_closing(&mut self) -> bool {
        *self.closing.borrow_and_update() || self.closing.has_changed().is_err()
    }

    fn arrived(&mut self, items: u64, rejected: u64, gzip: bool) {
        match (self.gzip, gzip) {
            (Gzip::Unproven, true) => self.gzip = Gzip::Proven,
            (Gzip::Unproven, false) => {
                tracing::warn!(
                    endpoint = self.transport.endpoint().origin(),
                    "the collector does not take gzip: sending uncompressed (OTEL_EXPORTER_OTLP_COMPRESSION=none avoids the detour)"
                );
                self.gzip = Gzip::Off;
            }
            (Gzip::Proven | Gzip::Off, _) => {}
        }
        self.stats.change(|stats| {
            stats.sent += items - rejected;
            stats.requests += 1;
            stats.pending = stats.pending.saturating_sub(items);
            stats.last_success = Some(UnixNanos(clock::unix_ns()));
            if rejected > 0 {
                *stats.dropped.entry("rejected").or_default() += rejected;
            }
        });
    }

    fn lost(&self, reason: &'static str, items: u64) -> Piece {
        self.lose(reason, items);
        Piece::Lost
    }

    fn lose(&self, reason: &'static str, items: u64) {
        self.stats.lose(reason, items);
    }
}

/// Counts and tells: once when a state begins, not at each attempt.
pub(super) fn note(stats: &SharedStats, endpoint: &str, reply: &Reply, verdict: &Verdict) {
    let state = match verdict {
        Verdict::Accepted { .. } => LaneState::Ok,
        Verdict::Refused(_) => LaneState::Refused,
        Verdict::Uncompressed | Verdict::Split | Verdict::Retry { .. } | Verdict::Drop(_) => {
            LaneState::Failing
        }
    };
    let error = (*verdict != Verdict::Accepted { rejected: 0 }).then(|| reply.describe());
    let (mut before, mut first_rejection) = (state, false);
    stats.change(|stats| {
        before = std::mem::replace(&mut stats.state, state);
        stats.failed += u64::from(state != LaneState::Ok);
        first_rejection =
            state == LaneState::Ok && error.is_some() && !stats.dropped.contains_key("rejected");
        if error.is_some() {
            stats.last_error.clone_from(&error);
        }
    });
    let lane = stats.lane();
    let error = error.unwrap_or_default();
    if first_rejection {
        tracing::warn!(
            lane,
            endpoint,
            error,
            "the collector rejected a part; further rejections are only counted"
        );
    }
    if before == state {
        return;
    }
    match state {
        LaneState::Ok if before != LaneState::Idle => {
            tracing::info!(lane, endpoint, "export works again")
        }
        LaneState::Failing => tracing::warn!(lane, endpoint, error, "export failed"),
        LaneState::Refused => tracing::error!(
            lane,
            endpoint,
            error,
            "the collector refuses us: check OTEL_EXPORTER_OTLP_ENDPOINT, _PROTOCOL and _HEADERS; trying again every 30 s"
        ),
        LaneState::Ok | LaneState::Idle | LaneState::Off => {}
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Over,
    GiveWay,
}

/// The standard library keys each hasher differently, from the kernel's random numbers: enough for jitter.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one(0)
}
