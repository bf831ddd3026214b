//! S001, unused service account token. What, why and traps are in [`RULE`].

use std::collections::{BTreeMap, BTreeSet};

use crate::declared::{ContainerKind, Declared, DeclaredPod};
use crate::finding::{Condition, Coverage, Evidence, Judge, Memory, Need, Rule, Severity, Subject};
use crate::id::PodUid;
use crate::observation::Health;
use crate::rules::{declared_for, is_judged, none_works, patch, probe, status_text};
use crate::settings::TOKEN_WINDOW;
use crate::snapshot::{ContainerView, Snapshot};

/// S001.
pub static RULE: Rule = Rule {
    id: "S001",
    title: "Unused service account token",
    category: "identity",
    what: "A pod mounts a token of its service account which the API server takes, and no container of it has dialed the \
           API server for 24 hours, seen in full.",
    why: "Whoever breaks into the pod has the credential all the same.",
    severity: "low",
    traps: &[
        "The token is mounted into all containers of a pod, and one user is enough: a sidecar, or an init container that \
         ended long ago (5).",
        "Projected tokens with an audience of their own (Istio, Vault, cloud identities) are no credentials for the API \
         server (4).",
        "A peer that may be the API server and has no name makes the pod unknown; so does anything that was not seen: a \
         container that was there before the agent, unless open connections are read, and flows that found no place (19).",
        "Pods in the host's network reach the API server by loopback and are not judged (1).",
        "A short window proves nothing, and a container that starts anew begins a new one (20, 24).",
        "Some show the token to others, which no flow tells: the remedy says so.",
    ],
    remediation: "Set automountServiceAccountToken to false, unless the token is shown to somebody else.",
    needs: &[Need::Own(unknown)],
    memory: Memory::For(TOKEN_WINDOW),
    judge: Judge::Node(conditions),
};

/// Tells of the API server's endpoints.
const ENDPOINTS: &str = "peers.endpointslices";

/// Why the rule cannot decide, if it cannot.
pub(super) fn unknown(snapshot: &Snapshot) -> Option<String> {
    let declared = declared_for(snapshot, &["files", "pods", "services", "endpointslices"]);
    let endpoints = probe(snapshot, ENDPOINTS).filter(|status| status.health != Health::Ok);
    declared
        .or_else(|| endpoints.map(status_text))
        .or_else(|| {
            snapshot
                .declared
                .as_ref()
                .and_then(|declared| no_api_server(declared))
        })
        .or_else(|| none_works(snapshot, &["tcp"]))
        .or_else(|| {
            let lost = snapshot.api_clients.is_none();
            lost.then(|| "more pods talk to the API server than can be remembered".into())
        })
}

/// Both ways to the API server must be known by their addresses.
fn no_api_server(declared: &Declared) -> Option<String> {
    let mut services = declared.services.iter();
    let service = services.any(|service| {
        service.namespace == "default"
            && service.name == "kubernetes"
            && !service.cluster_ips.is_empty()
    });
    (!service || declared.api_servers.is_empty()).then(|| {
        "the declared side does not tell where the API server is: Service and endpoints default/kubernetes".into()
    })
}

/// Pods that hold a token in vain.
pub(super) fn conditions(snapshot: &Snapshot) -> Vec<Condition> {
    let (None, Some(clients)) = (unknown(snapshot), &snapshot.api_clients) else {
        return Vec::new();
    };
    let mut pods: BTreeMap<&PodUid, Vec<&ContainerView>> = BTreeMap::new();
    for container in &snapshot.containers {
        pods.entry(&container.pod_uid).or_default().push(container);
    }
    let silent = pods
        .into_iter()
        .filter(|(uid, _)| !clients.contains_key(uid));
    silent
        .filter_map(|(_, containers)| of_pod(snapshot, &containers))
        .collect()
}

fn of_pod(snapshot: &Snapshot, containers: &[&ContainerView]) -> Option<Condition> {
    let pod = containers
        .iter()
        .find_map(|container| container.pod.as_ref())?;
    let holders: BTreeSet<&str> = pod
        .containers
        .iter()
        .filter(|container| container.api_token == Some(true))
        .map(|container| container.name.as_str())
        .collect();
    let own = containers.iter().any(|container| container.is_self);
    let alive: Vec<&ContainerView> = containers
        .iter()
        .copied()
        .filter(|container| is_judged(container))
        .collect();
    let seen = alive
        .iter()
        .all(|container| is_seen(snapshot, pod, container));
    if holders.is_empty() || own || pod.host_network || alive.is_empty() || !seen {
        return None;
    }
    let first = alive[0];
    let pre_existing = alive
        .iter()
        .any(|container| container.coverage == Coverage::PreExisting);
    let hours = TOKEN_WINDOW.as_secs() / 3_600;
    let names: Vec<String> = holders.into_iter().map(str::to_owned).collect();
    Some(Condition {
        rule: &RULE,
        severity: Severity::Low,
        subject: Subject {
            container: None,
            container_id: None,
            image: None,
            ..first.subject.clone()
        },
        key: "token".into(),
        declared: format!("a service account token for the API server in {}", names.join(", ")),
        observed: format!("no connection of the pod to the API server in {hours} h"),
        evidence: BTreeMap::from([
            ("containers", Evidence::List(names)),
            ("window_hours", Evidence::Count(hours)),
        ]),
        coverage: if pre_existing { Coverage::PreExisting } else { Coverage::Full },
        remediation: "Set automountServiceAccountToken: false, unless the pod needs the token less than once a day, or shows \
                      it to somebody else, such as Vault."
            .into(),
        patch: patch::for_pod(pod, &["automountServiceAccountToken: false"]),
    })
}

/// Whether a connection to the API server would have been seen for the whole window, whoever of the pod made it.
fn is_seen(snapshot: &Snapshot, pod: &DeclaredPod, container: &ContainerView) -> bool {
    let whole = match container.coverage {
        Coverage::Full => true,
        // A connection that is older than the agent is seen where open ones are read; one that ended before is not.
        Coverage::PreExisting => {
            let open = probe(snapshot, "connections");
            open.is_some_and(|status| status.health == Health::Ok)
                && pod
                    .containers
                    .iter()
                    .all(|container| container.kind != ContainerKind::Init)
        }
        Coverage::Partial(_) | Coverage::Blind(_) => false,
    };
    let refused = container
        .refused
        .as_ref()
        .is_some_and(|refused| refused.flows > 0);
    whole && !refused && snapshot.now.since(container.first_seen) >= TOKEN_WINDOW
}

#[cfg(test)]
mod tests;
