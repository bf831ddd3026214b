//! The thread: discovers, reads in turn, hands batches on, commits what was answered.

mod discover;
mod ended;
mod output;
mod pods;
mod read;
mod settings;
mod ship;
mod state;
mod told;

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
use crate::stats::{Shared, Stats};
use crate::store::Store;
use crate::watch::{Waker, Watches};
pub use pods::EndedPod;
pub use settings::Settings;

use ended::Ended;
use output::Output;
use pods::Pods;
use read::Reader;

/// Bytes that a container may have read before it is the next one's turn.
const QUANTUM: u32 = 256 << 10;
/// Between looks at hints, answers and clocks while there is something to read.
const TURNS_PER_ROUND: u32 = 16;
/// After a round that read little: what is written line by line is read in handfuls.
const REST: Duration = Duration::from_millis(50);
const LITTLE: u64 = 64 << 10;

/// Who a container is to the receiver.
pub trait Resources: Send {
    /// Changes whenever an answer may have changed.
    fn generation(&self) -> u64;

    /// What surrounds its records.
    fn envelope(&self, source: &Source) -> Envelope;

    /// Whether it is to be read, as far as that depends on more than its names. Asked once a second until it is.
    fn is_wanted(&self, source: &Source) -> Wanted {
        let _ = source;
        Wanted::Yes
    }

    /// Pods whose containers are all gone, each told for some scans; the same list until it changes.
    fn ended_pods(&self) -> Arc<[EndedPod]> {
        Arc::default()
    }
}

/// Whether a container is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// Not as long as it is not known.
    NotYet,
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
    let faults = fault::hand_on();
    let run = move || {
        faults();
        tailer.run();
    };
    let thread = std::thread::Builder::new().name("logs".into()).spawn(run)?;
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
    ended: Ended,
    pods: Pods,
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
            ended: Ended::default(),
            pods: Pods::default(),
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

    fn commit(&mut self, resume: Vec<Place>) {
        for place in resume {
            if let Some(container) = self.containers.get_mut(&place.file.source) {
                container.commit(place);
                self.dirty = true;
            }
        }
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
}

#[cfg(test)]
pub(crate) mod tests;
