//! Conditions about undeclared listening ports, as P001 and P007 share them: which ports, grouped how, said how.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::declared::{ContainerKind, Declared, DeclaredPod, Transport};
use crate::finding::{Condition, Evidence, Rule, Severity};
use crate::observation::Holder;
use crate::rules::ports::{DeclaredBy, all_declared, coverage, declared_by, declares_any};
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
    Port(u16),
    /// Ports that `bind(0)` may have given: another number after each start (trap 2).
    Dynamic,
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
    undeclared.sort_by_key(|listener| listener.port);
    if container
        .declared()
        .is_some_and(|container| container.kind == ContainerKind::Ephemeral)
    {
        return about
            .condition(Group::Debug, &undeclared)
            .into_iter()
            .collect();
    }
    if !declares_any(declared, pod) {
        return about
            .condition(Group::NoneDeclared, &undeclared)
            .into_iter()
            .collect();
    }
    let (first, last) = snapshot.settings.ephemeral_ports;
    let (dynamic, fixed): (Vec<_>, Vec<_>) = undeclared
        .into_iter()
        .partition(|listener| (first..=last).contains(&listener.port));
    let fixed = fixed
        .into_iter()
        .filter_map(|listener| about.condition(Group::Port(listener.port), &[listener]));
    fixed
        .chain(about.condition(Group::Dynamic, &dynamic))
        .collect()
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
            && declared_by(self.snapshot, self.container, listener.port) == DeclaredBy::None
    }

    /// `None` without listeners.
    fn condition(&self, group: Group, listeners: &[&ListenerView]) -> Option<Condition> {
        let widest = listeners.iter().max_by_key(|listener| listener.scope)?;
        let severity = if group == Group::Debug {
            Severity::Info
        } else {
            Severity::Medium
        };
        let key = match group {
            Group::Port(port) => format!("tcp/{port}"),
            Group::Dynamic => "dynamic".into(),
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
            evidence: self.evidence(group, listeners, widest.scope),
            coverage: coverage(self.container),
            remediation: self.remediation(group, listeners),
            patch: self.patch(group, listeners),
        })
    }

    fn declared_text(&self) -> String {
        let ports = all_declared(self.declared, self.pod);
        if ports.is_empty() {
            return "the pod declares no TCP port".into();
        }
        format!("the pod declares {}", port_list(ports))
    }

    fn evidence(
        &self,
        group: Group,
        listeners: &[&ListenerView],
        scope: BindScope,
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
        let mut evidence = BTreeMap::from([
            ("transport", Evidence::Text("tcp".into())),
            ("bind_scope", Evidence::Text(scope.as_str().into())),
            (
                "addresses",
                Evidence::List(addresses.iter().map(IpAddr::to_string).collect()),
            ),
            ("connections", sum(|listener| listener.connections)),
            ("sockets", sum(|listener| listener.sockets)),
        ]);
        match group {
            Group::Port(port) => {
                evidence.insert("port", Evidence::Count(port.into()));
            }
            Group::Dynamic | Group::NoneDeclared | Group::Debug => {
                let ports = listeners.iter().map(|listener| listener.port.to_string());
                evidence.insert("ports", Evidence::List(ports.collect()));
            }
        }
        if let Some(name) = &self.container.subject.container {
            evidence.insert("container", Evidence::Text(name.clone()));
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
            Group::Dynamic => format!(
                "The ports are from the range that the kernel gives out by itself. Configure fixed \
                 ports and declare them{on}, or {instead}"
            ),
            Group::Port(_) | Group::NoneDeclared => {
                let ports = listeners.iter().map(|listener| listener.port.to_string());
                let ports = ports.take(NAMED_MAX).collect::<Vec<_>>().join(", ");
                let unsure = if self.clashes(listeners) {
                    " The port is declared with another protocol already: add the TCP entry by \
                     hand, a strategic merge would replace the other."
                } else {
                    ""
                };
                format!("Declare containerPort {ports}{on}, or {instead}{unsure}")
            }
        }
    }

    fn patch(&self, group: Group, listeners: &[&ListenerView]) -> Option<String> {
        let container = self.container.declared()?;
        if matches!(group, Group::Dynamic | Group::Debug) || self.clashes(listeners) {
            return None;
        }
        let mut body = vec!["ports:".to_owned()];
        for listener in listeners {
            body.push(format!("  - containerPort: {}", listener.port));
            body.push("    protocol: TCP".into());
        }
        patch::for_container(self.pod, container, &body)
    }

    /// Whether the container declares one of the ports for UDP or SCTP: `containerPort` alone is the merge key of a
    /// strategic merge, so a patch would turn that entry into a TCP one.
    fn clashes(&self, listeners: &[&ListenerView]) -> bool {
        self.container.declared().is_some_and(|container| {
            container.ports.iter().any(|declared| {
                declared.transport != Transport::Tcp
                    && listeners
                        .iter()
                        .any(|listener| listener.port == declared.port)
            })
        })
    }
}

fn observed_text(group: Group, listeners: &[&ListenerView], scope: BindScope) -> String {
    let ports = port_list(listeners.iter().map(|listener| listener.port).collect());
    let what = match group {
        Group::Port(_) | Group::NoneDeclared => "",
        Group::Dynamic => " (dynamic)",
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

/// `tcp/80, tcp/443`; at most [`NAMED_MAX`] by name.
fn port_list(ports: BTreeSet<u16>) -> String {
    let more = ports.len().saturating_sub(NAMED_MAX);
    let mut names: Vec<String> = ports
        .into_iter()
        .take(NAMED_MAX)
        .map(|port| format!("tcp/{port}"))
        .collect();
    if more > 0 {
        names.push(format!("{more} more"));
    }
    names.join(", ")
}
