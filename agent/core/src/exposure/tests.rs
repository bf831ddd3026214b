use std::net::IpAddr;

use super::exposure;
use crate::declared::{
    Declared, DeclaredEndpoints, DeclaredNode, DeclaredPod, DeclaredPolicy, DeclaredRoute,
    DeclaredService, LabelSelector, PolicyPeer, PolicyRule, RouteBackend, TargetPort, Transport,
};
use crate::rules::testing::{container, declared, listener, pod, service, snapshot, view};
use crate::snapshot::{ListenerView, Snapshot};

fn web() -> DeclaredPod {
    DeclaredPod {
        ips: vec![IpAddr::from([10, 0, 0, 7])],
        ..pod(vec![container("app", Default::default(), &[8080])])
    }
}

/// A policy for all pods of `shop`.
fn policy(ingress: Vec<PolicyRule>) -> DeclaredPolicy {
    DeclaredPolicy {
        namespace: "shop".into(),
        name: "p".into(),
        ingress: Some(ingress),
        ..DeclaredPolicy::default()
    }
}

fn from_pods() -> PolicyRule {
    PolicyRule {
        peers: vec![PolicyPeer::Pods {
            namespaces: None,
            pods: Some(LabelSelector::default()),
        }],
        ports: Vec::new(),
    }
}

fn from_block() -> PolicyRule {
    PolicyRule {
        peers: vec![PolicyPeer::Block {
            cidr: "0.0.0.0/0".parse().unwrap(),
            except: Vec::new(),
        }],
        ports: Vec::new(),
    }
}

fn all(services: Vec<DeclaredService>, policies: Vec<DeclaredPolicy>) -> Declared {
    Declared {
        policies_known: true,
        policies,
        ..declared(&web(), services)
    }
}

fn told(declared: Declared, pod: &DeclaredPod, listener: ListenerView) -> String {
    let container = view(pod, Some(0), vec![listener]);
    let snapshot: Snapshot = snapshot(Some(declared), vec![container]);
    let container = &snapshot.containers[0];
    let found = exposure(&snapshot, container, &container.listeners[0]);
    format!("{}: {}", found.reach.as_str(), found.chain[1..].join("; "))
}

fn of_web(services: Vec<DeclaredService>, policies: Vec<DeclaredPolicy>) -> String {
    told(
        all(services, policies),
        &web(),
        listener(8080, &["0.0.0.0"]),
    )
}

#[test]
fn bind_scope_comes_first() {
    assert_eq!(
        told(all(vec![], vec![]), &web(), listener(8080, &["127.0.0.1"])),
        "none: reached from the same network namespace only"
    );
    assert_eq!(
        told(all(vec![], vec![]), &web(), listener(8080, &["10.0.0.7"])),
        "cluster: no NetworkPolicy selects the pod for ingress"
    );
}

#[test]
fn then_policies() {
    assert_eq!(
        of_web(vec![], vec![]),
        "cluster: no NetworkPolicy selects the pod for ingress"
    );
    assert_eq!(
        of_web(vec![], vec![policy(vec![])]),
        "none: NetworkPolicy shop/p isolates the pod and has no rule for tcp/8080"
    );
    assert_eq!(
        of_web(vec![], vec![policy(vec![from_pods()])]),
        "cluster: NetworkPolicy lets it in by shop/p ingress[0]"
    );
    let unknown = Declared {
        policies_known: false,
        ..declared(&web(), vec![])
    };
    assert_eq!(
        told(unknown, &web(), listener(8080, &["::"])),
        "cluster: NetworkPolicies are not known: taken for reachable in the cluster"
    );
}

#[test]
fn then_what_leads_to_it_from_outside() {
    let node_port = || service(TargetPort::Number(8080), Transport::Tcp, Some(30_080));
    let balancer = || DeclaredService {
        service_type: "LoadBalancer".into(),
        ..node_port()
    };
    let inner = || service(TargetPort::Number(8080), Transport::Tcp, None);
    let elsewhere = || service(TargetPort::Number(9090), Transport::Tcp, Some(30_080));
    for (services, policies, expected) in [
        (
            vec![inner()],
            vec![],
            "cluster: no NetworkPolicy selects the pod for ingress",
        ),
        (
            vec![elsewhere()],
            vec![],
            "cluster: no NetworkPolicy selects the pod for ingress",
        ),
        (
            vec![node_port()],
            vec![],
            "external: no NetworkPolicy selects the pod for ingress; NodePort 30080 of Service shop/web",
        ),
        (
            vec![balancer()],
            vec![policy(vec![from_block()])],
            "external: NetworkPolicy lets it in by shop/p ingress[0]; LoadBalancer of Service shop/web; NodePort 30080 of Service shop/web",
        ),
        (
            vec![node_port()],
            vec![policy(vec![from_pods()])],
            "cluster: NetworkPolicy lets it in by shop/p ingress[0]; NodePort 30080 of Service shop/web; which the policies do not let in from outside",
        ),
        (
            vec![node_port()],
            vec![policy(vec![])],
            "none: NetworkPolicy shop/p isolates the pod and has no rule for tcp/8080; NodePort 30080 of Service shop/web; which the policies do not let in from outside",
        ),
    ] {
        assert_eq!(of_web(services, policies), expected);
    }
}

#[test]
fn routes_lead_by_a_pod_of_the_cluster() {
    let route = DeclaredRoute {
        kind: "Ingress".into(),
        namespace: "shop".into(),
        name: "front".into(),
        backends: vec![RouteBackend {
            namespace: "shop".into(),
            service: "web".into(),
            port: Some(80),
        }],
    };
    let inner = service(TargetPort::Number(8080), Transport::Tcp, None);
    let with = |policies, route: &DeclaredRoute| Declared {
        routes: vec![route.clone()],
        ..all(vec![inner.clone()], policies)
    };
    let on_any = || listener(8080, &["0.0.0.0"]);
    assert_eq!(
        told(
            with(vec![policy(vec![from_pods()])], &route),
            &web(),
            on_any()
        ),
        "external: NetworkPolicy lets it in by shop/p ingress[0]; Ingress shop/front to Service shop/web"
    );
    let mut other = route;
    other.backends[0].port = Some(81);
    assert_eq!(
        told(with(vec![], &other), &web(), on_any()),
        "cluster: no NetworkPolicy selects the pod for ingress"
    );
}

#[test]
fn trap_16_endpoints_written_by_hand_lead_too() {
    let by_hand = DeclaredService {
        selector: Default::default(),
        ..service(TargetPort::Number(1), Transport::Tcp, Some(30_001))
    };
    let endpoints = DeclaredEndpoints {
        namespace: "shop".into(),
        name: "web-1".into(),
        service: "web".into(),
        addresses: vec![IpAddr::from([10, 0, 0, 7])],
        ports: vec![(Transport::Tcp, 8080)],
    };
    let with = Declared {
        endpoints: vec![endpoints],
        ..all(vec![by_hand], vec![])
    };
    assert!(told(with, &web(), listener(8080, &["0.0.0.0"])).starts_with("external: "));
}

#[test]
fn host_ports_and_the_network_of_the_node() {
    let mut pod = web();
    pod.containers[0].ports[0].host_port = Some(80);
    assert_eq!(
        told(all(vec![], vec![]), &pod, listener(8080, &["0.0.0.0"])),
        "node: no NetworkPolicy selects the pod for ingress; hostPort 80 of the node"
    );
    pod.host_network = true;
    let in_host = || ListenerView {
        host_netns: Some(true),
        ..listener(9999, &["0.0.0.0"])
    };
    let deny = || vec![policy(vec![])];
    assert_eq!(
        told(all(vec![], deny()), &pod, in_host()),
        "node: in the node's network: no NetworkPolicy applies"
    );
    let external = Declared {
        nodes: vec![DeclaredNode {
            name: "node-1".into(),
            external: vec![IpAddr::from([203, 0, 113, 7])],
            ..DeclaredNode::default()
        }],
        ..all(vec![], deny())
    };
    assert_eq!(
        told(external, &pod, in_host()),
        "external: in the node's network: no NetworkPolicy applies; external address 203.0.113.7 of the node"
    );
}
