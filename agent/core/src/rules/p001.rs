//! P001, undeclared listening port. What, why and traps are in [`RULE`].
//!
//! Every listening TCP port and UDP server of a pod with a network namespace of its own, but for those that listen on
//! loopback only, against [`crate::rules::ports::declared_by`]. No declared side, or a pod that is not in it: unknown, so
//! nothing.

use std::sync::Arc;

use crate::declared::DeclaredPod;
use crate::finding::{Condition, Judge, Memory, Need, Rule};
use crate::rules::undeclared::{self, Wording};
use crate::snapshot::{ContainerView, Snapshot};

/// P001.
pub static RULE: Rule = Rule {
    id: "P001",
    title: "Undeclared listening port",
    category: "ports",
    what: "A container listens on a TCP port, or serves a UDP port, that others can reach and nothing declares: no \
           container of the pod, no probe, no host port, no Service.",
    why: "A port that is not in the manifest is in no review, no Service, no NetworkPolicy and no inventory: debug \
          endpoints, metrics and admin consoles get into production this way.",
    severity: "medium; info for ephemeral containers",
    traps: &[
        "hostNetwork pods are P007's (1).",
        "Ports of the kernel's dynamic range are one condition, `dynamic` (2).",
        "Loopback is no exposure (3).",
        "What Istio, Linkerd, Kuma and Dapr open in their sidecars is known by the name of the container and the port (4).",
        "Native sidecars declare ports, init containers end, ephemeral containers cannot declare any (5).",
        "Any container of the pod declares for all; that another one listens is no condition (6).",
        "Port-forward and exec dial from a host cgroup and never own a listener here (7).",
        "Probe ports are declared (8).",
        "All sockets and addresses of a port are one condition, whatever their number or family (10, 11).",
        "A socket passed on is not blamed on its creator (11).",
        "Static pods are found by their config hash (13).",
        "A pod that declares nothing is one condition a container, `none-declared` (14); where a namespace is not to \
         declare ports, `undeclared_namespaces` of the configuration names it.",
        "The agent does not report itself (22).",
    ],
    remediation: "Declare the containerPort, or bind to 127.0.0.1, or disable the endpoint.",
    needs: &[Need::SERVICES, Need::Listeners],
    memory: Memory::Moment,
    judge: Judge::ContainerMany(conditions),
};

const WORDING: Wording = Wording {
    rule: &RULE,
    instead: "bind to 127.0.0.1, or disable the endpoint.",
};

/// Undeclared listening ports of a container.
pub(super) fn conditions(snapshot: &Snapshot, container: &ContainerView) -> Vec<Condition> {
    let allowed = &snapshot.settings.rules.undeclared_namespaces;
    let judged = |pod: &Arc<DeclaredPod>| !pod.host_network && !allowed.contains(&pod.namespace);
    if !container.pod.as_ref().is_some_and(judged) {
        return Vec::new();
    }
    undeclared::conditions(snapshot, container, &WORDING)
}

#[cfg(test)]
mod tests;
