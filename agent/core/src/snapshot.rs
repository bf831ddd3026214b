//! The node at one moment: declared and observed joined per container. What rules and the report read.

mod host;
mod logs;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::declared::{Declared, DeclaredContainer, DeclaredPod, Transport};
use crate::finding::{Coverage, FindingState, Subject};
use crate::id::{CgroupId, ContainerId, PodUid};
use crate::observation::{
    CPU_WINDOW_NS, CpuMax, CpuPressure, FlowCounts, Holder, ProbeStatus, Role, SourceRow,
};
use crate::observed::verdicts::Verdicts;
use crate::policy::{Direction, Policies};
use crate::settings::{CoreSettings, NodeIdentity};
use crate::sketch::Sketch;
use crate::time::{ClockAnchor, Timestamp, UnixNanos};
pub use host::HostListenerView;
pub(crate) use logs::used_percent;
pub use logs::{BACKLOG_PERCENT_MAX, LogLost, LogView};

/// The node at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When.
    pub now: Timestamp,
    /// The same on the wall clock.
    pub wall: UnixNanos,
    /// Who this node is.
    pub node: NodeIdentity,
    /// Windows and limits.
    pub settings: CoreSettings,
    /// The first reading of the clocks: zero points of counters are told by it, so that they never move.
    pub origin: ClockAnchor,
    /// The declared side; `None` while no source has delivered: comparison rules are then silent.
    pub declared: Option<Arc<Declared>>,
    /// How current the parts of the declared side are, sorted by source. Empty where nobody tells (old recordings).
    pub sources: Vec<SourceRow>,
    /// Pods that were seen to talk to the API server, or may have; `None` when not all of them could be remembered.
    pub api_clients: Option<BTreeMap<PodUid, ApiUse>>,
    /// Containers, sorted by namespace, pod, container name and id.
    pub containers: Vec<ContainerView>,
    /// What processes of the host listen on in the node's own network, sorted by unit, protocol and port.
    pub host_listeners: Vec<HostListenerView>,
    /// Sockets in the node's own network that the last complete scan found in the hands of processes whose cgroup is not known.
    pub host_unknown: u64,
    /// CPU of the node; `None` until it was read.
    pub node_cpu: Option<NodeCpuView>,
    /// CPU of pods, sorted by subject.
    pub pods_cpu: Vec<PodCpuView>,
    /// Flow series, sorted. At most [`crate::settings::FLOW_SERIES_MAX`] and one overflow series per container.
    pub flows: Vec<FlowView>,
    /// The policies in force, as far as the declared side tells.
    pub policies: Arc<Policies>,
    /// How often each rule about a pod of this node matched, sorted by policy, direction and place.
    pub rule_hits: Vec<RuleHits>,
    /// Complete scans of the node's sockets so far.
    pub scans: u32,
    /// Health of each probe, sorted by name.
    pub probes: Vec<ProbeStatus>,
    /// What bounded things lost, sorted by place and reason; cumulative.
    pub dropped: Vec<Dropped>,
    /// What came through bounded things, sorted by place; cumulative.
    pub delivered: Vec<Delivered>,
    /// What bounded things lost lately, sorted by place and reason, where it is known how much there was.
    pub losses: Vec<Loss>,
    /// How full bounded things are, sorted by place.
    pub occupancy: Vec<Occupancy>,
    /// Container logs, sorted by subject; empty while they are not read.
    pub logs: Vec<LogView>,
    /// How often findings came into each state since the agent began, sorted; filled in once the rules have judged.
    pub transitions: Vec<TransitionCount>,
}

/// How often findings of a rule came into a state since the agent began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransitionCount {
    /// Id of the rule.
    pub rule: &'static str,
    /// The state.
    pub state: FindingState,
    /// How often.
    pub count: u64,
}

/// Whether a pod talks to the API server, as far as its flows tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ApiUse {
    /// It dialed somebody who may be the API server.
    Unsure,
    /// It does.
    Talks,
}

/// What came through one bounded thing since the agent began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Delivered {
    /// The map, ring, queue or table.
    pub place: String,
    /// How many.
    pub count: u64,
}

/// What one bounded thing lost lately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The map, ring, queue or table.
    pub place: String,
    /// Why.
    pub reason: String,
    /// How many in the span.
    pub lost: u64,
    /// How many came through in the span.
    pub delivered: u64,
    /// Time for which it was watched: [`crate::settings::LOSS_WINDOW`], or less after a start.
    pub span: Duration,
}

/// How often one rule of a policy matched connections of this node's pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleHits {
    /// Namespace and name of a NetworkPolicy.
    pub policy: String,
    /// Which of its lists.
    pub direction: Direction,
    /// The rule's place there.
    pub rule: u32,
    /// Connections.
    pub connections: u64,
}

/// What a container was refused because it had used up its share of shared tables, since it has its network program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedView {
    /// New flows: counted without their peer.
    pub flows: u64,
    /// Records of listeners: found by scans.
    pub listeners: u64,
    /// New flows of UDP: counted without their peer.
    pub udp_flows: u64,
    /// UDP sockets with chosen ports: scans find those outside the dynamic range.
    pub udp_sockets: u64,
    /// Open connections: their bytes are counted when they close.
    pub connections: u64,
    /// When it was last told of more.
    pub last: Timestamp,
}

/// What one bounded thing lost since the agent began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// The map, ring, queue or table.
    pub place: String,
    /// Why.
    pub reason: String,
    /// How many.
    pub count: u64,
}

/// How full one bounded thing is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Occupancy {
    /// The map, ring, queue or table.
    pub place: String,
    /// Entries in use.
    pub entries: u64,
    /// Entries it can hold.
    pub capacity: u64,
}

/// One running container.
#[derive(Clone, Debug)]
pub struct ContainerView {
    /// Its cgroup.
    pub cgroup: CgroupId,
    /// Pod UID of the cgroup path.
    pub pod_uid: PodUid,
    /// Container id of the cgroup path.
    pub container_id: ContainerId,
    /// Identity for what leaves.
    pub subject: Subject,
    /// The pod's declaration, found by container id or pod UID.
    pub pod: Option<Arc<DeclaredPod>>,
    /// Index into `pod.containers`; `None` when the container's id is not declared.
    pub container_index: Option<usize>,
    /// When the agent first saw the cgroup.
    pub first_seen: Timestamp,
    /// When the container started, as far as known: declared, else first seen unless it was there before the agent.
    pub started: Option<Timestamp>,
    /// When the agent first saw its CPU declaration (spec and status) as it is.
    pub declared_cpu_since: Option<Timestamp>,
    /// Its cgroup is gone. It stays in the snapshot for a while so that last counts leave; rules do not judge it.
    pub gone: bool,
    /// The agent itself runs in it.
    pub is_self: bool,
    /// How much of its network activity is seen.
    pub coverage: Coverage,
    /// The first and last port that the kernel gives out by itself in its network namespace.
    pub dynamic_ports: (u16, u16),
    /// Listening TCP ports, then UDP servers, sorted; at most [`crate::settings::PORTS_PER_CONTAINER_MAX`].
    pub listeners: Vec<ListenerView>,
    /// Sockets of ports beyond that number, by transport; no zeros.
    pub listeners_overflow: BTreeMap<Transport, u64>,
    /// Processes of it that the kernel killed because memory ran out, since it began; `None` without the memory controller.
    pub oom_kills: Option<u64>,
    /// Containers of this pod and name that came after another since the agent began; `None` while its name is unknown.
    pub restarts: Option<u64>,
    /// What it was refused; `None` when nothing.
    pub refused: Option<RefusedView>,
    /// CPU.
    pub cpu: CpuView,
}

impl ContainerView {
    /// The declaration of this very container.
    #[must_use]
    pub fn declared(&self) -> Option<&DeclaredContainer> {
        self.pod.as_ref()?.containers.get(self.container_index?)
    }
}

/// How far away a socket can be reached, by its address alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BindScope {
    /// 127.0.0.0/8 or ::1 only.
    Loopback,
    /// One address of the pod.
    Pod,
    /// One address of the node (hostNetwork).
    Node,
    /// A wildcard address.
    Any,
}

impl BindScope {
    /// The lower-case word used in JSON and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Pod => "pod",
            Self::Node => "node",
            Self::Any => "any",
        }
    }
}

/// One listening TCP port or UDP server of a container: all its sockets and addresses together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerView {
    /// TCP or UDP.
    pub transport: Transport,
    /// The port.
    pub port: u16,
    /// The widest scope of its addresses.
    pub scope: BindScope,
    /// Its addresses, sorted.
    pub addresses: Vec<IpAddr>,
    /// Listening sockets (several with `SO_REUSEPORT`, or with one each for IPv4 and IPv6).
    pub sockets: u64,
    /// When it was first seen.
    pub first_seen: Timestamp,
    /// Complete scans that found it.
    pub scans: u32,
    /// It was there before the agent.
    pub pre_existing: bool,
    /// Processes that hold it, by pid; empty until a scan has met it.
    pub holders: Vec<Holder>,
    /// Whether a holder is in the owner's container; `None` until a scan has met it. `Some(false)`: the socket was passed on.
    pub held_by_owner: Option<bool>,
    /// In the network namespace of process 1; `None` until a scan has met it.
    pub host_netns: Option<bool>,
    /// Whether its socket on `[::]` takes IPv4 too; `None`: it has none, or that is not known (procfs does not tell).
    pub dual_stack: Option<bool>,
    /// Connections accepted on it since the agent began.
    pub connections: u64,
}

/// One flow series: what leaves as `plumbline.network.*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowView {
    /// Index into [`Snapshot::containers`].
    pub container: usize,
    /// TCP or UDP.
    pub transport: Transport,
    /// Which end the container is.
    pub role: Role,
    /// The other end.
    pub peer: Peer,
    /// The server's port; 0 in an overflow series.
    pub server_port: u16,
    /// Cumulative counts since `since`.
    pub counts: FlowCounts,
    /// What policies said of it.
    pub verdicts: Verdicts,
    /// When the series began.
    pub since: Timestamp,
    /// The container's series beyond the cap, all together.
    pub overflow: bool,
}

/// The other end of a flow, as far as the node can name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Peer {
    /// What it is.
    pub kind: PeerKind,
    /// Namespace of a workload or Service.
    pub namespace: Option<String>,
    /// Name of a workload, Service or node; class of an external or unresolved peer (`private`, `public`, `metadata`,
    /// `snat`).
    pub name: Option<String>,
}

impl Peer {
    /// Nobody in particular.
    pub(crate) fn unresolved() -> Self {
        Self {
            kind: PeerKind::Unresolved,
            namespace: None,
            name: None,
        }
    }
}

/// What the other end of a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerKind {
    /// A pod that the agent knows, named by its owner.
    Workload,
    /// A Service, by its cluster address.
    Service,
    /// A node of the cluster: its kubelet (probes), other processes of the host, hostNetwork pods.
    Node,
    /// The API server: the cluster address of `default/kubernetes`, or an endpoint of it.
    ApiServer,
    /// The same network namespace.
    Loopback,
    /// Outside of the cluster, by class.
    External,
    /// Not known, or several that it may have been. Never a claim that it is outside.
    Unresolved,
}

impl PeerKind {
    /// The lower-case word used in JSON and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Workload => "workload",
            Self::Service => "service",
            Self::Node => "node",
            Self::ApiServer => "apiserver",
            Self::Loopback => "loopback",
            Self::External => "external",
            Self::Unresolved => "unresolved",
        }
    }
}

/// CPU of one container. What was not measured is `None`, never zero.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CpuView {
    /// CPU time since the container began, in microseconds (`cpu.stat`).
    pub usage_us: Option<u64>,
    /// Mean number of CPUs in use between the last two readings of `cpu.stat`.
    pub usage_cores: Option<f64>,
    /// Bandwidth periods, and those throttled.
    pub periods: Option<(u64, u64)>,
    /// Throttled time in microseconds.
    pub throttled_us: Option<u64>,
    /// `cpu.max` in force.
    pub max: Option<CpuMax>,
    /// `cpu.weight` in force.
    pub weight: Option<u64>,
    /// Pressure since the cgroup was made.
    pub pressure: Option<CpuPressure>,
    /// When the agent first saw the settings (`max`, `weight`) as they are.
    pub settings_since: Option<Timestamp>,
    /// What happened over the mean window.
    pub rates: Option<CpuRates>,
    /// The 100 ms windows.
    pub windows: Option<WindowView>,
    /// How the windows of the last day are distributed, those of the start-up exclusion left out.
    pub day: Option<Distribution>,
    /// The same of the last week.
    pub week: Option<Distribution>,
    /// All windows since the container was first seen.
    pub all: Option<Arc<Sketch>>,
}

/// How CPU use is distributed over the windows of a span of time. Windows that were not measured are not among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// The windows.
    pub sketch: Arc<Sketch>,
    /// Start of the first.
    pub since: Timestamp,
    /// End of the last.
    pub until: Timestamp,
}

impl Distribution {
    /// Time from the first window's start to the last one's end.
    #[must_use]
    pub fn span(&self) -> Duration {
        self.until.since(self.since)
    }

    /// Time that the windows make together; less than the span where some were not measured.
    #[must_use]
    pub fn measured(&self) -> Duration {
        Duration::from_nanos(CPU_WINDOW_NS.saturating_mul(self.sketch.count()))
    }
}

/// How a container fared over [`CoreSettings::cpu_mean_window`], from its cgroup's own files. Of a shorter span where
/// the container is young, its start-up exclusion just over, or its limit new. What was not measured is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CpuRates {
    /// Time between the two readings.
    pub span: Duration,
    /// Mean number of CPUs in use.
    pub usage_cores: f64,
    /// Bandwidth periods in which it ran.
    pub periods: Option<u64>,
    /// Of these, those in which it was throttled.
    pub throttled_periods: Option<u64>,
    /// Throttled time in microseconds, summed over CPUs: may exceed the span.
    pub throttled_us: Option<u64>,
    /// Periods in which saved-up quota was spent.
    pub bursts: Option<u64>,
    /// Share of the time in which a task was ready and did not run, 0 to 1.
    pub some: Option<f64>,
    /// Share of the time in which no task ran while one was ready, 0 to 1.
    pub full: Option<f64>,
}

/// CPU of the whole node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeCpuView {
    /// CPUs online.
    pub cpus: u32,
    /// CPU time since the node's boot in microseconds, without stolen time.
    pub busy_us: u64,
    /// Time that the hypervisor gave to others, in microseconds.
    pub steal_us: u64,
    /// Mean number of CPUs in use between the last two readings.
    pub usage_cores: Option<f64>,
    /// Share of the mean window in which a task of the node waited for a CPU, 0 to 1; `None` where the kernel keeps no
    /// pressure, and before the second reading.
    pub some: Option<f64>,
    /// Time over which `some` was taken.
    pub span: Duration,
}

/// CPU of one pod: what its own cgroup says, which includes its sandbox.
#[derive(Clone, Debug, PartialEq)]
pub struct PodCpuView {
    /// The pod.
    pub subject: Subject,
    /// CPU time since the pod began, in microseconds.
    pub usage_us: u64,
    /// When it was first read.
    pub since: Timestamp,
}

/// 100 ms windows of a container over [`CoreSettings::cpu_mean_window`], those of the start-up exclusion left out.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowView {
    /// Microseconds of CPU time in each window, in order of time. A window that was not measured is not among them.
    pub busy_us: Vec<u32>,
    /// Time from the first window's start to the last one's end.
    pub span: Duration,
    /// Highest number of CPUs in use in a window since the last export; absent when none was measured since.
    pub peak_cores: Option<f64>,
}

impl WindowView {
    /// Mean number of CPUs in use; `None` without windows.
    #[must_use]
    pub fn mean_cores(&self) -> Option<f64> {
        let sum: f64 = self.busy_us.iter().map(|us| f64::from(*us)).sum();
        let count = u32::try_from(self.busy_us.len()).ok().filter(|n| *n > 0)?;
        Some(sum / f64::from(count) / 100_000.0)
    }
}
