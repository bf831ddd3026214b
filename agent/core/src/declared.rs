//! What Kubernetes objects promise about the pods of this node, reduced to what rules need.
//!
//! Two sources fill the same type: manifests or dumps in files, and the API server.

mod network;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{ContainerId, PodUid};
pub use network::{
    AdminAction, AdminPeer, AdminPods, AdminRule, Cidr, CidrError, DeclaredAdminPolicy,
    DeclaredEndpoints, DeclaredPolicy, DeclaredRoute, ForeignPolicies, LabelExpression,
    LabelOperator, LabelSelector, NamedPort, PeerPod, PolicyPeer, PolicyPort, PolicyPorts,
    PolicyRule, RouteBackend,
};

/// The declared side at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declared {
    /// Where it comes from, for people: `files:/etc/plumbline/declared`, `api:https://10.0.0.1:6443`.
    pub source: String,
    /// Pods, sorted by namespace and name.
    pub pods: Vec<Arc<DeclaredPod>>,
    /// Services, sorted by namespace and name.
    pub services: Vec<DeclaredService>,
    /// Nodes, sorted by name; empty where the source has none. The API server is asked for the own one only.
    #[serde(default)]
    pub nodes: Vec<DeclaredNode>,
    /// Where the API server answers: the endpoints of the Service `default/kubernetes`, and the address of the kubeconfig
    /// in use. Sorted.
    #[serde(default)]
    pub api_servers: Vec<SocketAddr>,
    /// Pods of other nodes, as peers; sorted by namespace and name. The API source has them with `--peers cluster`, files give
    /// every pod among `pods`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peer_pods: Vec<Arc<PeerPod>>,
    /// Namespaces, sorted by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<DeclaredNamespace>,
    /// Whether the source tells of all NetworkPolicies there are. Without, no verdict is given: a dump of pods says nothing
    /// about policies.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub policies_known: bool,
    /// NetworkPolicies, sorted by namespace and name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<DeclaredPolicy>,
    /// AdminNetworkPolicies and the BaselineAdminNetworkPolicy, sorted by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub admin_policies: Vec<DeclaredAdminPolicy>,
    /// Policies of kinds that are not understood, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub foreign_policies: Vec<ForeignPolicies>,
    /// Endpoints of Services, sorted by namespace and name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<DeclaredEndpoints>,
    /// Routes from outside, sorted by kind, namespace and name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<DeclaredRoute>,
    /// Objects that could not be used.
    pub problems: Vec<DeclaredProblem>,
    /// How many objects could not be used since the agent began, those of earlier readings too.
    pub problems_total: u64,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeclaredNode {
    /// `metadata.name`.
    pub name: String,
    /// `status.addresses` of the types `InternalIP` and `ExternalIP`.
    pub addresses: Vec<IpAddr>,
    /// Those of the type `ExternalIP`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub external: Vec<IpAddr>,
    /// `status.allocatable.cpu` in thousandths of a CPU.
    pub cpu_allocatable_millis: Option<u64>,
}

/// One object that was skipped, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredProblem {
    /// File and the path inside it: `pods.json: items[3].spec.containers[0].ports[1].containerPort`.
    pub at: String,
    /// What is wrong with it.
    pub message: String,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeclaredPod {
    /// `metadata.namespace`; `default` when absent.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`; absent in a manifest that was never applied.
    pub uid: Option<PodUid>,
    /// Annotation `kubernetes.io/config.hash`: the UID that the kubelet uses for a static pod.
    pub config_hash: Option<PodUid>,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// Annotations that ask to hide findings ([`crate::suppression::ANNOTATION_PREFIX`]), by id of the rule. They are
    /// heard only where the operator says so.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub suppress: BTreeMap<String, String>,
    /// The workload that owns the pod, as far as the pod itself tells.
    pub owner: WorkloadRef,
    /// `spec.nodeName`.
    pub node: Option<String>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// `spec.runtimeClassName`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime_class: Option<String>,
    /// `status.podIPs`.
    pub ips: Vec<IpAddr>,
    /// All containers of all kinds, in the order of the spec.
    pub containers: Vec<DeclaredContainer>,
    /// `spec.resources.requests.cpu` (pod-level resources) in thousandths of a CPU.
    pub cpu_request_millis: Option<u64>,
    /// `spec.resources.limits.cpu` in thousandths of a CPU.
    pub cpu_limit_millis: Option<u64>,
    /// `status.phase` is `Succeeded` or `Failed`.
    pub finished: bool,
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeclaredNamespace {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`, with `kubernetes.io/metadata.name`, which the API server gives to every namespace.
    pub labels: BTreeMap<String, String>,
    /// Its labels or annotations have a mesh put its proxy into pods.
    pub meshed: bool,
}

/// Containers that a mesh puts beside others, and to which it redirects their connections.
const MESH_SIDECARS: [&str; 5] = [
    "istio-proxy",
    "linkerd-proxy",
    "kuma-sidecar",
    "consul-dataplane",
    "envoy-sidecar",
];

/// With the value `ambient` Istio's node agent listens inside the pods instead.
pub(crate) const AMBIENT_LABEL: &str = "istio.io/dataplane-mode";

/// Parts of names of runtime classes whose pods have a kernel of their own: gVisor (`runsc`), Kata Containers, Firecracker.
/// The names are the cluster's choice; these are those of the projects' own instructions.
const SANDBOXES: [&str; 4] = ["gvisor", "runsc", "kata", "firecracker"];

impl DeclaredPod {
    /// The runtime class, where its name or the operator says that the pod has a kernel of its own: the node's sees none of its
    /// sockets. `more` are the classes that the operator names.
    #[must_use]
    pub fn sandbox(&self, more: &[String]) -> Option<&str> {
        let class = self.runtime_class.as_deref()?;
        let lower = class.to_ascii_lowercase();
        let known = SANDBOXES.iter().any(|part| lower.contains(part));
        (known || more.iter().any(|one| one == class)).then_some(class)
    }

    /// Whether the pod says that it is in a mesh, by the name of a container or a label. Its author can say so of any pod:
    /// believed only where the namespace or the operator says so too.
    #[must_use]
    pub fn looks_meshed(&self) -> bool {
        let sidecar = |one: &DeclaredContainer| MESH_SIDECARS.contains(&one.name.as_str());
        let ambient = self.labels.get(AMBIENT_LABEL);
        ambient.is_some_and(|mode| mode == "ambient") || self.containers.iter().any(sidecar)
    }

    /// The CPU request that the scheduler reckons with, in thousandths of a CPU: the pod's own, else that of everything
    /// that runs together, or of an init container with the sidecars before it, whichever is more. `None` where nothing
    /// of the pod has a request.
    #[must_use]
    pub fn effective_request_millis(&self) -> Option<u64> {
        self.cpu_request_millis
            .or_else(|| effective_request(&self.containers))
    }
}

/// What the containers of a pod request together; see [`DeclaredPod::effective_request_millis`].
#[must_use]
pub fn effective_request(containers: &[DeclaredContainer]) -> Option<u64> {
    let (mut sidecars, mut init, mut regular) = (0_u64, 0_u64, 0_u64);
    for container in containers {
        let request = container.cpu_request_millis.unwrap_or(0);
        match container.kind {
            ContainerKind::Sidecar => {
                sidecars = sidecars.saturating_add(request);
                init = init.max(sidecars);
            }
            ContainerKind::Init => init = init.max(sidecars.saturating_add(request)),
            ContainerKind::Regular => regular = regular.saturating_add(request),
            ContainerKind::Ephemeral => {}
        }
    }
    let any = containers
        .iter()
        .any(|container| container.cpu_request_millis.is_some());
    any.then(|| regular.saturating_add(sidecars).max(init))
}

/// Kind and name of the owner of a pod: what stays the same when the pod is replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkloadRef {
    /// `Deployment`, `StatefulSet`, `DaemonSet`, `Job`, `CronJob`, `ReplicaSet`, or `Pod` for a pod that nothing owns.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// A container of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeclaredContainer {
    /// Its name.
    pub name: String,
    /// Which list of the spec it stands in.
    pub kind: ContainerKind,
    /// Image reference as declared.
    pub image: String,
    /// `ports`.
    pub ports: Vec<DeclaredPort>,
    /// TCP ports of its liveness, readiness and startup probes and lifecycle handlers; names are resolved.
    pub probe_ports: Vec<u16>,
    /// `resources.requests.cpu` in thousandths of a CPU. A limit without a request is also the request, as the API
    /// server defaults it.
    pub cpu_request_millis: Option<u64>,
    /// `resources.limits.cpu` in thousandths of a CPU.
    pub cpu_limit_millis: Option<u64>,
    /// `status.*ContainerStatuses[].resources.requests.cpu`: what the runtime says is in force. Absent before
    /// Kubernetes 1.27, and where there is none.
    pub cpu_request_current_millis: Option<u64>,
    /// `status.*ContainerStatuses[].resources.limits.cpu`, likewise.
    pub cpu_limit_current_millis: Option<u64>,
    /// `status.*ContainerStatuses[].allocatedResources.cpu`: the request that the kubelet has admitted.
    pub cpu_allocated_millis: Option<u64>,
    /// Id of the running container (`status.*ContainerStatuses[].containerID` without the scheme).
    pub container_id: Option<ContainerId>,
    /// The runtime of that id: `containerd`, `cri-o`, `docker`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// `status.*ContainerStatuses[].imageID`: what runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
    /// `status.*.state.running.startedAt` in nanoseconds since 1970.
    pub started_unix_ns: Option<u64>,
    /// `status.*ContainerStatuses[].restartCount`.
    pub restart_count: Option<u64>,
    /// It mounts a token of its service account that is good for the API server. Absent in a manifest that was never
    /// applied: the API server adds the mount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_token: Option<bool>,
}

/// Which list of the spec a container stands in.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum ContainerKind {
    /// `containers`.
    #[default]
    Regular,
    /// `initContainers`: ends before the pod is ready.
    Init,
    /// `initContainers` with `restartPolicy: Always`: lives as long as the pod.
    Sidecar,
    /// `ephemeralContainers`: added by hand to debug; cannot declare ports.
    Ephemeral,
}

/// A container port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredPort {
    /// `name`, by which Services and probes may refer to it.
    pub name: Option<String>,
    /// `containerPort`.
    pub port: u16,
    /// `hostPort`.
    pub host_port: Option<u16>,
    /// `protocol`.
    pub transport: Transport,
}

/// Transport protocol of a port.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Transport {
    /// The lower-case word of `network.transport`, also used in texts: `udp/53`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeclaredService {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `spec.selector`; empty selects nothing.
    pub selector: BTreeMap<String, String>,
    /// `spec.clusterIPs` but for `None`.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub external_ips: Vec<IpAddr>,
    /// Addresses of `status.loadBalancer.ingress`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.type`.
    pub service_type: String,
    /// `spec.externalTrafficPolicy` is `Local`: the source of what comes from outside is kept.
    pub keeps_source: bool,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// `port`.
    pub port: u16,
    /// `targetPort`; the same as `port` when absent.
    pub target: TargetPort,
    /// `nodePort`.
    pub node_port: Option<u16>,
    /// `protocol`.
    pub transport: Transport,
}

/// A number, or the name of a container port that each pod resolves for itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetPort {
    /// A number; need not be a declared container port.
    Number(u16),
    /// A name.
    Name(String),
}
