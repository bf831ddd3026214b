//! Listening TCP sockets of one container: events make the table early, scans make it right.
//!
//! A scan of the node replaces the table, but for rows that an event changed after the scan began: the scan may have passed
//! them before the change. A scan that cannot tell of everything only adds. Rows beyond [`ROWS_MAX`] are counted, not stored.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::observation::{HOLDERS_MAX, Holder};
use crate::settings::PORTS_PER_CONTAINER_MAX;
use crate::snapshot::{BindScope, ListenerView};
use crate::time::Timestamp;

/// Address and port pairs kept for one container: each of its ports may be bound on several addresses.
pub const ROWS_MAX: usize = 4 * PORTS_PER_CONTAINER_MAX;

/// What names a row: port first, so that rows of one port are neighbours.
type Key = (u16, IpAddr);

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
}

/// One address and port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    sockets: u64,
    first_seen: Timestamp,
    /// When an event last opened or closed a socket of this row.
    last_event: Option<Timestamp>,
    scans: u32,
    pre_existing: bool,
    scanned: Option<Scanned>,
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
    rows: BTreeMap<Key, Row>,
    /// Rows that an event closed, until a scan that began later has replaced the table. Bounded by [`ROWS_MAX`].
    closed: BTreeMap<Key, Timestamp>,
    /// Sockets of rows that found no place.
    overflow: u64,
    /// When the last scan began: events from before it are in it.
    last_scan: Option<Timestamp>,
}

impl Listeners {
    /// A socket entered LISTEN.
    pub fn opened(&mut self, address: IpAddr, port: u16, at: Timestamp) {
        if self.last_scan.is_some_and(|scan| at < scan) {
            return;
        }
        let key = (port, address);
        self.closed.remove(&key);
        if let Some(row) = self.rows.get_mut(&key) {
            row.sockets += 1;
            row.last_event = Some(at);
        } else if self.rows.len() < ROWS_MAX {
            let row = Row {
                sockets: 1,
                first_seen: at,
                last_event: Some(at),
                scans: 0,
                pre_existing: false,
                scanned: None,
            };
            self.rows.insert(key, row);
        } else {
            self.overflow += 1;
        }
    }

    /// A socket left LISTEN.
    pub fn closed(&mut self, address: IpAddr, port: u16, at: Timestamp) {
        if self.last_scan.is_some_and(|scan| at < scan) {
            return;
        }
        let key = (port, address);
        let Some(row) = self.rows.get_mut(&key) else {
            self.overflow = self.overflow.saturating_sub(1);
            return;
        };
        row.sockets = row.sockets.saturating_sub(1);
        row.last_event = Some(at);
        if row.sockets == 0 {
            self.rows.remove(&key);
            if self.closed.len() < ROWS_MAX {
                self.closed.insert(key, at);
            }
        }
    }

    /// A scan that began at `at` found these.
    pub fn scanned(&mut self, at: Timestamp, found: BTreeMap<Key, Scanned>, reach: Reach) {
        let (whole, first) = match reach {
            Reach::Whole { first } => (true, first),
            Reach::Part => (false, false),
        };
        if whole {
            self.rows.retain(|key, row| {
                found.contains_key(key) || row.last_event.is_some_and(|event| event >= at)
            });
            self.overflow = 0;
            self.last_scan = Some(at);
        }
        for (key, scanned) in found {
            if self.closed.get(&key).is_some_and(|closed| *closed >= at) {
                continue;
            }
            if let Some(row) = self.rows.get_mut(&key) {
                if whole && row.last_event.is_none_or(|event| event < at) {
                    row.sockets = scanned.sockets;
                }
                row.scans += u32::from(whole);
                row.scanned = Some(bounded(scanned));
            } else if self.rows.len() < ROWS_MAX {
                let row = Row {
                    sockets: scanned.sockets,
                    first_seen: at,
                    last_event: None,
                    scans: u32::from(whole),
                    pre_existing: first,
                    scanned: Some(bounded(scanned)),
                };
                self.rows.insert(key, row);
            } else {
                self.overflow += scanned.sockets;
            }
        }
        if whole {
            self.closed.retain(|_, closed| *closed >= at);
        }
    }

    /// Whether an event or scan knows this address and port.
    #[must_use]
    pub fn contains(&self, address: IpAddr, port: u16) -> bool {
        self.rows.contains_key(&(port, address))
    }

    /// Forgets everything: the container is gone.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// One view a port, at most [`PORTS_PER_CONTAINER_MAX`], and how many sockets are not among them.
    #[must_use]
    pub fn views(
        &self,
        host_network: bool,
        accepted: &BTreeMap<u16, u64>,
    ) -> (Vec<ListenerView>, u64) {
        let mut views: Vec<ListenerView> = Vec::new();
        let mut overflow = self.overflow;
        for ((port, address), row) in &self.rows {
            if let Some(view) = views.last_mut().filter(|view| view.port == *port) {
                join(view, *address, row, host_network);
            } else if views.len() < PORTS_PER_CONTAINER_MAX {
                let mut view = ListenerView {
                    port: *port,
                    scope: BindScope::Loopback,
                    addresses: Vec::new(),
                    sockets: 0,
                    first_seen: row.first_seen,
                    scans: 0,
                    pre_existing: false,
                    holders: Vec::new(),
                    held_by_owner: None,
                    host_netns: None,
                    connections: accepted.get(port).copied().unwrap_or(0),
                };
                join(&mut view, *address, row, host_network);
                views.push(view);
            } else {
                overflow += row.sockets;
            }
        }
        (views, overflow)
    }
}

fn bounded(mut scanned: Scanned) -> Scanned {
    scanned.holders.truncate(HOLDERS_MAX);
    scanned
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
        view.host_netns = Some(view.host_netns.unwrap_or(false) || scanned.host_netns);
    }
}

/// How far away an address can be reached.
fn scope_of(address: IpAddr, host_network: bool) -> BindScope {
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

    use super::{Listeners, ROWS_MAX, Reach, Scanned};
    use crate::settings::PORTS_PER_CONTAINER_MAX;
    use crate::snapshot::BindScope;
    use crate::time::Timestamp;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn ports(listeners: &Listeners) -> Vec<(u16, u64)> {
        listeners
            .views(false, &BTreeMap::new())
            .0
            .iter()
            .map(|view| (view.port, view.sockets))
            .collect()
    }

    fn found(rows: &[(&str, u16, u64)]) -> BTreeMap<(u16, IpAddr), Scanned> {
        rows.iter()
            .map(|(address, port, sockets)| {
                (
                    (*port, ip(address)),
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
        listeners.opened(ip("0.0.0.0"), 80, Timestamp(1));
        listeners.opened(ip("0.0.0.0"), 80, Timestamp(2));
        listeners.closed(ip("0.0.0.0"), 80, Timestamp(3));
        assert_eq!(
            ports(&listeners),
            [(80, 1)],
            "one of two SO_REUSEPORT sockets is left"
        );
        listeners.closed(ip("0.0.0.0"), 80, Timestamp(4));
        assert_eq!(ports(&listeners), []);
    }

    #[test]
    fn a_scan_replaces_what_it_could_see() {
        let mut listeners = Listeners::default();
        listeners.opened(ip("0.0.0.0"), 80, Timestamp(1));
        listeners.opened(ip("0.0.0.0"), 81, Timestamp(20));
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
        let (views, _) = listeners.views(false, &BTreeMap::new());
        assert!(!views[0].pre_existing && views[1].pre_existing);
    }

    #[test]
    fn a_scan_does_not_revive_what_closed_after_it_began() {
        let mut listeners = Listeners::default();
        listeners.opened(ip("::"), 80, Timestamp(1));
        listeners.closed(ip("::"), 80, Timestamp(11));
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
        listeners.opened(ip("::"), 80, Timestamp(9));
        listeners.closed(ip("::"), 80, Timestamp(9));
        assert_eq!(ports(&listeners), [(80, 1)]);
    }

    #[test]
    fn a_scan_that_cannot_tell_of_everything_only_adds() {
        let mut listeners = Listeners::default();
        listeners.opened(ip("::"), 80, Timestamp(1));
        listeners.scanned(Timestamp(10), found(&[("::", 81, 1)]), Reach::Part);
        assert_eq!(ports(&listeners), [(80, 1), (81, 1)]);
        let (views, _) = listeners.views(false, &BTreeMap::new());
        assert!(
            views
                .iter()
                .all(|view| view.scans == 0 && !view.pre_existing)
        );
        listeners.closed(ip("::"), 80, Timestamp(9));
        assert_eq!(
            ports(&listeners),
            [(81, 1)],
            "an event from before it still counts"
        );
    }

    #[test]
    fn a_lost_close_heals() {
        let mut listeners = Listeners::default();
        listeners.opened(ip("0.0.0.0"), 80, Timestamp(1));
        listeners.scanned(Timestamp(10), found(&[]), Reach::Whole { first: false });
        assert_eq!(ports(&listeners), []);
    }

    #[test]
    fn addresses_of_one_port_are_one_view_with_the_widest_scope() {
        let mut listeners = Listeners::default();
        listeners.opened(ip("127.0.0.1"), 80, Timestamp(1));
        listeners.opened(ip("::"), 80, Timestamp(2));
        listeners.opened(ip("::1"), 81, Timestamp(3));
        let (views, overflow) = listeners.views(false, &BTreeMap::from([(80, 7)]));
        assert_eq!(views.len(), 2);
        assert_eq!((views[0].scope, views[0].connections), (BindScope::Any, 7));
        assert_eq!(views[1].scope, BindScope::Loopback);
        assert_eq!(overflow, 0);
    }

    #[test]
    fn a_flood_of_ports_is_bounded_and_counted() {
        let mut listeners = Listeners::default();
        for port in 1..=30_000 {
            listeners.opened(ip("0.0.0.0"), port, Timestamp(u64::from(port)));
        }
        assert_eq!(listeners.rows.len(), ROWS_MAX);
        let (views, overflow) = listeners.views(false, &BTreeMap::new());
        assert_eq!(views.len(), PORTS_PER_CONTAINER_MAX);
        assert_eq!(overflow, 30_000 - PORTS_PER_CONTAINER_MAX as u64);
        for port in 1..=30_000 {
            listeners.closed(ip("0.0.0.0"), port, Timestamp(40_000));
        }
        assert_eq!(listeners.views(false, &BTreeMap::new()), (vec![], 0));
        assert!(listeners.closed.len() <= ROWS_MAX);
    }
}
