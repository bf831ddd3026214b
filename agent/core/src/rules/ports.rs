//! Whether a listening TCP port or UDP server was declared, and by what. P001, P007 and the metric `plumbline.port.listening` all ask
//! here, so that they cannot disagree.
//!
//! The containers of a pod share one network namespace, so a port declared by any of them is declared for all (trap 6),
//! native sidecars among them (trap 5). Probes say that something must answer on a port (trap 8), and a Service with a
//! numeric `targetPort` that it does, whether or not a container lists it (trap 15). A named `targetPort` is the name of
//! a container port, so it adds nothing. Each transport has ports of its own: a declared 53 of UDP says nothing about 53
//! of TCP. Probes are always TCP.

use std::collections::BTreeSet;

use crate::declared::{Declared, DeclaredPod, DeclaredService, ServicePort, TargetPort, Transport};
use crate::finding::Coverage;
use crate::rules::sidecars;
use crate::snapshot::{ContainerView, Snapshot};

/// What declares a port of a pod. Of several, the first in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeclaredBy {
    /// `containerPort` of any container of the pod.
    ContainerPort,
    /// `hostPort` of any container of the pod.
    HostPort,
    /// A probe or lifecycle handler of any container of the pod.
    Probe,
    /// The `targetPort` of a Service that selects the pod. For a hostNetwork pod also the `nodePort` of any Service:
    /// kube-proxy and CNIs reserve those by listening on them (trap 1).
    Service,
    /// The container is a sidecar that is known to open it (trap 4).
    Sidecar,
    /// Nothing does.
    None,
    /// The pod's declaration is not known.
    Unknown,
}

impl DeclaredBy {
    /// The word used in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ContainerPort => "container_port",
            Self::HostPort => "host_port",
            Self::Probe => "probe",
            Self::Service => "service",
            Self::Sidecar => "sidecar",
            Self::None => "none",
            Self::Unknown => "unknown",
        }
    }
}

/// What declares a port of the container's pod.
#[must_use]
pub fn declared_by(
    snapshot: &Snapshot,
    container: &ContainerView,
    transport: Transport,
    port: u16,
) -> DeclaredBy {
    let (Some(declared), Some(pod)) = (&snapshot.declared, &container.pod) else {
        return DeclaredBy::Unknown;
    };
    let wanted = (transport, port);
    if container_ports(pod).any(|port| port == wanted) {
        DeclaredBy::ContainerPort
    } else if host_ports(pod).any(|port| port == wanted) {
        DeclaredBy::HostPort
    } else if probe_ports(pod).any(|port| port == wanted) {
        DeclaredBy::Probe
    } else if service_targets(declared, pod).any(|target| target == wanted)
        || (pod.host_network && node_ports(declared).any(|node_port| node_port == wanted))
    {
        DeclaredBy::Service
    } else if transport == Transport::Tcp
        && container
            .declared()
            .is_some_and(|own| sidecars::opens(&own.name, port))
    {
        DeclaredBy::Sidecar
    } else {
        DeclaredBy::None
    }
}

/// Every port declared for a pod. Node ports, which are no pod's own, are not among them.
pub(super) fn all_declared(declared: &Declared, pod: &DeclaredPod) -> BTreeSet<(Transport, u16)> {
    container_ports(pod)
        .chain(host_ports(pod))
        .chain(probe_ports(pod))
        .chain(service_targets(declared, pod))
        .collect()
}

/// How much is seen of a container's ports, its listeners taken into account.
///
/// A socket that no process of its creator's container holds was passed on: who serves it is not known (trap 11).
#[must_use]
pub fn coverage(container: &ContainerView) -> Coverage {
    match &container.coverage {
        Coverage::Full | Coverage::PreExisting => {
            if container
                .listeners
                .iter()
                .any(|listener| listener.held_by_owner == Some(false))
            {
                Coverage::Partial("passed_socket".into())
            } else if !container.listeners_overflow.is_empty() {
                Coverage::Partial("too_many_listeners".into())
            } else {
                container.coverage.clone()
            }
        }
        seen @ (Coverage::Partial(_) | Coverage::Blind(_)) => seen.clone(),
    }
}

fn container_ports(pod: &DeclaredPod) -> impl Iterator<Item = (Transport, u16)> {
    let ports = pod.containers.iter().flat_map(|container| &container.ports);
    ports.map(|port| (port.transport, port.port))
}

fn host_ports(pod: &DeclaredPod) -> impl Iterator<Item = (Transport, u16)> {
    let ports = pod.containers.iter().flat_map(|container| &container.ports);
    ports.filter_map(|port| Some((port.transport, port.host_port?)))
}

fn probe_ports(pod: &DeclaredPod) -> impl Iterator<Item = (Transport, u16)> {
    let ports = pod
        .containers
        .iter()
        .flat_map(|container| &container.probe_ports);
    ports.map(|port| (Transport::Tcp, *port))
}

/// Numeric targets of the Services that select the pod, and what hand-written endpoints name at its addresses (16).
fn service_targets(
    declared: &Declared,
    pod: &DeclaredPod,
) -> impl Iterator<Item = (Transport, u16)> {
    let by_hand = declared
        .services
        .iter()
        .filter(|service| is_by_hand(service, pod));
    let by_hand = by_hand.flat_map(|service| endpoints_at(declared, service, pod));
    let selecting = declared
        .services
        .iter()
        .filter(|service| selects(service, pod));
    selecting
        .flat_map(|service| &service.ports)
        .filter_map(|port| match &port.target {
            TargetPort::Number(number) => Some((port.transport, *number)),
            TargetPort::Name(_) => None,
        })
        .chain(by_hand)
}

/// Whether a port of the pod is reached through a node port whose traffic may be masqueraded to an address of a node
/// (`externalTrafficPolicy: Cluster`; load balancers send to node ports too).
pub(crate) fn is_behind_node_port(
    declared: &Declared,
    pod: &DeclaredPod,
    wanted: (Transport, u16),
) -> bool {
    let exposed = declared
        .services
        .iter()
        .filter(|service| !service.keeps_source && selects(service, pod));
    let mut ports = exposed
        .flat_map(|service| &service.ports)
        .filter(|port| port.node_port.is_some() && port.transport == wanted.0);
    ports.any(|exposed| match &exposed.target {
        TargetPort::Number(number) => *number == wanted.1,
        TargetPort::Name(name) => {
            let mut named = pod.containers.iter().flat_map(|container| &container.ports);
            named.any(|named| named.name.as_ref() == Some(name) && named.port == wanted.1)
        }
    })
}

/// Ports of Services that lead to a port of the pod: by their selector, or by endpoints that name its address (16).
pub(crate) fn services_of<'a>(
    declared: &'a Declared,
    pod: &'a DeclaredPod,
    wanted: (Transport, u16),
) -> impl Iterator<Item = (&'a DeclaredService, &'a ServicePort)> {
    let targets = move |service: &DeclaredService, port: &ServicePort| {
        let by_selector = selects(service, pod)
            && match &port.target {
                TargetPort::Number(number) => *number == wanted.1,
                TargetPort::Name(name) => is_named(pod, name, wanted),
            };
        let by_hand = || endpoints_at(declared, service, pod).any(|port| port == wanted);
        by_selector || is_by_hand(service, pod) && by_hand()
    };
    let all = declared.services.iter();
    let all = all.flat_map(|service| service.ports.iter().map(move |port| (service, port)));
    all.filter(move |(service, port)| port.transport == wanted.0 && targets(service, port))
}

fn is_named(pod: &DeclaredPod, name: &str, wanted: (Transport, u16)) -> bool {
    let mut ports = pod.containers.iter().flat_map(|container| &container.ports);
    ports.any(|port| port.name.as_deref() == Some(name) && (port.transport, port.port) == wanted)
}

/// Whether somebody writes the Service's endpoints by hand, and may name pods of this namespace's in them. An ExternalName leads
/// to a name, whatever endpoints there are.
fn is_by_hand(service: &DeclaredService, pod: &DeclaredPod) -> bool {
    service.namespace == pod.namespace
        && service.service_type != "ExternalName"
        && service.selector.is_empty()
}

/// Ports of the Service's endpoints that are addresses of the pod.
fn endpoints_at(
    declared: &Declared,
    service: &DeclaredService,
    pod: &DeclaredPod,
) -> impl Iterator<Item = (Transport, u16)> {
    let of = declared.endpoints.iter().filter(|endpoints| {
        (&endpoints.namespace, &endpoints.service) == (&service.namespace, &service.name)
            && pod.ips.iter().any(|ip| endpoints.addresses.contains(ip))
    });
    of.flat_map(|endpoints| endpoints.ports.iter().copied())
}

fn node_ports(declared: &Declared) -> impl Iterator<Item = (Transport, u16)> {
    let ports = declared.services.iter().flat_map(|service| &service.ports);
    ports.filter_map(|port| Some((port.transport, port.node_port?)))
}

/// An empty selector selects nothing, and an ExternalName Service has no pods whatever its selector says.
fn selects(service: &DeclaredService, pod: &DeclaredPod) -> bool {
    service.namespace == pod.namespace
        && service.service_type != "ExternalName"
        && !service.selector.is_empty()
        && service
            .selector
            .iter()
            .all(|(key, value)| pod.labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests;
