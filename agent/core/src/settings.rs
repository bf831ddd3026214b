//! What the core may be told by its operator. A recording carries them, so that a replay decides alike.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::host_listener::AllowedListener;
use crate::suppression::Rulebook;

/// Who this node is: attributes of every resource that leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeIdentity {
    /// `k8s.cluster.name`; part of every fingerprint.
    pub cluster: Option<String>,
    /// `k8s.node.name`.
    pub node: Option<String>,
    /// `deployment.environment.name`, such as `production`.
    pub environment: Option<String>,
    /// The agent's own version.
    pub agent_version: String,
}

/// How long a condition must hold before it becomes a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grace {
    /// For this long.
    Time(Duration),
    /// In this many complete scans of the node's sockets (`plumbline check` uses 2).
    Scans(u32),
}

/// Windows and limits of the rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CoreSettings {
    /// Before a finding opens.
    pub grace: Grace,
    /// CPU windows this soon after a container's start are not judged: start-up spikes are normal.
    pub cpu_startup_exclusion: Duration,
    /// The span over which C007 takes its mean. At most [`CPU_MEAN_WINDOW_MAX`].
    pub cpu_mean_window: Duration,
    /// Ports that `bind(0)` may give on this node (`net.ipv4.ip_local_port_range`), first and last.
    pub ephemeral_ports: (u16, u16),
    /// An open finding is told of again this often, so that a receiver that lost it learns of it.
    pub heartbeat: Duration,
    /// Which rules judge, how severe they are, and what is hidden.
    pub rulebook: Arc<Rulebook>,
    /// What single rules are told.
    #[serde(default)]
    pub rules: RuleSettings,
    /// Bytes of logs that the kubelet keeps of a container: `containerLogMaxSize` times `containerLogMaxFiles`.
    #[serde(default = "log_kept_bytes")]
    pub log_kept_bytes: u64,
    /// More bytes of logs than this in each of ten minutes are a flood (L002).
    #[serde(default = "log_flood_bytes")]
    pub log_flood_bytes: u64,
}

/// What single rules are told by the operator. Empty lists tell nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RuleSettings {
    /// Registries, with or without a path, whose images are trusted (I003). Without any, the rule is silent.
    pub trusted_registries: Vec<String>,
    /// Namespaces whose pods may use the cloud's metadata service (F007).
    pub metadata_namespaces: Vec<String>,
    /// Namespaces whose pods may listen on ports that nobody declares (P001).
    pub undeclared_namespaces: Vec<String>,
    /// Namespaces in which a pod's word that it is in a mesh is believed (F001, F006), besides those that say so themselves.
    pub mesh_namespaces: Vec<String>,
    /// Runtime classes whose pods have a kernel of their own, besides those whose names say so (M001).
    pub sandbox_runtime_classes: Vec<String>,
    /// What processes of the host may listen on (P008). Without any, the rule is silent.
    pub host_listeners: Vec<AllowedListener>,
}

/// The kubelet's own defaults: 10 MiB, five files.
const fn log_kept_bytes() -> u64 {
    50 << 20
}

/// At this rate what the kubelet keeps by default is written in less than two minutes.
const fn log_flood_bytes() -> u64 {
    30 << 20
}

/// The longest [`CoreSettings::cpu_mean_window`]: 3,000 windows of 100 ms, 12 KiB a container.
pub const CPU_MEAN_WINDOW_MAX: Duration = Duration::from_secs(300);

impl Default for CoreSettings {
    fn default() -> Self {
        Self {
            grace: Grace::Time(Duration::from_secs(30)),
            cpu_startup_exclusion: Duration::from_secs(300),
            cpu_mean_window: Duration::from_secs(60),
            ephemeral_ports: (32_768, 60_999),
            heartbeat: Duration::from_secs(6 * 3_600),
            rulebook: Arc::default(),
            rules: RuleSettings::default(),
            log_kept_bytes: log_kept_bytes(),
            log_flood_bytes: log_flood_bytes(),
        }
    }
}

/// A pod that has not talked to the API server for this long does not need its token (S001).
pub const TOKEN_WINDOW: Duration = Duration::from_secs(24 * 3_600);
/// Comparison rules say nothing on a declared side that is older than this (M003).
pub const DECLARED_AGE_MAX: Duration = Duration::from_secs(120);
/// Sources of declarations of which the age is known; there are some twenty at most.
pub const DECLARED_SOURCES_MAX: usize = 32;

/// What bounded things lose is held against what came through them over this long (M002).
pub const LOSS_WINDOW: Duration = Duration::from_secs(300);

/// Listening ports kept for one container; further ones are counted, not stored.
pub const PORTS_PER_CONTAINER_MAX: usize = 64;
/// Flow series of the node; further ones go into one overflow series per container.
pub const FLOW_SERIES_MAX: usize = 2_000;
/// Points of one report. A report over this is cut at the end, and the cut is counted.
pub const SERIES_PER_NODE_MAX: usize = 10_000;
/// Containers of the node. 110 pods is Kubernetes' default limit; five containers each leaves room.
pub const CONTAINERS_MAX: usize = 1_024;
/// Ports of units of the host that are remembered: what P008 judges. Further ones are counted, not stored.
pub const HOST_LISTENERS_MAX: usize = 1_024;
/// Addresses, and executables, that are named of each of them; further ones are left out.
pub const HOST_LISTENER_NAMES_MAX: usize = 16;
/// Cgroups of the node whose path is remembered.
pub const CGROUPS_MAX: usize = 16_384;
/// Findings that are open at once.
pub const FINDINGS_MAX: usize = 4_096;
/// Findings that were resolved and are remembered, so that one that comes back has its history. The one that was resolved
/// first is forgotten first.
pub const FINDINGS_PAST_MAX: usize = 4_096;
/// A hidden finding is told of this often.
pub const SUPPRESSED_HEARTBEAT: Duration = Duration::from_secs(86_400);
/// Suppressions of the configuration, and annotations of one pod that ask for one.
pub const SUPPRESSIONS_MAX: usize = 256;
/// Addresses whose holders are known at once: pods, Services, nodes. Those of further ones stay without a name.
pub const PEER_HOLDERS_MAX: usize = 65_536;
/// Former holders of addresses that are remembered at once. The oldest are forgotten first, and what was seen before they
/// ended is then told as unresolved.
pub const PEER_HISTORY_MAX: usize = 4_096;
/// How long a former holder of an address is remembered: much longer than anything that was seen waits.
pub const PEER_HISTORY: Duration = Duration::from_secs(300);
/// How long the declared side may be behind what the kernel shows. For this long a peer without a name is looked up again.
pub const PEER_LAG_MAX: Duration = Duration::from_secs(10);
/// Pods that are prepared for policies at once. When full, all are prepared anew.
pub const ENDPOINTS_MAX: usize = 16_384;
/// Memory that prepared pods take at most, in bytes: with very many policies these are fewer. Likewise prepared anew.
pub const ENDPOINTS_BYTES_MAX: usize = 32 << 20;
/// Flow rows that wait for the name of their peer. Further ones are told as unresolved at once.
pub const PEER_WAITING_MAX: usize = 8_192;
/// Addresses that were waited for in vain and are not waited for again soon.
pub const PEER_GIVEN_UP_MAX: usize = 4_096;
