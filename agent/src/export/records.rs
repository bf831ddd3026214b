//! The lane of container logs: nothing gives way and nothing is retried for a while only. A batch is answered when it has
//! arrived or is lost for good; what is never answered stays in its file and is read again.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc as answers};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use futures::FutureExt as _;
use plumbline_core::settings::NodeIdentity;
use plumbline_core::time::UnixNanos;
use plumbline_logs::batch::Batch;
use plumbline_logs::sink::{Answer, Sink, losses};
use plumbline_logs::watch::Waker;
use tokio::sync::{Mutex as AsyncMutex, RwLock, mpsc, watch};

use super::courier::{Closing, REFUSED_PAUSE, note, random};
use super::room::{Room, more_patience};
use super::settings::Endpoint;
use super::stats::SharedStats;
use super::transport::Transport;
use super::verdict::{Attempt, Reply, Verdict, backoff, decide};
use crate::clock;

/// Requests under way at once. The reader stops when so many batches are unanswered.
pub const IN_FLIGHT_MAX: usize = 4;

/// A request with a resource and no records.
const NO_RECORDS: [u8; 2] = [0x0a, 0];
/// After so many panics over one piece it is halved.
const PANICS_MAX: u32 = 3;

/// How patient the lane is.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long to leave a collector alone that refuses us.
    pub refused: Duration,
    /// Called before each attempt: a test's way to let one panic.
    pub before_attempt: Option<fn()>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            refused: REFUSED_PAUSE,
            before_attempt: None,
        }
    }
}

/// Where the reader's batches go.
#[derive(Debug)]
pub struct RecordSink {
    batches: mpsc::Sender<Batch>,
    answers: answers::Receiver<Answer>,
}

/// Keeps the lane open. To be dropped once the reader was joined: until then it may send, and waits for answers.
#[derive(Debug)]
pub struct Hold {
    /// Whether the end is near; gone, it has come.
    pub(super) closing: watch::Sender<bool>,
    pub(super) thread: std::thread::JoinHandle<()>,
}

impl Hold {
    /// The reader is about to end: what waits for a better time is tried at once, so that its answer can still be noted.
    pub fn hasten(&self) {
        self.closing.send_replace(true);
    }

    /// Whether the lane's thread runs. What is sent to one that does not is never answered.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.thread.is_finished()
    }
}

impl Sink for RecordSink {
    fn send(&mut self, batch: Batch) {
        // Never full: the reader counts what is unanswered. When the lane is gone the batch stays unanswered.
        if let Err(error) = self.batches.try_send(batch) {
            tracing::debug!(error = %error, "a batch of log records was not taken");
        }
    }

    fn answers(&mut self) -> Vec<Answer> {
        self.answers.try_iter().collect()
    }
}

/// Starts the lane in a thread of its own, so that compressing does not hold up the agent's loop. It ends when the other
/// end of `closing`, the [`Hold`], is gone and what is under way has had one more attempt.
pub(super) fn start(
    endpoint: Endpoint,
    node: &NodeIdentity,
    stats: Arc<SharedStats>,
    closing: Closing,
    waker: Waker,
    pace: Pace,
) -> anyhow::Result<(RecordSink, std::thread::JoinHandle<()>)> {
    let (batches, queue) = mpsc::channel(IN_FLIGHT_MAX);
    let (answered, answers) = answers::sync_channel(2 * IN_FLIGHT_MAX);
    let transport = Transport::new(endpoint, node)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    let lane = Arc::new(Lane {
        queue: AsyncMutex::new(queue),
        gate: Mutex::new(Gate {
            gzip: transport.endpoint().gzip,
            ..Gate::default()
        }),
        probing: AsyncMutex::new(()),
        origin: transport.endpoint().origin(),
        deadline: transport.endpoint().timeout,
        transport: RwLock::new(transport),
        stats,
        closing,
        answered,
        waker,
        pace,
    });
    let run = move || {
        runtime.block_on(async {
            let workers = (0..IN_FLIGHT_MAX).map(|_| tokio::spawn(Arc::clone(&lane).work()));
            futures::future::join_all(workers.collect::<Vec<_>>()).await;
        });
        runtime.shutdown_background();
    };
    let thread = std::thread::Builder::new()
        .name("log-export".into())
        .spawn(run)
        .context("start the thread that exports log records")?;
    Ok((RecordSink { batches, answers }, thread))
}

struct Lane {
    queue: AsyncMutex<mpsc::Receiver<Batch>>,
    transport: RwLock<Transport>,
    origin: String,
    /// Of a request.
    deadline: Duration,
    gate: Mutex<Gate>,
    /// Held by the one who tries whether a collector that refused us takes something again.
    probing: AsyncMutex<()>,
    stats: Arc<SharedStats>,
    closing: Closing,
    answered: answers::SyncSender<Answer>,
    waker: Waker,
    pace: Pace,
}

/// What one request teaches all.
#[derive(Debug, Default)]
struct Gate {
    /// Compress.
    gzip: bool,
    /// A compressed request was accepted.
    gzip_proven: bool,
    /// Rounds in a row that are to be repeated: requests that were under way together are one.
    failures: u32,
    /// No request before this.
    not_before: Option<Instant>,
    /// Only a person can mend it: one record at a time, each half minute.
    refused: bool,
    /// What passes within the deadline.
    room: Room,
}

/// A batch on its way.
struct Work {
    /// What is left of it, the next piece last. A piece stays until it is settled, whatever happens meanwhile.
    stack: Vec<Batch>,
    /// What came of the rest.
    answer: Answer,
    compress: bool,
    /// A collector that refused us has taken something of this batch.
    proven: bool,
    /// It has refused the next record and then taken a request without any.
    suspect: bool,
    panics: u32,
    /// Rounds that had failed when the last attempt began.
    round: u32,
    /// Was tried at once, since the end is near.
    hastened: bool,
    /// How long to wait for an answer: longer than the deadline for a single record that cannot be sent in less.
    patience: Duration,
}

impl Work {
    fn new(batch: Batch, patience: Duration) -> Self {
        Self {
            answer: Answer::arrived(batch.id),
            stack: vec![batch],
            compress: true,
            proven: false,
            suspect: false,
            panics: 0,
            round: 0,
            hastened: false,
            patience,
        }
    }

    /// The next piece has at most so many bytes, or one record.
    fn fit(&mut self, room: Room) {
        while let Some(piece) = self.stack.pop() {
            if piece.bytes() <= room.bytes() {
                return self.stack.push(piece);
            }
            match piece.split() {
                Ok((first, second)) => self.stack.extend([second, first]),
                Err(single) => return self.stack.push(single),
            }
        }
    }

    /// The next piece has one record.
    fn single_out(&mut self) {
        match self.stack.pop().map(Batch::split_first) {
            Some(Ok((first, rest))) => self.stack.extend([rest, first]),
            Some(Err(single)) => self.stack.push(single),
            None => {}
        }
    }
}

impl Lane {
    async fn work(self: Arc<Self>) {
        loop {
            let next = async { self.queue.lock().await.recv().await };
            let batch = tokio::select! {
                biased;
                batch = next => batch,
                // The reader is joined before the lane closes: nothing more is to come.
                () = self.closed() => None,
            };
            let Some(batch) = batch else { return };
            self.stats.wait_for(batch.records());
            if let Some(answer) = self.carry(Work::new(batch, self.deadline)).await {
                // Room for all that can be unanswered; a reader that is gone needs no answer.
                drop(self.answered.try_send(answer));
                self.waker.wake();
            }
        }
    }

    /// Until all of it has arrived or is lost. `None`: the lane closes, and what is left stays in its file. A panic costs an
    /// attempt and not the batch; one that comes back each time costs the record that brings it about.
    async fn carry(&self, mut work: Work) -> Option<Answer> {
        loop {
            let done = AssertUnwindSafe(self.deliver(&mut work))
                .catch_unwind()
                .await;
            match done {
                Ok(true) => return Some(work.answer),
                Ok(false) => return None,
                // Its hook has told.
                Err(_panic) => {
                    self.stats.change(|stats| stats.failed += 1);
                    self.put_off(None, work.round);
                    work.panics += 1;
                    if work.panics.is_multiple_of(PANICS_MAX)
                        && let Some(piece) = work.stack.pop()
                    {
                        self.split(piece, "panic", &mut work);
                    }
                }
            }
        }
    }

    /// `false`: the lane closes.
    async fn deliver(&self, work: &mut Work) -> bool {
        while !work.stack.is_empty() {
            self.wait(&mut work.hastened).await;
            // While the collector refuses us one record at a time goes ahead, of one batch; the rest is not risked.
            let alone = if self.gate().refused {
                let alone = self.probing.lock().await;
                self.wait(&mut work.hastened).await;
                Some(alone)
            } else {
                None
            };
            let probing = alone.is_some() && self.gate().refused;
            if probing {
                work.single_out();
            }
            let closing = self.is_closing();
            let room = self.gate().room;
            work.fit(room);
            let Some(verdict) = self.attempt(work).await else {
                break;
            };
            // Before anything is given up: nobody waits any more for the collector to be mended.
            if closing && matches!(verdict, Verdict::Refused(_) | Verdict::Retry { .. }) {
                return false;
            }
            self.follow(verdict, probing, work).await;
        }
        true
    }

    /// What the answer to the last piece leads to.
    async fn follow(&self, verdict: Verdict, probing: bool, work: &mut Work) {
        match verdict {
            Verdict::Accepted { rejected } => {
                if let Some(piece) = work.stack.pop() {
                    self.arrived(piece.records(), rejected);
                }
                work.answer.rejected += rejected;
                work.proven |= probing;
                work.suspect = false;
            }
            Verdict::Drop(reason) => {
                if let Some(piece) = work.stack.pop() {
                    self.lose(&piece, reason, &mut work.answer);
                }
            }
            Verdict::Split => {
                if let Some(piece) = work.stack.pop() {
                    self.split(piece, "too_large", work);
                }
            }
            Verdict::Refused(reason) if probing => {
                // It stays, unless it is the only one that the collector does not want: refused before and after a request
                // without records was taken.
                if work.suspect
                    && let Some(piece) = work.stack.pop()
                {
                    self.lose(&piece, reason, &mut work.answer);
                } else if self.is_let_in().await {
                    work.suspect = true;
                    return;
                }
                work.suspect = false;
                self.refuse();
            }
            // Others were taken just now: it is something in this one that the collector does not want.
            Verdict::Refused(reason) if work.proven => {
                if let Some(piece) = work.stack.pop() {
                    self.split(piece, reason, work);
                }
            }
            Verdict::Refused(_) => self.refuse(),
            Verdict::Uncompressed => work.compress = false,
            Verdict::Retry { after } => self.put_off(after, work.round),
        }
    }

    /// Whether the collector takes a request that has no records: the specification asks it to, if it knows us and has such a
    /// path. Then a record that it has just refused is refused for what it is.
    async fn is_let_in(&self) -> bool {
        let transport = self.transport.read().await;
        let reply = transport
            .send_records(Bytes::from_static(&NO_RECORDS), false, self.deadline)
            .await;
        let attempt = Attempt {
            items: 0,
            gzip_unproven: false,
        };
        let verdict = decide(&reply, attempt);
        !matches!(verdict, Verdict::Refused(_) | Verdict::Retry { .. })
    }

    /// Sends the next piece, if there is one.
    async fn attempt(&self, work: &mut Work) -> Option<Verdict> {
        if let Some(hook) = self.pace.before_attempt {
            hook();
        }
        let (gzip, unproven) = {
            let gate = self.gate();
            work.round = gate.failures;
            (gate.gzip && work.compress, !gate.gzip_proven)
        };
        let piece = work.stack.last()?;
        let request = Bytes::from(piece.request());
        let (sent, began) = (request.len(), clock::instant());
        let reply = {
            let transport = self.transport.read().await;
            transport.send_records(request, gzip, work.patience).await
        };
        let attempt = Attempt {
            items: piece.records(),
            gzip_unproven: gzip && unproven,
        };
        if reply.is_late() {
            self.gate().room.late(sent);
            if attempt.items == 1 {
                work.patience = more_patience(work.patience);
            }
        }
        let verdict = decide(&reply, attempt);
        note(&self.stats, &self.origin, &reply, &verdict);
        if matches!(reply, Reply::Transport(_) | Reply::Deadline(_)) {
            self.transport.write().await.reconnect(&reply);
        }
        if matches!(verdict, Verdict::Accepted { .. }) {
            let mut gate = self.gate();
            (gate.failures, gate.not_before, gate.refused) = (0, None, false);
            gate.room.taken(sent, began.elapsed(), self.deadline);
            work.patience = self.deadline;
            if gzip {
                gate.gzip_proven = true;
            } else if gate.gzip && !gate.gzip_proven {
                gate.gzip = false;
                tracing::warn!(
                    endpoint = self.origin,
                    "the collector does not take gzip: sending log records uncompressed"
                );
            }
        }
        Some(verdict)
    }

    fn split(&self, batch: Batch, reason: &'static str, work: &mut Work) {
        match batch.split() {
            Ok((first, second)) => work.stack.extend([second, first]),
            Err(single) => self.lose(&single, reason, &mut work.answer),
        }
    }

    fn arrived(&self, records: u64, rejected: u64) {
        self.stats.change(|stats| {
            stats.sent += records - rejected;
            stats.requests += 1;
            stats.pending = stats.pending.saturating_sub(records);
            stats.last_success = Some(UnixNanos(clock::unix_ns()));
            if rejected > 0 {
                *stats.dropped.entry("rejected").or_default() += rejected;
            }
        });
    }

    fn lose(&self, batch: &Batch, reason: &'static str, answer: &mut Answer) {
        self.stats.lose(reason, batch.records());
        answer.lost.extend(losses(batch, reason));
    }

    /// The earliest time for the next request, whoever sends it. One fault fails all requests under way, and counts once.
    fn put_off(&self, after: Option<Duration>, round: u32) {
        let mut gate = self.gate();
        if gate.failures == round {
            gate.failures = gate.failures.saturating_add(1);
        }
        let until = clock::instant() + backoff(gate.failures, after, random());
        gate.not_before = gate.not_before.max(Some(until));
    }

    fn refuse(&self) {
        let mut gate = self.gate();
        gate.refused = true;
        gate.not_before = Some(clock::instant() + self.pace.refused);
    }

    /// Until the time has come, or the lane closes: then one last attempt is made at once. One is also made when the end is near.
    async fn wait(&self, hastened: &mut bool) {
        loop {
            let Some(not_before) = self.gate().not_before else {
                return;
            };
            let time = not_before.saturating_duration_since(clock::instant());
            if time.is_zero() {
                return;
            }
            tokio::select! {
                biased;
                () = self.closed() => return,
                () = self.near_its_end(), if !*hastened => {
                    *hastened = true;
                    return;
                }
                () = tokio::time::sleep(time) => {}
            }
        }
    }

    /// Until the hold is gone.
    async fn closed(&self) {
        drop(self.closing.clone().wait_for(|_| false).await);
    }

    /// Until the reader is about to end.
    async fn near_its_end(&self) {
        drop(self.closing.clone().wait_for(|near| *near).await);
    }

    fn is_closing(&self) -> bool {
        // An error means that the hold is gone.
        self.closing.has_changed().is_err()
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
