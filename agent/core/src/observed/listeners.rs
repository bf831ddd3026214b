//! Listening TCP sockets and UDP servers of one container: events make the table early, scans make it right.
//!
//! A scan of the node replaces the table, but for rows that an event changed after the scan began: the scan may have passed
//! them before the change. A scan that cannot tell of everything only adds. Rows beyond [`ROWS_MAX`] are counted, not stored.
//! A UDP socket without a peer looks the same whether it serves or was only given a port by the kernel. Outside the dynamic
//! range of ports, a program chose the port: a server. Inside it, an event must have told that the program chose it, and
//! it must have received from a peer that it had not sent to first (trap 9).
//! Each transport has rows of its own, so that a flood of UDP ports pushes out no TCP listener.
//!
//! Where there is no room for all, what may be wrong stays: a pod hides no port behind others that are on loopback, or declared.

mod table;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use crate::declared::{DeclaredPod, DeclaredPort, Transport};
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
    /// Whose they are, as far as it was known when one was last told.
    pod: Option<Arc<DeclaredPod>>,
}

/// How much it matters that an address and port is remembered, most last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    /// On loopback.
    Local,
    /// Others can reach it, and a container of the pod says that it is there.
    Declared,
    /// Others can reach it.
    Exposed,
}

/// What to make of an address and port, given whose they are.
fn weight(pod: Option<&DeclaredPod>, (transport, port, address): Key) -> Weight {
    let declares = |pod: &DeclaredPod| {
        let mut containers = pod.containers.iter();
        containers.any(|container| {
            let probed = transport == Transport::Tcp && container.probe_ports.contains(&port);
            let listed = |of: &DeclaredPort| of.transport == transport && of.port == port;
            probed || container.ports.iter().any(listed)
        })
    };
    if address.to_canonical().is_loopback() {
        Weight::Local
    } else if pod.is_some_and(declares) {
        Weight::Declared
    } else {
        Weight::Exposed
    }
}

impl Listeners {
    /// Whose they are.
    pub fn belong_to(&mut self, pod: Option<&Arc<DeclaredPod>>) {
        if self.pod.as_ref().map(Arc::as_ptr) != pod.map(Arc::as_ptr) {
            self.pod = pod.cloned();
            self.tables.values_mut().for_each(Table::weigh_anew);
        }
    }

    /// A socket entered LISTEN, or a UDP socket was bound to a port.
    pub fn opened(&mut self, (transport, port, address): Key, at: Timestamp) {
        let table = self.tables.entry(transport).or_default();
        let pod = self.pod.as_deref();
        let weight = |(port, address)| weight(pod, (transport, port, address));
        table.opened((port, address), at, &weight);
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
        let pod = self.pod.as_deref();
        for (transport, rows) in sorted {
            let weight = |(port, address)| weight(pod, (transport, port, address));
            let table = self.tables.entry(transport).or_default();
            table.scanned(at, rows, reach, &weight);
        }
    }

    /// Whether an event or scan knows this address and port.
    #[must_use]
    pub fn contains(&self, (transport, port, address): Key) -> bool {
        let table = self.tables.get(&transport);
        table.is_some_and(|table| table.contains(address, port))
    }

    /// Whether a UDP socket has a port that a program chose, as far as the port tells.
    #[must_use]
    pub fn has_udp_server(&self, dynamic: (u16, u16)) -> bool {
        let udp = self.tables.get(&Transport::Udp);
        let mut ports = udp.into_iter().flat_map(|table| table.rows.keys());
        ports.any(|(port, _)| !is_dynamic_udp(Transport::Udp, *port, dynamic))
    }

    /// Forgets everything: the container is gone.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// One view a transport and port, at most [`PORTS_PER_CONTAINER_MAX`], and how many sockets are not among them by
    /// transport, zeros left out. What others can reach and nobody declares takes its places first, and of the same kind TCP,
    /// which UDP cannot push out.
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
            if table.overflow > 0 {
                overflows.insert(*transport, table.overflow);
            }
            for ((port, address), row) in &table.rows {
                let connections = accepted.get(&(*transport, *port)).copied();
                if is_dynamic_udp(*transport, *port, dynamic) && connections.is_none() {
                    continue;
                }
                let same =
                    |view: &&mut ListenerView| view.transport == *transport && view.port == *port;
                if let Some(view) = views.last_mut().filter(same) {
                    join(view, *address, row, host_network);
                } else {
                    let mut view = empty(*transport, *port, row, connections.unwrap_or(0));
                    join(&mut view, *address, row, host_network);
                    views.push(view);
                }
            }
        }
        for left_out in self.beyond(&mut views) {
            *overflows.entry(left_out.transport).or_default() += left_out.sockets;
        }
        (views, overflows)
    }

    /// Takes out what is beyond [`PORTS_PER_CONTAINER_MAX`].
    fn beyond(&self, views: &mut Vec<ListenerView>) -> Vec<ListenerView> {
        if views.len() <= PORTS_PER_CONTAINER_MAX {
            return Vec::new();
        }
        let pod = self.pod.as_deref();
        let place = |view: &ListenerView| (view.transport, view.port);
        views.sort_by_cached_key(|view| {
            let keys = view.addresses.iter();
            let weights = keys.map(|address| weight(pod, (view.transport, view.port, *address)));
            (std::cmp::Reverse(weights.max()), place(view))
        });
        let left_out = views.split_off(PORTS_PER_CONTAINER_MAX);
        views.sort_by_key(place);
        left_out
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
mod tests;
