//! The eBPF source: one thread that owns the kernel objects and turns them into observations.
//!
//! - [`support`]: what this kernel and these rights allow, found by trying. [`plan`]: which probes follow from that (pure).
//! - `object`: the embedded object and its maps. `keeper`: attach and detach, the seam to a process of its own.
//! - `probes`: from the plan to attached programs. `happening`: records, placed.
//! - `tree`, `containers`: which cgroups there are, which have a program.
//! - `connections`: bytes of connections while they are open.
//! - `flows`, `windows`: deltas of the kernel's tables. `flags`: whether others take our callbacks.
//! - `canary`: something that each probe must see, once a minute.
//! - `report`: states, told when they change. `worker`: the thread.

mod canary;
mod connections;
mod containers;
mod flags;
mod flows;
mod happening;
mod keeper;
mod object;
pub mod plan;
mod probes;
mod report;
pub mod support;
mod tree;
mod windows;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, bail};
use plumbline_core::id::CgroupId;
use plumbline_core::settings::CoreSettings;
use plumbline_core::time::Timestamp;
use rustix::event::{EventfdFlags, eventfd};

use crate::sources::Sink;
use crate::sources::cgroups::CgroupRoot;

/// What is seen of UDP.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    clap::ValueEnum,
    serde::Deserialize,
    serde::Serialize,
)]
#[serde(rename_all = "lowercase")]
pub enum UdpMode {
    /// Servers and peers, from `bind`, `connect`, `sendmsg`, and `recvmsg` of containers in which a program chose a port.
    #[default]
    Peers,
    /// Also datagrams and bytes per peer: a program sees every packet, those of TCP too.
    Flows,
    /// No program. Scans still find servers outside the range of dynamic ports.
    Off,
}

/// What the source does.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where pods are looked for.
    pub cgroup_root: CgroupRoot,
    /// Listeners and flows.
    pub tcp: bool,
    /// UDP.
    pub udp: UdpMode,
    /// Ports that the kernel gives out by itself, first and last.
    pub ephemeral_ports: (u16, u16),
    /// CPU time in 100 ms windows.
    pub cpu_windows: bool,
    /// Between readings of open connections; `None`: their bytes are counted when they close.
    pub connection_interval: Option<Duration>,
    /// Connections of one network namespace that one such reading looks at.
    pub connections_max: usize,
    /// Where procfs of the node is mounted; open connections are found by it.
    pub proc_root: PathBuf,
    /// Between readings of the flow tables.
    pub flow_interval: Duration,
    /// Between walks of the cgroup tree, which find what events missed.
    pub rescan_interval: Duration,
    /// Entries of the flow table.
    pub flows_max: u32,
    /// Between two rounds of the canary; `None`: there is none.
    pub canary: Option<Duration>,
}

impl Settings {
    /// Everything on, with the intervals of the product.
    #[must_use]
    pub fn new(cgroup_root: CgroupRoot) -> Self {
        Self {
            cgroup_root,
            tcp: true,
            udp: UdpMode::Peers,
            ephemeral_ports: CoreSettings::default().ephemeral_ports,
            cpu_windows: true,
            connection_interval: Some(Duration::from_secs(30)),
            connections_max: 65_536,
            proc_root: "/proc".into(),
            flow_interval: Duration::from_secs(1),
            rescan_interval: Duration::from_secs(30),
            flows_max: plumbline_ebpf::flow::FLOWS_MAX,
            canary: None,
        }
    }
}

/// Figures for tests, benchmarks and `status`, as of the last tick.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Our programs.
    pub programs: Vec<ProgramStats>,
    /// Containers that have a network program.
    pub attached: usize,
    /// CPU time that the scheduler probe saw; `None` when it is not attached.
    pub cpu: Option<CpuTotals>,
}

/// What the kernel says about one of our programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramStats {
    /// Its name, one of [`plumbline_ebpf::names`].
    pub name: String,
    /// Its id.
    pub id: u32,
    /// Runs; 0 unless `kernel.bpf_stats_enabled` is set (see [`aya::sys::enable_stats`]).
    pub run_count: u64,
    /// Time spent in it, under the same condition.
    pub run_time: Duration,
    /// Instructions that the verifier looked at; `None` before Linux 5.16.
    pub verified_instructions: Option<u32>,
}

/// CPU time that the scheduler probe saw, summed over CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuTotals {
    /// Nanoseconds in which a CPU ran anything but the idle task.
    pub busy_ns: u64,
    /// Nanoseconds for which CPUs were watched: what `busy_ns` can be at most.
    pub watched_ns: u64,
    /// Nanoseconds by measured (leaf) cgroup since it was first seen.
    pub cgroups: BTreeMap<CgroupId, u64>,
    /// When this was read.
    pub at: Timestamp,
}

/// The embedded eBPF objects, for tests that hold them against a kernel's verifier. Empty when built without eBPF.
#[must_use]
pub fn objects() -> Vec<&'static [u8]> {
    [object::bytes(), object::datagrams()]
        .into_iter()
        .flatten()
        .collect()
}

/// The running source. Dropping it stops it.
#[derive(Debug)]
pub struct Handle {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    stats: Arc<Mutex<Stats>>,
    found: Arc<Mutex<Found>>,
}

/// Ranges of dynamic ports by container.
type Ports = BTreeMap<CgroupId, (u16, u16)>;

/// What scans of sockets found that programs are to know.
#[derive(Debug, Default)]
struct Found {
    /// Ranges of dynamic ports, when there are new ones.
    ports: Option<Ports>,
    /// Containers with UDP servers.
    serving: BTreeSet<CgroupId>,
}

/// Loading takes some hundred milliseconds, and a hundred times that on an emulated machine; longer means that it hangs.
const START_TIMEOUT: Duration = Duration::from_secs(300);

/// Starts the source. Returns when the programs are attached to what was there and the first facts are sent.
///
/// What the kernel or the rights do not allow is told as facts about probes and fails nothing.
///
/// # Errors
///
/// When no thread or descriptor is to be had.
pub fn spawn(settings: Settings, sink: Sink) -> anyhow::Result<Handle> {
    let stop = Arc::new(
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("make an eventfd")?,
    );
    let stats = Arc::new(Mutex::new(Stats::default()));
    let (ready, started) = sync_channel(1);
    let found = Arc::default();
    let of_thread = worker::Shared {
        stop: Arc::clone(&stop),
        stats: Arc::clone(&stats),
        found: Arc::clone(&found),
    };
    let thread = std::thread::Builder::new()
        .name("ebpf".into())
        .spawn(move || worker::run(settings, sink, &of_thread, &ready))
        .context("start the thread of the eBPF source")?;
    let handle = Handle {
        stop,
        thread: Some(thread),
        stats,
        found,
    };
    match started.recv_timeout(START_TIMEOUT) {
        Ok(()) => Ok(handle),
        Err(RecvTimeoutError::Timeout) => {
            bail!("the eBPF source did not start within {START_TIMEOUT:?}")
        }
        Err(RecvTimeoutError::Disconnected) => {
            bail!("the thread of the eBPF source ended before it was ready")
        }
    }
}

impl Handle {
    /// Figures as of the last tick (1 s).
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Says in which containers the kernel gives out other ports by itself than those of [`Settings::ephemeral_ports`]. Programs
    /// know of it within a second.
    pub fn set_dynamic_ports(&self, ports: BTreeMap<CgroupId, (u16, u16)>) {
        let found = self.found.lock();
        found.unwrap_or_else(PoisonError::into_inner).ports = Some(ports);
    }

    /// Says which containers have UDP servers, whether or not an event told so: what they receive is seen within a second.
    pub fn set_udp_servers(&self, containers: BTreeSet<CgroupId>) {
        let found = self.found.lock();
        found.unwrap_or_else(PoisonError::into_inner).serving = containers;
    }

    /// Whether the source still works. `false` after its thread panicked or could not wait any more: nothing comes then,
    /// and what it told last about its probes is no longer so.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }

    /// Reads the tables a last time, sends what they hold, detaches everything, and ends.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // The counter of the eventfd cannot overflow by one.
        rustix::io::write(&*self.stop, &1_u64.to_ne_bytes()).map_or_else(
            |error| tracing::error!(error = %error, "cannot stop the eBPF source"),
            |_| {
                if self
                    .thread
                    .take()
                    .is_some_and(|thread| thread.join().is_err())
                {
                    tracing::error!("the thread of the eBPF source panicked");
                }
            },
        );
    }
}
