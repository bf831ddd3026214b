//! P007, undeclared hostNetwork listener. What, why and traps are in [`RULE`].
//!
//! As P001, for pods with `hostNetwork: true`, by the container that owns the socket, never by address or network
//! namespace, which all such pods and the node share. With hostNetwork the API server sets `hostPort` to
//! `containerPort`, so either declares.

use crate::finding::{Condition, Judge, Memory, Need, Rule};
use crate::rules::undeclared::{self, Wording};
use crate::snapshot::{ContainerView, Snapshot};

/// P007.
pub static RULE: Rule = Rule {
    id: "P007",
    title: "Undeclared hostNetwork listener",
    category: "ports",
    what: "A pod in the node's network namespace listens on a TCP or UDP port of the node that nothing declares.",
    why: "Such a port is open on the node's own addresses, past every NetworkPolicy, and two pods cannot share it.",
    severity: "medium; info for ephemeral containers",
    traps: &[
        "The owner is the container that made the socket, never an address or network namespace, which all hostNetwork \
         pods share (1).",
        "kube-proxy and CNIs listen on node ports only to reserve them: the `nodePort` of any Service is declared (1).",
        "A hostNetwork pod that listens in another namespace than the node's, as node agents of a mesh do inside pods, \
         is reported with `host_netns` = `false` in the evidence (12).",
        "The rest as P001.",
    ],
    remediation: "Declare the port, bind to 127.0.0.1 or a node-internal address, or do without hostNetwork.",
    needs: &[Need::SERVICES, Need::Listeners],
    memory: Memory::Moment,
    judge: Judge::ContainerMany(conditions),
};

const WORDING: Wording = Wording {
    rule: &RULE,
    instead: "bind to 127.0.0.1 or a node-internal address, or do without hostNetwork.",
};

/// Undeclared listening ports of a container of a hostNetwork pod.
pub(super) fn conditions(snapshot: &Snapshot, container: &ContainerView) -> Vec<Condition> {
    if !container.pod.as_ref().is_some_and(|pod| pod.host_network) {
        return Vec::new();
    }
    undeclared::conditions(snapshot, container, &WORDING)
}

#[cfg(test)]
mod tests;
