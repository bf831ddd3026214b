//! Names of the attributes of points.

/// Why a connection attempt failed: `timeout` or `_OTHER`.
pub const ERROR_TYPE: &str = "error.type";
/// Namespace of a finding's subject.
pub const K8S_NAMESPACE_NAME: &str = "k8s.namespace.name";
/// Listening port; 0 for those beyond the limit.
pub const NETWORK_LOCAL_PORT: &str = "network.local.port";
/// `tcp` or `udp`.
pub const NETWORK_TRANSPORT: &str = "network.transport";
/// `true` on a point that takes what found no place of its own.
pub const OVERFLOW: &str = "otel.metric.overflow";
/// `loopback`, `pod`, `node` or `any`.
pub const BIND_SCOPE: &str = "plumbline.bind.scope";
/// `full`, `pre_existing`, `partial` or `blind`.
pub const COVERAGE_STATE: &str = "plumbline.coverage.state";
/// Whether the period was throttled.
pub const CPU_THROTTLED: &str = "plumbline.cpu.throttled";
/// What declares a port: the words of [`crate::rules::ports::DeclaredBy`].
pub const DECLARED_BY: &str = "plumbline.declared.by";
/// How far a port can be reached: the words of [`crate::exposure::Reach`].
pub const EXPOSURE: &str = "plumbline.exposure";
/// `open`, `suppressed` or `resolved`.
pub const FINDING_STATE: &str = "plumbline.finding.state";
/// `sent` or `received`.
pub const FLOW_IO: &str = "plumbline.flow.io";
/// `client` or `server`.
pub const FLOW_ROLE: &str = "plumbline.flow.role";
/// Name of a map, ring, queue or table.
pub const MAP: &str = "plumbline.map";
/// The words of [`crate::snapshot::PeerKind`].
pub const PEER_KIND: &str = "plumbline.peer.kind";
/// Workload, Service or node, or the class of an external or unresolved peer.
pub const PEER_NAME: &str = "plumbline.peer.name";
/// Namespace of a workload or Service.
pub const PEER_NAMESPACE: &str = "plumbline.peer.namespace";
/// `ingress` or `egress`.
pub const POLICY_DIRECTION: &str = "plumbline.policy.direction";
/// Namespace and name of a NetworkPolicy.
pub const POLICY_NAME: &str = "plumbline.policy.name";
/// A rule's place in its list, from 0.
pub const POLICY_RULE: &str = "plumbline.policy.rule";
/// The words of [`crate::policy::Verdict`].
pub const POLICY_VERDICT: &str = "plumbline.policy.verdict";
/// `some` or `full`, as in the kernel's pressure files.
pub const PRESSURE_KIND: &str = "plumbline.pressure.kind";
/// Name of a probe.
pub const PROBE: &str = "plumbline.probe";
/// `ok`, `unsupported`, `broken` or `off`.
pub const PROBE_STATE: &str = "plumbline.probe.state";
/// Why something was lost or is not seen.
pub const REASON: &str = "plumbline.reason";
/// `info`, `low`, `medium` or `high`.
pub const SEVERITY: &str = "plumbline.severity";
/// Part of the declared side: `pods`, `services`, `files` and the like.
pub const SOURCE: &str = "plumbline.source";
/// Length of a CPU window.
pub const WINDOW: &str = "plumbline.window";
/// Id of a rule.
pub const SECURITY_RULE_NAME: &str = "security_rule.name";
/// The server's port.
pub const SERVER_PORT: &str = "server.port";
/// `stdout` or `stderr`.
pub const LOG_IOSTREAM: &str = "log.iostream";
