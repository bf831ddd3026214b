//! Decides when the state is written, and does it in a thread of its own: a disk that hangs must not stop the loop.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use plumbline_core::findings::Remembered;
use plumbline_core::observation::{Health, ProbeStatus};
use plumbline_core::settings::NodeIdentity;
use plumbline_core::time::Timestamp;
use serde::Serialize;

use super::{Store, encode};

/// Without news the state is written this often: when findings were last seen, and how often.
const IDLE: Duration = Duration::from_secs(60);
/// What could not be written is tried again after this.
const RETRY: Duration = Duration::from_secs(5);

/// Name of the probe that tells how the file fares.
pub const PROBE: &str = "findings_state";

/// How the file fares: part of `plumbline status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StateStats {
    /// The directory.
    pub directory: String,
    /// Findings that were taken over from an earlier run.
    pub restored: u64,
    /// Of these, those that this version has no rule or no room for.
    pub left_out: u64,
    /// Files that did not check and were put aside, since the agent began.
    pub quarantined: u64,
    /// Files written.
    pub saved: u64,
    /// Files that could not be written.
    pub failed: u64,
    /// What is wrong now, if anything.
    pub trouble: Option<String>,
}

/// Keeps the file up to date.
#[derive(Debug)]
pub struct Keeper {
    node: NodeIdentity,
    queue: Option<SyncSender<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
    stats: Arc<Mutex<StateStats>>,
    /// When the thread was last given something.
    given: Option<Timestamp>,
    /// What changed has not been given to it.
    changed: bool,
    failed: u64,
    told: Option<ProbeStatus>,
}

impl Keeper {
    /// Opens the file and reads what an earlier run remembered. Where that fails, the agent does without, and the probe says
    /// so.
    pub fn start(directory: &std::path::Path, node: &NodeIdentity) -> (Self, Remembered) {
        let mut stats = StateStats {
            directory: directory.display().to_string(),
            ..StateStats::default()
        };
        let mut remembered = Remembered::default();
        let opened = Store::open(directory).and_then(|store| {
            let loaded = store.load(node)?;
            Ok((store, loaded))
        });
        let shared = Arc::new(Mutex::new(StateStats::default()));
        let running = opened.and_then(|(store, loaded)| {
            if let Some(why) = loaded.quarantined {
                tracing::error!(
                    why,
                    "the state of findings does not check and was put aside"
                );
                stats.quarantined = 1;
            }
            remembered = loaded.remembered;
            spawn(store, Arc::clone(&shared))
        });
        let (queue, thread) = running.map_or_else(
            |error| {
                tracing::error!(%error, directory = stats.directory, "findings will not outlive the agent");
                stats.trouble = Some(format!("{}: {error}", stats.directory));
                (None, None)
            },
            |(queue, thread)| (Some(queue), Some(thread)),
        );
        *lock(&shared) = stats;
        let keeper = Self {
            node: node.clone(),
            queue,
            thread,
            stats: shared,
            given: None,
            changed: true,
            failed: 0,
            told: None,
        };
        (keeper, remembered)
    }

    /// Counts what was taken over.
    pub fn restored(&mut self, restored: u64, left_out: u64) {
        let mut stats = lock(&self.stats);
        (stats.restored, stats.left_out) = (restored, left_out);
    }

    /// How the file fares.
    #[must_use]
    pub fn stats(&self) -> StateStats {
        lock(&self.stats).clone()
    }

    /// The health of the probe, where it has changed.
    pub fn news(&mut self) -> Option<ProbeStatus> {
        let reason = self.stats().trouble;
        let health = if reason.is_some() {
            Health::Broken
        } else {
            Health::Ok
        };
        let status = ProbeStatus {
            probe: PROBE.into(),
            health,
            reason,
        };
        if self.told.as_ref() == Some(&status) {
            return None;
        }
        self.told = Some(status.clone());
        Some(status)
    }

    /// Writes what `remember` says, if it has changed or nothing was written for long. What the thread has no time for waits
    /// for the next call.
    pub fn keep(&mut self, changed: bool, now: Timestamp, remember: impl FnOnce() -> Remembered) {
        self.changed |= changed;
        let failed = self.stats().failed;
        let retry = failed > self.failed;
        let pause = if retry { RETRY } else { IDLE };
        let old = self.given.is_none_or(|given| now.since(given) >= pause);
        let Some(queue) = self.queue.as_ref().filter(|_| self.changed || old) else {
            return;
        };
        let bytes = match encode(&self.node, remember()) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!(%error, "the state of findings cannot be written down");
                return;
            }
        };
        match queue.try_send(bytes) {
            Ok(()) => {
                (self.given, self.changed, self.failed) = (Some(now), false, failed);
            }
            // The disk is slow: what is newest then is written then.
            Err(TrySendError::Full(_)) => self.changed = true,
            Err(TrySendError::Disconnected(_)) => {
                self.queue = None;
                lock(&self.stats).trouble = Some("its thread has ended; the log says why".into());
            }
        }
    }

    /// Writes the last state and waits for it, for as long as the disk takes. Call it where waiting is allowed.
    pub fn finish(mut self, remembered: Remembered) {
        let bytes = encode(&self.node, remembered);
        if let (Some(queue), Ok(bytes)) = (self.queue.take(), bytes) {
            // One that waits is followed by this one.
            let sent = queue.send(bytes);
            if sent.is_err() {
                tracing::error!("the last state of findings was not written: its thread has ended");
            }
        }
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the thread that writes the state of findings has panicked");
        }
    }
}

type Running = (SyncSender<Vec<u8>>, JoinHandle<()>);

fn spawn(store: Store, stats: Arc<Mutex<StateStats>>) -> std::io::Result<Running> {
    let (queue, waiting) = sync_channel(1);
    let thread = std::thread::Builder::new()
        .name("findings_state".into())
        .spawn(move || write(&store, &waiting, &stats))?;
    Ok((queue, thread))
}

/// Until the keeper ends.
fn write(store: &Store, waiting: &Receiver<Vec<u8>>, stats: &Mutex<StateStats>) {
    while let Ok(bytes) = waiting.recv() {
        let saved = store.save(&bytes);
        let mut stats = lock(stats);
        match saved {
            Ok(()) => {
                stats.saved += 1;
                stats.trouble = None;
            }
            Err(error) => {
                let trouble = format!("{}: {error}", store.path().display());
                if stats.trouble.as_ref() != Some(&trouble) {
                    tracing::error!(trouble, "the state of findings was not written");
                }
                stats.failed += 1;
                stats.trouble = Some(trouble);
            }
        }
    }
}

fn lock(stats: &Mutex<StateStats>) -> std::sync::MutexGuard<'_, StateStats> {
    stats.lock().unwrap_or_else(PoisonError::into_inner)
}
