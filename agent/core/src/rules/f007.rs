//! F007, metadata service access. What, why and traps are in [`RULE`].

use std::collections::BTreeMap;
use std::time::Duration;

use crate::declared::Transport;
use crate::finding::{Condition, Evidence, Judge, Memory, Need, Rule, Severity};
use crate::observation::Role;
use crate::rules::flows;
use crate::snapshot::{ContainerView, FlowView, PeerKind, Snapshot};

/// F007.
pub static RULE: Rule = Rule {
    id: "F007",
    title: "Metadata service access",
    category: "flows",
    what: "TCP connections established to a metadata address (169.254.169.254 and its kin) from a pod with a \
           network of its own.",
    why: "There are the node's own credentials. A pod that may ask for them is the node, and a server-side \
          request forgery in it is all that an attacker needs.",
    severity: "high",
    traps: &[
        "Attempts that failed were blocked, as they should be.",
        "Some clouds serve DNS and time at the same address: those ports are not meant, nor is UDP.",
        "Pods in the node's network are part of the node (1).",
        "Allowed where the operator lists the namespace, and where an egress NetworkPolicy of the pod names the \
         address in a block of link-local addresses: somebody meant it.",
        "Loopback and node-local proxies of the service have other addresses.",
    ],
    remediation: "Block the address by a policy, or use workload identity.",
    needs: &[Need::PODS, Need::Connections],
    memory: Memory::For(Duration::from_secs(600)),
    judge: Judge::ContainerFlows(conditions),
};

/// DNS and time.
const OTHER_SERVICES: [u16; 2] = [53, 123];

fn conditions(snapshot: &Snapshot, index: usize, container: &ContainerView) -> Vec<Condition> {
    condition(snapshot, index, container).into_iter().collect()
}

/// Whether a container talks to the metadata service. `index` is its place in the snapshot.
pub(super) fn condition(
    snapshot: &Snapshot,
    index: usize,
    container: &ContainerView,
) -> Option<Condition> {
    snapshot.declared.as_ref()?;
    let pod = container.pod.as_ref().filter(|pod| !pod.host_network)?;
    let allowed = &snapshot.settings.rules.metadata_namespaces;
    if allowed.contains(&pod.namespace) || snapshot.policies.allows_metadata(pod) {
        return None;
    }
    let is_it = |flow: &&FlowView| {
        flow.peer.kind == PeerKind::External
            && flow.peer.name.as_deref() == Some("metadata")
            && flow.role == Role::Client
            && flow.transport == Transport::Tcp
            && !OTHER_SERVICES.contains(&flow.server_port)
    };
    let found = flows::of_container(snapshot, index).filter(is_it);
    let connections = found
        .map(|flow| flow.counts.connections)
        .fold(0, u64::saturating_add);
    (connections > 0).then(|| Condition {
        rule: &RULE,
        severity: Severity::High,
        subject: container.subject.clone(),
        key: "metadata".into(),
        declared: "neither the operator nor an egress policy of the pod allows it".into(),
        observed: format!("{connections} connections to the cloud's metadata service"),
        evidence: BTreeMap::from([("connections", Evidence::Count(connections))]),
        coverage: flows::coverage(container),
        remediation:
            "Block the address by an egress policy, and give the workload an identity of its own."
                .into(),
        patch: None,
    })
}

#[cfg(test)]
mod tests;
