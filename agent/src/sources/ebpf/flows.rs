//! Reads the flow tables and keeps what could not be handed on.
//!
//! Programs write to the entries of the current epoch. A reading takes (and deletes) those of epochs before, which nobody
//! writes any more since the epoch was advanced a whole interval ago, and then advances it. So no count is lost, a reading
//! costs as much as there were flows since the last, and entries do not outlive their traffic.

use std::collections::BTreeMap;

use aya::maps::{Array, HashMap, MapData, MapError};
use plumbline_core::declared::Transport;
use plumbline_core::id::CgroupId;
use plumbline_core::observation::{FlowCounts, FlowRow, Role};
use plumbline_ebpf::flow::{self, FlowKey, ROLE_CLIENT, ROLE_SERVER, Side};
use plumbline_ebpf::names;

use super::keeper::Keeper;

/// Flows that wait to be handed on. Full (the loop is stuck): further ones go to the overflow row of their owner.
const PENDING_MAX: usize = 2 * flow::FLOWS_MAX as usize;

/// The reader. All maps are read and written without any rights.
pub(super) struct Flows {
    flows: HashMap<MapData, FlowKey, flow::FlowCounts>,
    overflow: HashMap<MapData, FlowKey, flow::FlowCounts>,
    epoch: Array<MapData, u32>,
    current: u32,
    capacity: u64,
    entries: u64,
    admitted: BTreeMap<FlowKey, flow::FlowCounts>,
    pending: Pending,
    delivered: u64,
}

impl Flows {
    /// Takes the maps. The network program must be loaded.
    pub(super) fn new(keeper: &mut Keeper) -> anyhow::Result<Self> {
        Ok(Self {
            capacity: u64::from(keeper.flows_max()),
            flows: keeper.map(names::FLOWS)?,
            overflow: keeper.map(names::OVERFLOW)?,
            epoch: keeper.map(names::EPOCH)?,
            current: 0,
            entries: 0,
            admitted: BTreeMap::new(),
            pending: Pending::default(),
            delivered: 0,
        })
    }

    /// Makes the overflow entries of a container, before its program is attached.
    ///
    /// # Errors
    ///
    /// When there are too many containers.
    pub(super) fn admit(&mut self, owner: CgroupId) -> Result<(), MapError> {
        for role in [ROLE_CLIENT, ROLE_SERVER] {
            let key = FlowKey::overflow(owner.0, role);
            if !self.admitted.contains_key(&key) {
                self.overflow.insert(key, flow::FlowCounts::default(), 0)?;
                self.admitted.insert(key, flow::FlowCounts::default());
            }
        }
        Ok(())
    }

    /// Forgets a container, after its program is detached; what its entries still hold is kept.
    pub(super) fn retire(&mut self, owner: CgroupId) -> Result<(), MapError> {
        for role in [ROLE_CLIENT, ROLE_SERVER] {
            let key = FlowKey::overflow(owner.0, role);
            if self.admitted.contains_key(&key) {
                self.take_overflow(key)?;
                self.admitted.remove(&key);
                self.overflow.remove(&key)?;
            }
        }
        Ok(())
    }

    /// Takes everything of past epochs and begins a new one.
    pub(super) fn read(&mut self) -> Result<(), MapError> {
        let keys: Vec<FlowKey> = self.flows.keys().collect::<Result<_, _>>()?;
        self.entries = keys.len() as u64;
        for key in keys {
            if key.epoch != self.current {
                let counts = self.flows.get(&key, 0)?;
                self.flows.remove(&key)?;
                self.pending.add(key, &counts);
            }
        }
        self.current = self.current.wrapping_add(1);
        self.epoch.set(0, self.current, 0)
    }

    /// Takes what was counted in overflow entries. Worth calling only after the counter of full tables has moved.
    pub(super) fn read_overflow(&mut self) -> Result<(), MapError> {
        let keys: Vec<FlowKey> = self.admitted.keys().copied().collect();
        keys.into_iter().try_for_each(|key| self.take_overflow(key))
    }

    fn take_overflow(&mut self, key: FlowKey) -> Result<(), MapError> {
        let counts = self.overflow.get(&key, 0)?;
        if let Some(before) = self.admitted.insert(key, counts) {
            self.pending.add(key, &since(&counts, &before));
        }
        Ok(())
    }

    /// Whose flows are kept apart and never told.
    pub(super) const fn set_canary(&mut self, canary: CgroupId) {
        self.pending.canary = Some(canary);
    }

    /// What the canary did as client and as server since this was asked last.
    pub(super) fn take_canary(&mut self) -> [FlowCounts; 2] {
        std::mem::take(&mut self.pending.of_canary)
    }

    /// What is to be handed on.
    pub(super) fn rows(&self) -> Vec<FlowRow> {
        self.pending.rows()
    }

    /// The rows were handed on.
    pub(super) fn sent(&mut self) {
        let changes = |counts: &FlowCounts| counts.connections + counts.failures + counts.closed;
        self.delivered += self.pending.rows.values().map(changes).sum::<u64>();
        self.pending.rows.clear();
    }

    /// Changes of connections that were handed on: established, failed, closed. Each is one run of the program that
    /// recorded something.
    pub(super) const fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Entries in use at the last reading, and how many there can be.
    pub(super) const fn occupancy(&self) -> (u64, u64) {
        (self.entries, self.capacity)
    }

    /// Containers admitted, and how many there can be.
    pub(super) fn containers(&self) -> (u64, u64) {
        (
            self.admitted.len() as u64 / 2,
            u64::from(flow::CONTAINERS_MAX),
        )
    }

    /// Keys that no program of this version writes, and rows that lost their peer because the loop did not take them.
    pub(super) const fn dropped(&self) -> (u64, u64) {
        (self.pending.undecodable, self.pending.folded)
    }
}

/// Counts that wait, by key of epoch 0.
#[derive(Debug, Default)]
struct Pending {
    rows: BTreeMap<FlowKey, FlowCounts>,
    undecodable: u64,
    folded: u64,
    /// The cgroup of the canary.
    canary: Option<CgroupId>,
    of_canary: [FlowCounts; 2],
}

impl Pending {
    fn add(&mut self, key: FlowKey, counts: &flow::FlowCounts) {
        if *counts == flow::FlowCounts::default() {
            return;
        }
        let Some(side) = key.side() else {
            self.undecodable += 1;
            return;
        };
        if self.canary == Some(CgroupId(key.owner)) {
            return self.of_canary[usize::from(side == Side::Server)].add(&convert(counts));
        }
        let mut key = FlowKey { epoch: 0, ..key };
        if self.rows.len() >= PENDING_MAX && !self.rows.contains_key(&key) {
            self.folded += 1;
            key = FlowKey::overflow(key.owner, key.role);
        }
        self.rows.entry(key).or_default().add(&convert(counts));
    }

    fn rows(&self) -> Vec<FlowRow> {
        let row = |(key, counts): (&FlowKey, &FlowCounts)| {
            let role = match key.side()? {
                Side::Client => Role::Client,
                Side::Server => Role::Server,
            };
            let (owner, peer) = (CgroupId(key.owner), key.peer());
            Some(FlowRow {
                transport: Transport::Tcp,
                owner,
                role,
                peer,
                server_port: key.server_port,
                counts: *counts,
            })
        };
        self.rows.iter().filter_map(row).collect()
    }
}

const fn convert(counts: &flow::FlowCounts) -> FlowCounts {
    FlowCounts {
        connections: counts.connections,
        failures: counts.failures,
        timeouts: counts.timeouts,
        closed: counts.closed,
        sent_bytes: counts.sent_bytes,
        received_bytes: counts.received_bytes,
        retransmits: counts.retransmits,
        srtt_us_sum: counts.srtt_us_sum,
    }
}

/// Difference of two readings of counters that only grow.
const fn since(now: &flow::FlowCounts, before: &flow::FlowCounts) -> flow::FlowCounts {
    flow::FlowCounts {
        connections: now.connections.wrapping_sub(before.connections),
        failures: now.failures.wrapping_sub(before.failures),
        timeouts: now.timeouts.wrapping_sub(before.timeouts),
        closed: now.closed.wrapping_sub(before.closed),
        sent_bytes: now.sent_bytes.wrapping_sub(before.sent_bytes),
        received_bytes: now.received_bytes.wrapping_sub(before.received_bytes),
        retransmits: now.retransmits.wrapping_sub(before.retransmits),
        srtt_us_sum: now.srtt_us_sum.wrapping_sub(before.srtt_us_sum),
    }
}

#[cfg(test)]
mod tests {
    use plumbline_core::observation::Role;
    use plumbline_ebpf::flow::{FlowCounts, FlowKey, ROLE_CLIENT, words};

    use super::{PENDING_MAX, Pending, since};

    fn key(port: u16, epoch: u32) -> FlowKey {
        let (family, peer) = words("10.0.0.1".parse().unwrap());
        FlowKey {
            owner: 5,
            peer,
            server_port: port,
            family,
            role: ROLE_CLIENT,
            epoch,
        }
    }

    fn connections(connections: u64) -> FlowCounts {
        FlowCounts {
            connections,
            sent_bytes: 10 * connections,
            ..FlowCounts::default()
        }
    }

    #[test]
    fn epochs_of_one_flow_add_up() {
        let mut pending = Pending::default();
        pending.add(key(80, 3), &connections(2));
        pending.add(key(80, 4), &connections(1));
        pending.add(key(81, 4), &FlowCounts::default());
        let rows = pending.rows();
        assert_eq!(rows.len(), 1, "an entry without counts is no row");
        assert_eq!((rows[0].role, rows[0].server_port), (Role::Client, 80));
        assert_eq!(
            (rows[0].counts.connections, rows[0].counts.sent_bytes),
            (3, 30)
        );
    }

    #[test]
    fn what_does_not_fit_keeps_its_counts_and_loses_its_peer() {
        let mut pending = Pending::default();
        for n in 0..=u64::try_from(PENDING_MAX).unwrap() {
            pending.add(
                FlowKey {
                    owner: n,
                    ..key(80, 0)
                },
                &connections(1),
            );
        }
        pending.add(
            FlowKey {
                owner: 0,
                ..key(80, 0)
            },
            &connections(1),
        );
        pending.add(key(0, 0), &connections(1));
        assert_eq!(pending.folded, 2);
        let total: u64 = pending
            .rows()
            .iter()
            .map(|row| row.counts.connections)
            .sum();
        assert_eq!(total, u64::try_from(PENDING_MAX).unwrap() + 3);
        assert_eq!(
            pending
                .rows()
                .iter()
                .filter(|row| row.peer.is_none())
                .count(),
            2
        );
    }

    #[test]
    fn a_role_that_is_none_is_counted_and_left_out() {
        let mut pending = Pending::default();
        pending.add(
            FlowKey {
                role: 9,
                ..key(80, 0)
            },
            &connections(1),
        );
        assert_eq!((pending.undecodable, pending.rows().len()), (1, 0));
    }

    #[test]
    fn a_delta_is_what_was_added() {
        assert_eq!(since(&connections(7), &connections(4)), connections(3));
    }
}
