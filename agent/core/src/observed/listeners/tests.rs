use std::collections::BTreeMap;
use std::net::IpAddr;

use std::sync::Arc;

use super::{Key, Listeners, ROWS_MAX, Reach, Scanned};
use crate::declared::{ContainerKind, Transport};
use crate::rules::testing::{container, pod, port_entry};
use crate::settings::PORTS_PER_CONTAINER_MAX;
use crate::snapshot::BindScope;
use crate::time::Timestamp;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const DYNAMIC: (u16, u16) = (32_768, 60_999);

fn tcp(address: &str, port: u16) -> Key {
    (Transport::Tcp, port, ip(address))
}

fn ports(listeners: &Listeners) -> Vec<(u16, u64)> {
    listeners
        .views(false, DYNAMIC, &BTreeMap::new())
        .0
        .iter()
        .map(|view| (view.port, view.sockets))
        .collect()
}

fn found(rows: &[(&str, u16, u64)]) -> BTreeMap<Key, Scanned> {
    rows.iter()
        .map(|(address, port, sockets)| {
            (
                tcp(address, *port),
                Scanned {
                    sockets: *sockets,
                    held_by_owner: true,
                    ..Scanned::default()
                },
            )
        })
        .collect()
}

#[test]
fn events_open_and_close() {
    let mut listeners = Listeners::default();
    listeners.opened(tcp("0.0.0.0", 80), Timestamp(1));
    listeners.opened(tcp("0.0.0.0", 80), Timestamp(2));
    listeners.closed(tcp("0.0.0.0", 80), Timestamp(3));
    assert_eq!(
        ports(&listeners),
        [(80, 1)],
        "one of two SO_REUSEPORT sockets is left"
    );
    listeners.closed(tcp("0.0.0.0", 80), Timestamp(4));
    assert_eq!(ports(&listeners), []);
}

#[test]
fn a_scan_replaces_what_it_could_see() {
    let mut listeners = Listeners::default();
    listeners.opened(tcp("0.0.0.0", 80), Timestamp(1));
    listeners.opened(tcp("0.0.0.0", 81), Timestamp(20));
    listeners.scanned(
        Timestamp(10),
        found(&[("0.0.0.0", 82, 1)]),
        Reach::Whole { first: true },
    );
    assert_eq!(
        ports(&listeners),
        [(81, 1), (82, 1)],
        "80 closed unseen, 81 opened after the scan began"
    );
    let (views, _) = listeners.views(false, DYNAMIC, &BTreeMap::new());
    assert!(!views[0].pre_existing && views[1].pre_existing);
}

#[test]
fn a_scan_does_not_revive_what_closed_after_it_began() {
    let mut listeners = Listeners::default();
    listeners.opened(tcp("::", 80), Timestamp(1));
    listeners.closed(tcp("::", 80), Timestamp(11));
    listeners.scanned(
        Timestamp(10),
        found(&[("::", 80, 1)]),
        Reach::Whole { first: false },
    );
    assert_eq!(ports(&listeners), []);
    listeners.scanned(
        Timestamp(12),
        found(&[("::", 80, 1)]),
        Reach::Whole { first: false },
    );
    assert_eq!(ports(&listeners), [(80, 1)], "a later scan is believed");
}

#[test]
fn an_event_from_before_the_scan_is_already_in_it() {
    let mut listeners = Listeners::default();
    listeners.scanned(
        Timestamp(10),
        found(&[("::", 80, 1)]),
        Reach::Whole { first: false },
    );
    listeners.opened(tcp("::", 80), Timestamp(9));
    listeners.closed(tcp("::", 80), Timestamp(9));
    assert_eq!(ports(&listeners), [(80, 1)]);
}

#[test]
fn a_scan_that_cannot_tell_of_everything_only_adds() {
    let mut listeners = Listeners::default();
    listeners.opened(tcp("::", 80), Timestamp(1));
    listeners.scanned(Timestamp(10), found(&[("::", 81, 1)]), Reach::Part);
    assert_eq!(ports(&listeners), [(80, 1), (81, 1)]);
    let (views, _) = listeners.views(false, DYNAMIC, &BTreeMap::new());
    assert!(
        views
            .iter()
            .all(|view| view.scans == 0 && !view.pre_existing)
    );
    listeners.closed(tcp("::", 80), Timestamp(9));
    assert_eq!(
        ports(&listeners),
        [(81, 1)],
        "an event from before it still counts"
    );
}

#[test]
fn a_lost_close_heals() {
    let mut listeners = Listeners::default();
    listeners.opened(tcp("0.0.0.0", 80), Timestamp(1));
    listeners.scanned(Timestamp(10), found(&[]), Reach::Whole { first: false });
    assert_eq!(ports(&listeners), []);
}

#[test]
fn addresses_of_one_port_are_one_view_with_the_widest_scope() {
    let mut listeners = Listeners::default();
    listeners.opened(tcp("127.0.0.1", 80), Timestamp(1));
    listeners.opened(tcp("::", 80), Timestamp(2));
    listeners.opened(tcp("::1", 81), Timestamp(3));
    let (views, overflow) =
        listeners.views(false, DYNAMIC, &BTreeMap::from([((Transport::Tcp, 80), 7)]));
    assert_eq!(views.len(), 2);
    assert_eq!((views[0].scope, views[0].connections), (BindScope::Any, 7));
    assert_eq!(views[1].scope, BindScope::Loopback);
    assert!(overflow.is_empty());
}

#[test]
fn a_flood_of_ports_is_bounded_and_counted() {
    let mut listeners = Listeners::default();
    for port in 1..=30_000 {
        listeners.opened(tcp("0.0.0.0", port), Timestamp(u64::from(port)));
    }
    assert_eq!(listeners.tables[&Transport::Tcp].rows.len(), ROWS_MAX);
    let (views, overflow) = listeners.views(false, DYNAMIC, &BTreeMap::new());
    assert_eq!(views.len(), PORTS_PER_CONTAINER_MAX);
    let expected = 30_000 - PORTS_PER_CONTAINER_MAX as u64;
    assert_eq!(overflow, BTreeMap::from([(Transport::Tcp, expected)]));
    for port in 1..=30_000 {
        listeners.closed(tcp("0.0.0.0", port), Timestamp(40_000));
    }
    assert_eq!(
        listeners.views(false, DYNAMIC, &BTreeMap::new()),
        (vec![], BTreeMap::new())
    );
    assert!(listeners.tables[&Transport::Tcp].closed.len() <= ROWS_MAX);
}

#[test]
fn a_flood_of_udp_ports_pushes_out_no_tcp_listener() {
    let mut listeners = Listeners::default();
    for port in 1..=30_000 {
        listeners.opened((Transport::Udp, port, ip("::")), Timestamp(1));
    }
    for port in 1..=10 {
        listeners.opened(tcp("::", 50_000 + port), Timestamp(2));
    }
    let (views, overflow) = listeners.views(false, DYNAMIC, &BTreeMap::new());
    assert_eq!(views.len(), PORTS_PER_CONTAINER_MAX);
    let tcp = views.iter().filter(|view| view.transport == Transport::Tcp);
    assert_eq!(tcp.count(), 10);
    let expected = 30_000 + 10 - PORTS_PER_CONTAINER_MAX as u64;
    assert_eq!(overflow, BTreeMap::from([(Transport::Udp, expected)]));
}

/// T6: neither in the table nor in what is shown of it.
#[test]
fn a_port_is_not_hidden_behind_those_on_loopback_nor_behind_declared_ones() {
    let many = 1..=u16::try_from(2 * ROWS_MAX).unwrap();
    let declared = many.clone().map(|port| port_entry(port, Transport::Tcp));
    let mut app = container("app", ContainerKind::Regular, &[]);
    app.ports = declared.collect();
    let pod = Arc::new(pod(vec![app]));
    for address in ["127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0"] {
        for scanned in [false, true] {
            let mut listeners = Listeners::default();
            listeners.belong_to((address == "0.0.0.0").then_some(&pod));
            for port in many.clone() {
                listeners.opened(tcp(address, port), Timestamp(1));
            }
            listeners.opened(tcp("0.0.0.0", 9_999), Timestamp(2));
            if scanned {
                let rows = many.clone().map(|port| (address, port, 1));
                let rows: Vec<_> = rows.chain([("0.0.0.0", 9_999, 1)]).collect();
                listeners.scanned(Timestamp(3), found(&rows), Reach::Whole { first: false });
            }
            let (views, overflow) = listeners.views(false, DYNAMIC, &BTreeMap::new());
            let shown = views.iter().any(|view| view.port == 9_999);
            assert!(shown, "behind {address}, scanned: {scanned}");
            assert_eq!(views.len(), PORTS_PER_CONTAINER_MAX);
            assert!(views.is_sorted_by_key(|view| view.port));
            let all = u64::from(*many.end()) + 1 - PORTS_PER_CONTAINER_MAX as u64;
            assert_eq!(overflow, BTreeMap::from([(Transport::Tcp, all)]));
        }
    }
}

#[test]
fn the_same_port_of_two_transports_is_two_ports() {
    let mut listeners = Listeners::default();
    listeners.opened(tcp("::", 53), Timestamp(1));
    listeners.opened((Transport::Udp, 53, ip("::")), Timestamp(2));
    let accepted = BTreeMap::from([((Transport::Udp, 53), 7)]);
    let (views, _) = listeners.views(false, DYNAMIC, &accepted);
    let seen: Vec<_> = views
        .iter()
        .map(|view| (view.transport, view.port, view.connections))
        .collect();
    assert_eq!(seen, [(Transport::Tcp, 53, 0), (Transport::Udp, 53, 7)]);
    listeners.closed((Transport::Udp, 53, ip("::")), Timestamp(3));
    assert!(
        listeners.contains(tcp("::", 53)) && !listeners.contains((Transport::Udp, 53, ip("::")))
    );
}

#[test]
fn trap_9_a_udp_socket_of_the_dynamic_range_must_have_been_asked() {
    let udp = |port| (Transport::Udp, port, ip("0.0.0.0"));
    let mut listeners = Listeners::default();
    for port in [53, 32_767, 32_768, 40_000, 60_999, 61_000] {
        listeners.opened(udp(port), Timestamp(1));
    }
    let seen = |accepted: &[u16]| -> Vec<u16> {
        let accepted = accepted
            .iter()
            .map(|port| ((Transport::Udp, *port), 1))
            .collect();
        let (views, overflow) = listeners.views(false, DYNAMIC, &accepted);
        assert!(overflow.is_empty());
        views.iter().map(|view| view.port).collect()
    };
    assert_eq!(seen(&[]), [53, 32_767, 61_000]);
    assert_eq!(seen(&[40_000]), [53, 32_767, 40_000, 61_000]);
}

#[test]
fn a_udp_server_has_a_port_that_the_kernel_does_not_give_out() {
    let dynamic = (32_768, 60_999);
    let any = ip("0.0.0.0");
    let mut listeners = Listeners::default();
    for (transport, port, serves) in [
        (Transport::Tcp, 53, false),
        (Transport::Udp, 40_000, false),
        (Transport::Udp, 53, true),
    ] {
        listeners.opened((transport, port, any), Timestamp(1));
        assert_eq!(listeners.has_udp_server(dynamic), serves, "{port}");
    }
    listeners.closed((Transport::Udp, 53, any), Timestamp(2));
    assert!(!listeners.has_udp_server(dynamic));
}
