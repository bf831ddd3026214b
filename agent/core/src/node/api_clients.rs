//! Pods that talk to the API server: remembered for as long as the pod is there, since an init container that did is soon
//! forgotten, and so is a container that was restarted.

use std::collections::{BTreeMap, BTreeSet};

use crate::declared::{Declared, Transport};
use crate::id::PodUid;
use crate::node::NodeState;
use crate::observation::{FlowRow, Role};
use crate::settings::CONTAINERS_MAX;
use crate::snapshot::{ApiUse, Peer, PeerKind};

/// Where API servers usually answer, whatever is declared.
const USUAL_PORTS: [u16; 2] = [443, 6443];

/// What is known of each pod. At most [`CONTAINERS_MAX`]; further ones are counted, and then nothing is known of any pod.
#[derive(Clone, Debug, Default)]
pub(super) struct ApiClients {
    pods: BTreeMap<PodUid, ApiUse>,
    ports: BTreeSet<u16>,
    full: bool,
}

impl ApiClients {
    /// The pods, unless some found no place.
    pub(super) fn view(&self) -> Option<BTreeMap<PodUid, ApiUse>> {
        (!self.full).then(|| self.pods.clone())
    }

    /// Ports at which an unknown peer may be the API server.
    pub(super) fn declared(&mut self, declared: &Declared) {
        let endpoints = declared.api_servers.iter().map(std::net::SocketAddr::port);
        let service = declared.services.iter();
        let service = service
            .filter(|service| service.namespace == "default" && service.name == "kubernetes");
        let ports = service
            .flat_map(|service| &service.ports)
            .map(|port| port.port);
        self.ports = endpoints.chain(ports).chain(USUAL_PORTS).collect();
    }

    fn note(&mut self, pod: &PodUid, seen: ApiUse) -> bool {
        if let Some(known) = self.pods.get_mut(pod) {
            *known = seen.max(*known);
            return true;
        }
        if self.pods.len() >= CONTAINERS_MAX {
            self.full = true;
            return false;
        }
        self.pods.insert(pod.clone(), seen);
        true
    }
}

impl NodeState {
    /// A client's flow, and who its peer is; `None` when that got lost.
    pub(super) fn note_api_use(&mut self, row: &FlowRow, peer: Option<&Peer>) {
        if row.role != Role::Client || row.transport != Transport::Tcp {
            return;
        }
        let seen = match peer.map(|peer| peer.kind) {
            Some(PeerKind::ApiServer) => ApiUse::Talks,
            Some(PeerKind::Workload | PeerKind::Service | PeerKind::External) => return,
            // What stands in front of the API server, or is it, may be called so.
            Some(PeerKind::Node | PeerKind::Loopback | PeerKind::Unresolved)
                if !self.api_clients.ports.contains(&row.server_port) =>
            {
                return;
            }
            Some(PeerKind::Node | PeerKind::Loopback | PeerKind::Unresolved) | None => {
                ApiUse::Unsure
            }
        };
        let Some(container) = self.containers.get(&row.owner) else {
            return;
        };
        if !self.api_clients.note(&container.pod_uid, seen) {
            self.count("api_clients", "full", 1);
        }
    }

    /// Forgets pods that are neither running nor declared.
    pub(super) fn forget_api_clients(&mut self) {
        let running: BTreeSet<&PodUid> = self.containers.values().map(|one| &one.pod_uid).collect();
        let index = &self.index;
        self.api_clients
            .pods
            .retain(|pod, _| running.contains(pod) || index.has_pod(pod));
    }
}
