//! The agent's sources and state, run inside the test, so that every fact can be asked for.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use plumbline::clock;
use plumbline::sources::cgroups::CgroupRoot;
use plumbline::sources::ebpf::UdpMode;
use plumbline::sources::sockets::Scanner;
use plumbline::sources::{Sink, ebpf, sockets};
use plumbline_core::id::CgroupId;
use plumbline_core::node::NodeState;
use plumbline_core::observation::{Fact, FlowCounts, Health, Observation, Role};
use plumbline_core::settings::{CoreSettings, NodeIdentity};
use plumbline_core::snapshot::ContainerView;
use plumbline_tests::pods::{Container, Sandbox};
use plumbline_tests::skip::{skipped, without_root};
use plumbline_tests::traffic::{Counts, Tally};
use plumbline_tests::wait::{PATIENCE, poll};

/// How long a probe may take to see something. Sources read every second; machines stall.
const SIGHT: Duration = Duration::from_secs(20);

/// Between two readings of open connections: so short that many connections close between two.
const READING: Duration = Duration::from_millis(50);

/// What a flow is counted by: role, peer and server port.
pub(crate) type Flow = (Role, Option<IpAddr>, u16);

/// The running sources and what they saw.
pub(crate) struct Observer {
    pub(crate) kernel: ebpf::Handle,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    scanner: Option<Scanner>,
    reader: Option<JoinHandle<()>>,
}

/// What came out of the sources so far.
pub(crate) struct Seen {
    pub(crate) facts: Vec<Observation>,
    pub(crate) state: NodeState,
}

impl Observer {
    /// Starts the sources on a sandbox; `None` when this machine cannot run them, which is then said.
    pub(crate) fn start(sandbox: &Sandbox) -> Option<Self> {
        Self::scanning(sandbox, Duration::from_secs(1))
    }

    /// As [`Observer::start`], with the scan of sockets every `interval`.
    pub(crate) fn scanning(sandbox: &Sandbox, interval: Duration) -> Option<Self> {
        Self::watching(sandbox, interval, UdpMode::Peers)
    }

    /// As [`Observer::scanning`], and with what is to be seen of UDP.
    pub(crate) fn watching(sandbox: &Sandbox, interval: Duration, udp: UdpMode) -> Option<Self> {
        let observer = Self::launch(sandbox, interval, udp, true);
        observer.usable().then_some(observer)
    }

    /// As [`Observer::start`], with scans that read procfs alone.
    pub(crate) fn by_procfs(sandbox: &Sandbox) -> Option<Self> {
        let observer = Self::launch(sandbox, Duration::from_secs(1), UdpMode::Peers, false);
        observer.usable().then_some(observer)
    }

    /// As [`Observer::start`], with readings of open connections that look at so many in each namespace.
    pub(crate) fn limited(sandbox: &Sandbox, connections: usize) -> Option<Self> {
        let change = |settings: &mut ebpf::Settings| settings.connections_max = connections;
        let observer = Self::changed(sandbox, Duration::from_secs(1), true, change);
        observer.usable().then_some(observer)
    }

    /// As [`Observer::scanning`], with walks of the cgroup tree that often.
    pub(crate) fn walking(sandbox: &Sandbox, every: Duration) -> Option<Self> {
        let change = |settings: &mut ebpf::Settings| settings.rescan_interval = every;
        let observer = Self::changed(sandbox, Duration::from_secs(3_600), true, change);
        observer.usable().then_some(observer)
    }

    /// As [`Observer::start`], whatever the probes say about themselves.
    pub(crate) fn unjudged(sandbox: &Sandbox) -> Self {
        Self::launch(sandbox, Duration::from_secs(1), UdpMode::Peers, true)
    }

    fn launch(sandbox: &Sandbox, interval: Duration, udp: UdpMode, sock_diag: bool) -> Self {
        Self::changed(sandbox, interval, sock_diag, |settings| settings.udp = udp)
    }

    fn changed(
        sandbox: &Sandbox,
        interval: Duration,
        sock_diag: bool,
        change: impl FnOnce(&mut ebpf::Settings),
    ) -> Self {
        let cgroup_root =
            CgroupRoot::find(Some(sandbox.root())).expect("the sandbox is in cgroup2");
        let (sink, mut receiver) = Sink::new();
        let seen = Arc::new(Mutex::new(Seen {
            facts: Vec::new(),
            state: NodeState::new(NodeIdentity::default(), CoreSettings::default()),
        }));
        let shared = Arc::clone(&seen);
        let reader = std::thread::spawn(move || {
            while let Some(observation) = receiver.blocking_recv() {
                let mut seen = shared.lock().unwrap_or_else(PoisonError::into_inner);
                seen.facts.push(observation.clone());
                seen.state.apply(observation);
            }
        });
        sink.send(
            clock::monotonic(),
            Fact::Clock {
                unix_ns: clock::unix_ns(),
            },
        );
        let mut settings = ebpf::Settings {
            connection_interval: Some(READING),
            ..ebpf::Settings::new(cgroup_root.clone())
        };
        change(&mut settings);
        let landmark = sockets::Landmark::open();
        let kernel = ebpf::spawn(settings, sink.clone()).expect("a thread");
        let stop = Arc::new(AtomicBool::new(false));
        let settings = sockets::Settings {
            proc_root: "/proc".into(),
            cgroup_root,
            interval,
            sock_diag,
        };
        let scanner =
            Scanner::spawn(settings, landmark, sink, Arc::clone(&stop)).expect("a thread");
        Self {
            kernel,
            seen,
            stop,
            scanner: Some(scanner),
            reader: Some(reader),
        }
    }

    fn usable(&self) -> bool {
        for probe in ["tcp", "udp", "cpu_windows", "cgroups"] {
            let status = self.expect(probe, |seen| {
                seen.facts.iter().rev().find_map(|seen| match &seen.fact {
                    Fact::Probe(status) if status.probe == probe => Some(status.clone()),
                    _ => None,
                })
            });
            match status.health {
                Health::Ok => {}
                Health::Unsupported | Health::Off => {
                    skipped(&format!(
                        "probe {probe} is {:?}: {}",
                        status.health,
                        status.reason.unwrap_or_default()
                    ));
                    return false;
                }
                Health::Broken => panic!(
                    "probe {probe} is broken: {}",
                    status.reason.unwrap_or_default()
                ),
            }
        }
        true
    }

    /// What was seen so far.
    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until an answer can be given; fails after a generous time.
    pub(crate) fn expect<T>(&self, what: &str, mut ask: impl FnMut(&Seen) -> Option<T>) -> T {
        let answer = poll(SIGHT, || ask(&self.seen()));
        answer.unwrap_or_else(|| panic!("not seen within {SIGHT:?}: {what}"))
    }

    /// Waits until the container has its network program.
    pub(crate) fn attached(&self, container: &Container) {
        let id = CgroupId(container.cgroup_id());
        let failed = self.expect("the container has its program", |seen| {
            seen.facts.iter().rev().find_map(|seen| match &seen.fact {
                Fact::Attached { cgroup, error, .. } if *cgroup == id => Some(error.clone()),
                _ => None,
            })
        });
        assert_eq!(failed, None, "attach to {}", container.name());
    }

    /// Counts of one container by role, peer and server port, summed since the start.
    pub(crate) fn flows(&self, container: &Container) -> BTreeMap<Flow, FlowCounts> {
        let id = CgroupId(container.cgroup_id());
        self.all_flows()
            .into_iter()
            .filter(|(key, _)| key.0 == id)
            .map(|(key, counts)| (key.1, counts))
            .collect()
    }

    fn all_flows(&self) -> BTreeMap<(CgroupId, Flow), FlowCounts> {
        let mut all: BTreeMap<_, FlowCounts> = BTreeMap::new();
        for observation in &self.seen().facts {
            if let Fact::Flows { rows, .. } = &observation.fact {
                for row in rows {
                    all.entry((row.owner, (row.role, row.peer, row.server_port)))
                        .or_default()
                        .add(&row.counts);
                }
            }
        }
        all
    }

    /// Cgroups to which connections of that role and port are credited, with how many.
    pub(crate) fn credited(&self, role: Role, server_port: u16) -> BTreeMap<CgroupId, u64> {
        let mut credited = BTreeMap::new();
        for ((owner, key), counts) in self.all_flows() {
            if key.0 == role && key.2 == server_port {
                *credited.entry(owner).or_default() += counts.connections;
            }
        }
        credited
    }

    /// Holds what the kernel counted for a container against its process's own count: equal to the last byte.
    pub(crate) fn assert_equal(&self, container: &Container, tally: &Tally) {
        let wanted: BTreeMap<_, Counts> = tally
            .by_key()
            .into_iter()
            .map(|(key, counts)| {
                let role = if key.client {
                    Role::Client
                } else {
                    Role::Server
                };
                ((role, Some(key.peer), key.server_port), counts)
            })
            .collect();
        let told = || -> BTreeMap<_, Counts> {
            let counts = |flow: FlowCounts| {
                assert!(
                    flow.closed <= flow.connections,
                    "more closed than opened: {flow:?}"
                );
                // A connection counts once it is closed: only then its bytes are known.
                let open = flow.connections - flow.closed;
                Counts {
                    connections: flow.connections - open,
                    failures: flow.failures,
                    sent_bytes: flow.sent_bytes,
                    received_bytes: flow.received_bytes,
                }
            };
            self.flows(container)
                .into_iter()
                .map(|(key, flow)| (key, counts(flow)))
                .collect()
        };
        // Orphans close after the process that left them, and the bytes of a connection that was followed come with the
        // next reading.
        poll(PATIENCE, || (told() == wanted).then_some(()));
        let told = told();
        let name = container.name();
        for (key, wanted) in &wanted {
            assert_eq!(
                told.get(key),
                Some(wanted),
                "{name}: {key:?}: told (left) and counted by itself (right)"
            );
        }
        assert_eq!(
            told.len(),
            wanted.len(),
            "{name}: rows for nothing: {told:?}"
        );
    }

    /// How often something was lost, by place and reason.
    pub(crate) fn dropped(&self) -> BTreeMap<(String, String), u64> {
        let mut dropped = BTreeMap::new();
        for observation in &self.seen().facts {
            if let Fact::Dropped {
                place,
                reason,
                count,
            } = &observation.fact
                && *count > 0
            {
                dropped.insert((place.clone(), reason.clone()), *count);
            }
        }
        dropped
    }
}

impl Seen {
    /// The container as the agent's state shows it now.
    pub(crate) fn container(&self, container: &Container) -> Option<ContainerView> {
        let id = CgroupId(container.cgroup_id());
        self.state
            .snapshot(clock::monotonic())
            .containers
            .into_iter()
            .find(|view| view.cgroup == id)
    }

    /// Containers that listen on the port, with the number of sockets.
    pub(crate) fn listening(&self, port: u16) -> BTreeMap<CgroupId, u64> {
        let snapshot = self.state.snapshot(clock::monotonic());
        let of = |view: &ContainerView| -> u64 {
            view.listeners
                .iter()
                .filter(|listener| listener.port == port)
                .map(|listener| listener.sockets)
                .sum()
        };
        snapshot
            .containers
            .iter()
            .map(|view| (view.cgroup, of(view)))
            .filter(|(_, sockets)| *sockets > 0)
            .collect()
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(scanner) = self.scanner.take() {
            scanner.join();
        }
        // The reader ends when the source, which holds the last sink, is dropped after this.
        drop(self.reader.take());
    }
}

/// A sandbox, unless this is not root: then `None`, and it is said.
pub(crate) fn sandbox() -> Option<Sandbox> {
    if without_root() {
        None
    } else {
        Some(Sandbox::new("plumbline-test-ebpf").expect("root can make a sandbox"))
    }
}
