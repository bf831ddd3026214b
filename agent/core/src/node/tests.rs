//! `NodeState` as a black box: observations in, snapshot out.

use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::NodeState;
use crate::declared::Transport;
use crate::finding::Coverage;
use crate::id::CgroupId;
use crate::observation::{
    CPU_WINDOW_NS, CgroupRow, CpuWindowRow, Fact, FlowCounts, FlowRow, Health, Holder,
    ListenerEvent, ListenerRow, Observation, ProbeStatus, Role, ScanScope,
};
use crate::settings::{CGROUPS_MAX, CONTAINERS_MAX, CoreSettings, NodeIdentity};
use crate::snapshot::{ContainerView, Snapshot};
use crate::time::Timestamp;

mod api_clients;
mod joined;
mod listeners;
mod peers;
mod pods;
mod traps;
mod verdicts;

const POD: &str = "0a1b2c3d-0000-4000-8000-000000000001";

fn container_id(n: u64) -> String {
    format!("{n:064x}")
}

fn path(n: u64) -> String {
    let pod = POD.replace('-', "_");
    let id = container_id(n);
    format!(
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{pod}.slice/cri-containerd-{id}.scope"
    )
}

fn node() -> NodeState {
    NodeState::new(NodeIdentity::default(), CoreSettings::default())
}

fn apply(node: &mut NodeState, at: u64, fact: Fact) {
    node.apply(Observation {
        at: Timestamp(at),
        fact,
    });
}

fn seen(node: &mut NodeState, at: u64, cgroup: u64, path: String) {
    apply(
        node,
        at,
        Fact::CgroupSeen(CgroupRow {
            cgroup: CgroupId(cgroup),
            path,
        }),
    );
}

fn listen(node: &mut NodeState, at: u64, owner: u64, port: u16) {
    let address = IpAddr::from([0, 0, 0, 0]);
    apply(
        node,
        at,
        Fact::ListenerOpened(ListenerEvent {
            owner: CgroupId(owner),
            transport: Transport::Tcp,
            address,
            port,
            cookie: at,
        }),
    );
}

fn row(owner: u64, port: u16, inode: u64) -> ListenerRow {
    let holder = Holder {
        pid: 7,
        executable: Some("/bin/server".into()),
        cgroup: CgroupId(owner),
    };
    ListenerRow {
        owner: CgroupId(owner),
        creator: None,
        transport: Transport::Tcp,
        v6only: None,
        cookie: None,
        address: IpAddr::from([0, 0, 0, 0]),
        port,
        inode,
        netns: 1,
        host_netns: false,
        foreign_netns: false,
        holders: vec![holder],
    }
}

fn scan(node: &mut NodeState, at: u64, scope: ScanScope, rows: Vec<ListenerRow>) {
    apply(
        node,
        at,
        Fact::Listeners {
            scope,
            rows,
            errors: 0,
            unreadable: vec![],
        },
    );
}

fn ports(container: &ContainerView) -> Vec<(u16, u64)> {
    container
        .listeners
        .iter()
        .map(|listener| (listener.port, listener.sockets))
        .collect()
}

fn only(snapshot: &Snapshot) -> &ContainerView {
    assert_eq!(snapshot.containers.len(), 1);
    &snapshot.containers[0]
}

#[test]
fn a_listener_in_a_nested_cgroup_is_the_containers_and_counts_once() {
    let mut node = node();
    seen(&mut node, 1, 10, path(1));
    seen(&mut node, 2, 11, format!("{}/init.scope", path(1)));
    listen(&mut node, 3, 10, 80);
    scan(&mut node, 4, ScanScope::Node, vec![row(11, 80, 900)]);
    let snapshot = node.snapshot(Timestamp(5));
    assert_eq!(ports(only(&snapshot)), [(80, 1)]);
    let listener = &only(&snapshot).listeners[0];
    assert_eq!(listener.held_by_owner, Some(true));
    assert_eq!(
        listener.holders[0].executable.as_deref(),
        Some("/bin/server")
    );
}

#[test]
fn a_nested_cgroup_is_found_even_if_it_was_seen_before_its_container() {
    let mut node = node();
    seen(&mut node, 1, 11, format!("{}/nested", path(1)));
    seen(&mut node, 2, 10, path(1));
    scan(&mut node, 4, ScanScope::Node, vec![row(11, 80, 900)]);
    assert_eq!(ports(only(&node.snapshot(Timestamp(5)))), [(80, 1)]);
}

#[test]
fn trap_11_a_socket_passed_within_the_pod_stays_its_creators() {
    let mut node = node();
    seen(&mut node, 1, 10, path(1));
    seen(&mut node, 1, 20, path(2));
    listen(&mut node, 2, 10, 80);
    scan(&mut node, 3, ScanScope::Node, vec![row(20, 80, 900)]);
    let snapshot = node.snapshot(Timestamp(5));
    let creator = snapshot
        .containers
        .iter()
        .find(|container| container.cgroup == CgroupId(10))
        .unwrap();
    let holder = snapshot
        .containers
        .iter()
        .find(|container| container.cgroup == CgroupId(20))
        .unwrap();
    assert_eq!((ports(creator), ports(holder)), (vec![(80, 1)], vec![]));
    assert_eq!(creator.listeners[0].held_by_owner, Some(false));
}

#[test]
fn a_scan_of_one_container_only_adds() {
    let mut node = node();
    seen(&mut node, 1, 10, path(1));
    seen(&mut node, 1, 20, path(2));
    listen(&mut node, 2, 10, 80);
    listen(&mut node, 2, 20, 81);
    scan(
        &mut node,
        3,
        ScanScope::Containers(vec![CgroupId(10)]),
        vec![row(10, 82, 900)],
    );
    let snapshot = node.snapshot(Timestamp(5));
    let of = |id| {
        ports(
            snapshot
                .containers
                .iter()
                .find(|container| container.cgroup == CgroupId(id))
                .unwrap(),
        )
    };
    assert_eq!((of(10), of(20)), (vec![(80, 1), (82, 1)], vec![(81, 1)]));
    assert_eq!(snapshot.scans, 0, "only scans of the node count");
}

#[test]
fn what_cannot_be_read_is_not_taken_for_gone() {
    let mut node = node();
    seen(&mut node, 1, 10, path(1));
    listen(&mut node, 2, 10, 80);
    let listeners = Fact::Listeners {
        scope: ScanScope::Node,
        rows: vec![],
        errors: 1,
        unreadable: vec![CgroupId(10)],
    };
    apply(&mut node, 3, listeners);
    assert_eq!(ports(only(&node.snapshot(Timestamp(4)))), [(80, 1)]);
    scan(&mut node, 5, ScanScope::Node, vec![]);
    assert_eq!(ports(only(&node.snapshot(Timestamp(6)))), []);
}

#[test]
fn what_is_not_measured_is_not_zero() {
    let settings = CoreSettings {
        cpu_startup_exclusion: Duration::ZERO,
        ..CoreSettings::default()
    };
    let mut node = NodeState::new(NodeIdentity::default(), settings);
    seen(&mut node, 0, 10, path(1));
    let windows = |unmeasured| Fact::CpuWindows {
        start: Timestamp(0),
        windows: 1,
        lost: 0,
        rows: vec![],
        unmeasured,
    };
    apply(&mut node, 1, windows(vec![CgroupId(10)]));
    assert_eq!(only(&node.snapshot(Timestamp(1))).cpu.windows, None);
    apply(&mut node, 1, windows(vec![]));
    assert!(only(&node.snapshot(Timestamp(1))).cpu.windows.is_some());
}

#[test]
fn a_container_taken_for_gone_by_mistake_comes_back() {
    let mut node = node();
    seen(&mut node, 1, 10, path(1));
    apply(&mut node, 2, Fact::CgroupTree { rows: vec![] });
    assert!(only(&node.snapshot(Timestamp(3))).gone);
    seen(&mut node, 4, 10, path(1));
    assert!(!only(&node.snapshot(Timestamp(5))).gone);
}

#[test]
fn zero_points_do_not_move_with_the_wall_clock() {
    let mut node = node();
    apply(&mut node, 1_000, Fact::Clock { unix_ns: 5_000 });
    let origin = node.snapshot(Timestamp(2_000)).origin;
    apply(&mut node, 3_000, Fact::Clock { unix_ns: 9_000_000 });
    let snapshot = node.snapshot(Timestamp(3_000));
    assert_eq!((snapshot.origin, snapshot.wall.0), (origin, 9_000_000));
}

#[test]
fn sockets_of_the_host_are_nobodys() {
    let mut node = node();
    seen(&mut node, 1, 10, path(1));
    seen(&mut node, 1, 30, "/system.slice/sshd.service".into());
    scan(
        &mut node,
        3,
        ScanScope::Node,
        vec![row(30, 22, 900), row(0, 23, 901)],
    );
    listen(&mut node, 4, 30, 24);
    let snapshot = node.snapshot(Timestamp(5));
    assert_eq!(ports(only(&snapshot)), []);
    let lost = snapshot
        .dropped
        .iter()
        .find(|dropped| dropped.place == "listener_events")
        .unwrap();
    assert_eq!((lost.reason.as_str(), lost.count), ("unattributed", 1));
}

#[test]
fn windows_of_nested_cgroups_add_up_and_silence_is_zero_only_while_the_container_is_there() {
    let settings = CoreSettings {
        cpu_startup_exclusion: Duration::ZERO,
        ..CoreSettings::default()
    };
    let mut node = NodeState::new(NodeIdentity::default(), settings);
    seen(&mut node, CPU_WINDOW_NS, 10, path(1));
    seen(&mut node, CPU_WINDOW_NS, 11, format!("{}/nested", path(1)));
    let rows = vec![
        CpuWindowRow {
            cgroup: CgroupId(10),
            busy_us: vec![9, 5, 0],
        },
        CpuWindowRow {
            cgroup: CgroupId(11),
            busy_us: vec![9, 7, 0],
        },
        CpuWindowRow {
            cgroup: CgroupId(77),
            busy_us: vec![9, 9, 9],
        },
    ];
    apply(
        &mut node,
        1,
        Fact::CpuWindows {
            start: Timestamp(0),
            windows: 3,
            lost: 0,
            rows,
            unmeasured: vec![],
        },
    );
    let snapshot = node.snapshot(Timestamp(1));
    let windows = only(&snapshot).cpu.windows.as_ref().unwrap();
    assert_eq!(
        windows.busy_us,
        [12, 0],
        "the first window began before the container"
    );
}

#[test]
fn flows_are_counted_to_the_container_and_its_ports() {
    let mut node = node();
    seen(&mut node, 1, 10, path(1));
    let counts = FlowCounts {
        connections: 3,
        sent_bytes: 30,
        ..FlowCounts::default()
    };
    let row = |owner, peer| FlowRow {
        owner: CgroupId(owner),
        transport: Transport::Tcp,
        role: Role::Server,
        peer,
        server_port: 80,
        counts,
    };
    let peer: IpAddr = "10.0.0.9".parse().unwrap();
    apply(
        &mut node,
        2,
        Fact::Flows {
            rows: vec![row(10, Some(peer)), row(10, None), row(99, Some(peer))],
            since: None,
        },
    );
    listen(&mut node, 3, 10, 80);
    let snapshot = node.snapshot(Timestamp(5));
    assert_eq!(only(&snapshot).listeners[0].connections, 3);
    assert_eq!(snapshot.flows.len(), 2);
    assert_eq!(
        snapshot.flows.iter().filter(|flow| flow.overflow).count(),
        1
    );
    assert!(
        snapshot
            .dropped
            .iter()
            .any(|dropped| dropped.place == "flows" && dropped.reason == "unattributed")
    );
}

#[test]
fn a_container_that_is_gone_lingers_for_its_last_counts_and_is_then_forgotten() {
    let mut node = node();
    seen(&mut node, 1, 10, path(1));
    listen(&mut node, 2, 10, 80);
    apply(
        &mut node,
        3,
        Fact::CgroupGone {
            cgroup: CgroupId(10),
        },
    );
    let snapshot = node.snapshot(Timestamp(4));
    assert!(only(&snapshot).gone && only(&snapshot).listeners.is_empty());
    node.exported(Timestamp(30_000_000_000));
    assert_eq!(node.snapshot(Timestamp(4)).containers.len(), 1);
    node.exported(Timestamp(61_000_000_000));
    assert_eq!(node.snapshot(Timestamp(4)).containers.len(), 0);
}

#[test]
fn a_tree_replaces_the_table_but_for_what_came_after_it() {
    let mut node = node();
    seen(&mut node, 1, 10, path(1));
    seen(&mut node, 20, 20, path(2));
    let rows = vec![CgroupRow {
        cgroup: CgroupId(30),
        path: path(3),
    }];
    apply(&mut node, 10, Fact::CgroupTree { rows });
    let snapshot = node.snapshot(Timestamp(30));
    let there: Vec<_> = snapshot
        .containers
        .iter()
        .filter(|c| !c.gone)
        .map(|c| c.cgroup.0)
        .collect();
    assert_eq!(there, [20, 30]);
}

#[test]
fn coverage_tells_what_was_not_seen_and_why() {
    let mut node = node();
    seen(&mut node, 1, 10, path(1));
    let of = |node: &NodeState| only(&node.snapshot(Timestamp(9))).coverage.clone();
    let probe = |health, reason: Option<&str>| {
        Fact::Probe(ProbeStatus {
            probe: "tcp".into(),
            health,
            reason: reason.map(str::to_owned),
        })
    };
    let attached = |error: Option<&str>, pre_existing| Fact::Attached {
        cgroup: CgroupId(10),
        error: error.map(str::to_owned),
        pre_existing,
    };
    assert!(matches!(of(&node), Coverage::Blind(_)));
    apply(&mut node, 2, probe(Health::Ok, None));
    assert!(matches!(of(&node), Coverage::Partial(_)));
    apply(&mut node, 3, attached(None, true));
    assert_eq!(of(&node), Coverage::PreExisting);
    apply(&mut node, 4, attached(None, false));
    assert_eq!(of(&node), Coverage::Full);
    apply(&mut node, 5, attached(Some("EPERM"), false));
    assert_eq!(of(&node), Coverage::Blind("not attached: EPERM".into()));
    apply(&mut node, 6, probe(Health::Unsupported, Some("no CAP_BPF")));
    assert_eq!(of(&node), Coverage::Blind("tcp: no CAP_BPF".into()));
}

#[test]
fn tables_are_bounded_and_say_so() {
    let mut node = node();
    for n in 0..CGROUPS_MAX as u64 + 10 {
        seen(&mut node, 1, n + 1, path(n));
    }
    let snapshot = node.snapshot(Timestamp(2));
    assert_eq!(snapshot.containers.len(), CONTAINERS_MAX);
    let lost = snapshot
        .dropped
        .iter()
        .find(|dropped| dropped.place == "containers")
        .unwrap();
    assert_eq!(lost.count, (CGROUPS_MAX + 10 - CONTAINERS_MAX) as u64);
}

proptest! {
    /// However events and scans interleave, once a scan has come that began after the last event, the table is the scan.
    #[test]
    fn a_later_scan_is_the_truth(events in prop::collection::vec((any::<bool>(), 1..6_u16), 0..40), truth in prop::collection::btree_set(1..6_u16, 0..5)) {
        let mut node = node();
        seen(&mut node, 0, 10, path(1));
        for (at, (opened, port)) in (1_u64..).zip(events) {
            let event = ListenerEvent { owner: CgroupId(10), transport: Transport::Tcp, address: IpAddr::from([0, 0, 0, 0]), port, cookie: at };
            let fact = if opened { Fact::ListenerOpened(event) } else { Fact::ListenerClosed(event) };
            apply(&mut node, at, fact);
        }
        let rows = (1_u64..).zip(&truth).map(|(inode, port)| row(10, *port, inode)).collect();
        scan(&mut node, 1_000, ScanScope::Node, rows);
        let expected: Vec<_> = truth.into_iter().map(|port| (port, 1)).collect();
        prop_assert_eq!(ports(only(&node.snapshot(Timestamp(2_000)))), expected);
    }
}
