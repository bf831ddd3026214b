//! Who the other end of a flow is to policies.

use std::net::IpAddr;
use std::sync::Arc;

use crate::declared::PeerPod;
use crate::node::NodeState;
use crate::node::peers::Waiting;
use crate::observation::{FlowRow, Role};
use crate::snapshot::{Peer, PeerKind};
use crate::time::Timestamp;

/// Containers that a mesh puts beside others, and to which it redirects their connections.
const MESH_SIDECARS: [&str; 5] = [
    "istio-proxy",
    "linkerd-proxy",
    "kuma-sidecar",
    "consul-dataplane",
    "envoy-sidecar",
];
/// With the value `ambient` Istio's node agent listens inside the pods instead.
const AMBIENT_LABEL: &str = "istio.io/dataplane-mode";

/// The other end, as far as it is known.
pub(super) enum Other {
    /// Pods that it may have been, one after the other.
    Pods(Vec<Arc<PeerPod>>),
    Node {
        own: bool,
        address: IpAddr,
    },
    Outside(IpAddr),
    /// A Service, by its place among the declared ones.
    Service(usize),
    Unknown,
    /// Of the same network namespace: no policy is about it.
    Same,
}

impl NodeState {
    /// The pod of the row's container, and when it was last told to be another.
    pub(super) fn own_pod(&self, waiting: &Waiting) -> Option<(Arc<PeerPod>, Timestamp)> {
        let container = self.containers.get(&waiting.row.owner)?;
        let (pod, changed) = self.verdicts.pods.get(&container.pod_uid)?;
        Some((Arc::clone(pod), (*changed).max(container.first_seen)))
    }

    /// Who the other end is to policies, and when that was last told to be another.
    pub(super) fn other(&self, waiting: &Waiting, peer: &Peer) -> (Other, Timestamp) {
        let row = &waiting.row;
        let address = waiting.peer.to_canonical();
        let never = Timestamp::default();
        match peer.kind {
            PeerKind::Loopback => (Other::Same, never),
            PeerKind::Workload => {
                let pods = self.peers.pods_at(address, waiting.since, waiting.at);
                let changed = pods.iter().map(|at| at.changed).max().unwrap_or_default();
                let pods: Vec<_> = pods.into_iter().map(|at| at.pod).collect();
                match pods.is_empty() {
                    true => (Other::Unknown, never),
                    false => (Other::Pods(pods), changed),
                }
            }
            PeerKind::Service | PeerKind::ApiServer if row.role == Role::Client => {
                match self.service_at(address) {
                    Some(index) => (Other::Service(index), self.verdicts.services_since),
                    None if peer.kind == PeerKind::ApiServer => (
                        Other::Node {
                            own: false,
                            address,
                        },
                        never,
                    ),
                    None => (Other::Unknown, never),
                }
            }
            PeerKind::Node | PeerKind::ApiServer => (self.other_node(row, peer, address), never),
            // Inside the cluster such an address leads to endpoints, not outside.
            PeerKind::External if self.is_of_service(address) => (Other::Unknown, never),
            PeerKind::External => (Other::Outside(address), never),
            PeerKind::Service | PeerKind::Unresolved => (Other::Unknown, never),
        }
    }

    fn other_node(&self, row: &FlowRow, peer: &Peer, address: IpAddr) -> Other {
        let own = peer.name.is_some() && peer.name == self.identity.node;
        let own = own || peer.name.is_none() && self.identity.node.is_none();
        let open = match row.role {
            // Endpoints are behind a node port, and a DNS cache of the node behind a link-local address.
            Role::Client => self.is_node_port(row.server_port) || is_link_local(address),
            // Some networks masquerade what pods of another node send.
            Role::Server => !own,
        };
        if open {
            Other::Unknown
        } else {
            Other::Node { own, address }
        }
    }

    /// A mesh redirects connections inside the pod: neither port nor peer of a socket are those on the wire (traps 4, 12).
    pub(super) fn is_meshed(&self, waiting: &Waiting) -> bool {
        let container = self.containers.get(&waiting.row.owner);
        let pod = container.and_then(|one| self.index.find(&one.pod_uid, &one.container_id).0);
        pod.is_some_and(|pod| {
            let sidecar = |name: &str| MESH_SIDECARS.contains(&name);
            let namespace = self.verdicts.compiled.namespace_labels(&pod.namespace);
            let labels = namespace.into_iter().chain([&pod.labels]);
            let mut modes = labels.filter_map(|labels| labels.get(AMBIENT_LABEL));
            pod.containers.iter().any(|one| sidecar(&one.name))
                || modes.any(|mode| mode == "ambient")
        })
    }

    fn service_at(&self, address: IpAddr) -> Option<usize> {
        let declared = self.declared.as_ref()?;
        let mut services = declared.services.iter();
        services.position(|service| service.cluster_ips.contains(&address))
    }

    fn is_of_service(&self, address: IpAddr) -> bool {
        let services = self.declared.iter().flat_map(|all| &all.services);
        let mut addresses =
            services.flat_map(|one| one.external_ips.iter().chain(&one.load_balancer_ips));
        addresses.any(|of_service| of_service.to_canonical() == address)
    }

    fn is_node_port(&self, port: u16) -> bool {
        let services = self.declared.iter().flat_map(|all| &all.services);
        let mut ports = services.flat_map(|service| &service.ports);
        ports.any(|of_service| of_service.node_port == Some(port))
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
