//! Conditions about undeclared listening ports, as P001 and P007 share them: which ports, grouped how, said how.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use crate::declared::{ContainerKind, Declared, DeclaredPod, Transport};
use crate::exposure::{Exposure, Reach, exposure};
use crate::finding::{Condition, Evidence, Rule, Severity};
use crate::observation::Holder;
use crate::rules::ports::{DeclaredBy, all_declared, coverage, declared_by};
use crate::rules::{grace, patch};
use crate::snapshot::{BindScope, ContainerView, ListenerView, Snapshot};

/// Ports named in a text; evidence has them all.
const NAMED_MAX: usize = 16;

/// What the two rules say differently.
pub(super) struct Wording {
    /// The rule.
    pub(super) rule: &'static Rule,
    /// What to do about undeclared ports, after "declare ...": the alternatives.
    pub(super) instead: &'static str,
}

/// Which ports stand together in one condition.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    /// One port by itself.
    Port(Transport, u16),
    /// Ports of one transport that `bind(0)` may have given: another number after each start (trap 2).
    Dynamic(Transport),
    /// All ports of a container whose pod declares none: somebody does not declare ports, which is one fact (trap 14).
    NoneDeclared,
    /// All ports of an ephemeral container, which cannot declare any (trap 5).
    Debug,
}

/// Undeclared ports of one container. The caller has decided that the rule is about this container's pod.
pub(super) fn conditions(
    snapshot: &Snapshot,
    container: &ContainerView,
    wording: &Wording,
) -> Vec<Condition> {
    let (Some(declared), Some(pod)) = (&snapshot.declared, &container.pod) else {
        return Vec::new();
    };
    let about = About {
        snapshot,
        declared,
        pod,
        container,
        wording,
    };
    let mut undeclared: Vec<&ListenerView> = container
        .listeners
        .iter()
        .filter(|listener| about.is_undeclared(listener))
        .collect();
    undeclared.sort_by_key(|listener| (listener.transport, listener.port));
    if container
        .declared()
        .is_some_and(|container| container.kind == ContainerKind::Ephemeral)
    {
        return about
            .condition(Group::Debug, &undeclared)
            .into_iter()
            .collect();
    }
    if all_declared(declared, pod).is_empty() {
        return about
            .condition(Group::NoneDeclared, &undeclared)
            .into_iter()
            .collect();
    }
    let (first, last) = container.dynamic_ports;
    let (dynamic, fixed): (Vec<_>, Vec<_>) = undeclared
        .into_iter()
        .partition(|listener| (first..=last).contains(&listener.port));
    let fixed = fixed.into_iter().filter_map(|listener| {
        about.condition(Group::Port(listener.transport, listener.port), &[listener])
    });
    let dynamic = [Transport::Tcp, Transport::Udp]
        .into_iter()
        .filter_map(|transport| {
            let of_transport = dynamic
                .iter()
                .filter(|listener| listener.transport == transport);
            about.condition(
                Group::Dynamic(transport),
                &of_transport.copied().collect::<Vec<_>>(),
            )
        });
    fixed.chain(dynamic).collect()
}

/// One container and what is known about it.
struct About<'a> {
    snapshot: &'a Snapshot,
    declared: &'a Declared,
    pod: &'a DeclaredPod,
    container: &'a ContainerView,
    wording: &'a Wording,
}

impl About<'_> {
    fn is_undeclared(&self, listener: &ListenerView) -> bool {
        // Nobody outside the pod reaches a loopback address (trap 3).
        listener.scope != BindScope::Loopback
            && grace::listener_is_over(self.snapshot, listener)
            // Passed on to somebody else: not the creator's doing (trap 11). M001 names the container.
            && listener.held_by_owner != Some(false)
            && declared_by(self.snapshot, self.container, listener.transport, listener.port)
                == DeclaredBy::None
    }

    /// `None` without listeners.
    fn condition(&self, group: Group, listeners: &[&ListenerView]) -> Option<Condition> {
        let widest = listeners.iter().max_by_key(|listener| listener.scope)?;
        let exposures = listeners
            .iter()
            .map(|listener| exposure(self.snapshot, self.container, listener));
        let exposure = exposures.max_by_key(|exposure| exposure.reach)?;
        let severity = match exposure.reach {
            _ if group == Group::Debug => Severity::Info,
            Reach::None => Severity::Low,
            Reach::Cluster | Reach::Node => Severity::Medium,
            Reach::External => Severity::High,
        };
        let key = match group {
            Group::Port(transport, port) => named(transport, port),
            // The first transport that was watched keeps the key that it had alone.
            Group::Dynamic(Transport::Tcp) => "dynamic".into(),
            Group::Dynamic(transport) => format!("dynamic/{}", transport.as_str()),
            Group::NoneDeclared => "none-declared".into(),
            Group::Debug => "debug-listener".into(),
        };
        Some(Condition {
            rule: self.wording.rule,
            severity,
            subject: self.container.subject.clone(),
            key,
            declared: self.declared_text(),
            observed: observed_text(group, listeners, widest.scope),
            evidence: self.evidence(group, listeners, widest.scope, exposure),
            coverage: coverage(self.container),
            remediation: self.remediation(group, listeners),
            patch: self.patch(group, listeners),
        })
    }

    fn declared_text(&self) -> String {
        let ports = all_declared(self.declared, self.pod);
        if ports.is_empty() {
            return "the pod declares no port".into();
        }
        format!("the pod declares {}", port_list(ports))
    }

    fn evidence(
        &self,
        group: Group,
        listeners: &[&ListenerView],
        scope: BindScope,
        exposure: Exposure,
    ) -> BTreeMap<&'static str, Evidence> {
        let sum = |of: fn(&ListenerView) -> u64| {
            Evidence::Count(
                listeners
                    .iter()
                    .fold(0, |sum, listener| sum.saturating_add(of(listener))),
            )
        };
        let addresses: BTreeSet<IpAddr> = listeners
            .iter()
            .flat_map(|l| l.addresses.iter().copied())
            .collect();
        let transports: BTreeSet<Transport> = listeners.iter().map(|l| l.transport).collect();
        let mut evidence = BTreeMap::from([
            ("bind_scope", Evidence::Text(scope.as_str().into())),
            ("exposure", Evidence::Text(exposure.reach.as_str().into())),
            ("reach", Evidence::List(exposure.chain)),
            (
                "addresses",
                Evidence::List(addresses.iter().map(IpAddr::to_string).collect()),
            ),
            ("connections", sum(|listener| listener.connections)),
            ("sockets", sum(|listener| listener.sockets)),
        ]);
        if let (Some(transport), 1) = (transports.first(), transports.len()) {
            evidence.insert("transport", Evidence::Text(transport.as_str().into()));
        }
        match group {
            Group::Port(_, port) => {
                evidence.insert("port", Evidence::Count(port.into()));
            }
            Group::Dynamic(_) | Group::NoneDeclared | Group::Debug => {
                evidence.insert("ports", Evidence::List(numbers(listeners)));
            }
        }
        if let Some(name) = &self.container.subject.container {
            evidence.insert("container", Evidence::Text(name.clone()));
        }
        if let Some(dual_stack) = dual_stack(listeners) {
            evidence.insert("dual_stack", Evidence::Text(dual_stack.into()));
        }
        if let Some(host) = listeners
            .iter()
            .filter_map(|listener| listener.host_netns)
            .max()
        {
            evidence.insert("host_netns", Evidence::Text(host.to_string()));
        }
        if let Some(holder) = self.holder(listeners) {
            evidence.insert("pid", Evidence::Count(holder.pid.into()));
            if let Some(executable) = &holder.executable {
                evidence.insert("executable", Evidence::Text(executable.clone()));
            }
        }
        evidence
    }

    /// The process to name: the oldest holder in the container's own cgroup, else the oldest at all.
    fn holder<'l>(&self, listeners: &[&'l ListenerView]) -> Option<&'l Holder> {
        let holders = listeners.iter().flat_map(|listener| &listener.holders);
        holders.min_by_key(|holder| (holder.cgroup != self.container.cgroup, holder.pid))
    }

    fn remediation(&self, group: Group, listeners: &[&ListenerView]) -> String {
        let instead = self.wording.instead;
        let container = self.container.subject.container.as_deref();
        let on = container.map_or(String::new(), |name| format!(" on container {name}"));
        match group {
            Group::Debug => {
                "An ephemeral container cannot declare ports. If the debugging is over, delete \
                             the pod: ephemeral containers stay until then."
                    .into()
            }
            Group::Dynamic(_) => format!(
                "The ports are from the range that the kernel gives out by itself. Configure fixed \
                 ports and declare them{on}, or {instead}"
            ),
            Group::Port(..) | Group::NoneDeclared => {
                let mut ports = numbers(listeners);
                ports.truncate(NAMED_MAX);
                let ports = ports.join(", ");
                // TCP is what a containerPort is without a protocol.
                let protocol = match group {
                    Group::Port(Transport::Udp, _) => " with protocol UDP",
                    Group::Port(..) | Group::Dynamic(_) | Group::NoneDeclared | Group::Debug => "",
                };
                let unsure = self.clash(listeners).map_or_else(String::new, |transport| {
                    let protocol = protocol_of(transport);
                    format!(
                        " The port is there with another protocol too: add the {protocol} entry by \
                         hand, a strategic merge would replace the other."
                    )
                });
                format!("Declare containerPort {ports}{protocol}{on}, or {instead}{unsure}")
            }
        }
    }

    fn patch(&self, group: Group, listeners: &[&ListenerView]) -> Option<String> {
        let container = self.container.declared()?;
        if matches!(group, Group::Dynamic(_) | Group::Debug) || self.clash(listeners).is_some() {
            return None;
        }
        let mut body = vec!["ports:".to_owned()];
        for listener in listeners {
            body.push(format!("  - containerPort: {}", listener.port));
            body.push(format!("    protocol: {}", protocol_of(listener.transport)));
        }
        patch::for_container(self.pod, container, &body)
    }

    /// The transport of one of the ports that the container declares, or listens on, with another transport too:
    /// `containerPort` alone is the merge key of a strategic merge, so a patch would turn that entry into another.
    fn clash(&self, listeners: &[&ListenerView]) -> Option<Transport> {
        let declared = self.container.declared().into_iter();
        let declared = declared
            .flat_map(|container| &container.ports)
            .map(|port| (port.transport, port.port));
        let seen = self.container.listeners.iter();
        let seen = seen
            .filter(|listener| self.is_undeclared(listener))
            .map(|listener| (listener.transport, listener.port));
        let others: Vec<(Transport, u16)> = declared.chain(seen).collect();
        let clashes = |listener: &&&ListenerView| {
            others
                .iter()
                .any(|(transport, port)| *transport != listener.transport && *port == listener.port)
        };
        Some(listeners.iter().find(clashes)?.transport)
    }
}

fn observed_text(group: Group, listeners: &[&ListenerView], scope: BindScope) -> String {
    let ports = port_list(
        listeners
            .iter()
            .map(|listener| (listener.transport, listener.port))
            .collect(),
    );
    let what = match group {
        Group::Port(..) | Group::NoneDeclared => "",
        Group::Dynamic(_) => " (dynamic)",
        Group::Debug => " (debug listener)",
    };
    let verb = if listeners.len() == 1 {
        "listens"
    } else {
        "listen"
    };
    let whence = match scope {
        BindScope::Loopback => "a loopback address",
        BindScope::Pod => "an address of the pod",
        BindScope::Node => "an address of the node",
        BindScope::Any => "any address",
    };
    format!("{ports}{what} {verb} on {whence}")
}

/// `tcp/80`.
fn named(transport: Transport, port: u16) -> String {
    format!("{}/{port}", transport.as_str())
}

/// The word of a `containerPort`'s `protocol`.
fn protocol_of(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "TCP",
        Transport::Udp => "UDP",
        Transport::Sctp => "SCTP",
    }
}

/// Plain numbers if all have one transport, else with their transports.
fn numbers(listeners: &[&ListenerView]) -> Vec<String> {
    let first = listeners.first().map(|listener| listener.transport);
    let alike = listeners
        .iter()
        .all(|listener| Some(listener.transport) == first);
    let name = |listener: &&ListenerView| {
        if alike {
            listener.port.to_string()
        } else {
            named(listener.transport, listener.port)
        }
    };
    listeners.iter().map(name).collect()
}

/// `tcp/80, udp/53`; at most [`NAMED_MAX`] by name.
fn port_list(ports: BTreeSet<(Transport, u16)>) -> String {
    let more = ports.len().saturating_sub(NAMED_MAX);
    let mut names: Vec<String> = ports
        .into_iter()
        .take(NAMED_MAX)
        .map(|(transport, port)| named(transport, port))
        .collect();
    if more > 0 {
        names.push(format!("{more} more"));
    }
    names.join(", ")
}

/// Whether what listens on `[::]` takes IPv4 too; `None` when nothing does.
fn dual_stack(listeners: &[&ListenerView]) -> Option<&'static str> {
    let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let told = listeners
        .iter()
        .filter(|listener| listener.addresses.contains(&any))
        .map(|listener| listener.dual_stack);
    // One that does is enough, and one of which it is not known may.
    let widest = told.max_by_key(|told| match told {
        Some(false) => 0,
        None => 1,
        Some(true) => 2,
    });
    widest.map(|told| match told {
        Some(true) => "yes",
        Some(false) => "no",
        None => "unknown",
    })
}
