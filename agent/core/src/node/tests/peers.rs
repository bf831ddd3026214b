//! Flows whose peers have names, get them later, or never do.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{POD, apply, container_id, node, path, seen};
use crate::declared::{
    Declared, DeclaredContainer, DeclaredPod, DeclaredPort, DeclaredService, ServicePort,
    TargetPort, Transport, WorkloadRef,
};
use crate::id::{CgroupId, ContainerId, PodUid};
use crate::node::NodeState;
use crate::observation::{Fact, FlowCounts, FlowRow, Role};
use crate::settings::PEER_WAITING_MAX;
use crate::snapshot::FlowView;
use crate::time::Timestamp;

const SECOND: u64 = 1_000_000_000;

fn pod(name: &str, uid: &str, ip: &str) -> DeclaredPod {
    DeclaredPod {
        namespace: "shop".into(),
        name: format!("{name}-1"),
        uid: Some(PodUid::new(uid)),
        labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
        owner: WorkloadRef {
            kind: "Deployment".into(),
            name: name.into(),
        },
        ips: vec![ip.parse().unwrap()],
        ..DeclaredPod::default()
    }
}

/// The pod of the container under test, with a port behind a node port.
fn server(keeps_source: bool) -> Declared {
    let port = DeclaredPort {
        name: Some("http".into()),
        port: 8080,
        host_port: None,
        transport: Transport::Tcp,
    };
    let container = DeclaredContainer {
        container_id: Some(ContainerId::new(container_id(1))),
        ports: vec![port],
        ..DeclaredContainer::default()
    };
    let service = DeclaredService {
        namespace: "shop".into(),
        name: "web".into(),
        selector: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
        service_type: "NodePort".into(),
        keeps_source,
        ports: vec![ServicePort {
            port: 80,
            target: TargetPort::Name("http".into()),
            node_port: Some(30_080),
            transport: Transport::Tcp,
        }],
        ..DeclaredService::default()
    };
    Declared {
        pods: vec![Arc::new(DeclaredPod {
            containers: vec![container],
            ..pod("web", POD, "10.0.0.1")
        })],
        services: vec![service],
        ..Declared::default()
    }
}

fn flow(node: &mut NodeState, at: u64, role: Role, peer: &str, port: u16) {
    let row = FlowRow {
        owner: CgroupId(10),
        transport: Transport::Tcp,
        role,
        peer: Some(peer.parse().unwrap()),
        server_port: port,
        counts: FlowCounts {
            connections: 1,
            ..FlowCounts::default()
        },
    };
    let since = Some(Timestamp(at - SECOND));
    let rows = vec![row];
    apply(node, at, Fact::Flows { rows, since });
}

fn clock(node: &mut NodeState, at: u64) {
    apply(node, at, Fact::Clock { unix_ns: at });
}

fn told(flows: &[FlowView]) -> Vec<String> {
    let name = |flow: &FlowView| {
        let peer = &flow.peer;
        let parts = [Some(peer.kind.as_str()), peer.name.as_deref()];
        let name: Vec<&str> = parts.into_iter().flatten().collect();
        format!("{} {}", name.join(" "), flow.counts.connections)
    };
    flows.iter().map(name).collect()
}

fn flows(node: &NodeState) -> Vec<String> {
    told(&node.snapshot(Timestamp(0)).flows)
}

fn addresses(node: &mut NodeState) {
    let addresses = vec!["192.0.2.10".parse().unwrap()];
    apply(node, 1, Fact::NodeAddresses { addresses });
}

#[test]
fn trap_8_and_17_a_probe_is_the_nodes_and_what_a_node_port_lets_in_may_be_anybodys() {
    for (keeps_source, expected) in [
        (false, ["node 1", "unresolved snat 1"]),
        (true, ["node 1", "node 1"]),
    ] {
        let mut node = node();
        addresses(&mut node);
        seen(&mut node, 1, 10, path(1));
        apply(&mut node, 2, Fact::Declared(server(keeps_source)));
        flow(&mut node, 9 * SECOND, Role::Server, "192.0.2.10", 8081);
        flow(&mut node, 9 * SECOND, Role::Server, "192.0.2.10", 8080);
        let mut told = flows(&node);
        told.sort();
        assert_eq!(told, expected);
    }
}

#[test]
fn a_name_that_comes_later_is_the_rows_all_the_same() {
    let mut node = node();
    seen(&mut node, 1, 10, path(1));
    apply(&mut node, 2, Fact::Declared(server(true)));
    flow(&mut node, 9 * SECOND, Role::Client, "10.0.0.2", 80);
    clock(&mut node, 10 * SECOND);
    assert_eq!(flows(&node), [""; 0], "it waits");
    let mut declared = server(true);
    declared.pods.push(Arc::new(pod("db", "other", "10.0.0.2")));
    apply(&mut node, 11 * SECOND, Fact::Declared(declared));
    clock(&mut node, 12 * SECOND);
    assert_eq!(flows(&node), ["workload db 1"]);
}

#[test]
fn a_name_that_never_comes_is_told_as_such_after_a_while_and_then_at_once() {
    let mut node = node();
    seen(&mut node, 1, 10, path(1));
    apply(&mut node, 2, Fact::Declared(server(true)));
    flow(&mut node, 9 * SECOND, Role::Client, "10.9.9.9", 80);
    clock(&mut node, 18 * SECOND);
    assert_eq!(flows(&node), [""; 0], "it waits");
    clock(&mut node, 20 * SECOND);
    assert_eq!(flows(&node), ["unresolved private 1"]);
    flow(&mut node, 21 * SECOND, Role::Client, "10.9.9.9", 80);
    assert_eq!(flows(&node), ["unresolved private 2"]);
}

#[test]
fn the_last_report_has_what_still_waited() {
    let mut node = node();
    seen(&mut node, 1, 10, path(1));
    apply(&mut node, 2, Fact::Declared(server(true)));
    flow(&mut node, 9 * SECOND, Role::Client, "10.9.9.9", 80);
    node.settle();
    assert_eq!(flows(&node), ["unresolved private 1"]);
}

#[test]
fn while_a_new_pod_has_no_known_address_nobody_is_taken_for_it() {
    let mut node = node();
    let mut declared = server(true);
    declared.pods.push(Arc::new(pod("db", "other", "10.0.0.2")));
    seen(&mut node, 1, 10, path(1));
    apply(&mut node, 2, Fact::Declared(declared.clone()));
    let uid = "0a1b2c3d-0000-4000-8000-000000000002";
    let new = format!("/kubepods/burstable/pod{uid}/{}", container_id(7));
    seen(&mut node, 20 * SECOND, 20, new);
    flow(&mut node, 22 * SECOND, Role::Client, "10.0.0.2", 80);
    assert_eq!(flows(&node), [""; 0], "it may be the new pod");
    declared.pods.push(Arc::new(pod("new", uid, "10.0.0.3")));
    apply(&mut node, 23 * SECOND, Fact::Declared(declared));
    clock(&mut node, 24 * SECOND);
    assert_eq!(flows(&node), ["workload db 1"]);
}

#[test]
fn rows_that_find_no_place_to_wait_are_counted_without_a_name() {
    let mut node = node();
    seen(&mut node, 1, 10, path(1));
    apply(&mut node, 2, Fact::Declared(server(true)));
    for n in 0..PEER_WAITING_MAX + 5 {
        let peer = format!("10.9.{}.{}", n / 250, n % 250);
        flow(&mut node, 9 * SECOND, Role::Client, &peer, 80);
    }
    assert_eq!(flows(&node), ["unresolved private 5"]);
    let lost = node.snapshot(Timestamp(0)).dropped;
    let full = lost.iter().find(|lost| lost.place == "peers_waiting");
    assert_eq!(full.unwrap().count, 5);
}
