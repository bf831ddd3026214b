//! Traps of the catalogue from what the kernel tells to what the rules say: no false finding comes of them.

use std::net::IpAddr;
use std::sync::Arc;

use super::{POD, apply, container_id, node, path, row, scan, seen};
use crate::declared::{
    ContainerKind, Declared, DeclaredContainer, DeclaredPod, DeclaredPort, Transport, WorkloadRef,
};
use crate::id::{CgroupId, ContainerId, PodUid};
use crate::node::NodeState;
use crate::observation::{
    Fact, FlowCounts, FlowRow, Health, ListenerRow, ProbeStatus, Role, ScanScope,
};
use crate::rules::evaluate;
use crate::snapshot::{PeerKind, Snapshot};
use crate::time::Timestamp;

const SECOND: u64 = 1_000_000_000;
/// Every grace is over.
const LATE: u64 = 600 * SECOND;

fn of_pod(name: &str, number: u64) -> DeclaredContainer {
    DeclaredContainer {
        name: name.into(),
        kind: ContainerKind::Regular,
        container_id: Some(ContainerId::new(container_id(number))),
        cpu_request_millis: Some(100),
        ports: vec![DeclaredPort {
            name: None,
            port: 80,
            host_port: None,
            transport: Transport::Tcp,
        }],
        ..DeclaredContainer::default()
    }
}

/// `shop/web-1` with `app` and `side`, which both declare tcp/80.
fn web() -> DeclaredPod {
    DeclaredPod {
        namespace: "shop".into(),
        name: "web-1".into(),
        uid: Some(PodUid::new(POD)),
        owner: WorkloadRef {
            kind: "Deployment".into(),
            name: "web".into(),
        },
        ips: vec![IpAddr::from([10, 0, 0, 1])],
        containers: vec![of_pod("app", 1), of_pod("side", 2)],
        ..DeclaredPod::default()
    }
}

/// A node on which everything is well and seen, with both containers in the cgroups 10 and 20, and the host's in 99.
fn running(pod: DeclaredPod) -> NodeState {
    let mut node = node();
    seen(&mut node, 1, 10, path(1));
    seen(&mut node, 1, 20, path(2));
    seen(&mut node, 1, 99, "/system.slice/containerd.service".into());
    let declared = Declared {
        source: "test".into(),
        pods: vec![Arc::new(pod)],
        ..Declared::default()
    };
    apply(&mut node, 2, Fact::Declared(declared));
    for probe in ["cgroups", "cpu_stat", "cpu_windows", "listeners", "tcp"] {
        let probe = ProbeStatus {
            probe: probe.into(),
            health: Health::Ok,
            reason: None,
        };
        apply(&mut node, 2, Fact::Probe(probe));
    }
    for cgroup in [10, 20] {
        let attached = Fact::Attached {
            cgroup: CgroupId(cgroup),
            error: None,
            pre_existing: false,
        };
        apply(&mut node, 2, attached);
    }
    node
}

/// What scans find twice, long after one another.
fn scanned(node: &mut NodeState, rows: &[ListenerRow]) -> Snapshot {
    for at in [LATE, 2 * LATE] {
        scan(node, at, ScanScope::Node, rows.to_vec());
    }
    node.snapshot(Timestamp(2 * LATE + 1))
}

/// Rule and key of each condition.
fn said(snapshot: &Snapshot) -> Vec<String> {
    let conditions = evaluate(snapshot);
    let told = conditions.iter();
    told.map(|one| format!("{} {}", one.rule.id, one.key))
        .collect()
}

/// So that the others prove something.
#[test]
fn an_undeclared_port_is_found() {
    let mut node = running(web());
    let rows = [row(10, 80, 900), row(10, 81, 901)];
    assert_eq!(said(&scanned(&mut node, &rows)), ["P001 tcp/81"]);
}

#[test]
fn trap_7_what_the_runtime_does_in_a_pods_network_is_not_the_pods() {
    let mut node = running(web());
    // The runtime dials from its own cgroup; the pod's server sees its loopback; and a forwarder that listens is the host's.
    let flow = |owner, role| FlowRow {
        owner: CgroupId(owner),
        transport: Transport::Tcp,
        role,
        peer: Some(IpAddr::from([127, 0, 0, 1])),
        server_port: 80,
        counts: FlowCounts {
            connections: 7,
            ..FlowCounts::default()
        },
    };
    let rows = vec![flow(99, Role::Client), flow(10, Role::Server)];
    let since = Some(Timestamp(LATE - 2));
    apply(&mut node, LATE - 1, Fact::Flows { rows, since });
    let snapshot = scanned(&mut node, &[row(10, 80, 900), row(99, 40_123, 901)]);
    assert_eq!(said(&snapshot), Vec::<String>::new());
    let flows: Vec<_> = snapshot.flows.iter().collect();
    assert_eq!(flows.len(), 1, "the pod's own end only: {flows:?}");
    assert_eq!(flows[0].peer.kind, PeerKind::Loopback);
    let unattributed = snapshot.dropped.iter().filter(|one| one.place == "flows");
    assert!(unattributed.count() > 0, "{:?}", snapshot.dropped);
}

#[test]
fn trap_10_a_mapped_loopback_address_is_no_exposure() {
    let mut node = running(web());
    let mapped = |port, address: &str| ListenerRow {
        address: address.parse().unwrap(),
        ..row(10, port, port.into())
    };
    let rows = [
        mapped(81, "::ffff:127.0.0.1"),
        mapped(82, "::1"),
        mapped(83, "::ffff:127.1.2.3"),
        mapped(84, "::ffff:10.0.0.1"),
    ];
    assert_eq!(said(&scanned(&mut node, &rows)), ["P001 tcp/84"]);
}

#[test]
fn trap_11_the_end_of_one_holder_is_not_the_end_of_the_port() {
    let mut node = running(web());
    let held = |inode| ListenerRow {
        creator: Some(CgroupId(10)),
        ..row(10, 81, inode)
    };
    // SO_REUSEPORT: two sockets, one listener. Then one worker ends.
    let both = scanned(&mut node, &[held(900), held(901)]);
    assert_eq!(said(&both), ["P001 tcp/81"]);
    scan(&mut node, 3 * LATE, ScanScope::Node, vec![held(901)]);
    let one = node.snapshot(Timestamp(3 * LATE + 1));
    assert_eq!(said(&one), ["P001 tcp/81"]);
    let listener = &one.containers[0].listeners[0];
    assert_eq!((listener.sockets, listener.held_by_owner), (1, Some(true)));
}

#[test]
fn trap_12_who_listens_in_anothers_network_is_told_of_not_blamed() {
    let mut node = running(web());
    let inside = ListenerRow {
        foreign_netns: true,
        ..row(10, 15_008, 900)
    };
    let snapshot = scanned(&mut node, &[inside]);
    assert_eq!(said(&snapshot), ["M001 coverage/partial/passed_socket"]);
}

#[test]
fn trap_21_a_kernel_of_its_own_is_told_of_and_nothing_else() {
    let of = |class: &str, named: &[&str]| {
        let mut pod = web();
        pod.runtime_class = Some(class.into());
        let mut node = running(pod);
        node.settings.rules.sandbox_runtime_classes =
            named.iter().map(|one| (*one).to_owned()).collect();
        said(&scanned(&mut node, &[]))
    };
    let blind = |class| format!("M001 coverage/blind/runtime class {class}: a kernel of its own");
    assert_eq!(of("gvisor", &[]), [blind("gvisor")]);
    assert_eq!(of("strict", &[]), Vec::<String>::new());
    assert_eq!(of("strict", &["strict"]), [blind("strict")]);
}
