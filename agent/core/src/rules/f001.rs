//! F001, flow passed although policy denies. What, why and traps are in [`RULE`].

use std::collections::BTreeMap;
use std::time::Duration;

use crate::finding::{Condition, Evidence, Judge, Memory, Need, Rule, Severity};
use crate::rules::flows;
use crate::snapshot::{ContainerView, Snapshot};

/// F001.
pub static RULE: Rule = Rule {
    id: "F001",
    title: "Flow passed although policy denies",
    category: "flows",
    what: "Connections of the last ten minutes whose verdict at the container's own end is `deny`, by peer, port \
           and direction. TCP: established. UDP: something arrived; what a client only sent shows nothing. What \
           the peer's policies deny is told at the peer.",
    why: "A NetworkPolicy is a wish. Where the CNI does not enforce it, does not know a field of it, or has \
          stopped, everything looks isolated and nothing is.",
    severity: "high",
    traps: &[
        "A peer that is not known, or of which several may have had the address, is never denied (19).",
        "A CNI follows a change late and what stands may survive it: for the grace after a change of policies, \
         namespaces or labels, and after the start of a pod, nothing is believed (18, 24).",
        "The node reaches its pods, probes among it (8, 18); a pod reaches itself; a reply belongs to its \
         connection (18).",
        "Inside a pod of a mesh a proxy takes every connection, whatever comes of it (4, 12). The pod's word that it is in one \
         counts only where its namespace or `mesh_namespaces` of the configuration says so too.",
        "A node port hides who dialed, and a node port or host port leads to pods (17): the host ports of other nodes are \
         known where a pod of this node, or of the dump, has them.",
        "An address of a Service is judged by its endpoints (16).",
        "Pods in the node's network and kinds of policies that are not evaluated are never judged (1, 18).",
        "`port-forward` is loopback (7).",
    ],
    remediation: "The CNI does not enforce the policy: check that it supports what the policy asks for, and that \
                  it runs.",
    needs: &[Need::POLICIES, Need::Connections],
    memory: Memory::For(Duration::from_secs(600)),
    judge: Judge::ContainerFlows(conditions),
};

/// Connections of a container that should not be. `index` is its place in the snapshot.
pub(super) fn conditions(
    snapshot: &Snapshot,
    index: usize,
    container: &ContainerView,
) -> Vec<Condition> {
    let mut conditions = Vec::new();
    for flow in flows::of_container(snapshot, index) {
        let passed = &flow.verdicts.passed;
        let Some(why) = passed
            .why
            .as_ref()
            .filter(|_| flows::is_recent(snapshot, passed))
        else {
            continue;
        };
        let direction = flows::direction(flow).as_str();
        let (transport, port) = (flow.transport.as_str(), flow.server_port);
        conditions.push(Condition {
            rule: &RULE,
            severity: Severity::High,
            subject: container.subject.clone(),
            key: format!("{direction} {} {transport}/{port}", flows::named(&flow.peer)),
            declared: why.to_string(),
            observed: format!("{} connections passed {}", passed.count, flows::text(flow)),
            evidence: BTreeMap::from([
                ("connections", Evidence::Count(passed.count)),
                ("direction", Evidence::Text(direction.into())),
                ("peer", Evidence::Text(flows::named(&flow.peer))),
                ("port", Evidence::Count(port.into())),
                ("transport", Evidence::Text(transport.into())),
                ("verdict", Evidence::Text(why.to_string())),
            ]),
            coverage: flows::coverage(container),
            remediation: "The CNI does not enforce this policy: check that it supports NetworkPolicy and the fields \
                          used, and that its agent runs on this node."
                .into(),
            patch: None,
        });
    }
    conditions
}

#[cfg(test)]
mod tests;
