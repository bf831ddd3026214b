//! What a quota does: the kernel's own counts through the agent's reader and state, under a real `cpu.max`.
//!
//! Needs the cpu controller in cgroup v2, which hybrid hosts keep in v1: there it is skipped, and run in a guest.

use std::fs;
use std::path::Path;
use std::time::Duration;

use plumbline::clock;
use plumbline::sources::cgroups::CgroupRoot;
use plumbline::sources::{Sink, cpu};
use plumbline_core::id::CgroupId;
use plumbline_core::node::NodeState;
use plumbline_core::observation::{CgroupRow, CpuMax};
use plumbline_core::settings::{CoreSettings, NodeIdentity};
use plumbline_core::snapshot::CpuView;
use plumbline_core::time::Timestamp;
use plumbline_tests::cgroup::{enable_cpu, mount};
use plumbline_tests::pods::Container;
use plumbline_tests::skip::skipped;
use plumbline_tests::traffic::burn::{Burn, Burnt, Shape};
use plumbline_tests::traffic::{Plan, Worker};

use super::observer::sandbox;

/// A fifth of a CPU.
const QUOTA_US: u32 = 20_000;
const PERIOD_US: u32 = 100_000;
const WALL_MS: u64 = 4_000;

/// The agent's reader and state, without its clocks and probes.
struct Agent {
    reader: cpu::Reader,
    state: NodeState,
    sink: Sink,
    receiver: tokio::sync::mpsc::Receiver<plumbline_core::observation::Observation>,
    rows: Vec<CgroupRow>,
}

impl Agent {
    fn new(root: &Path, containers: &[&Container]) -> Self {
        let root = CgroupRoot::find(Some(root)).unwrap();
        let (sink, receiver) = Sink::new();
        let settings = CoreSettings {
            cpu_startup_exclusion: Duration::ZERO,
            ..CoreSettings::default()
        };
        let mut state = NodeState::new(NodeIdentity::default(), settings);
        let rows: Vec<CgroupRow> = containers
            .iter()
            .map(|container| {
                let below = container
                    .cgroup_path()
                    .strip_prefix(&root.directory)
                    .unwrap();
                CgroupRow {
                    cgroup: CgroupId(container.cgroup_id()),
                    path: format!("/{}", below.display()),
                }
            })
            .collect();
        let at = clock::monotonic();
        for row in &rows {
            let fact = plumbline_core::observation::Fact::CgroupSeen(row.clone());
            state.apply(plumbline_core::observation::Observation { at, fact });
        }
        Self {
            reader: cpu::Reader::new(root, "/proc".into()),
            state,
            sink,
            receiver,
            rows,
        }
    }

    fn read(&mut self) {
        let status = self.reader.read(&self.rows, &self.sink);
        assert_eq!(status.reason, None);
        while let Ok(observation) = self.receiver.try_recv() {
            self.state.apply(observation);
        }
    }

    fn cpu(&self, container: &Container) -> CpuView {
        let snapshot = self.state.snapshot(clock::monotonic());
        let id = CgroupId(container.cgroup_id());
        let mut views = snapshot.containers.into_iter();
        views.find(|view| view.cgroup == id).unwrap().cpu
    }
}

/// A field of the container's `cpu.stat`, as the kernel has it now.
fn kernel(container: &Container, field: &str) -> u64 {
    let text = fs::read_to_string(container.cgroup_path().join("cpu.stat")).unwrap();
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix(' '));
    value.unwrap().parse().unwrap()
}

#[test]
fn a_quota_throttles_and_the_agent_says_what_the_kernel_says() {
    let Some(sandbox) = sandbox() else { return };
    let (_, limited) = sandbox.solo("limited").unwrap();
    let (_, free) = sandbox.solo("free").unwrap();
    let enabled = [&limited, &free]
        .iter()
        .all(|container| enable_cpu(&mount().unwrap(), container.cgroup_path()));
    if !enabled {
        skipped(
            "cgroup v2 has no cpu controller on this host; `cargo xtask vm` runs it in a guest",
        );
        return;
    }
    let quota = format!("{QUOTA_US} {PERIOD_US}");
    fs::write(limited.cgroup_path().join("cpu.max"), quota).unwrap();
    fs::write(limited.cgroup_path().join("cpu.weight"), "39").unwrap();
    let mut agent = Agent::new(sandbox.root(), &[&limited, &free]);
    agent.read();
    let before = agent.cpu(&limited);
    assert_eq!(
        (before.max, before.weight),
        (
            Some(CpuMax {
                quota_us: Some(QUOTA_US.into()),
                period_us: PERIOD_US.into(),
                burst_us: 0,
            }),
            Some(39)
        )
    );
    assert_eq!(agent.cpu(&free).max.unwrap().quota_us, None);

    let plan = |threads| {
        Plan::Burn(Burn {
            threads,
            wall_ms: WALL_MS,
            shape: Shape::Steady,
            real_time: false,
        })
    };
    let workers = [(&limited, 2), (&free, 1)]
        .map(|(container, threads)| Worker::ready(container.place(), &plan(threads)).unwrap());
    for worker in workers {
        let burnt: Burnt = worker.finish().unwrap();
        println!("{burnt:?}");
    }
    let at_least = kernel(&limited, "nr_throttled");
    agent.read();
    let at_most = kernel(&limited, "nr_throttled");

    let view = agent.cpu(&limited);
    let (_, throttled) = view.periods.unwrap();
    println!("{view:?}");
    assert!((at_least..=at_most).contains(&throttled));
    let rates = view.rates.unwrap();
    // Two threads that never sleep on a fifth of a CPU: stopped in nearly every period in which they get to run at all.
    assert!(rates.throttled_periods.unwrap() >= 5, "{rates:?}");
    assert!(rates.throttled_us.unwrap() > 0);
    let allowed = f64::from(QUOTA_US) / f64::from(PERIOD_US) * 1.1 + 0.05;
    assert!(rates.usage_cores <= allowed, "{rates:?}");
    if let (Some(some), Some(pressure)) = (rates.some, view.pressure) {
        assert!(some > 0.0 && pressure.some_us > 0, "a stopped task waits");
    }
    let free = agent.cpu(&free);
    assert_eq!(free.rates.unwrap().throttled_us, Some(0));
    assert!(view.settings_since.unwrap() > Timestamp(0));
}
