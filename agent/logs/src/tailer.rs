//! The thread: discovers, reads in turn, hands batches on, commits what was answered.

mod discover;
mod output;
mod read;
mod settings;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::batch::SourceId;
use crate::checkpoint::Entry;
use crate::clock;
use crate::container::Container;
use crate::fairness::RoundRobin;
use crate::fault;
use crate::guard::Root;
use crate::offsets::Place;
use crate::otlp::Envelope;
use crate::sink::Sink;
use crate::source::Source;
use crate::stats::{ContainerStats, Lost, Shared, Stats};
use crate::store::Store;
use crate::watch::{Waker, Watches};
pub use settings::Settings;

use output::Output;
use read::Reader;

/// Bytes that a container may have read before it is the next one's turn.
const QUANTUM: u32 = 256 << 10;
/// Between looks at hints, answers and clocks while there is something to read.
const TURNS_PER_ROUND: u32 = 16;
/// After a round that read little: what is written line by line is read in handfuls.
const REST: Duration = Duration::from_millis(50);
const LITTLE: u64 = 64 << 10;
/// So long the checkpoint's entries wait for their files.
const PENDING: Duration = Duration::from_mins(1);
/// Between tries to get the lock of the state directory.
const LOCK_RETRY: Duration = Duration::from_millis(500);
const IN_USE: &str = "another process uses the state directory";

/// Who a container is to the receiver.
pub trait Resources: Send {
    /// Changes whenever an answer may have changed.
    fn generation(&self) -> u64;

    /// What surrounds its records.
    fn envelope(&self, source: &Source) -> Envelope;
}

/// The running reader.
#[derive(Debug)]
pub struct Handle {
    stop: Arc<AtomicBool>,
    waker: Waker,
    stats: Shared,
    thread: JoinHandle<()>,
}

impl Handle {
    /// What it counts.
    #[must_use]
    pub fn stats(&self) -> Shared {
        self.stats.clone()
    }

    /// Whether its thread runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.thread.is_finished()
    }

    /// It reads no more, sends what it has, waits for answers, and writes the last checkpoint. Returns at once.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.waker.wake();
    }

    /// Waits until all that has been done. Gives the last counts.
    pub fn join(self) -> Stats {
        self.stop();
        // A panic was told by its hook.
        drop(self.thread.join());
        self.stats.read()
    }
}

/// Starts the reader in a thread of its own. The sink rings `waker` when it has an answer.
///
/// # Errors
///
/// The thread cannot be started. That the directories cannot be read or written is in the stats, and tried again.
pub fn spawn(
    settings: Settings,
    sink: Box<dyn Sink>,
    resources: Box<dyn Resources>,
    waker: Waker,
) -> std::io::Result<Handle> {
    let (stop, stats) = (Arc::new(AtomicBool::new(false)), Shared::default());
    let tailer = Tailer::new(
        settings,
        sink,
        resources,
        waker.clone(),
        Arc::clone(&stop),
        stats.clone(),
    );
    let thread = std::thread::Builder::new()
        .name("logs".into())
        .spawn(move || tailer.run())?;
    Ok(Handle {
        stop,
        waker,
        stats,
        thread,
    })
}

struct Tailer {
    settings: Settings,
    resources: Box<dyn Resources>,
    waker: Waker,
    stop: Arc<AtomicBool>,
    shared: Shared,
    stats: Stats,
    store: Option<Store>,
    /// What the checkpoint says of containers that were not found yet.
    pending: HashMap<Source, Vec<Entry>>,
    pending_until: Duration,
    root: Option<Root>,
    watches: Watches,
    containers: BTreeMap<SourceId, Box<Container>>,
    by_source: HashMap<Source, SourceId>,
    next_source: u32,
    robin: RoundRobin<SourceId>,
    reader: Reader,
    out: Output,
    /// Something was committed since the last checkpoint.
    dirty: bool,
    saved: Duration,
    scanned: Option<Duration>,
}

impl Tailer {
    fn new(
        settings: Settings,
        sink: Box<dyn Sink>,
        resources: Box<dyn Resources>,
        waker: Waker,
        stop: Arc<AtomicBool>,
        shared: Shared,
    ) -> Self {
        Self {
            reader: Reader::new(&settings),
            out: Output::new(&settings, sink),
            watches: Watches::new(&settings.root),
            robin: RoundRobin::new(QUANTUM),
            settings,
            resources,
            waker,
            stop,
            shared,
            stats: Stats::default(),
            store: None,
            pending: HashMap::new(),
            pending_until: Duration::ZERO,
            root: None,
            containers: BTreeMap::new(),
            by_source: HashMap::new(),
            next_source: 0,
            dirty: false,
            saved: Duration::ZERO,
            scanned: None,
        }
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn run(mut self) {
        if !self.load() {
            return;
        }
        while !self.stopping() {
            let now = clock::monotonic();
            self.follow_hints(now);
            if self
                .scanned
                .is_none_or(|at| now >= at + self.settings.scan_interval)
            {
                self.scan(now);
            }
            let read = self.read_round(now);
            self.settle();
            self.out.flush_old(now, self.settings.linger);
            self.save_if_due(now);
            self.rest(now, read);
        }
        self.drain();
    }

    /// Gets the lock and the checkpoint. `false`: it was told to stop before it had them.
    fn load(&mut self) -> bool {
        let Some(path) = self.settings.state.clone() else {
            return true;
        };
        while !self.stopping() {
            match Store::open(&path) {
                Ok(Some(store)) => {
                    // If it cannot be read it is tried again with each checkpoint that is due.
                    self.dirty = !self.load_from(store);
                    return true;
                }
                Ok(None) => self.tell_checkpoint(Some(IN_USE.into())),
                Err(error) => {
                    // Likewise.
                    self.tell_checkpoint(Some(error.to_string()));
                    self.dirty = true;
                    return true;
                }
            }
            self.publish();
            self.waker.wait(None, LOCK_RETRY);
        }
        false
    }

    /// Takes over what the checkpoint says. `false`: it cannot be read, and is not to be replaced before it was.
    fn load_from(&mut self, store: Store) -> bool {
        let loaded = match store.load() {
            Ok(loaded) => loaded,
            Err(error) => {
                self.tell_checkpoint(Some(error.to_string()));
                return false;
            }
        };
        self.stats.quarantined = loaded.quarantined.is_some();
        if let Some(refused) = loaded.quarantined {
            tracing::error!(
                ?refused,
                "the log checkpoint does not check and was put aside: what is on disk is sent again"
            );
        }
        for entry in loaded.entries {
            let Some(source) = entry.source() else {
                continue;
            };
            // Known already when it is read late.
            let known = self.by_source.get(&source);
            match known.and_then(|id| self.containers.get_mut(id)) {
                Some(container) => container.learn(entry),
                None => self.pending.entry(source).or_default().push(entry),
            }
        }
        self.tell_checkpoint(None);
        self.pending_until = clock::monotonic() + PENDING;
        self.store = Some(store);
        true
    }

    /// Gets the lock and the checkpoint if that could not be done before. `false`: it still cannot.
    fn load_late(&mut self) -> bool {
        if self.store.is_some() {
            return true;
        }
        let Some(path) = &self.settings.state else {
            return false;
        };
        match Store::open(path) {
            Ok(Some(store)) => return self.load_from(store),
            Ok(None) => self.tell_checkpoint(Some(IN_USE.into())),
            Err(error) => self.tell_checkpoint(Some(error.to_string())),
        }
        false
    }

    /// Told when it changes, not each second.
    fn tell_checkpoint(&mut self, error: Option<String>) {
        if self.stats.checkpoint_error.is_some() != error.is_some() {
            match &error {
                Some(error) => tracing::error!(
                    error,
                    "the log checkpoint cannot be written or read: after a restart lines are sent again"
                ),
                None if self.saved > Duration::ZERO => {
                    tracing::info!("the log checkpoint is written again")
                }
                None => {}
            }
        }
        self.stats.checkpoint_error = error;
    }

    /// Reads in turn until nothing is left, the batches are all on their way, or it is time to look around. Gives the bytes.
    fn read_round(&mut self, now: Duration) -> u64 {
        let mut read = 0;
        for _ in 0..TURNS_PER_ROUND {
            if !self.out.has_room() {
                break;
            }
            let Some(turn) = self.robin.turn() else { break };
            let Some(mut container) = self.containers.remove(&turn.key) else {
                self.robin.done(&turn, 0, false);
                continue;
            };
            let envelope = self.envelope(&mut container);
            self.out.turn(container.id, envelope);
            let (used, more) = self
                .reader
                .turn(&mut container, turn.bytes, now, &mut self.out);
            read += used;
            self.robin.done(&turn, used, more);
            self.containers.insert(turn.key, container);
        }
        read
    }

    fn envelope(&self, container: &mut Container) -> Arc<Envelope> {
        let generation = self.resources.generation();
        match &container.envelope {
            Some((known, envelope)) if *known == generation => Arc::clone(envelope),
            old => {
                let mut new = Arc::new(self.resources.envelope(&container.source));
                // Equal ones stay one, so that a batch has one group of them.
                if let Some((_, old)) = old.as_ref().filter(|(_, old)| *old == new) {
                    new = Arc::clone(old);
                }
                container.envelope = Some((generation, Arc::clone(&new)));
                new
            }
        }
    }

    fn settle(&mut self) {
        let settled = self.out.settle();
        for loss in settled.lost {
            match self.containers.get_mut(&loss.share.source) {
                Some(container) => {
                    container
                        .counts
                        .lose(loss.reason, loss.share.records, loss.share.bytes)
                }
                None => add(
                    &mut self.stats.lost,
                    loss.reason,
                    loss.share.records,
                    loss.share.bytes,
                ),
            }
        }
        if settled.rejected > 0 {
            add(&mut self.stats.lost, "rejected", settled.rejected, 0);
        }
        self.commit(settled.resume);
    }

    fn commit(&mut self, resume: Vec<Place>) {
        for place in resume {
            if let Some(container) = self.containers.get_mut(&place.file.source) {
                container.commit(place);
                self.dirty = true;
            }
        }
    }

    fn save_if_due(&mut self, now: Duration) {
        if self.dirty && now >= self.saved + self.settings.checkpoint_interval {
            self.saved = now;
            self.save();
        }
    }

    fn save(&mut self) {
        if !self.load_late() {
            return;
        }
        let Some(store) = &self.store else { return };
        let known = self
            .containers
            .values()
            .flat_map(|container| container.entries());
        let pending = self.pending.values().flatten().cloned();
        let mut entries: Vec<Entry> = known.chain(pending).collect();
        entries.sort_by(|a, b| {
            (&a.pod, &a.container, a.restart, a.head).cmp(&(
                &b.pod,
                &b.container,
                b.restart,
                b.head,
            ))
        });
        let saved = store.save(&entries);
        self.dirty = saved.is_err();
        self.tell_checkpoint(saved.err().map(|error| error.to_string()));
    }

    /// Waits for something to do, but no longer than the next thing is due.
    fn rest(&mut self, now: Duration, read: u64) {
        let has_room = self.out.has_room();
        if has_room && !self.robin.is_empty() && read >= LITTLE {
            return;
        }
        let scan = self
            .scanned
            .map_or(Duration::ZERO, |at| at + self.settings.scan_interval);
        let mut due = scan;
        if let Some(opened) = self.out.opened() {
            due = due.min(opened + self.settings.linger);
        }
        if self.dirty {
            due = due.min(self.saved + self.settings.checkpoint_interval);
        }
        let limit = due.saturating_sub(clock::monotonic().max(now));
        if !has_room {
            // Only an answer makes room.
            self.waker.wait(None, limit);
        } else if read > 0 {
            self.waker.wait(None, limit.min(REST));
        } else if self.robin.is_empty() {
            self.waker.wait(Some(&self.watches), limit);
        }
    }

    /// The end: sends what is read, waits for answers, writes the checkpoint.
    fn drain(&mut self) {
        let until = clock::monotonic() + self.settings.drain;
        loop {
            // First the answers: they make room for what is still to be sent, and no answer may come to ring once more.
            self.settle();
            let now = clock::monotonic();
            if now >= until {
                break;
            }
            self.out.flush();
            self.settle();
            if self.out.is_idle() {
                break;
            }
            self.waker.wait(None, until.saturating_sub(now));
        }
        if self.dirty {
            self.save();
        }
        // The last look at a clean end; what it says does not matter outside tests.
        drop(fault::point("end"));
        self.publish();
    }

    fn publish(&mut self) {
        let stats = |container: &Container| ContainerStats {
            source: container.source.clone(),
            counts: container.counts.clone(),
            lag: container.lag(),
            retained: container
                .files
                .iter()
                .filter(|file| file.missing.is_none())
                .map(|file| file.stamp.size)
                .sum(),
        };
        self.stats.containers = self
            .containers
            .values()
            .map(|container| stats(container))
            .collect();
        self.stats
            .containers
            .sort_by(|a, b| a.source.cmp(&b.source));
        let open = self
            .containers
            .values()
            .flat_map(|container| &container.files)
            .filter(|file| !file.is_closed());
        self.stats.files_open = open.count() as u64;
        self.stats.in_flight = self.out.in_flight() as u64;
        self.stats.watches_refused = self.watches.refused;
        self.shared.write(self.stats.clone());
    }
}

fn add(lost: &mut BTreeMap<&'static str, Lost>, reason: &'static str, records: u64, bytes: u64) {
    let lost = lost.entry(reason).or_default();
    lost.records += records;
    lost.bytes += bytes;
}

#[cfg(test)]
pub(crate) mod tests;
