//! How far a listening port can be reached: bind scope, then NetworkPolicies, then what leads to it from outside. Told as a
//! chain that a person can follow.
//!
//! What is not known counts as open: a port is not called safe for want of knowledge.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::Serialize;

use crate::declared::{
    Declared, DeclaredNode, DeclaredPod, DeclaredService, ServicePort, Transport,
};
use crate::policy::Admission;
use crate::rules::ports;
use crate::snapshot::{BindScope, ContainerView, ListenerView, Snapshot};

/// Paths from outside that are named. Further ones are counted.
const PATHS_MAX: usize = 8;

/// How far away a port can be reached from, nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// From the pod itself only, or, where policies let nobody else in, from its own node.
    None,
    /// From pods and nodes of the cluster.
    Cluster,
    /// At an address of the node, past every NetworkPolicy where the pod is in its network.
    Node,
    /// From outside of the cluster.
    External,
}

impl Reach {
    /// The lower-case word used in JSON and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Cluster => "cluster",
            Self::Node => "node",
            Self::External => "external",
        }
    }
}

/// How far a port can be reached, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposure {
    /// How far.
    pub reach: Reach,
    /// Policies let nobody of the cluster in to the port.
    pub isolated: bool,
    /// What leads to it from outside: `NodePort 30080 of Service shop/web`.
    pub paths: Vec<String>,
    /// Step by step, from the socket outwards.
    pub chain: Vec<String>,
}

/// How far a listener of a container can be reached.
#[must_use]
pub fn exposure(
    snapshot: &Snapshot,
    container: &ContainerView,
    listener: &ListenerView,
) -> Exposure {
    let whence = match listener.scope {
        BindScope::Loopback => "a loopback address",
        BindScope::Pod => "an address of the pod",
        BindScope::Node => "an address of the node",
        BindScope::Any => "any address",
    };
    let port = format!("{}/{}", listener.transport.as_str(), listener.port);
    let mut chain = vec![format!("{port} listens on {whence}")];
    if listener.scope == BindScope::Loopback {
        chain.push("reached from the same network namespace only".into());
        return Exposure {
            reach: Reach::None,
            isolated: false,
            paths: Vec::new(),
            chain,
        };
    }
    let in_host = match &container.pod {
        Some(pod) => pod.host_network && listener.host_netns != Some(false),
        None => listener.host_netns == Some(true),
    };
    if in_host {
        return of_host(snapshot, listener, chain);
    }
    match (&snapshot.declared, &container.pod) {
        (Some(declared), Some(pod)) => of_pod(snapshot, declared, pod, listener, chain),
        (None, _) | (_, None) => {
            chain.push("the pod's declaration is not known".into());
            Exposure {
                reach: Reach::Cluster,
                isolated: false,
                paths: Vec::new(),
                chain,
            }
        }
    }
}

/// In the node's network no policy applies.
fn of_host(snapshot: &Snapshot, listener: &ListenerView, mut chain: Vec<String>) -> Exposure {
    chain.push("in the node's network: no NetworkPolicy applies".into());
    let nodes = snapshot.declared.iter().flat_map(|all| &all.nodes);
    let own = |node: &&DeclaredNode| Some(&node.name) == snapshot.node.node.as_ref();
    let external = nodes.filter(own).flat_map(|node| &node.external);
    let bound = |address: &&IpAddr| {
        listener.scope == BindScope::Any || listener.addresses.contains(address)
    };
    let paths: Vec<String> = external
        .filter(bound)
        .map(|address| format!("external address {address} of the node"))
        .collect();
    let reach = if paths.is_empty() {
        Reach::Node
    } else {
        Reach::External
    };
    chain.extend(paths.iter().cloned());
    Exposure {
        reach,
        isolated: false,
        paths,
        chain,
    }
}

fn of_pod(
    snapshot: &Snapshot,
    declared: &Declared,
    pod: &DeclaredPod,
    listener: &ListenerView,
    mut chain: Vec<String>,
) -> Exposure {
    let wanted = (listener.transport, listener.port);
    let admission = snapshot.policies.admission(pod, wanted.0, wanted.1);
    chain.push(told(&admission, wanted));
    let (from_cluster, from_outside) = match admission {
        Admission::Unknown(_) | Admission::Open => (true, true),
        Admission::Isolated {
            cluster, outside, ..
        } => (cluster, outside),
    };
    let Paths {
        direct,
        routed,
        node,
    } = paths(declared, pod, wanted);
    let mut reach = Reach::None;
    if from_cluster || from_outside {
        reach = Reach::Cluster;
    }
    if from_outside && !node.is_empty() {
        reach = Reach::Node;
    }
    // What routes comes from a pod of the cluster, or from a load balancer outside.
    let mut open = Vec::new();
    if from_outside {
        open.extend(direct.iter().cloned());
    }
    if from_cluster || from_outside {
        open.extend(routed.iter().cloned());
    }
    if !open.is_empty() {
        reach = Reach::External;
    }
    let all: Vec<String> = [direct, routed, node].concat();
    chain.extend(all.iter().take(PATHS_MAX).cloned());
    if all.len() > PATHS_MAX {
        chain.push(format!("{} more", all.len() - PATHS_MAX));
    }
    if reach < Reach::External && !all.is_empty() && !from_outside {
        chain.push("which the policies do not let in from outside".into());
    }
    Exposure {
        reach,
        isolated: !from_cluster && !from_outside,
        paths: open,
        chain,
    }
}

fn told(admission: &Admission, (transport, port): (Transport, u16)) -> String {
    match admission {
        Admission::Unknown(why) => format!("{why}: taken for reachable in the cluster"),
        Admission::Open => "no NetworkPolicy selects the pod for ingress".into(),
        Admission::Isolated {
            policies, rules, ..
        } if rules.is_empty() => format!(
            "NetworkPolicy {} isolates the pod and has no rule for {}/{port}",
            policies.join(", "),
            transport.as_str()
        ),
        Admission::Isolated { rules, .. } => {
            format!("NetworkPolicy lets it in by {}", rules.join(", "))
        }
    }
}

/// What leads to a port of a pod.
struct Paths {
    /// Node ports, load balancers, external addresses.
    direct: Vec<String>,
    /// Ingresses and routes.
    routed: Vec<String>,
    /// Host ports.
    node: Vec<String>,
}

fn paths(declared: &Declared, pod: &DeclaredPod, wanted: (Transport, u16)) -> Paths {
    let (mut direct, mut routed) = (Vec::new(), BTreeSet::new());
    for (service, port) in ports::services_of(declared, pod, wanted) {
        let name = format!("{}/{}", service.namespace, service.name);
        direct.extend(exposed(service, port).map(|path| format!("{path} of Service {name}")));
        for route in &declared.routes {
            let leads = route.backends.iter().any(|backend| {
                (&backend.namespace, &backend.service) == (&service.namespace, &service.name)
                    && backend.port.is_none_or(|number| number == port.port)
            });
            if leads {
                routed.insert(format!(
                    "{} {}/{} to Service {name}",
                    route.kind, route.namespace, route.name
                ));
            }
        }
    }
    let containers = pod.containers.iter().flat_map(|one| &one.ports);
    let node = containers
        .filter(|port| (port.transport, port.port) == wanted)
        .filter_map(|port| Some(format!("hostPort {} of the node", port.host_port?)));
    Paths {
        direct,
        routed: routed.into_iter().collect(),
        node: node.collect(),
    }
}

/// What of a Service's port is there for those outside.
fn exposed(service: &DeclaredService, port: &ServicePort) -> impl Iterator<Item = String> {
    let node_port = port.node_port.map(|number| format!("NodePort {number}"));
    let balancer = (service.service_type == "LoadBalancer").then(|| "LoadBalancer".to_owned());
    let external = service.external_ips.iter();
    let external = external.map(|address| format!("external address {address}"));
    let all: Vec<String> = balancer
        .into_iter()
        .chain(node_port)
        .chain(external)
        .collect();
    all.into_iter()
}

#[cfg(test)]
mod tests;
