//! P009, externally exposed without ingress policy. What, why and traps are in [`RULE`].

use std::collections::BTreeMap;

use crate::exposure::{Reach, exposure};
use crate::finding::{Condition, Evidence, Judge, Memory, Need, Rule, Severity};
use crate::policy::Admission;
use crate::rules::ports::coverage;
use crate::rules::{grace, patch};
use crate::snapshot::{ContainerView, ListenerView, Snapshot};

/// P009.
pub static RULE: Rule = Rule {
    id: "P009",
    title: "Externally exposed without ingress policy",
    category: "ports",
    what: "Listeners to which a node port, a load balancer, an external address of a Service, an Ingress or a \
           route of the Gateway API leads, in pods that no NetworkPolicy selects for ingress.",
    why: "What is open to the world is attacked first. Without a policy every other port of the same pod is as \
          open to whoever gets into its neighbour.",
    severity: "medium",
    traps: &[
        "A named `targetPort` is each pod's own (15).",
        "Services without a selector lead by their endpoints (16); an ExternalName leads nowhere.",
        "Where policies are not known, or others than NetworkPolicies may isolate the pod, nothing is said (18).",
        "Pods in the node's network are P007's: no policy can isolate them (1).",
        "Loopback is no exposure (3).",
    ],
    remediation: "Add an ingress NetworkPolicy for the port.",
    needs: &[Need::SERVICES, Need::POLICIES, Need::Listeners],
    memory: Memory::Moment,
    judge: Judge::ContainerMany(conditions),
};

/// Ports of a container that are open to the world.
pub(super) fn conditions(snapshot: &Snapshot, container: &ContainerView) -> Vec<Condition> {
    let own_network = container.pod.as_ref().is_some_and(|pod| !pod.host_network);
    if snapshot.declared.is_none() || !own_network {
        return Vec::new();
    }
    let judge = |listener| condition(snapshot, container, listener);
    container.listeners.iter().filter_map(judge).collect()
}

fn condition(
    snapshot: &Snapshot,
    container: &ContainerView,
    listener: &ListenerView,
) -> Option<Condition> {
    let pod = container.pod.as_ref()?;
    let (transport, port) = (listener.transport, listener.port);
    let open = snapshot.policies.admission(pod, transport, port) == Admission::Open;
    if !open || !grace::listener_is_over(snapshot, listener) {
        return None;
    }
    let exposure = exposure(snapshot, container, listener);
    if exposure.reach != Reach::External || exposure.paths.is_empty() {
        return None;
    }
    let name = format!("{}/{port}", transport.as_str());
    Some(Condition {
        rule: &RULE,
        severity: Severity::Medium,
        subject: container.subject.clone(),
        key: name.clone(),
        declared: "no NetworkPolicy selects the pod for ingress".into(),
        observed: format!(
            "{name} is reached from outside by {}",
            exposure.paths.join(", ")
        ),
        evidence: BTreeMap::from([
            ("exposure", Evidence::Text(exposure.reach.as_str().into())),
            ("policies", Evidence::Count(0)),
            ("port", Evidence::Count(port.into())),
            ("reach", Evidence::List(exposure.chain)),
            ("transport", Evidence::Text(transport.as_str().into())),
        ]),
        coverage: coverage(container),
        remediation: format!(
            "Add a NetworkPolicy that lets in what needs {name}, and nothing else."
        ),
        patch: patch::ingress_policy(pod, transport, port),
    })
}

#[cfg(test)]
mod tests;
