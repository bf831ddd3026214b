//! Rows of scans that know more than procfs tells.

use std::net::IpAddr;

use super::{apply, node, only, path, ports, row, scan, seen};
use crate::declared::Transport;
use crate::id::CgroupId;
use crate::observation::{DynamicPortsRow, Fact, ListenerRow, Refused, ScanScope};
use crate::snapshot::{ContainerView, RefusedView};
use crate::time::Timestamp;

/// Also in another pod, and when no event told of it; where the kernel names the creator there is nothing to guess.
#[test]
fn a_socket_whose_creator_is_known_is_its_own_whoever_holds_it() {
    let mut node = node();
    seen(&mut node, 1, 10, path(1));
    seen(&mut node, 1, 20, path(2));
    let created = |creator, row| ListenerRow {
        creator: Some(CgroupId(creator)),
        ..row
    };
    let unheld = ListenerRow {
        holders: vec![],
        ..row(10, 82, 902)
    };
    let rows = vec![
        created(10, row(20, 80, 900)),
        // Of the host, passed to a container.
        created(99, row(20, 81, 901)),
        created(10, unheld),
    ];
    scan(&mut node, 3, ScanScope::Node, rows);
    let snapshot = node.snapshot(Timestamp(5));
    let of = |id| {
        let found = |container: &&ContainerView| container.cgroup == CgroupId(id);
        snapshot.containers.iter().find(found).unwrap()
    };
    assert_eq!(ports(of(10)), [(80, 1), (82, 1)]);
    assert_eq!(ports(of(20)), []);
    let held = of(10).listeners.iter().map(|view| view.held_by_owner);
    assert!(held.eq([Some(false), Some(true)]));
}

#[test]
fn one_socket_that_takes_ipv4_makes_a_dual_stack() {
    let mut node = node();
    seen(&mut node, 1, 10, path(1));
    let six = |port, inode, v6only| ListenerRow {
        address: IpAddr::from([0_u16; 8]),
        v6only,
        ..row(10, port, inode)
    };
    let rows = vec![
        six(1, 900, Some(true)),
        six(2, 901, Some(true)),
        six(2, 902, Some(false)),
        six(3, 903, None),
        row(10, 4, 904),
    ];
    scan(&mut node, 3, ScanScope::Node, rows);
    let snapshot = node.snapshot(Timestamp(5));
    let listeners = snapshot.containers[0].listeners.iter();
    let told: Vec<Option<bool>> = listeners.map(|view| view.dual_stack).collect();
    assert_eq!(told, [Some(false), Some(true), None, None]);
}

#[test]
fn trap_2_the_range_of_dynamic_ports_is_that_of_the_containers_namespace() {
    let mut node = node();
    seen(&mut node, 1, 10, path(1));
    seen(&mut node, 1, 11, format!("{}/init.scope", path(1)));
    seen(&mut node, 1, 20, path(2));
    let own = DynamicPortsRow {
        cgroup: CgroupId(11),
        first: 20_000,
        last: 29_999,
    };
    apply(&mut node, 2, Fact::DynamicPorts { rows: vec![own] });
    let udp = |owner, port, inode| ListenerRow {
        transport: Transport::Udp,
        ..row(owner, port, inode)
    };
    let rows = vec![
        udp(11, 25_000, 900),
        udp(11, 40_000, 901),
        udp(20, 25_000, 902),
        udp(20, 40_000, 903),
    ];
    scan(&mut node, 3, ScanScope::Node, rows);
    let snapshot = node.snapshot(Timestamp(5));
    let of = |id| {
        let found = |container: &&ContainerView| container.cgroup == CgroupId(id);
        let container = snapshot.containers.iter().find(found).unwrap();
        (container.dynamic_ports, ports(container))
    };
    assert_eq!(of(10), ((20_000, 29_999), vec![(40_000, 1)]));
    assert_eq!(of(20), ((32_768, 60_999), vec![(25_000, 1)]));
    apply(&mut node, 6, Fact::DynamicPorts { rows: vec![] });
    assert_eq!(node.dynamic_ports(CgroupId(10)), (32_768, 60_999));
}

/// Each source tells what it refused, and nothing of what others did.
#[test]
fn refusals_of_several_sources_are_kept_together() {
    let mut node = node();
    seen(&mut node, 1, 10, path(1));
    let refused = |flows, udp_flows, connections| {
        Fact::Refused(Refused {
            cgroup: CgroupId(10),
            flows,
            udp_flows,
            connections,
            ..Refused::default()
        })
    };
    for (at, fact) in [
        (2, refused(7, 0, 0)),
        (3, refused(0, 5, 0)),
        (4, refused(0, 0, 3)),
        // Told again.
        (9, refused(7, 0, 0)),
    ] {
        apply(&mut node, at, fact);
    }
    let wanted = RefusedView {
        flows: 7,
        listeners: 0,
        udp_flows: 5,
        udp_sockets: 0,
        connections: 3,
        last: Timestamp(4),
    };
    assert_eq!(only(&node.snapshot(Timestamp(10))).refused, Some(wanted));
}
