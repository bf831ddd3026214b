//! Who the other end of a flow is to policies.

use std::net::IpAddr;
use std::sync::Arc;

use crate::declared::{AMBIENT_LABEL, DeclaredPod, PeerPod};
use crate::node::NodeState;
use crate::node::peers::Waiting;
use crate::observation::{FlowRow, Role};
use crate::snapshot::{Peer, PeerKind};
use crate::time::Timestamp;

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
            // Pods are behind a node port or a host port, and a DNS cache of the node behind a link-local address.
            Role::Client => self.leads_to_pods(row, peer, own) || is_link_local(address),
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
    /// What the pod says of itself is heard only where the namespace or the operator says so too, since it hides denials.
    pub(super) fn is_meshed(&self, waiting: &Waiting) -> bool {
        let container = self.containers.get(&waiting.row.owner);
        let pod = container.and_then(|one| self.index.find(&one.pod_uid, &one.container_id).0);
        pod.is_some_and(|pod| {
            let namespace = self.verdicts.compiled.namespace(&pod.namespace);
            let named = &self.settings.rules.mesh_namespaces;
            if !namespace.is_some_and(|one| one.meshed) && !named.contains(&pod.namespace) {
                return false;
            }
            let ambient = namespace.and_then(|one| one.labels.get(AMBIENT_LABEL));
            let ambient = ambient.is_some_and(|mode| mode == "ambient");
            pod.looks_meshed() || ambient && !pod.labels.contains_key(AMBIENT_LABEL)
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

    /// Whether what dials this port of a node gets to a pod, which policies judge in the node's place (trap 17).
    ///
    /// The host ports of other nodes' pods may not be known. Those that have any are DaemonSets' as a rule, with a pod here too.
    fn leads_to_pods(&self, row: &FlowRow, peer: &Peer, own: bool) -> bool {
        let may_be_there = |pod: &&Arc<DeclaredPod>| {
            let here = own && pod.node == self.identity.node;
            here || pod.node.is_none() || pod.node == peer.name || pod.owner.kind == "DaemonSet"
        };
        let (transport, port) = (row.transport, Some(row.server_port));
        let declared = || self.declared.iter();
        let services = declared().flat_map(|all| &all.services);
        let mut node = services.flat_map(|service| &service.ports);
        let pods = declared().flat_map(|all| &all.pods).filter(may_be_there);
        let containers = pods.flat_map(|pod| &pod.containers);
        let mut host = containers.flat_map(|container| &container.ports);
        node.any(|one| one.transport == transport && one.node_port == port)
            || host.any(|one| one.transport == transport && one.host_port == port)
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
