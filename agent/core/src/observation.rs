//! Everything that may enter the core, stamped by whoever saw it. One JSON line each in a recording.
//!
//! Events make the agent early; snapshots make it right. A snapshot replaces what it covers, so an event that was lost
//! heals with the next one.

mod logs;
mod probe;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::declared::{Declared, DeclaredPolicy, Transport};
use crate::id::CgroupId;
use crate::settings::CoreSettings;
use crate::time::Timestamp;
pub use logs::{LogLossRow, LogRow};
pub use probe::{Health, OPTIONAL_PROBES, ProbeStatus};

/// One fact and when it was seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// When the fact held. For a snapshot: when its reading began.
    pub at: Timestamp,
    /// The fact.
    #[serde(flatten)]
    pub fact: Fact,
}

/// What was seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fact {
    /// The operator has changed windows or rules while the agent runs.
    Settings(CoreSettings),
    /// Both clocks, read together. The first fact of every stream, and at least once a minute.
    Clock {
        /// The wall clock in nanoseconds since 1970.
        unix_ns: u64,
    },
    /// A cgroup directory appeared.
    CgroupSeen(CgroupRow),
    /// A cgroup directory went away.
    CgroupGone {
        /// Its id.
        cgroup: CgroupId,
    },
    /// All cgroups below the root. Replaces the table.
    CgroupTree {
        /// One row a directory.
        rows: Vec<CgroupRow>,
    },
    /// A container's cgroup has its network program, or has none and why.
    Attached {
        /// The container's cgroup.
        cgroup: CgroupId,
        /// `None` when attached; otherwise why not.
        error: Option<String>,
        /// The cgroup was there before the agent, so connections may have been missed.
        pre_existing: bool,
    },
    /// A TCP socket entered LISTEN, or a UDP socket was bound to a port that its program chose.
    ListenerOpened(ListenerEvent),
    /// A TCP socket left LISTEN, or such a UDP socket was closed, or connected: then it serves its peer alone.
    ListenerClosed(ListenerEvent),
    /// All listening sockets of a scope. A scan of the node replaces the table, but for what changed after `at` and for
    /// containers that could not be read as a whole; a scan of some containers only adds to what is known of its rows.
    Listeners {
        /// What was read.
        scope: ScanScope,
        /// One row a listening socket.
        rows: Vec<ListenerRow>,
        /// Processes and namespaces that could not be read.
        errors: u32,
        /// Leaf cgroups of processes that could not be read: what their container listens on may be missing from `rows`.
        #[serde(default)]
        unreadable: Vec<CgroupId>,
    },
    /// Where the kernel gives out other ports by itself than in the agent's own network namespace. Replaces those before.
    DynamicPorts {
        /// One row a (leaf) cgroup with processes in such a namespace.
        rows: Vec<DynamicPortsRow>,
    },
    /// What TCP connections and UDP associations did since the last such fact.
    Flows {
        /// One row per owner, role, peer and server port that changed.
        rows: Vec<FlowRow>,
        /// The earliest time of anything counted in the rows; `None` in recordings that lack it.
        #[serde(default)]
        since: Option<Timestamp>,
    },
    /// All addresses of the node's own network namespace, but for loopback. Replaces those before.
    NodeAddresses {
        /// The addresses, sorted.
        addresses: Vec<IpAddr>,
    },
    /// Cumulative CPU figures of cgroups and of the node, from their own files.
    CpuStat {
        /// One row a container's cgroup.
        rows: Vec<CpuStatRow>,
        /// One row a pod's cgroup: the directory that holds those of its containers.
        #[serde(default)]
        pods: Vec<CpuStatRow>,
        /// The node as a whole; absent where it could not be read.
        #[serde(default)]
        node: Option<NodeCpuRow>,
    },
    /// Counts of `memory.events` of cgroups.
    MemoryEvents {
        /// One row a container's cgroup that has the memory controller.
        rows: Vec<MemoryEventsRow>,
    },
    /// CPU time of consecutive 100 ms windows, from the scheduler probe.
    CpuWindows {
        /// Start of the first window: a multiple of 100 ms of the monotonic clock.
        start: Timestamp,
        /// Number of windows, the same for every row.
        windows: u16,
        /// Windows before `start` that were overwritten before they were read.
        lost: u32,
        /// One row a (leaf) cgroup that ran.
        rows: Vec<CpuWindowRow>,
        /// Leaf cgroups of containers that are not measured: no zero may be concluded for them.
        #[serde(default)]
        unmeasured: Vec<CgroupId>,
    },
    /// The declared side of the node. Replaces the one before.
    Declared(Declared),
    /// Policies that are evaluated and not in force: all of them.
    CandidatePolicies {
        /// Sorted by namespace and name.
        policies: Vec<DeclaredPolicy>,
    },
    /// How current each part of the declared side is. Replaces the rows before. Told again every few seconds, so that a
    /// source that falls silent grows old by itself.
    DeclaredSources {
        /// One row a source that has delivered, at most [`crate::settings::DECLARED_SOURCES_MAX`].
        rows: Vec<SourceRow>,
    },
    /// How a probe is doing.
    Probe(ProbeStatus),
    /// Counts of what one bounded thing lost since the agent began; cumulative.
    Dropped {
        /// The map, ring, queue or table.
        place: String,
        /// Why: `full`, `unattributed`, `decode`.
        reason: String,
        /// How many in all.
        count: u64,
    },
    /// How much came through one bounded thing since the agent began; cumulative.
    Delivered {
        /// The map, ring, queue or table.
        place: String,
        /// How many in all.
        count: u64,
    },
    /// How often a container was refused something because it had used up its share of a shared table or ring, since it
    /// has its programs; cumulative. Who tells one of these tells nothing of the others, which are 0 then.
    Refused(Refused),
    /// How full a bounded thing is.
    Occupancy {
        /// The map, ring, queue or table.
        place: String,
        /// Entries in use.
        entries: u64,
        /// Entries it can hold.
        capacity: u64,
    },
    /// What the reader of container logs counts. Replaces what it told before.
    Logs {
        /// One row a container.
        rows: Vec<LogRow>,
        /// Losses of which it is not known whose they were.
        #[serde(default)]
        lost: Vec<LogLossRow>,
    },
    /// The agent's own cgroup, so that it does not report on itself.
    SelfCgroup {
        /// The (leaf) cgroup of the agent's process.
        cgroup: CgroupId,
    },
}

/// A cgroup directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupRow {
    /// Inode of the directory.
    pub cgroup: CgroupId,
    /// Path below the cgroup root that the agent watches, with a leading slash.
    pub path: String,
}

/// Where and by whom a socket listens, as the kernel told it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerEvent {
    /// Container cgroup of the socket's creator.
    pub owner: CgroupId,
    /// TCP or UDP.
    #[serde(default)]
    pub transport: Transport,
    /// Local address; IPv4-mapped addresses are folded to IPv4.
    pub address: IpAddr,
    /// Local port.
    pub port: u16,
    /// The socket's cookie.
    pub cookie: u64,
}

/// How current one source of declarations is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRow {
    /// `pods`, `services`, `networkpolicies` and the like for the API server's, `files` for manifests.
    pub source: String,
    /// What is in force is what the source said then.
    pub as_of: Timestamp,
    /// Why it is not current, where that is known.
    #[serde(default)]
    pub error: Option<String>,
}

/// What a scan of listening sockets covered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScanScope {
    /// Every network namespace on the node.
    Node,
    /// Sockets that processes of these containers hold.
    Containers(Vec<CgroupId>),
}

/// What a container was refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The container's cgroup.
    pub cgroup: CgroupId,
    /// New flows, which were counted without their peer.
    pub flows: u64,
    /// Records of listeners, which scans find.
    pub listeners: u64,
    /// New flows of UDP, which were counted without their peer.
    #[serde(default)]
    pub udp_flows: u64,
    /// UDP sockets with chosen ports, of which scans find those outside the dynamic range.
    #[serde(default)]
    pub udp_sockets: u64,
    /// Open connections, whose bytes are counted when they close.
    #[serde(default)]
    pub connections: u64,
}

/// A range of dynamic ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DynamicPortsRow {
    /// Whose processes are in the network namespace.
    pub cgroup: CgroupId,
    /// The first port that the kernel gives out by itself.
    pub first: u16,
    /// The last.
    pub last: u16,
}

/// One listening socket found by a scan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerRow {
    /// Leaf cgroup of the process that holds the socket (of the one with the lowest pid, when several do); of its creator when
    /// no process is known to.
    pub owner: CgroupId,
    /// Leaf cgroup of the socket's creator, to whom it belongs whoever holds it; `None`: not known (procfs does not tell).
    #[serde(default)]
    pub creator: Option<CgroupId>,
    /// TCP; or UDP: a socket without a peer. Whether its program chose the port is not known to a scan.
    #[serde(default)]
    pub transport: Transport,
    /// Local address; IPv4-mapped addresses are folded to IPv4.
    pub address: IpAddr,
    /// Local port.
    pub port: u16,
    /// `IPV6_V6ONLY` of an IPv6 socket; `None`: IPv4, or not known (procfs does not tell).
    #[serde(default)]
    pub v6only: Option<bool>,
    /// The socket's cookie; `None`: not known (procfs does not tell).
    #[serde(default)]
    pub cookie: Option<u64>,
    /// Inode of the socket; not 0.
    pub inode: u64,
    /// Inode of the network namespace.
    pub netns: u64,
    /// Whether the network namespace is the one of process 1.
    pub host_netns: bool,
    /// Whether it is in a network namespace in which there is no process of the pods that hold it, as those of a mesh that listens
    /// inside pods (trap 12). Never in the node's own. A pod that leaves its network does not come to this: its pause container
    /// stays (T6).
    #[serde(default)]
    pub foreign_netns: bool,
    /// Processes that hold the socket, by pid; at most [`HOLDERS_MAX`].
    pub holders: Vec<Holder>,
}

/// Processes named as holders of one socket; a pre-forked server may have hundreds.
pub const HOLDERS_MAX: usize = 16;

/// A process that holds a listening socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its pid in the agent's pid namespace.
    pub pid: u32,
    /// Target of `/proc/<pid>/exe`, when readable.
    pub executable: Option<String>,
    /// Leaf cgroup of the process.
    pub cgroup: CgroupId,
}

/// Which end of a connection the owner is. From socket state, never from port numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It connected.
    Client,
    /// It accepted.
    Server,
}

/// What the connections of one owner, transport, role, peer and server port did since the last reading.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRow {
    /// Container cgroup of the socket's creator.
    pub owner: CgroupId,
    /// TCP or UDP.
    #[serde(default)]
    pub transport: Transport,
    /// Which end the owner is.
    pub role: Role,
    /// The other end; absent in the overflow row of an owner. IPv4-mapped addresses are folded to IPv4.
    pub peer: Option<IpAddr>,
    /// The server's port; 0 in the overflow row.
    pub server_port: u16,
    /// Counts.
    #[serde(flatten)]
    pub counts: FlowCounts,
}

/// Counts of connections. All are of the time since the last reading, or since the start where so said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowCounts {
    /// TCP connections established; UDP associations begun: a `connect`, or the first datagram between an unconnected
    /// socket and a peer (again, if the pair was forgotten meanwhile).
    pub connections: u64,
    /// Connection attempts that failed (refused, unreachable or timed out).
    pub failures: u64,
    /// Of the failures, those after at least one retransmitted SYN ran out of time.
    pub timeouts: u64,
    /// Connections closed.
    pub closed: u64,
    /// Payload bytes that the peer acknowledged: of closed connections, and where the probe `connections` works of open ones as
    /// of its last reading; of UDP those sent.
    pub sent_bytes: u64,
    /// Payload bytes received, of the same connections; of UDP those that reached the socket.
    pub received_bytes: u64,
    /// UDP datagrams sent; 0 of TCP.
    #[serde(skip_serializing_if = "is_zero")]
    pub sent_packets: u64,
    /// UDP datagrams that reached the socket; 0 of TCP.
    #[serde(skip_serializing_if = "is_zero")]
    pub received_packets: u64,
    /// Segments that closed connections sent again.
    pub retransmits: u64,
    /// Sum over closed connections of the smoothed round-trip time at close, in microseconds.
    pub srtt_us_sum: u64,
}

/// Recordings of TCP alone stay as they were.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl FlowCounts {
    /// Adds the other's counts, saturating.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.connections, other.connections),
            (&mut self.failures, other.failures),
            (&mut self.timeouts, other.timeouts),
            (&mut self.closed, other.closed),
            (&mut self.sent_bytes, other.sent_bytes),
            (&mut self.received_bytes, other.received_bytes),
            (&mut self.sent_packets, other.sent_packets),
            (&mut self.received_packets, other.received_packets),
            (&mut self.retransmits, other.retransmits),
            (&mut self.srtt_us_sum, other.srtt_us_sum),
        ] {
            *mine = mine.saturating_add(theirs);
        }
    }
}

/// Figures of one cgroup from `cpu.stat` and `cpu.max`. What the kernel does not have is absent, never zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuStatRow {
    /// The container's cgroup.
    pub cgroup: CgroupId,
    /// `usage_usec`: CPU time since the cgroup was made, children included.
    pub usage_us: u64,
    /// `nr_periods`; absent without the cpu controller.
    pub periods: Option<u64>,
    /// `nr_throttled`.
    pub throttled_periods: Option<u64>,
    /// `throttled_usec`.
    pub throttled_us: Option<u64>,
    /// `nr_bursts`: periods in which more than the quota was used; Linux 5.14.
    pub bursts: Option<u64>,
    /// `burst_usec`: CPU time used above the quota in them.
    pub burst_us: Option<u64>,
    /// `cpu.max`; absent without the cpu controller.
    pub max: Option<CpuMax>,
    /// `cpu.weight`, 1 to 10,000; 0 where `cpu.idle` is set. Absent without the cpu controller.
    pub weight: Option<u64>,
    /// `cpu.pressure`; absent where the kernel keeps no pressure (`CONFIG_PSI`, `psi=0`).
    pub pressure: Option<CpuPressure>,
}

/// Totals of a `cpu.pressure` file in microseconds of wall time since the cgroup was made.
///
/// A task that a quota stops counts as waiting, so throttling is in both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuPressure {
    /// At least one task was ready to run and did not.
    pub some_us: u64,
    /// No task ran while at least one was ready to; Linux 5.13.
    #[serde(default)]
    pub full_us: Option<u64>,
}

/// CPU of the whole node since its boot, from `/proc/stat` and `/proc/pressure/cpu`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeCpuRow {
    /// CPUs online.
    pub cpus: u32,
    /// CPU time of tasks and interrupts in microseconds, in steps of 10 ms; without stolen time.
    pub busy_us: u64,
    /// Time that a hypervisor gave to others, in microseconds.
    pub steal_us: u64,
    /// Wall time in which at least one task of the node waited for a CPU, in microseconds; absent without pressure.
    #[serde(default)]
    pub pressure_some_us: Option<u64>,
}

/// `cpu.max` and `cpu.max.burst` of a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuMax {
    /// Quota in each period in microseconds; `None` is `max`: no limit.
    pub quota_us: Option<u64>,
    /// Length of the period in microseconds.
    pub period_us: u64,
    /// What may be saved up and spent on top of the quota, in microseconds.
    pub burst_us: u64,
}

/// Figures of one cgroup from `memory.events`: since the cgroup was made, children included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryEventsRow {
    /// The container's cgroup.
    pub cgroup: CgroupId,
    /// `oom_kill`: processes that the kernel killed because memory ran out.
    pub oom_kills: u64,
}

/// CPU time of one cgroup in consecutive 100 ms windows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuWindowRow {
    /// The (leaf) cgroup.
    pub cgroup: CgroupId,
    /// Microseconds of CPU time in each window, summed over CPUs.
    pub busy_us: Vec<u32>,
}

/// Length of a CPU window: the kernel's own default period of CPU bandwidth control
/// (`sysctl_sched_cfs_bandwidth`, 100 ms in `cpu.max`).
pub const CPU_WINDOW_NS: u64 = 100_000_000;
