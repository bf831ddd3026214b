//! Names for addresses: what the far end of a flow is called, as far as this node can tell, at the time of the flow.
//!
//! An address is a name for a while only: the next pod gets it. So the table keeps spans of time, and each span begins not
//! later and ends not earlier than the true one. Who is the only one that may have held an address at a time is named;
//! where there are several, nobody is. What tells the ends of a span:
//!
//! - A pod of this node begins and ends with its containers' cgroups, which the kernel tells at once. Its address comes from
//!   the declared side, which is behind: until it has come ([`Behind`]), nobody at a pod's address can be told from the new
//!   pod. A pod whose containers were all gone (its sandbox was made anew) has its address back only when the declared
//!   side names a container of its new life.
//! - Everybody else begins somewhere between two states of the declared side, and ends likewise.
//!
//! What cannot be named has a class. `external` is said only of what cannot be in the cluster.

mod class;
mod history;
mod pods;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::declared::{Declared, DeclaredPod, PeerPod};
use crate::id::PodUid;
use crate::observation::Role;
use crate::snapshot::{Peer, PeerKind};
use crate::time::Timestamp;
pub(crate) use class::METADATA;
use class::{Class, external, neighbourhood, peer, unresolved};
use history::{Held, History, Holder, Name};
pub use pods::Behind;
use pods::{Life, Lives};

/// Addresses and who held them when.
#[derive(Clone, Debug)]
pub struct PeerTable {
    /// This node, as a peer.
    node: Arc<Name>,
    history: History,
    /// When the declared side and the node's interfaces were told last.
    declared_at: Option<Timestamp>,
    interfaces_at: Option<Timestamp>,
    /// Declared pods by the UID in the paths of their cgroups.
    pods: BTreeMap<PodUid, Arc<DeclaredPod>>,
    /// Each of them as policies see it; the same as before where nothing of that has changed.
    as_peers: BTreeMap<(String, String), Arc<PeerPod>>,
    lives: Lives,
    api_servers: BTreeSet<SocketAddr>,
    /// Where pods and nodes with public addresses are: their neighbours may be the cluster's too.
    neighbourhoods: BTreeSet<u64>,
}

/// Whose name is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// The far end.
    pub address: IpAddr,
    /// What the near end is.
    pub role: Role,
    /// The server's port.
    pub server_port: u16,
    /// The earliest time of what was seen.
    pub since: Timestamp,
    /// The latest.
    pub until: Timestamp,
}

/// What the table says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is this, whatever the declared side may still tell.
    Certain(Peer),
    /// It is this, unless a pod whose address is not known yet has taken over.
    Held {
        /// The name.
        peer: Peer,
        /// It held the address for a part of the time only, as far as is known.
        partly: bool,
    },
    /// Several may have held the address.
    Several(Peer),
    /// Nobody is known to have held it, and it may be somebody of the cluster.
    Nobody(Peer),
}

/// What an address that cannot be told from others behind it is called: a server sees an address of the node, and the port
/// is one whose traffic from outside is masqueraded to such an address (trap 17).
#[must_use]
pub fn masqueraded() -> Peer {
    peer(PeerKind::Unresolved, None, Some("snat"))
}

impl PeerTable {
    /// Nobody is known yet. `node` is this node's name.
    #[must_use]
    pub fn new(node: Option<&str>) -> Self {
        Self {
            node: Name::new(peer(PeerKind::Node, None, node)),
            history: History::default(),
            declared_at: None,
            interfaces_at: None,
            pods: BTreeMap::new(),
            as_peers: BTreeMap::new(),
            lives: Lives::default(),
            api_servers: BTreeSet::new(),
            neighbourhoods: BTreeSet::new(),
        }
    }

    /// The declared side as of `at`.
    pub fn declared(&mut self, declared: &Declared, at: Timestamp) {
        let before = self.declared_at.replace(at).unwrap_or_default();
        self.pods.clear();
        for pod in &declared.pods {
            for uid in pod.uid.iter().chain(&pod.config_hash) {
                self.pods.insert(uid.clone(), Arc::clone(pod));
            }
        }
        self.prepare_pods(declared);
        self.api_servers = declared
            .api_servers
            .iter()
            .map(|server| SocketAddr::new(server.ip().to_canonical(), server.port()))
            .collect();
        self.lives.forget(at, |uid| self.pods.contains_key(uid));
        let wanted = self.wanted(declared, before);
        let orphans = self.lives.alive_without(|uid| self.pods.contains_key(uid));
        self.history.close(at, |address, holder| match holder {
            Holder::Interface => false,
            // Its object is gone and its processes are not: deleted by force.
            Holder::Pod(_) if orphans.contains(holder) => false,
            Holder::Pod(_) | Holder::Node(_) | Holder::Service(..) => !wanted
                .get(&address)
                .is_some_and(|all| all.iter().any(|(wanted, ..)| wanted == holder)),
        });
        for (address, holders) in &wanted {
            for (holder, name, from) in holders {
                self.history.open(*address, holder, name, *from, at);
            }
        }
        self.address_lives(at);
        self.find_neighbourhoods();
    }

    /// The addresses of the node's own interfaces as of `at`. Those of cluster addresses among them (IPVS puts them on an
    /// interface) stay the Services'.
    pub fn interfaces(&mut self, addresses: &[IpAddr], at: Timestamp) {
        let before = self.interfaces_at.replace(at).unwrap_or_default();
        let addresses: BTreeSet<IpAddr> = addresses.iter().map(IpAddr::to_canonical).collect();
        self.history.close(at, |address, holder| {
            *holder == Holder::Interface && !addresses.contains(&address)
        });
        for address in addresses {
            self.history
                .open(address, &Holder::Interface, &self.node, before, at);
        }
        self.find_neighbourhoods();
    }

    /// Who it was.
    #[must_use]
    pub fn look_up(&self, question: &Question) -> Answer {
        let address = question.address.to_canonical();
        let class = Class::of(address);
        match class {
            Class::Loopback => return Answer::Certain(peer(PeerKind::Loopback, None, None)),
            Class::Metadata => return Answer::Certain(external(class)),
            Class::Nobody => return Answer::Certain(unresolved(class)),
            Class::LinkLocal | Class::Private | Class::Public => {}
        }
        let endpoint = SocketAddr::new(address, question.server_port);
        if question.role == Role::Client && self.api_servers.contains(&endpoint) {
            return Answer::Certain(peer(PeerKind::ApiServer, None, None));
        }
        let Some(holders) = self
            .history
            .holders(address, question.since, question.until)
        else {
            return Answer::Several(unresolved(class));
        };
        let holders: Vec<&Held> = holders.collect();
        if !holders.is_empty() {
            return among(&holders, class, question);
        }
        match class {
            _ if self.is_api_server(address) => {
                Answer::Certain(peer(PeerKind::ApiServer, None, None))
            }
            Class::LinkLocal => Answer::Certain(external(class)),
            Class::Public if !self.neighbourhoods.contains(&neighbourhood(address)) => {
                Answer::Certain(external(class))
            }
            Class::Private | Class::Public | Class::Loopback | Class::Metadata | Class::Nobody => {
                Answer::Nobody(unresolved(class))
            }
        }
    }

    /// What is not known yet, as of `now`.
    #[must_use]
    pub fn behind(&self, now: Timestamp) -> Behind {
        self.lives.behind(now)
    }

    /// Spans of time known now, and former ones remembered.
    #[must_use]
    pub fn occupancy(&self) -> (usize, usize) {
        self.history.occupancy()
    }

    /// Holders that found no place, and former ones that were forgotten early.
    #[must_use]
    pub fn lost(&self) -> (u64, u64) {
        self.history.lost()
    }

    /// An endpoint of the API server that is nobody else's address: of one on a node, only its own port is the server's.
    fn is_api_server(&self, address: IpAddr) -> bool {
        let ports = SocketAddr::new(address, 0)..=SocketAddr::new(address, u16::MAX);
        self.api_servers.range(ports).next().is_some()
    }

    fn find_neighbourhoods(&mut self) {
        self.neighbourhoods = self
            .history
            .addresses()
            .filter(|(address, _)| Class::of(**address) == Class::Public)
            .map(|(address, _)| neighbourhood(*address))
            .collect();
    }
}

/// Holder, name and earliest time of each address.
type Wanted = BTreeMap<IpAddr, Vec<(Holder, Arc<Name>, Timestamp)>>;

/// A pod that may have held an address.
#[derive(Clone, Debug)]
pub struct PodAt {
    /// The pod.
    pub pod: Arc<PeerPod>,
    /// When it was told last that it is new, or another than before.
    pub changed: Timestamp,
}

impl PeerTable {
    /// Who holds which address by the declared side. `before`: when it was told last; who is new came after that.
    fn wanted(&self, declared: &Declared, before: Timestamp) -> Wanted {
        let mut wanted = Wanted::new();
        let mut want = |address: &IpAddr, holder: &Holder, name: &Arc<Name>, from| {
            let all = wanted.entry(address.to_canonical()).or_default();
            all.push((holder.clone(), Arc::clone(name), from));
        };
        for service in &declared.services {
            let (namespace, name) = (service.namespace.as_str(), service.name.as_str());
            let called = Name::new(match (namespace, name) {
                ("default", "kubernetes") => peer(PeerKind::ApiServer, None, None),
                _ => peer(PeerKind::Service, Some(namespace), Some(name)),
            });
            let holder = Holder::Service(namespace.to_owned(), name.to_owned());
            let addresses = service.cluster_ips.iter();
            addresses.for_each(|address| want(address, &holder, &called, before));
        }
        for node in &declared.nodes {
            let called = Name::new(peer(PeerKind::Node, None, Some(&node.name)));
            let holder = Holder::Node(node.name.clone());
            let addresses = node.addresses.iter();
            addresses.for_each(|address| want(address, &holder, &called, before));
        }
        for pod in &declared.pods {
            let from = match self.life_of(pod) {
                None if pod.finished => continue,
                None => before,
                Some(life) if life.is_addressed_by(pod) => life.since,
                Some(_) => continue,
            };
            let (holder, called) = (holder_of(pod), self.pod_name(pod));
            let addresses = pod.ips.iter();
            addresses.for_each(|address| want(address, &holder, &called, from));
        }
        for pod in declared.peer_pods.iter().filter(|pod| !pod.finished) {
            let holder = pod_holder(pod.uid.as_ref(), &pod.namespace, &pod.name);
            let called = self.name_of(pod);
            let addresses = pod.ips.iter();
            addresses.for_each(|address| want(address, &holder, &called, before));
        }
        wanted
    }

    /// The pods that may have held an address in the span; none where it is not known who did.
    #[must_use]
    pub fn pods_at(&self, address: IpAddr, since: Timestamp, until: Timestamp) -> Vec<PodAt> {
        let holders = self.history.holders(address.to_canonical(), since, until);
        let pod = |held: &Held| {
            Some(PodAt {
                pod: Arc::clone(held.name.pod.as_ref()?),
                changed: held.renamed,
            })
        };
        let pods: Option<Vec<PodAt>> = holders.and_then(|all| all.map(pod).collect());
        pods.unwrap_or_default()
    }

    /// A pod that the source tells of in full, as policies see it.
    #[must_use]
    pub fn own_pod(&self, pod: &DeclaredPod) -> Option<&Arc<PeerPod>> {
        self.as_peers
            .get(&(pod.namespace.clone(), pod.name.clone()))
    }

    fn prepare_pods(&mut self, declared: &Declared) {
        let mut before = std::mem::take(&mut self.as_peers);
        for pod in &declared.pods {
            let key = (pod.namespace.clone(), pod.name.clone());
            let now = PeerPod::from(&**pod);
            let same = before.remove(&key).filter(|before| **before == now);
            self.as_peers
                .insert(key, same.unwrap_or_else(|| Arc::new(now)));
        }
    }

    fn pod_name(&self, pod: &DeclaredPod) -> Arc<Name> {
        match self.own_pod(pod) {
            Some(pod) => self.name_of(pod),
            None => self.name_of(&Arc::new(PeerPod::from(pod))),
        }
    }

    fn name_of(&self, pod: &Arc<PeerPod>) -> Arc<Name> {
        let called = if pod.host_network {
            let node = pod.node.as_deref().or(self.node.peer.name.as_deref());
            peer(PeerKind::Node, None, node)
        } else {
            let (namespace, owner) = (pod.namespace.as_str(), pod.owner.name.as_str());
            peer(PeerKind::Workload, Some(namespace), Some(owner))
        };
        Arc::new(Name {
            peer: called,
            pod: Some(Arc::clone(pod)),
        })
    }

    fn life_of(&self, pod: &DeclaredPod) -> Option<&Life> {
        let mut uids = pod.uid.iter().chain(&pod.config_hash);
        uids.find_map(|uid| self.lives.get(uid))
    }
}

fn holder_of(pod: &DeclaredPod) -> Holder {
    pod_holder(pod.uid.as_ref(), &pod.namespace, &pod.name)
}

fn pod_holder(uid: Option<&PodUid>, namespace: &str, name: &str) -> Holder {
    Holder::Pod(match uid {
        Some(uid) => uid.to_string(),
        None => format!("{namespace}/{name}"),
    })
}

/// One name for all who may have held an address, if they have one.
fn among(holders: &[&Held], class: Class, question: &Question) -> Answer {
    // A cluster address is nobody else's, wherever it is also found.
    let of_services = |held: &&&Held| matches!(held.holder, Holder::Service(..));
    let services: Vec<&Held> = holders.iter().filter(of_services).copied().collect();
    if !services.is_empty() {
        return match only_name(&services) {
            Some(name) => Answer::Certain(name),
            None => Answer::Several(unresolved(class)),
        };
    }
    match only_name(holders) {
        None => Answer::Several(unresolved(class)),
        Some(name)
            if holders
                .iter()
                .any(|held| held.holder == Holder::Interface && !held.ended()) =>
        {
            Answer::Certain(name)
        }
        Some(name) => Answer::Held {
            peer: name,
            partly: !holders
                .iter()
                .any(|held| held.covers(question.since, question.until)),
        },
    }
}

/// What all of them are called. Nodes whose names differ are nodes all the same.
fn only_name(holders: &[&Held]) -> Option<Peer> {
    let first = &holders.first()?.name.peer;
    if holders.iter().all(|held| held.name.peer == *first) {
        return Some(Peer::clone(first));
    }
    let mut kinds = holders.iter().map(|held| held.name.peer.kind);
    let all_nodes = kinds.all(|kind| kind == PeerKind::Node);
    let mut names = holders
        .iter()
        .filter_map(|held| held.name.peer.name.as_deref());
    let name = names
        .next()
        .filter(|name| names.all(|other| other == *name));
    all_nodes.then(|| peer(PeerKind::Node, None, name))
}

#[cfg(test)]
mod tests;
