//! Rows of one container and transport: the same rules for all transports.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{ROWS_MAX, Reach, Scanned, Weight};
use crate::observation::HOLDERS_MAX;
use crate::time::Timestamp;

/// What names a row: port first, so that rows of one port are neighbours.
type Key = (u16, IpAddr);

/// One address and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) sockets: u64,
    pub(super) first_seen: Timestamp,
    /// When an event last opened or closed a socket of this row.
    last_event: Option<Timestamp>,
    pub(super) scans: u32,
    pub(super) pre_existing: bool,
    pub(super) scanned: Option<Scanned>,
}

/// The sockets of one container and transport.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) rows: BTreeMap<Key, Row>,
    /// Rows that an event closed, until a scan that began later has replaced the table. Bounded by [`ROWS_MAX`].
    pub(super) closed: BTreeMap<Key, Timestamp>,
    /// Sockets of rows that found no place.
    pub(super) overflow: u64,
    /// When the last scan began: events from before it are in it.
    last_scan: Option<Timestamp>,
    /// What the row weighs that weighs least, where it is known: in a flood most of what comes has no chance.
    lightest: Option<Weight>,
}

impl Table {
    /// A socket entered LISTEN.
    pub(super) fn opened(&mut self, key: Key, at: Timestamp, weight: &dyn Fn(Key) -> Weight) {
        if self.last_scan.is_some_and(|scan| at < scan) {
            return;
        }
        self.closed.remove(&key);
        if let Some(row) = self.rows.get_mut(&key) {
            row.sockets += 1;
            row.last_event = Some(at);
        } else {
            let row = Row {
                sockets: 1,
                first_seen: at,
                last_event: Some(at),
                scans: 0,
                pre_existing: false,
                scanned: None,
            };
            self.add(key, row, weight);
        }
    }

    /// Adds a row, if need be in the place of one that weighs less.
    fn add(&mut self, key: Key, row: Row, weight: &dyn Fn(Key) -> Weight) {
        if self.rows.len() >= ROWS_MAX {
            let own = weight(key);
            let no_chance = |lightest| own <= lightest;
            if own == Weight::Local || self.lightest.is_some_and(no_chance) {
                self.overflow += row.sockets;
                return;
            }
            let weighed = self.rows.keys().map(|key| (weight(*key), *key));
            if let Some((lightest, least)) = weighed.min() {
                self.lightest = Some(lightest);
                if own <= lightest {
                    self.overflow += row.sockets;
                    return;
                }
                let gone = self.rows.remove(&least).map_or(0, |row| row.sockets);
                self.overflow += gone;
            }
        }
        self.lightest = None;
        self.rows.insert(key, row);
    }

    /// What rows weigh is another thing from now on.
    pub(super) fn weigh_anew(&mut self) {
        self.lightest = None;
    }

    /// A socket left LISTEN.
    pub(super) fn closed(&mut self, address: IpAddr, port: u16, at: Timestamp) {
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
            self.lightest = None;
            if self.closed.len() < ROWS_MAX {
                self.closed.insert(key, at);
            }
        }
    }

    /// A scan that began at `at` found these.
    pub(super) fn scanned(
        &mut self,
        at: Timestamp,
        found: BTreeMap<Key, Scanned>,
        reach: Reach,
        weight: &dyn Fn(Key) -> Weight,
    ) {
        let (whole, first) = match reach {
            Reach::Whole { first } => (true, first),
            Reach::Part => (false, false),
        };
        if whole {
            self.rows.retain(|key, row| {
                found.contains_key(key) || row.last_event.is_some_and(|event| event >= at)
            });
            self.overflow = 0;
            self.lightest = None;
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
            } else {
                let row = Row {
                    sockets: scanned.sockets,
                    first_seen: at,
                    last_event: None,
                    scans: u32::from(whole),
                    pre_existing: first,
                    scanned: Some(bounded(scanned)),
                };
                self.add(key, row, weight);
            }
        }
        if whole {
            self.closed.retain(|_, closed| *closed >= at);
        }
    }

    /// Whether an event or scan knows this address and port.
    pub(super) fn contains(&self, address: IpAddr, port: u16) -> bool {
        self.rows.contains_key(&(port, address))
    }
}

fn bounded(mut scanned: Scanned) -> Scanned {
    scanned.holders.truncate(HOLDERS_MAX);
    scanned
}
