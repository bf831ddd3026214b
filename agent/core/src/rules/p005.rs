//! P005, wildcard bind that only the pod itself uses. What, why and traps are in [`RULE`].

use std::collections::BTreeMap;
use std::time::Duration;

use crate::finding::{Condition, Coverage, Evidence, Judge, Memory, Need, Rule, Severity};
use crate::observation::Role;
use crate::rules::ports::{DeclaredBy, coverage, declared_by};
use crate::snapshot::{BindScope, ContainerView, FlowView, ListenerView, PeerKind, Snapshot};

/// P005.
pub static RULE: Rule = Rule {
    id: "P005",
    title: "Wildcard bind, only local use",
    category: "ports",
    what: "Listeners on a wildcard address that were watched for seven days without a gap, were used, and each of \
           whose connections came from the same network namespace. The connections of a port are its flow series \
           with the role `server`.",
    why: "What is only used from inside the pod need not be reachable from outside: `127.0.0.1` costs nothing and \
          takes the port out of everybody's reach.",
    severity: "low",
    traps: &[
        "A port that nobody used says nothing.",
        "A kubelet's probe comes from the node and is another peer (8).",
        "A port that a Service, a host port or a probe leads to is meant for others.",
        "Where the container's series ran over, or it is not seen in full, not all peers are known: nothing is \
         said.",
        "`kubectl port-forward` dials loopback and counts as that (7), which is why seven days are needed.",
        "A restarted agent begins anew (24).",
    ],
    remediation: "Bind to 127.0.0.1 or ::1.",
    needs: &[Need::SERVICES, Need::Listeners, Need::Connections],
    memory: Memory::For(Duration::from_secs(7 * 86_400)),
    judge: Judge::ContainerFlows(conditions),
};

/// How long only local connections must have come.
const WINDOW: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Listeners of a container that could do with loopback. `index` is its place in the snapshot.
pub(super) fn conditions(
    snapshot: &Snapshot,
    index: usize,
    container: &ContainerView,
) -> Vec<Condition> {
    let in_full = matches!(coverage(container), Coverage::Full | Coverage::PreExisting);
    if snapshot.declared.is_none() || container.pod.is_none() || !in_full {
        return Vec::new();
    }
    let judge = |listener| condition(snapshot, index, container, listener);
    container.listeners.iter().filter_map(judge).collect()
}

fn condition(
    snapshot: &Snapshot,
    index: usize,
    container: &ContainerView,
    listener: &ListenerView,
) -> Option<Condition> {
    let since = listener.first_seen.max(snapshot.origin.monotonic);
    let (transport, port) = (listener.transport, listener.port);
    let meant = declared_by(snapshot, container, transport, port);
    if listener.scope != BindScope::Any
        || snapshot.now.since(since) < WINDOW
        || !matches!(meant, DeclaredBy::None | DeclaredBy::ContainerPort)
    {
        return None;
    }
    let served = |flow: &&FlowView| {
        flow.container == index && flow.role == Role::Server && flow.transport == transport
    };
    let mut local = 0_u64;
    for flow in snapshot.flows.iter().filter(served) {
        if flow.overflow {
            return None;
        }
        match (flow.server_port == port, flow.peer.kind) {
            (false, _) => {}
            (true, PeerKind::Loopback) => local = local.saturating_add(flow.counts.connections),
            (true, _) => return None,
        }
    }
    (local > 0).then(|| Condition {
        rule: &RULE,
        severity: Severity::Low,
        subject: container.subject.clone(),
        key: format!("{}/{port}", transport.as_str()),
        declared: "no Service, host port or probe leads to it".into(),
        observed: format!(
            "{}/{port} listens on any address; in 7 days all {local} connections came from the pod itself",
            transport.as_str()
        ),
        evidence: BTreeMap::from([
            ("connections", Evidence::Count(local)),
            ("peers", Evidence::List(vec!["loopback".into()])),
            ("port", Evidence::Count(port.into())),
            ("window", Evidence::Text("7d".into())),
        ]),
        coverage: coverage(container),
        remediation: "Bind to 127.0.0.1 (::1 for IPv6) instead of any address.".into(),
        patch: None,
    })
}

#[cfg(test)]
mod tests;
