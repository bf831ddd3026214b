//! NetworkPolicies made of what was seen or listens.

use std::collections::{BTreeMap, BTreeSet};

use super::{is_name, is_plain};
use crate::declared::{Declared, DeclaredPod, TargetPort, Transport};
use crate::policy::Direction;
use crate::snapshot::{FlowView, Peer, PeerKind};

/// Ports of one generated policy. With more there is none: a part of it would block the rest.
const PORTS_MAX: usize = 32;
/// Labels that change with each pod or revision.
const PASSING: [&str; 8] = [
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
    "controller-revision-hash",
    "controller-uid",
    "job-name",
    "pod-template-hash",
    "statefulset.kubernetes.io/pod-name",
];

type Labels = BTreeMap<String, String>;
/// Peers of one port; `None` among them is anybody.
type Peers = BTreeSet<Option<(String, Labels)>>;

/// A policy that lets everybody of the pod's namespace in to one port.
pub(in crate::rules) fn ingress_policy(
    pod: &DeclaredPod,
    transport: Transport,
    port: u16,
) -> Option<String> {
    let ports = BTreeMap::from([((transport, port), BTreeSet::from([None]))]);
    written(pod, Direction::Ingress, &ports)
}

/// A policy that lets through what these flows show.
pub(in crate::rules) fn policy_of(
    pod: &DeclaredPod,
    direction: Direction,
    flows: &[&FlowView],
    declared: Option<&Declared>,
) -> Option<String> {
    let declared = declared?;
    let mut ports: BTreeMap<(Transport, u16), Peers> = BTreeMap::new();
    for flow in flows {
        let (port, peer) = seen(declared, flow);
        ports
            .entry((flow.transport, port))
            .or_default()
            .insert(peer);
    }
    (ports.len() <= PORTS_MAX)
        .then(|| written(pod, direction, &ports))
        .flatten()
}

/// The port at the pod that is dialed, and the peer where it can be selected by labels.
fn seen(declared: &Declared, flow: &FlowView) -> (u16, Option<(String, Labels)>) {
    let Peer {
        kind,
        namespace,
        name,
    } = &flow.peer;
    let (Some(namespace), Some(name)) = (namespace, name) else {
        return (flow.server_port, None);
    };
    if *kind == PeerKind::Service {
        let mut services = declared.services.iter();
        let service =
            services.find(|service| (&service.namespace, &service.name) == (namespace, name));
        let port = service.and_then(|service| {
            let mut ports = service.ports.iter();
            ports.find(|port| (port.transport, port.port) == (flow.transport, flow.server_port))
        });
        return match (service, port.map(|port| &port.target)) {
            (Some(service), Some(TargetPort::Number(target))) if !service.selector.is_empty() => {
                (*target, Some((namespace.clone(), service.selector.clone())))
            }
            _ => (flow.server_port, None),
        };
    }
    let own = declared
        .pods
        .iter()
        .map(|pod| (&pod.namespace, &pod.owner, &pod.labels));
    let others = declared.peer_pods.iter();
    let others = others.map(|pod| (&pod.namespace, &pod.owner, &pod.labels));
    let mut of_peer = own
        .chain(others)
        .filter(|(of, owner, _)| *of == namespace && owner.name == *name)
        .map(|(.., labels)| lasting(labels));
    let first = of_peer.next();
    let common = first.map(|first| {
        of_peer.fold(first, |mut common, labels| {
            common.retain(|key, value| labels.get(key) == Some(value));
            common
        })
    });
    let common = common.filter(|labels| !labels.is_empty());
    (
        flow.server_port,
        common.map(|labels| (namespace.clone(), labels)),
    )
}

fn lasting(labels: &Labels) -> Labels {
    let mut labels = labels.clone();
    labels.retain(|key, _| !PASSING.contains(&key.as_str()));
    labels
}

/// `None` where a name or a label is none that Kubernetes allows, or the pod has none that last.
fn written(
    pod: &DeclaredPod,
    direction: Direction,
    ports: &BTreeMap<(Transport, u16), Peers>,
) -> Option<String> {
    let way = direction.as_str();
    let (word, peers_word) = match direction {
        Direction::Ingress => ("Ingress", "from"),
        Direction::Egress => ("Egress", "to"),
    };
    let labels = lasting(&pod.labels);
    let name = format!("{}-{way}", pod.owner.name);
    if labels.is_empty() || !is_name(&name) || !is_name(&pod.namespace) {
        return None;
    }
    let mut lines = vec![
        "# kubectl apply -f FILE".to_owned(),
        "apiVersion: networking.k8s.io/v1".to_owned(),
        "kind: NetworkPolicy".to_owned(),
        "metadata:".to_owned(),
        format!("  name: {name}"),
        format!("  namespace: {}", pod.namespace),
        "spec:".to_owned(),
        "  podSelector:".to_owned(),
    ];
    lines.extend(match_labels(&labels, "    ")?);
    lines.push(format!("  policyTypes: [{word}]"));
    lines.push(format!("  {way}:"));
    for ((transport, port), peers) in ports {
        lines.push("    - ports:".to_owned());
        let protocol = transport.as_str().to_ascii_uppercase();
        lines.push(format!("        - protocol: {protocol}"));
        lines.push(format!("          port: {port}"));
        if peers.contains(&None) {
            lines.push(format!("      # {peers_word} anybody: name who needs it"));
            continue;
        }
        lines.push(format!("      {peers_word}:"));
        for (namespace, labels) in peers.iter().flatten() {
            if !is_name(namespace) {
                return None;
            }
            let of: Labels = [("kubernetes.io/metadata.name".to_owned(), namespace.clone())].into();
            lines.push("        - namespaceSelector:".to_owned());
            lines.extend(match_labels(&of, "            ")?);
            lines.push("          podSelector:".to_owned());
            lines.extend(match_labels(labels, "            ")?);
        }
    }
    lines.push(String::new());
    Some(lines.join("\n"))
}

fn match_labels(labels: &Labels, indent: &str) -> Option<Vec<String>> {
    let mut lines = vec![format!("{indent}matchLabels:")];
    for (key, value) in labels {
        if !is_plain(key) || !(value.is_empty() || is_plain(value)) {
            return None;
        }
        lines.push(format!("{indent}  {key}: \"{value}\""));
    }
    Some(lines)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::ingress_policy;
    use crate::declared::{ContainerKind, Transport};
    use crate::rules::testing::{container, pod};

    #[test]
    fn a_policy_selects_by_labels_that_last() {
        let mut pod = pod(vec![container("app", ContainerKind::Regular, &[])]);
        pod.labels.insert("pod-template-hash".into(), "5d".into());
        expect![[r#"
            # kubectl apply -f FILE
            apiVersion: networking.k8s.io/v1
            kind: NetworkPolicy
            metadata:
              name: web-ingress
              namespace: shop
            spec:
              podSelector:
                matchLabels:
                  app: "web"
              policyTypes: [Ingress]
              ingress:
                - ports:
                    - protocol: UDP
                      port: 53
                  # from anybody: name who needs it
        "#]]
        .assert_eq(&ingress_policy(&pod, Transport::Udp, 53).unwrap());
        pod.labels.insert("x".into(), "a\"\nspec: {}".into());
        assert_eq!(ingress_policy(&pod, Transport::Udp, 53), None);
        pod.labels.clear();
        assert_eq!(ingress_policy(&pod, Transport::Udp, 53), None);
    }
}
