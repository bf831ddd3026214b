//! F002, workload not isolated. What, why and traps are in [`RULE`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::declared::DeclaredPod;
use crate::finding::{Condition, Evidence, Judge, Memory, Need, Rule, Severity, Subject};
use crate::policy::Direction;
use crate::rules::{flows, grace, patch};
use crate::snapshot::{ContainerView, FlowView, PeerKind, Snapshot};

/// F002.
pub static RULE: Rule = Rule {
    id: "F002",
    title: "Workload not isolated",
    category: "flows",
    what: "Per pod and direction: connections with others than the pod itself, and no NetworkPolicy that selects it. A \
           namespace is production by a label `environment`, `env` or `app.kubernetes.io/environment` = `production` \
           or `prod`. A policy made of what was seen is attached: it is a beginning, and what was not seen would be \
           blocked by it.",
    why: "Without a policy whoever gets into one pod reaches all others, and everything outside.",
    severity: "low; medium in namespaces that are labelled as production",
    traps: &[
        "Policies that are not known, of kinds that are not evaluated, and admin policies that may be about the \
         pod: nothing is said (18).",
        "Pods in the node's network cannot be isolated (1).",
        "A kubelet's probes are no use (8), `port-forward` and other loopback neither (7).",
        "Replicas share one finding (20).",
    ],
    remediation: "Apply the policy that is attached, after a look at what was not seen.",
    needs: &[Need::POLICIES, Need::Connections],
    memory: Memory::For(Duration::from_secs(3_600)),
    judge: Judge::Node(conditions),
};

/// Labels of a namespace that say what it is for.
const ENVIRONMENT: [&str; 3] = ["environment", "env", "app.kubernetes.io/environment"];

/// Pods that nothing isolates.
pub(super) fn conditions(snapshot: &Snapshot) -> Vec<Condition> {
    if snapshot.declared.is_none() || !snapshot.policies.are_known() {
        return Vec::new();
    }
    let mut pods: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, container) in snapshot.containers.iter().enumerate() {
        if super::is_judged(container) && grace::container_is_over(snapshot, container) {
            let of_pod = pods.entry(container.pod_uid.as_str()).or_default();
            of_pod.push(index);
        }
    }
    let mut conditions = Vec::new();
    for containers in pods.values() {
        for direction in [Direction::Ingress, Direction::Egress] {
            conditions.extend(condition(snapshot, containers, direction));
        }
    }
    conditions
}

fn condition(snapshot: &Snapshot, containers: &[usize], direction: Direction) -> Option<Condition> {
    let container = snapshot
        .containers
        .get(*containers.iter().min_by_key(|index| {
            let container = &snapshot.containers[**index];
            container.subject.clone()
        })?)?;
    let pod = container.pod.as_ref()?;
    let policies = &snapshot.policies;
    if pod.host_network
        || policies.foreign(&pod.namespace).is_some()
        || policies.has_admin(&pod.namespace, &pod.labels)
        || !policies
            .selecting(&pod.namespace, &pod.labels, direction)
            .is_empty()
    {
        return None;
    }
    let seen: Vec<&FlowView> = containers
        .iter()
        .flat_map(|index| flows::of_container(snapshot, *index))
        .filter(|flow| flows::direction(flow) == direction && is_use(flow))
        .collect();
    let peers: BTreeSet<String> = seen.iter().map(|flow| flows::named(&flow.peer)).collect();
    if peers.is_empty() {
        return None;
    }
    let production = is_production(snapshot, pod);
    let severity = if production {
        Severity::Medium
    } else {
        Severity::Low
    };
    let way = direction.as_str();
    let mut evidence = BTreeMap::from([
        ("direction", Evidence::Text(way.into())),
        ("peers", Evidence::Count(peers.len() as u64)),
    ]);
    if production {
        evidence.insert("environment", Evidence::Text("production".into()));
    }
    Some(Condition {
        rule: &RULE,
        severity,
        subject: of_pod(container),
        key: way.into(),
        declared: format!("no NetworkPolicy selects the pod for {way}"),
        observed: format!("{way} connections with {}", counted(&peers)),
        evidence,
        coverage: flows::coverage(container),
        remediation: format!(
            "Add a NetworkPolicy for {way}. One made of what was seen is attached: check it against what was not."
        ),
        patch: patch::policy_of(pod, direction, &seen, snapshot.declared.as_deref()),
    })
}

/// What comes from the node is its kubelet's, as far as can be told.
fn is_use(flow: &FlowView) -> bool {
    flow.counts.connections > 0
        && match flow.peer.kind {
            PeerKind::Loopback => false,
            PeerKind::Node => flows::direction(flow) == Direction::Egress,
            PeerKind::Workload
            | PeerKind::Service
            | PeerKind::ApiServer
            | PeerKind::External
            | PeerKind::Unresolved => true,
        }
}

fn counted(peers: &BTreeSet<String>) -> String {
    match peers.first() {
        Some(only) if peers.len() == 1 => only.clone(),
        _ => format!("{} peers", peers.len()),
    }
}

fn is_production(snapshot: &Snapshot, pod: &DeclaredPod) -> bool {
    let labels = snapshot.policies.namespace_labels(&pod.namespace);
    labels.is_some_and(|labels| {
        let mut values = ENVIRONMENT.iter().filter_map(|key| labels.get(*key));
        values.any(|value| ["production", "prod"].contains(&value.as_str()))
    })
}

/// The pod as a whole.
fn of_pod(container: &ContainerView) -> Subject {
    Subject {
        container: None,
        container_id: None,
        image: None,
        ..container.subject.clone()
    }
}

#[cfg(test)]
mod tests;
