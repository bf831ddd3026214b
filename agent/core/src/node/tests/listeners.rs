//! Rows of scans that know more than procfs tells.

use std::net::IpAddr;

use super::{apply, node, only, path, ports, row, scan, seen};
use crate::declared::Transport;
use crate::id::CgroupId;
use crate::observation::{DynamicPortsRow, Fact, ListenerRow, Refused, ScanScope};
use crate::settings::{HOST_LISTENER_NAMES_MAX, HOST_LISTENERS_MAX};
use crate::snapshot::{ContainerView, RefusedView};
use crate::time::Timestamp;

/// Also in another pod, and when no event told of it; where the kernel names the creator there is nothing to guess.
#[test]
fn trap_11_a_socket_whose_creator_is_known_is_its_own_whoever_holds_it() {
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

#[test]
fn units_of_the_host_are_known_by_what_they_listen_on_in_the_nodes_network() {
    let mut node = node();
    seen(&mut node, 1, 10, path(1));
    seen(&mut node, 1, 30, "/system.slice/sshd.service".into());
    seen(&mut node, 1, 31, "/system.slice/plumbline.service".into());
    seen(&mut node, 1, 32, "/kubepods/besteffort".into());
    apply(
        &mut node,
        2,
        Fact::SelfCgroup {
            cgroup: CgroupId(31),
        },
    );
    let on_host = |owner, port, inode| ListenerRow {
        host_netns: true,
        ..row(owner, port, inode)
    };
    let client = ListenerRow {
        transport: Transport::Udp,
        ..on_host(30, 40_000, 907)
    };
    let passed = ListenerRow {
        creator: Some(CgroupId(10)),
        ..on_host(30, 82, 908)
    };
    let local = ListenerRow {
        address: "127.0.0.1".parse().unwrap(),
        ..on_host(30, 84, 909)
    };
    let rows = vec![
        on_host(30, 22, 900),
        on_host(30, 22, 901),
        // In a pod's network, of a container in the node's, the agent's own, of a pod whose container is not known yet, of
        // somebody whose cgroup is not known.
        row(30, 23, 902),
        on_host(10, 80, 903),
        on_host(31, 9_090, 904),
        on_host(32, 81, 905),
        on_host(77, 83, 906),
        client,
        passed,
        local,
    ];
    scan(&mut node, 3, ScanScope::Node, rows.clone());
    scan(&mut node, 4, ScanScope::Containers(vec![]), vec![]);
    scan(&mut node, 5, ScanScope::Node, rows);
    let snapshot = node.snapshot(Timestamp(6));
    assert_eq!(snapshot.host_unknown, 1, "of the last scan");
    let listeners = snapshot.host_listeners;
    let [only] = &listeners[..] else {
        panic!("{listeners:?}");
    };
    assert_eq!((only.unit.as_str(), only.port), ("sshd.service", 22));
    assert_eq!((only.first_seen, only.scans), (Timestamp(3), 2));
    assert!(only.executables.contains("/bin/server"));
    scan(&mut node, 7, ScanScope::Node, vec![]);
    assert!(node.snapshot(Timestamp(8)).host_listeners.is_empty());
}

#[test]
fn what_units_of_the_host_listen_on_is_bounded() {
    let mut node = node();
    seen(&mut node, 1, 30, "/system.slice/many.service".into());
    let more = 10;
    let numbers = 1..=u16::try_from(HOST_LISTENERS_MAX).unwrap() + more;
    let on_host = |number: u16| ListenerRow {
        host_netns: true,
        ..row(30, number, number.into())
    };
    scan(
        &mut node,
        3,
        ScanScope::Node,
        numbers.map(on_host).collect(),
    );
    let snapshot = node.snapshot(Timestamp(4));
    assert_eq!(snapshot.host_listeners.len(), HOST_LISTENERS_MAX);
    let mut dropped = snapshot.dropped.iter();
    let lost = dropped.find(|dropped| dropped.place == "host_listeners");
    assert_eq!(lost.unwrap().count, u64::from(more));
    let everywhere = (1..=100_u8).map(|last| ListenerRow {
        address: IpAddr::from([192, 0, 2, last]),
        ..on_host(9)
    });
    scan(&mut node, 5, ScanScope::Node, everywhere.collect());
    let listeners = node.snapshot(Timestamp(6)).host_listeners;
    assert_eq!(listeners[0].addresses.len(), HOST_LISTENER_NAMES_MAX);
}

/// A mesh's node agent listens in the networks of the pods, from a pod of its own.
#[test]
fn trap_12_a_socket_in_another_network_is_not_blamed_on_its_pod() {
    let mut node = node();
    seen(&mut node, 1, 10, path(1));
    let inside = ListenerRow {
        foreign_netns: true,
        ..row(10, 15_008, 900)
    };
    let rows = vec![inside, row(10, 15_020, 901)];
    scan(&mut node, 3, ScanScope::Node, rows);
    let snapshot = node.snapshot(Timestamp(5));
    let listeners = only(&snapshot).listeners.iter();
    let held: Vec<_> = listeners.map(|one| (one.port, one.held_by_owner)).collect();
    assert_eq!(held, [(15_008, Some(false)), (15_020, Some(true))]);
}
