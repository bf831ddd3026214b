//! The thread of the source: waits for the ring, for retries and for its ticks, and sends what it finds.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::sync::mpsc::SyncSender;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use plumbline_core::id::CgroupId;
use plumbline_core::observation::{CgroupRow, Fact, Health};
use plumbline_core::time::Timestamp;
use plumbline_ebpf::drops::{EVENTS_FULL, FLOWS_FULL, REASONS, Reason};
use plumbline_ebpf::event::Event;
use plumbline_ebpf::flow::CONTAINERS_MAX;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{MembarrierCommand, membarrier};

use super::containers::Containers;
use super::happening::Happening;
use super::keeper::AttachError;
use super::plan::{self, CPU_WINDOWS, TCP, Wanted, plan};
use super::probes::{Probes, online_cpus};
use super::report::Reporter;
use super::tree::{Retries, Tree, is_container, is_in_container};
use super::{Settings, Stats, support};
use crate::clock;
use crate::sources::Sink;
use crate::sources::cgroups;

/// Between readings of CPU windows, of which the kernel keeps 1.6 s.
const TICK: Duration = Duration::from_secs(1);

/// Between walks of the tree when there are no events of cgroups.
const RESCAN_WITHOUT_EVENTS: Duration = Duration::from_secs(2);

/// At least between two walks, whatever asks for them.
const RESCAN_PAUSE: Duration = Duration::from_secs(1);

/// Records taken from the ring before anything else gets its turn.
const BATCH: usize = 4_096;

/// Runs until `stop` becomes readable. Tells `ready` when everything that was there has its program.
pub(super) fn run(
    settings: Settings,
    sink: Sink,
    stop: &OwnedFd,
    stats: &Mutex<Stats>,
    ready: &SyncSender<()>,
) {
    let mut worker = Worker::start(settings, sink);
    worker.rescan();
    worker.tick(stats);
    // The starter may have given up waiting; then it also asks us to stop.
    ready.try_send(()).unwrap_or_default();
    while worker.wait(stop) {
        worker.work(stats);
    }
    worker.finish();
}

struct Worker {
    settings: Settings,
    sink: Sink,
    probes: Probes,
    reporter: Reporter,
    tree: Tree,
    containers: Containers,
    retries: Retries,
    counters: [u64; REASONS.len()],
    undecodable: u64,
    next: Deadlines,
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
        let facts = support::probe();
        let wanted = Wanted {
            tcp: settings.tcp,
            cpu_windows: settings.cpu_windows,
        };
        let probes = Probes::attach(&plan(&facts, wanted), settings.flows_max);
        for status in probes.statuses() {
            if status.health != Health::Off
                && let Some(reason) = &status.reason
            {
                tracing::warn!(probe = %status.probe, health = ?status.health, reason = %reason, "a probe is not attached");
            }
        }
        let now = clock::monotonic();
        Self {
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
            tree: Tree::default(),
            containers: Containers::default(),
            retries: Retries::default(),
            counters: [0; REASONS.len()],
            undecodable: 0,
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
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => fds[0].revents().is_empty(),
            Err(error) => {
                tracing::error!(error = %error, "the eBPF source cannot wait any more and ends");
                false
            }
        }
    }

    fn work(&mut self, stats: &Mutex<Stats>) {
        self.drain();
        for (path, attempt) in self.retries.due(clock::monotonic()) {
            self.appeared(path, attempt + 1);
        }
        let now = clock::monotonic();
        if now >= self.next.flows {
            self.read_flows();
            self.next.flows = now.plus(self.settings.flow_interval);
        }
        if now >= self.next.tick {
            self.tick(stats);
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
            let happening = Event::decode(&record)
                .map(|event| Happening::from(event, &self.settings.cgroup_root));
            drop(record);
            match happening {
                Some(happening) => self.happened(happening),
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
            Happening::Elsewhere => {}
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
            if self.tree.insert(&row) {
                self.admit(&row, false);
                self.sink.send(now, Fact::CgroupSeen(row));
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
            self.attach(row.cgroup, &row.path);
        }
        if is_in_container(&row.path)
            && let Some(windows) = &mut self.probes.windows
        {
            windows.admit(row.cgroup);
        }
    }

    fn attach(&mut self, cgroup: CgroupId, path: &str) {
        let (Some(keeper), Some(flows)) = (&mut self.probes.keeper, &mut self.probes.flows) else {
            return;
        };
        if let Err(error) = flows.admit(cgroup) {
            let reason = format!("{error}: there is room for {CONTAINERS_MAX} containers");
            self.containers.attached(cgroup, Some(reason));
            return;
        }
        match keeper.attach(cgroup, &self.settings.cgroup_root.directory_of(path)) {
            Ok(()) => self.containers.attached(cgroup, None),
            Err(AttachError::Gone) => {}
            Err(AttachError::Refused(reason)) => {
                tracing::warn!(path, reason = %reason, "a container has no network program");
                self.containers.attached(cgroup, Some(reason));
            }
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

    /// Walks the tree: finds what no event told, and tells everything again.
    fn rescan(&mut self) {
        let at = clock::monotonic();
        let walk = cgroups::walk(&self.settings.cgroup_root.directory);
        if walk.cut || walk.errors > 0 {
            tracing::warn!(
                errors = walk.errors,
                cut = walk.cut,
                "not all cgroups could be read"
            );
        }
        let changes = self.tree.replace(&walk.rows);
        for cgroup in changes.gone {
            self.gone(cgroup);
        }
        for row in &changes.seen {
            // Found by the walk: its first connections may have gone unseen, as those before the agent.
            self.admit(row, true);
        }
        for (cgroup, path) in self.containers.unattached() {
            self.attach(cgroup, &path);
        }
        self.sink.send(at, Fact::CgroupTree { rows: walk.rows });
        self.containers
            .tell(|fact| self.sink.send(clock::monotonic(), fact));
        self.judge_v1();
        self.reporter.forget();
        let events = self.probes.cgroups.health == Health::Ok;
        let interval = self.settings.rescan_interval;
        let interval = if events {
            interval
        } else {
            interval.min(RESCAN_WITHOUT_EVENTS)
        };
        self.next.last_rescan = at;
        self.next.rescan = at.plus(interval);
    }

    /// An event was lost, or cannot be placed.
    fn hasten_rescan(&mut self) {
        self.next.rescan = self
            .next
            .rescan
            .min(self.next.last_rescan.plus(RESCAN_PAUSE));
    }

    /// Pods in cgroup v1 are invisible to us: no containers must not look like no findings.
    fn judge_v1(&mut self) {
        let whole = self.settings.cgroup_root.kernel_path.as_deref() == Some("");
        if !whole || !self.containers.is_empty() {
            return;
        }
        if let Some(mount) = cgroups::pods_in_v1() {
            let reason = format!(
                "pods are in cgroup v1 ({}), and only cgroup v2 can be seen",
                mount.display()
            );
            for status in [&mut self.probes.tcp, &mut self.probes.cpu_windows] {
                if status.health == Health::Ok {
                    (status.health, status.reason) = (Health::Unsupported, Some(reason.clone()));
                }
            }
        }
    }

    fn tick(&mut self, stats: &Mutex<Stats>) {
        let now = clock::monotonic();
        self.release_expired(now);
        self.read_windows();
        *stats.lock().unwrap_or_else(PoisonError::into_inner) = self.probes.stats();
        for status in self.probes.statuses() {
            self.reporter.probe(status);
        }
    }

    fn release_expired(&mut self, now: Timestamp) {
        for cgroup in self.containers.expired(now) {
            if let Some(keeper) = &mut self.probes.keeper {
                keeper.detach(cgroup);
            }
            if let Some(flows) = &mut self.probes.flows
                && let Err(error) = flows.retire(cgroup)
            {
                tracing::warn!(cgroup = cgroup.0, error = %error, "an overflow entry cannot be removed");
            }
        }
    }

    fn read_windows(&mut self) {
        let (Some(windows), Some(keeper)) = (&mut self.probes.windows, &mut self.probes.keeper)
        else {
            return;
        };
        let reading = online_cpus().and_then(|online| {
            keeper.tick(&online)?;
            let reading = windows.read(&online, clock::monotonic)?;
            Ok((reading, windows.silent(&online, clock::monotonic())?))
        });
        let status = &mut self.probes.cpu_windows;
        match reading {
            Ok((reading, silent)) => {
                if let Some(reading) = reading {
                    let count = reading.windows;
                    let (start, lost, rows) = (reading.start, reading.lost, reading.rows);
                    let fact = Fact::CpuWindows {
                        start,
                        windows: count,
                        lost,
                        rows,
                    };
                    windows.sent(count, self.sink.send(clock::monotonic(), fact));
                }
                if !silent.is_empty() {
                    silent.iter().for_each(|cpu| keeper.stop_tick(*cpu));
                    *status = plan::broken(
                        CPU_WINDOWS,
                        &format!("nothing was heard of CPUs {silent:?} for 5 s"),
                    );
                } else if status.health == Health::Broken {
                    (status.health, status.reason) = (Health::Ok, None);
                }
            }
            Err(error) => *status = plan::broken(CPU_WINDOWS, &format!("{error:#}")),
        }
        self.reporter.occupancy("cpu_windows", windows.occupancy());
        self.reporter
            .dropped("cpu_windows", "full", windows.refused());
    }

    fn read_flows(&mut self) {
        let full = self.read_counters();
        let Some(flows) = &mut self.probes.flows else {
            return;
        };
        let read = flows
            .read()
            .and_then(|()| if full { flows.read_overflow() } else { Ok(()) });
        if let Err(error) = read {
            self.probes.tcp = plan::broken(TCP, &format!("read the flow tables: {error}"));
        }
        let rows = flows.rows();
        if !rows.is_empty() && self.sink.send(clock::monotonic(), Fact::Flows { rows }) {
            flows.sent();
        }
        let (undecodable, folded) = flows.dropped();
        self.reporter.dropped("flows", "decode", undecodable);
        self.reporter.dropped("flows_pending", "full", folded);
        self.reporter.occupancy("flows", flows.occupancy());
        self.reporter.occupancy("containers", flows.containers());
    }

    /// Reads what programs could not record. Returns whether flows went to overflow entries.
    fn read_counters(&mut self) -> bool {
        let Some(drops) = &self.probes.drops else {
            return false;
        };
        let before = self.counters;
        for (reason, counter) in REASONS.iter().zip(&mut self.counters) {
            match drops.get(&reason.index, 0) {
                Ok(cpus) => *counter = cpus.iter().sum(),
                Err(error) => tracing::debug!(error = %error, "a counter cannot be read"),
            }
            self.reporter.dropped(reason.place, reason.reason, *counter);
        }
        self.reporter.dropped("events", "decode", self.undecodable);
        let after = self.counters;
        let moved = |reason: Reason| {
            REASONS
                .iter()
                .position(|r| *r == reason)
                .is_some_and(|i| before[i] != after[i])
        };
        if moved(EVENTS_FULL) {
            self.hasten_rescan();
        }
        moved(FLOWS_FULL)
    }

    /// The last readings. What is written after them is nobody's any more.
    fn finish(mut self) {
        self.drain();
        self.read_flows();
        // Waits until programs that began before the epoch was advanced have ended. CPUs without a tick refuse it; then
        // the time that the second reading takes has to do.
        if let Err(error) = membarrier(MembarrierCommand::Global) {
            tracing::debug!(error = %error, "no memory barrier");
        }
        self.read_flows();
        self.read_windows();
    }
}
