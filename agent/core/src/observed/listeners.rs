//! Listening TCP sockets and UDP servers of one container: events make the table early, scans make it right.
//!
//! A scan of the node replaces the table, but for rows that an event changed after the scan began: the scan may have passed
//! them before the change. A scan that cannot tell of everything only adds. Rows beyond [`ROWS_MAX`] are counted, not stored.
//! A UDP socket without a peer looks the same whether it serves or was only given a port by the kernel. Outside the dynamic
//! range of ports, a program chose the port: a server. Inside it, an event must have told that the program chose it, and
//! it must have received from a peer that it had not sent to first (trap 9).
//! Each transport has rows of its own, so that a flood of UDP ports pushes out no TCP listener.

mod table;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use crate::declared::Transport;
use crate::observation::{HOLDERS_MAX, Holder};
use crate::settings::PORTS_PER_CONTAINER_MAX;
use crate::snapshot::{BindScope, ListenerView};
use crate::time::Timestamp;
use table::{Row, Table};

/// Address and port pairs kept for one container and transport: each of its ports may be bound on several addresses.
pub const ROWS_MAX: usize = 4 * PORTS_PER_CONTAINER_MAX;

/// What names a row.
pub type Key = (Transport, u16, IpAddr);

/// What a scan found out about one address and port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// Listening sockets.
    pub sockets: u64,
    /// Processes that hold one, by pid.
    pub holders: Vec<Holder>,
    /// Whether one of them is in the owner's container.
    pub held_by_owner: bool,
    /// In the network namespace of process 1.
    pub host_netns: bool,
    /// Whether its sockets refuse IPv4; `None`: IPv4 sockets, or not known.
    pub v6only: Option<bool>,
}

/// How much of a container's sockets a scan can tell of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// All: what it did not find is gone. Such scans count for [`crate::settings::Grace::Scans`].
    Whole {
        /// No scan came before it, so what it finds is older than the agent.
        first: bool,
    },
    /// Some: its processes alone were looked at, and sockets may be held elsewhere, or some could not be read.
    Part,
}

/// The listening sockets of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listeners {
    tables: BTreeMap<Transport, Table>,
}

impl Listeners {
    /// A socket entered LISTEN, or a UDP socket was bound to a port.
    pub fn opened(&mut self, (transport, port, address): Key, at: Timestamp) {
        let table = self.tables.entry(transport).or_default();
        table.opened(address, port, at);
    }

    /// A socket left LISTEN, or a UDP socket was closed or connected.
    pub fn closed(&mut self, (transport, port, address): Key, at: Timestamp) {
        let table = self.tables.entry(transport).or_default();
        table.closed(address, port, at);
    }

    /// A scan that began at `at` found these.
    pub fn scanned(&mut self, at: Timestamp, found: BTreeMap<Key, Scanned>, reach: Reach) {
        let mut sorted =
            BTreeMap::from([Transport::Tcp, Transport::Udp].map(|of| (of, BTreeMap::new())));
        for ((transport, port, address), scanned) in found {
            let rows = sorted.entry(transport).or_default();
            rows.insert((port, address), scanned);
        }
        for (transport, rows) in sorted {
            self.tables
                .entry(transport)
                .or_default()
                .scanned(at, rows, reach);
        }
    }

    /// Whether an event or scan knows this address and port.
    #[must_use]
    pub fn contains(&self, (transport, port, address): Key) -> bool {
        let table = self.tables.get(&transport);
        table.is_some_and(|table| table.contains(address, port))
    }

    /// Forgets everything: the container is gone.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// One view a transport and port, at most [`PORTS_PER_CONTAINER_MAX`], and how many sockets are not among them by
    /// transport, zeros left out. TCP takes its places first: UDP cannot push it out.
    #[must_use]
    pub fn views(
        &self,
        host_network: bool,
        dynamic: (u16, u16),
        accepted: &BTreeMap<(Transport, u16), u64>,
    ) -> (Vec<ListenerView>, BTreeMap<Transport, u64>) {
        let mut views: Vec<ListenerView> = Vec::new();
        let mut overflows = BTreeMap::new();
        for (transport, table) in &self.tables {
            let mut overflow = table.overflow;
            for ((port, address), row) in &table.rows {
                let connections = accepted.get(&(*transport, *port)).copied();
                if is_dynamic_udp(*transport, *port, dynamic) && connections.is_none() {
                    continue;
                }
                let same =
                    |view: &&mut ListenerView| view.transport == *transport && view.port == *port;
                if let Some(view) = views.last_mut().filter(same) {
                    join(view, *address, row, host_network);
                } else if views.len() < PORTS_PER_CONTAINER_MAX {
                    let mut view = empty(*transport, *port, row, connections.unwrap_or(0));
                    join(&mut view, *address, row, host_network);
                    views.push(view);
                } else {
                    overflow += row.sockets;
                }
            }
            if overflow > 0 {
                overflows.insert(*transport, overflow);
            }
        }
        (views, overflows)
    }
}

/// Whether a scan that finds the socket says nothing about a server.
#[must_use]
pub fn is_dynamic_udp(transport: Transport, port: u16, (first, last): (u16, u16)) -> bool {
    transport == Transport::Udp && first <= port && port <= last
}

/// A view to which the addresses of its port are still to be added.
fn empty(transport: Transport, port: u16, row: &Row, connections: u64) -> ListenerView {
    ListenerView {
        transport,
        port,
        scope: BindScope::Loopback,
        addresses: Vec::new(),
        sockets: 0,
        first_seen: row.first_seen,
        scans: 0,
        pre_existing: false,
        holders: Vec::new(),
        held_by_owner: None,
        host_netns: None,
        dual_stack: None,
        connections,
    }
}

/// Adds one address of a port to the view of the port.
fn join(view: &mut ListenerView, address: IpAddr, row: &Row, host_network: bool) {
    view.addresses.push(address);
    view.scope = view.scope.max(scope_of(address, host_network));
    view.sockets += row.sockets;
    view.first_seen = view.first_seen.min(row.first_seen);
    view.scans = view.scans.max(row.scans);
    view.pre_existing |= row.pre_existing;
    if let Some(scanned) = &row.scanned {
        for holder in &scanned.holders {
            if view.holders.len() < HOLDERS_MAX
                && view.holders.iter().all(|known| known.pid != holder.pid)
            {
                view.holders.push(holder.clone());
            }
        }
        view.holders.sort_by_key(|holder| holder.pid);
        view.held_by_owner = Some(view.held_by_owner.unwrap_or(false) || scanned.held_by_owner);
        if address == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
            && let Some(v6only) = scanned.v6only
        {
            view.dual_stack = Some(!v6only);
        }
        view.host_netns = Some(view.host_netns.unwrap_or(false) || scanned.host_netns);
    }
}

/// How far away an address can be reached. `::ffff:127.0.0.1` is a loopback address too (trap 10).
fn scope_of(address: IpAddr, host_network: bool) -> BindScope {
    let address = address.to_canonical();
    if address.is_loopback() {
        BindScope::Loopback
    } else if address.is_unspecified() {
        BindScope::Any
    } else if host_network {
        BindScope::Node
    } else {
        BindScope::Pod
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::IpAddr;

    use super::{Key, Listeners, ROWS_MAX, Reach, Scanned};
    use crate::declared::Transport;
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
            listeners.contains(tcp("::", 53))
                && !listeners.contains((Transport::Udp, 53, ip("::")))
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
}
