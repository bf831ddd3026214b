//! Whether a listening TCP port was declared, and by what. P001, P007 and the metric `plumbline.port.listening` all ask
//! here, so that they cannot disagree.
//!
//! The containers of a pod share one network namespace, so a port declared by any of them is declared for all (trap 6),
//! native sidecars among them (trap 5). Probes say that something must answer on a port (trap 8), and a Service with a
//! numeric `targetPort` that it does, whether or not a container lists it (trap 15). A named `targetPort` is the name of
//! a container port, so it adds nothing.

use std::collections::BTreeSet;

use crate::declared::{Declared, DeclaredPod, DeclaredService, TargetPort, Transport};
use crate::finding::Coverage;
use crate::snapshot::{ContainerView, Snapshot};

/// What declares a TCP port of a pod. Of several, the first in this order.
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
            Self::None => "none",
            Self::Unknown => "unknown",
        }
    }
}

/// What declares a TCP port of the container's pod.
#[must_use]
pub fn declared_by(snapshot: &Snapshot, container: &ContainerView, port: u16) -> DeclaredBy {
    let (Some(declared), Some(pod)) = (&snapshot.declared, &container.pod) else {
        return DeclaredBy::Unknown;
    };
    let mut tcp = tcp_ports(pod);
    if tcp.any(|(container_port, _)| container_port == port) {
        DeclaredBy::ContainerPort
    } else if tcp_ports(pod).any(|(_, host_port)| host_port == Some(port)) {
        DeclaredBy::HostPort
    } else if pod
        .containers
        .iter()
        .any(|container| container.probe_ports.contains(&port))
    {
        DeclaredBy::Probe
    } else if service_targets(declared, pod).any(|target| target == port)
        || (pod.host_network && node_ports(declared).any(|node_port| node_port == port))
    {
        DeclaredBy::Service
    } else {
        DeclaredBy::None
    }
}

/// Every TCP port declared for a pod. Node ports, which are no pod's own, are not among them.
pub(super) fn all_declared(declared: &Declared, pod: &DeclaredPod) -> BTreeSet<u16> {
    let own = tcp_ports(pod).flat_map(|(port, host_port)| std::iter::once(port).chain(host_port));
    let probes = pod
        .containers
        .iter()
        .flat_map(|container| container.probe_ports.iter().copied());
    own.chain(probes)
        .chain(service_targets(declared, pod))
        .collect()
}

/// Whether a pod declares any port at all, of whatever transport (trap 14).
pub(super) fn declares_any(declared: &Declared, pod: &DeclaredPod) -> bool {
    pod.containers
        .iter()
        .any(|container| !container.ports.is_empty())
        || !all_declared(declared, pod).is_empty()
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
            } else if container.listeners_overflow > 0 {
                Coverage::Partial("too_many_listeners".into())
            } else {
                container.coverage.clone()
            }
        }
        seen @ (Coverage::Partial(_) | Coverage::Blind(_)) => seen.clone(),
    }
}

/// Container port and host port of each TCP port that a container of the pod lists.
fn tcp_ports(pod: &DeclaredPod) -> impl Iterator<Item = (u16, Option<u16>)> {
    let ports = pod.containers.iter().flat_map(|container| &container.ports);
    ports
        .filter(|port| port.transport == Transport::Tcp)
        .map(|port| (port.port, port.host_port))
}

/// Numeric TCP targets of the Services that select the pod.
fn service_targets(declared: &Declared, pod: &DeclaredPod) -> impl Iterator<Item = u16> {
    let selecting = declared
        .services
        .iter()
        .filter(|service| selects(service, pod));
    selecting
        .flat_map(|service| &service.ports)
        .filter_map(|port| match (port.transport, &port.target) {
            (Transport::Tcp, TargetPort::Number(number)) => Some(*number),
            (Transport::Tcp, TargetPort::Name(_)) | (Transport::Udp | Transport::Sctp, _) => None,
        })
}

/// Whether a port of the pod is reached through a node port whose traffic may be masqueraded to an address of a node
/// (`externalTrafficPolicy: Cluster`; load balancers send to node ports too).
pub(crate) fn is_behind_node_port(declared: &Declared, pod: &DeclaredPod, port: u16) -> bool {
    let exposed = declared
        .services
        .iter()
        .filter(|service| !service.keeps_source && selects(service, pod));
    let mut ports = exposed
        .flat_map(|service| &service.ports)
        .filter(|port| port.node_port.is_some());
    ports.any(|exposed| match &exposed.target {
        TargetPort::Number(number) => *number == port,
        TargetPort::Name(name) => {
            let mut named = pod.containers.iter().flat_map(|container| &container.ports);
            named.any(|named| named.name.as_ref() == Some(name) && named.port == port)
        }
    })
}

fn node_ports(declared: &Declared) -> impl Iterator<Item = u16> {
    let ports = declared.services.iter().flat_map(|service| &service.ports);
    ports
        .filter(|port| port.transport == Transport::Tcp)
        .filter_map(|port| port.node_port)
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
