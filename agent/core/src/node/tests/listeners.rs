//! Rows of scans that know more than procfs tells.

use std::net::IpAddr;

use super::{node, path, ports, row, scan, seen};
use crate::id::CgroupId;
use crate::observation::{ListenerRow, ScanScope};
use crate::snapshot::ContainerView;
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
