//! Pods that talk to the API server.

use super::{POD, apply, container_id, node, path, seen};
use crate::declared::{Declared, DeclaredPod, DeclaredService, ServicePort, TargetPort, Transport};
use crate::id::{CgroupId, PodUid};
use crate::node::NodeState;
use crate::observation::{Fact, FlowCounts, FlowRow, Role};
use crate::settings::CONTAINERS_MAX;
use crate::snapshot::ApiUse;
use crate::time::Timestamp;

const SECOND: u64 = 1_000_000_000;

fn cluster() -> Declared {
    let port = ServicePort {
        port: 443,
        target: TargetPort::Number(6443),
        node_port: None,
        transport: Transport::Tcp,
    };
    let kubernetes = DeclaredService {
        namespace: "default".into(),
        name: "kubernetes".into(),
        cluster_ips: vec!["10.96.0.1".parse().unwrap()],
        ports: vec![port],
        ..DeclaredService::default()
    };
    let pod = DeclaredPod {
        uid: Some(PodUid::new(POD)),
        ips: vec!["10.0.0.1".parse().unwrap()],
        ..DeclaredPod::default()
    };
    Declared {
        pods: vec![pod.into()],
        services: vec![kubernetes],
        api_servers: vec!["192.0.2.30:7443".parse().unwrap()],
        ..Declared::default()
    }
}

fn flow(node: &mut NodeState, owner: u64, role: Role, peer: Option<&str>, port: u16) {
    let row = FlowRow {
        owner: CgroupId(owner),
        transport: Transport::Tcp,
        role,
        peer: peer.map(|peer| peer.parse().unwrap()),
        server_port: port,
        counts: FlowCounts {
            connections: 1,
            ..FlowCounts::default()
        },
    };
    let since = Some(Timestamp(20 * SECOND));
    apply(
        node,
        21 * SECOND,
        Fact::Flows {
            rows: vec![row],
            since,
        },
    );
    // Nobody with that address will be declared.
    for at in [40, 41] {
        apply(node, at * SECOND, Fact::Clock { unix_ns: at });
    }
}

fn use_of(node: &NodeState) -> Option<ApiUse> {
    node.snapshot(Timestamp(0))
        .api_clients
        .unwrap()
        .get(&PodUid::new(POD))
        .copied()
}

#[test]
fn whom_a_pod_dials_tells_whether_it_talks_to_the_api_server() {
    for (role, peer, port, expected) in [
        (Role::Client, Some("10.96.0.1"), 443, Some(ApiUse::Talks)),
        (Role::Client, Some("192.0.2.30"), 7443, Some(ApiUse::Talks)),
        (Role::Client, Some("10.9.9.9"), 7443, Some(ApiUse::Unsure)),
        (Role::Client, Some("10.9.9.9"), 6443, Some(ApiUse::Unsure)),
        (Role::Client, Some("127.0.0.1"), 6443, Some(ApiUse::Unsure)),
        (Role::Client, None, 0, Some(ApiUse::Unsure)),
        (Role::Client, Some("10.9.9.9"), 8080, None),
        (Role::Client, Some("8.8.8.8"), 443, None),
        (Role::Server, Some("192.0.2.30"), 7443, None),
    ] {
        let mut node = node();
        seen(&mut node, 1, 10, path(1));
        apply(&mut node, 2, Fact::Declared(cluster()));
        flow(&mut node, 10, role, peer, port);
        assert_eq!(use_of(&node), expected, "{role:?} {peer:?} {port}");
    }
}

#[test]
fn it_stays_known_when_the_container_is_gone_and_until_the_pod_is() {
    let mut node = node();
    seen(&mut node, 1, 10, path(1));
    apply(&mut node, 2, Fact::Declared(cluster()));
    flow(&mut node, 10, Role::Client, Some("10.96.0.1"), 443);
    apply(
        &mut node,
        50 * SECOND,
        Fact::CgroupGone {
            cgroup: CgroupId(10),
        },
    );
    node.exported(Timestamp(500 * SECOND));
    apply(&mut node, 501 * SECOND, Fact::Declared(cluster()));
    assert_eq!(use_of(&node), Some(ApiUse::Talks), "an init container, say");
    apply(&mut node, 502 * SECOND, Fact::Declared(Declared::default()));
    assert_eq!(use_of(&node), None);
}

#[test]
fn when_there_is_no_room_nothing_is_known_of_any_pod() {
    let mut node = node();
    apply(&mut node, 2, Fact::Declared(cluster()));
    for n in 0..CONTAINERS_MAX as u64 {
        let uid = format!("0a1b2c3d-0000-4000-8000-{n:012x}");
        seen(
            &mut node,
            3,
            100 + n,
            format!("/kubepods/burstable/pod{uid}/{}", container_id(n + 2)),
        );
        flow(&mut node, 100 + n, Role::Client, Some("10.96.0.1"), 443);
        apply(
            &mut node,
            4,
            Fact::CgroupGone {
                cgroup: CgroupId(100 + n),
            },
        );
    }
    assert_eq!(
        node.snapshot(Timestamp(0)).api_clients.map(|all| all.len()),
        Some(CONTAINERS_MAX)
    );
    node.exported(Timestamp(500 * SECOND));
    seen(
        &mut node,
        5,
        10,
        format!(
            "/kubepods/burstable/pod0a1b2c3d-0000-4000-9000-000000000001/{}",
            container_id(1)
        ),
    );
    flow(&mut node, 10, Role::Client, Some("10.96.0.1"), 443);
    let snapshot = node.snapshot(Timestamp(0));
    assert_eq!(snapshot.api_clients, None);
    assert!(
        snapshot
            .dropped
            .iter()
            .any(|lost| lost.place == "api_clients" && lost.count == 1)
    );
}
