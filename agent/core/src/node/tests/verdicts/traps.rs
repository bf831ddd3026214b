//! The traps of the catalogue that are about verdicts: where a denial would be false.

use std::net::IpAddr;
use std::sync::Arc;

use super::{
    LATE, SECOND, begin, flow, flow_to, labels, node, one, said, started, verdicts, web,
    with_service, world,
};
use crate::declared::{
    Declared, DeclaredContainer, DeclaredNamespace, DeclaredNode, DeclaredPod, DeclaredPort,
    DeclaredService, PeerPod, PolicyPort, PolicyPorts, Transport,
};
use crate::node::tests::apply;
use crate::observation::{Fact, Role};
use crate::policy::Verdict;

/// A namespace `shop` that says so, or not, that it is in a mesh.
fn namespace(meshed: bool, labels: &[(&str, &str)]) -> DeclaredNamespace {
    let labels = labels
        .iter()
        .map(|(key, value)| ((*key).into(), (*value).into()));
    DeclaredNamespace {
        name: "shop".into(),
        labels: labels.collect(),
        meshed,
    }
}

/// With `app=web` changed, in that namespace.
fn in_mesh(namespace: &DeclaredNamespace, change: fn(&mut DeclaredPod)) -> Declared {
    let mut pod = web();
    change(&mut pod);
    let mut declared = world();
    declared.pods[0] = Arc::new(pod);
    declared.namespaces.push(namespace.clone());
    declared
}

fn with_proxy(pod: &mut DeclaredPod) {
    pod.containers.push(DeclaredContainer {
        name: "istio-proxy".into(),
        ..DeclaredContainer::default()
    });
}

fn ambient(pod: &mut DeclaredPod) {
    pod.labels
        .insert("istio.io/dataplane-mode".into(), "ambient".into());
}

fn opted_out(pod: &mut DeclaredPod) {
    pod.labels
        .insert("istio.io/dataplane-mode".into(), "none".into());
}

#[test]
fn trap_4_and_12_pods_of_a_mesh_are_never_denied() {
    // Traps 4 and 12: the proxy takes every connection, whatever comes of it.
    let injected = namespace(true, &[]);
    let of_ambient = namespace(true, &[("istio.io/dataplane-mode", "ambient")]);
    for declared in [
        in_mesh(&injected, with_proxy),
        in_mesh(&injected, ambient),
        in_mesh(&of_ambient, |_| {}),
    ] {
        for role in [Role::Client, Role::Server] {
            assert_eq!(said(declared.clone(), role, "10.0.0.3"), Verdict::Unknown);
            assert_eq!(said(declared.clone(), role, "10.0.0.2"), Verdict::Allow);
        }
    }
    for declared in [in_mesh(&injected, |_| {}), in_mesh(&of_ambient, opted_out)] {
        let denied = said(declared, Role::Server, "10.0.0.3");
        assert_eq!(denied, Verdict::Deny, "the mesh leaves this pod alone");
    }
}

/// T6: it would hide every denial.
#[test]
fn a_pods_own_word_of_a_mesh_is_not_believed() {
    for pod in [with_proxy, ambient] {
        let declared = in_mesh(&namespace(false, &[]), pod);
        for role in [Role::Client, Role::Server] {
            assert_eq!(said(declared.clone(), role, "10.0.0.3"), Verdict::Deny);
        }
        let mut node = node();
        node.settings.rules.mesh_namespaces = vec!["shop".into()];
        let mut node = begin(node, declared);
        flow(&mut node, LATE, Role::Server, "10.0.0.3", one());
        assert_eq!(verdicts(&node).last, Verdict::Unknown, "the operator's is");
    }
}

#[test]
fn trap_18_after_a_change_nothing_is_believed_for_the_grace() {
    let mut open = world();
    open.policies.clear();
    let mut relabelled = world();
    relabelled.peer_pods[1] = Arc::new(PeerPod {
        labels: labels("cart"),
        ..PeerPod::clone(&relabelled.peer_pods[1])
    });
    let mut renamed = world();
    renamed.pods[0] = Arc::new(DeclaredPod {
        labels: labels("other"),
        ..web()
    });
    for (case, before) in [
        ("policies", open),
        ("the peer", relabelled),
        ("the pod", renamed),
    ] {
        for (after, expected) in [(29, Verdict::Unknown), (32, Verdict::Deny)] {
            let mut node = started(before.clone());
            apply(&mut node, 50 * SECOND, Fact::Declared(world()));
            let at = (50 + after) * SECOND;
            flow(&mut node, at, Role::Server, "10.0.0.3", one());
            let verdicts = verdicts(&node);
            assert_eq!(verdicts.last, expected, "{case}, {after} s later");
            assert_eq!(verdicts.passed.count, u64::from(after == 32));
        }
    }
}

#[test]
fn trap_16_a_service_is_judged_by_its_endpoints() {
    for (endpoints, expected) in [
        (vec![2], Verdict::Allow),
        (vec![3], Verdict::Deny),
        (vec![2, 3], Verdict::Unknown),
        (vec![3, 99], Verdict::Unknown),
        (vec![], Verdict::Unknown),
    ] {
        let found = said(with_service(&endpoints), Role::Client, "10.96.0.1");
        assert_eq!(found, expected, "{endpoints:?}");
    }
    let balancer = said(with_service(&[3]), Role::Client, "203.0.113.50");
    assert_eq!(
        balancer,
        Verdict::Unknown,
        "the cluster sends it to endpoints"
    );
}

/// A client of a headless Service goes to the pod itself; where endpoints are outside, or there is only a name, nobody of
/// the cluster is asked.
#[test]
fn trap_16_headless_external_and_hand_written_services() {
    let changed = |change: fn(&mut DeclaredService), endpoints: &[u8], peer: &str| {
        let mut declared = with_service(endpoints);
        let last = declared.services.len() - 1;
        change(&mut declared.services[last]);
        said(declared, Role::Client, peer)
    };
    let headless = |service: &mut DeclaredService| service.cluster_ips.clear();
    assert_eq!(changed(headless, &[2], "10.0.0.2"), Verdict::Allow);
    let by_name = |service: &mut DeclaredService| {
        service.cluster_ips.clear();
        service.service_type = "ExternalName".into();
    };
    assert_eq!(changed(by_name, &[], "10.0.0.2"), Verdict::Allow);
    let mut outside = with_service(&[2]);
    outside.endpoints[0].addresses = vec![IpAddr::from([203, 0, 113, 9])];
    let found = said(outside, Role::Client, "10.96.0.1");
    assert_eq!(found, Verdict::Unknown, "whose address it is, is not known");
}

/// Only tcp/80 of `app=cart` is let out to. Its Service listens on 8080 and leads there.
#[test]
fn trap_17_policies_see_the_pods_port_not_the_services() {
    let mut declared = with_service(&[2]);
    let port = PolicyPort {
        transport: Transport::Tcp,
        ports: PolicyPorts::Range(80, 80),
    };
    declared.policies[0].egress.as_mut().unwrap()[0].ports = vec![port];
    for (peer, port, expected) in [
        ("10.96.0.1", 8080, Verdict::Allow),
        ("10.0.0.2", 80, Verdict::Allow),
        ("10.0.0.2", 8080, Verdict::Deny),
    ] {
        let mut node = started(declared.clone());
        flow_to(&mut node, LATE, Role::Client, (peer, port), one());
        assert_eq!(verdicts(&node).last, expected, "{peer}:{port}");
    }
}

/// The node's own address, whose port may lead to pods.
#[test]
fn trap_17_what_leads_from_a_node_to_pods_is_not_judged_by_the_node() {
    let with = |change: fn(&mut Declared)| {
        let mut declared = world();
        declared.policies[0].egress = Some(vec![]);
        change(&mut declared);
        said(declared, Role::Client, "192.0.2.10")
    };
    fn host_port(declared: &mut Declared, transport: Transport) {
        let mut pod = web();
        pod.name = "ingress".into();
        pod.uid = None;
        pod.ips.clear();
        pod.containers[0].container_id = None;
        pod.containers[0].ports = vec![DeclaredPort {
            name: None,
            port: 80,
            host_port: Some(8080),
            transport,
        }];
        declared.pods.push(Arc::new(pod));
    }
    fn node_port(declared: &mut Declared, transport: Transport) {
        *declared = Declared {
            services: with_service(&[]).services,
            ..std::mem::take(declared)
        };
        let port = &mut declared.services[0].ports[0];
        (port.node_port, port.transport) = (Some(8080), transport);
    }
    // Of another node, the address above is not: only what every node has leads to pods.
    let elsewhere = |change: fn(&mut DeclaredPod)| {
        let mut declared = world();
        declared.policies[0].egress = Some(vec![]);
        host_port(&mut declared, Transport::Tcp);
        declared.nodes.push(DeclaredNode {
            name: "node-b".into(),
            addresses: vec![IpAddr::from([192, 0, 2, 99])],
            ..DeclaredNode::default()
        });
        let mut pod = DeclaredPod::clone(&declared.pods[1]);
        pod.node = Some("node-a".into());
        change(&mut pod);
        declared.pods[1] = Arc::new(pod);
        said(declared, Role::Client, "192.0.2.99")
    };
    assert_eq!(elsewhere(|_| {}), Verdict::Deny);
    let of_all = |pod: &mut DeclaredPod| pod.owner.kind = "DaemonSet".into();
    assert_eq!(elsewhere(of_all), Verdict::Unknown);
    let there = |pod: &mut DeclaredPod| pod.node = Some("node-b".into());
    assert_eq!(elsewhere(there), Verdict::Unknown);
    assert_eq!(with(|_| {}), Verdict::Deny);
    assert_eq!(with(|all| host_port(all, Transport::Tcp)), Verdict::Unknown);
    assert_eq!(with(|all| node_port(all, Transport::Tcp)), Verdict::Unknown);
    assert_eq!(with(|all| host_port(all, Transport::Udp)), Verdict::Deny);
    assert_eq!(with(|all| node_port(all, Transport::Udp)), Verdict::Deny);
}
