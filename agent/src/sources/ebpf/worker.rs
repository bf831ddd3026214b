//! The thread of the source: waits for the ring, for retries and for its ticks, and sends what it finds.
//!
//! `canary`: what it tries out, and programs that others detached. `datagrams`: what is UDP's. `walks`: of the cgroup tree.
//! `readings`: of the kernel's tables and counters.

mod canary;
mod datagrams;
mod readings;
mod walks;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use plumbline_core::id::CgroupId;
use plumbline_core::observation::{CgroupRow, Fact, Health, ProbeStatus};
use plumbline_core::time::Timestamp;
use plumbline_ebpf::drops::REASONS;
use plumbline_ebpf::event::Event;
use plumbline_ebpf::flow::CONTAINERS_MAX;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::canary::Canary;
use super::connections::{self, Connections};
use super::containers::Containers;
use super::flags::Flags;
use super::happening::Happening;
use super::keeper::AttachError;
use super::plan::{Wanted, plan};
use super::probes::Probes;
use super::report::Reporter;
use super::tree::{Retries, Tree, is_container, is_in_container};
use super::{Found, Settings, Stats, support};
use crate::clock;
use crate::sources::Sink;

/// Between readings of CPU windows, of which the kernel keeps 1.6 s.
const TICK: Duration = Duration::from_secs(1);

/// Records taken from the ring before anything else gets its turn.
const BATCH: usize = 4_096;

/// What the thread has in common with whoever started it.
pub(super) struct Shared {
    /// Becomes readable when it is time to end.
    pub(super) stop: Arc<OwnedFd>,
    /// Figures as of the last tick.
    pub(super) stats: Arc<Mutex<Stats>>,
    /// What scans found since the last tick.
    pub(super) found: Arc<Mutex<Found>>,
}

/// Runs until it is told to stop. Tells `ready` when everything that was there has its program.
pub(super) fn run(settings: Settings, sink: Sink, shared: &Shared, ready: &SyncSender<()>) {
    let mut worker = Worker::start(settings, sink);
    // Before any program is attached: what it finds is older than the agent.
    worker.follow();
    worker.rescan();
    worker.tick(shared);
    // The starter may have given up waiting; then it also asks us to stop.
    ready.try_send(()).unwrap_or_default();
    while worker.wait(&shared.stop) {
        worker.work(shared);
    }
    worker.finish();
}

struct Worker {
    settings: Settings,
    sink: Sink,
    probes: Probes,
    connections: Option<Connections>,
    reporter: Reporter,
    tree: Tree,
    containers: Containers,
    retries: Retries,
    counters: [u64; REASONS.len()],
    undecodable: u64,
    delivered: Delivered,
    flags: Flags,
    canary: Option<Canary>,
    /// Why there is no canary.
    no_canary: Option<ProbeStatus>,
    /// When programs of a probe were last found detached by someone else, and from how many containers.
    detached: BTreeMap<&'static str, (Timestamp, usize)>,
    /// Walks of the tree.
    walks: u64,
    /// Those that could not read all of it.
    incomplete: u64,
    next: Deadlines,
}

/// What arrived, by what it is.
#[derive(Debug, Default)]
struct Delivered {
    /// Records of listeners.
    listeners: u64,
    /// Records of cgroups.
    cgroups: u64,
    /// Records of UDP sockets.
    datagrams: u64,
    /// Windows of CPU time.
    windows: u64,
}

/// When things are due next.
struct Deadlines {
    tick: Timestamp,
    flows: Timestamp,
    rescan: Timestamp,
    last_rescan: Timestamp,
}

impl Worker {
    fn start(settings: Settings, sink: Sink) -> Self {
        support::raise_open_files();
        let facts = support::probe();
        let wanted = Wanted {
            tcp: settings.tcp,
            udp: settings.udp,
            cpu_windows: settings.cpu_windows,
        };
        let probes = Probes::attach(&plan(&facts, wanted), &settings);
        for status in probes.statuses() {
            if status.health != Health::Off
                && let Some(reason) = &status.reason
            {
                tracing::warn!(probe = %status.probe, health = ?status.health, reason = %reason, "a probe is not attached");
            }
        }
        let now = clock::monotonic();
        let mut worker = Self {
            next: Deadlines {
                tick: now,
                flows: now,
                rescan: now,
                last_rescan: Timestamp(0),
            },
            reporter: Reporter::new(sink.clone()),
            settings,
            sink,
            probes,
            connections: None,
            tree: Tree::default(),
            containers: Containers::default(),
            retries: Retries::default(),
            counters: [0; REASONS.len()],
            undecodable: 0,
            delivered: Delivered::default(),
            flags: Flags::default(),
            canary: None,
            no_canary: None,
            detached: BTreeMap::new(),
            walks: 0,
            incomplete: 0,
        };
        worker.make_canary(now);
        worker
    }

    /// Begins to follow open connections, or says why not.
    fn follow(&mut self) {
        let entries = self.probes.followed.take();
        let started = match (self.settings.connection_interval, entries) {
            (None, _) => Err(connections::off()),
            (Some(_), None) => {
                let why = self.probes.tcp.reason.as_deref().unwrap_or("no reason");
                let why = format!("the tcp probe is not attached ({why})");
                Err(connections::unsupported(&why))
            }
            (Some(interval), Some(entries)) => {
                let settings = connections::Settings {
                    proc_root: self.settings.proc_root.clone(),
                    cgroup_root: self.settings.cgroup_root.clone(),
                    interval,
                    sockets_max: self.settings.connections_max,
                };
                Connections::start(settings, entries, self.sink.clone())
            }
        };
        match started {
            Ok(running) => self.connections = Some(running),
            Err(status) => self.probes.connections = Some(status),
        }
    }

    /// Sleeps until there is something to do. `false` when it is time to stop.
    fn wait(&self, stop: &OwnedFd) -> bool {
        let next = [self.next.tick, self.next.flows, self.next.rescan]
            .into_iter()
            .chain(self.retries.next())
            .min();
        let pause = next.map_or(TICK, |next| next.since(clock::monotonic()));
        let timeout = Timespec::try_from(pause).unwrap_or(Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        });
        let mut fds = vec![PollFd::new(stop, PollFlags::IN)];
        fds.extend(
            self.probes
                .events
                .as_ref()
                .map(|events| PollFd::from_borrowed_fd(events.as_fd(), PollFlags::IN)),
        );
        let of_udp = self.probes.udp.as_ref();
        fds.extend(of_udp.map(|udp| PollFd::from_borrowed_fd(udp.events.as_fd(), PollFlags::IN)));
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => fds[0].revents().is_empty(),
            Err(error) => {
                tracing::error!(error = %error, "the eBPF source cannot wait any more and ends");
                false
            }
        }
    }

    fn work(&mut self, shared: &Shared) {
        self.drain();
        self.drain_udp();
        for (path, attempt) in self.retries.due(clock::monotonic()) {
            self.appeared(path, attempt + 1);
        }
        let now = clock::monotonic();
        if now >= self.next.flows {
            self.read_flows();
            self.read_datagrams();
            self.next.flows = now.plus(self.settings.flow_interval);
        }
        if now >= self.next.tick {
            self.tick(shared);
            self.next.tick = now.plus(TICK);
        }
        if now >= self.next.rescan {
            self.rescan();
        }
        self.containers
            .tell(|fact| self.sink.send(clock::monotonic(), fact));
    }

    /// Takes what is in the ring.
    fn drain(&mut self) {
        for _ in 0..BATCH {
            let Some(record) = self
                .probes
                .events
                .as_mut()
                .and_then(aya::maps::RingBuf::next)
            else {
                return;
            };
            let event = Event::decode(&record);
            let is_listener = matches!(event, Some(Event::Listener { .. }));
            let happening = event.map(|event| Happening::from(event, &self.settings.cgroup_root));
            drop(record);
            match happening {
                Some(happening) if self.is_of_canary(&happening) => {}
                Some(happening) => {
                    self.delivered.listeners += u64::from(is_listener);
                    self.delivered.cgroups += u64::from(!is_listener);
                    self.happened(happening);
                }
                None => self.undecodable += 1,
            }
        }
    }

    fn happened(&mut self, happening: Happening) {
        match happening {
            Happening::Listener(at, fact) => {
                self.sink.send(at, fact);
            }
            Happening::Made(path) => self.appeared(path, 0),
            Happening::Removed(path) => self.disappeared(&path),
            Happening::Unclear => self.hasten_rescan(),
            Happening::Elsewhere | Happening::UnclearRoles(_) => {}
        }
    }

    /// A directory was announced.
    fn appeared(&mut self, path: String, attempt: u32) {
        let now = clock::monotonic();
        if let Ok(metadata) = fs::metadata(self.settings.cgroup_root.directory_of(&path)) {
            let row = CgroupRow {
                cgroup: CgroupId(metadata.ino()),
                path,
            };
            for cgroup in self.tree.displaced(&row) {
                self.gone(cgroup);
            }
            if self.tree.insert(&row) {
                self.admit(&row, false);
                if !self.sink.send(now, Fact::CgroupSeen(row)) {
                    self.hasten_rescan();
                }
                self.containers.tell(|fact| self.sink.send(now, fact));
            }
        } else if !self.retries.push(path, attempt, now) && attempt == 0 {
            self.hasten_rescan();
        }
    }

    /// A directory was removed, in one of the hierarchies.
    fn disappeared(&mut self, path: &str) {
        let known = self.tree.at(path).map(|id| id.0);
        let there = fs::metadata(self.settings.cgroup_root.directory_of(path))
            .ok()
            .map(|metadata| metadata.ino());
        if known.is_none() || known == there {
            return;
        }
        for cgroup in self.tree.remove(path) {
            self.gone(cgroup);
        }
    }

    fn admit(&mut self, row: &CgroupRow, pre_existing: bool) {
        if is_container(&row.path) {
            self.containers
                .insert(row.cgroup, row.path.clone(), pre_existing);
            self.attach(row.cgroup, &row.path, pre_existing);
            self.attach_udp(row.cgroup, &row.path);
        }
        if is_in_container(&row.path)
            && let Some(windows) = &mut self.probes.windows
        {
            windows.admit(row.cgroup);
        }
    }

    /// Gives a container its program; `late` when it may have begun to connect before.
    fn attach(&mut self, cgroup: CgroupId, path: &str, late: bool) {
        let (Some(keeper), Some(flows)) = (&mut self.probes.keeper, &mut self.probes.flows) else {
            return;
        };
        let directory = self.settings.cgroup_root.directory_of(path);
        let attached = match flows.admit(cgroup) {
            Ok(()) => keeper.attach(cgroup, &directory),
            Err(error) => Err(AttachError::Refused(format!(
                "{error}: there is room for {CONTAINERS_MAX} containers"
            ))),
        };
        match attached {
            Ok(()) => {
                if late {
                    self.flags.attached_late(clock::monotonic());
                }
                return self.containers.attached(cgroup, None);
            }
            Err(AttachError::Gone) => {}
            Err(AttachError::Refused(reason)) => {
                tracing::warn!(path, reason = %reason, "a container has no network program");
                self.containers.attached(cgroup, Some(reason));
            }
        }
        // Nobody writes to its entries, and nobody would take them away when it goes.
        self.retire_flows(cgroup);
    }

    fn retire_flows(&mut self, cgroup: CgroupId) {
        if let Some(flows) = &mut self.probes.flows
            && let Err(error) = flows.retire(cgroup)
        {
            tracing::warn!(cgroup = cgroup.0, error = %error, "an overflow entry cannot be removed");
        }
    }

    fn gone(&mut self, cgroup: CgroupId) {
        let now = clock::monotonic();
        self.containers.remove(cgroup, now);
        self.release_expired(now);
        if let Some(windows) = &mut self.probes.windows {
            windows.retire(cgroup, now);
        }
        self.sink.send(now, Fact::CgroupGone { cgroup });
    }

    fn tick(&mut self, shared: &Shared) {
        let now = clock::monotonic();
        self.release_expired(now);
        self.release_udp();
        self.read_windows();
        let stats = &shared.stats;
        *stats.lock().unwrap_or_else(PoisonError::into_inner) = self.probes.stats();
        let found = shared.found.lock();
        let found = std::mem::take(&mut *found.unwrap_or_else(PoisonError::into_inner));
        self.take_found(found);
        self.tend_canary(now);
        for status in self.probes.statuses() {
            self.reporter.probe(&self.judged(status));
        }
        let canary = self.canary.as_ref().map(Canary::status);
        if let Some(status) = canary.or_else(|| self.no_canary.clone()) {
            self.reporter.probe(&status);
        }
        if let Some(connections) = &mut self.connections
            && !connections.is_alive()
        {
            connections.wind_up(now);
            self.probes.connections = Some(connections::broken(
                "its thread has ended; the log says why",
            ));
        }
        if let Some(status) = &self.probes.connections {
            self.reporter.probe(status);
        }
    }

    fn release_expired(&mut self, now: Timestamp) {
        for cgroup in self.containers.expired(now) {
            if let Some(keeper) = &mut self.probes.keeper {
                keeper.detach(cgroup);
            }
            self.retire_flows(cgroup);
        }
    }
}
