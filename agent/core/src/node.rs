//! [`NodeState`]: the one writer. Observations go in by [`NodeState::apply`], a [`Snapshot`] comes out.

mod containers;
mod joined;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::attribution::container_of;
use crate::declared::Declared;
use crate::id::CgroupId;
use crate::node::containers::Container;
use crate::node::joined::DeclaredIndex;
use crate::observation::{
    CPU_WINDOW_NS, CgroupRow, CpuStatRow, CpuWindowRow, Fact, FlowRow, ListenerEvent, ListenerRow,
    Observation, ProbeStatus, Role, ScanScope,
};
use crate::observed::flows::{FlowKey, Flows};
use crate::observed::listeners::{Reach, Scanned};
use crate::peers::PeerTable;
use crate::settings::{CGROUPS_MAX, CONTAINERS_MAX, CoreSettings, NodeIdentity};
use crate::snapshot::{Dropped, Occupancy, Snapshot};
use crate::time::{ClockAnchor, Timestamp};

/// How long a container whose cgroup is gone stays, so that its last counts leave (Hubble's rule for series).
const LINGER: Duration = Duration::from_secs(60);

/// A cgroup directory that the node is known to have.
#[derive(Clone, Debug)]
struct Cgroup {
    path: String,
    seen: Timestamp,
}

/// Everything known about the node.
#[derive(Clone, Debug)]
pub struct NodeState {
    identity: NodeIdentity,
    settings: CoreSettings,
    clock: ClockAnchor,
    /// The first reading of the clocks, of which zero points of counters are told: one that moved would be a reset.
    origin: Option<ClockAnchor>,
    cgroups: BTreeMap<CgroupId, Cgroup>,
    /// Path of a container's own cgroup -> its id, for cgroups nested in it.
    container_paths: BTreeMap<String, CgroupId>,
    containers: BTreeMap<CgroupId, Container>,
    flows: Flows,
    declared: Option<Arc<Declared>>,
    index: DeclaredIndex,
    peers: PeerTable,
    self_cgroup: Option<CgroupId>,
    probes: BTreeMap<String, ProbeStatus>,
    dropped: BTreeMap<(String, String), u64>,
    occupancy: BTreeMap<String, (u64, u64)>,
    scans: u32,
}

impl NodeState {
    /// An empty node.
    #[must_use]
    pub fn new(identity: NodeIdentity, settings: CoreSettings) -> Self {
        Self {
            identity,
            settings,
            clock: ClockAnchor {
                monotonic: Timestamp(0),
                unix_ns: 0,
            },
            origin: None,
            cgroups: BTreeMap::new(),
            container_paths: BTreeMap::new(),
            containers: BTreeMap::new(),
            flows: Flows::default(),
            declared: None,
            index: DeclaredIndex::default(),
            peers: PeerTable::default(),
            self_cgroup: None,
            probes: BTreeMap::new(),
            dropped: BTreeMap::new(),
            occupancy: BTreeMap::new(),
            scans: 0,
        }
    }

    /// Takes one observation in. Total: nothing that comes in can fail.
    pub fn apply(&mut self, observation: Observation) {
        let at = observation.at;
        match observation.fact {
            Fact::Clock { unix_ns } => {
                let anchor = ClockAnchor {
                    monotonic: at,
                    unix_ns,
                };
                self.clock = anchor;
                self.origin.get_or_insert(anchor);
            }
            Fact::CgroupSeen(row) => self.cgroup_seen(row, at),
            Fact::CgroupGone { cgroup } => self.cgroup_gone(cgroup, at),
            Fact::CgroupTree { rows } => self.cgroup_tree(rows, at),
            Fact::Attached {
                cgroup,
                error,
                pre_existing,
            } => {
                if let Some(container) = self.containers.get_mut(&cgroup) {
                    container.attached = Some(error.map_or(Ok(()), Err));
                    container.pre_existing = pre_existing;
                }
            }
            Fact::ListenerOpened(event) => self.listener(&event, at, true),
            Fact::ListenerClosed(event) => self.listener(&event, at, false),
            Fact::Listeners {
                scope,
                rows,
                errors,
                unreadable,
            } => {
                if errors > 0 {
                    self.count("listener_scan", "unreadable", u64::from(errors));
                }
                self.listeners_scanned(scope, rows, &unreadable, at);
            }
            Fact::Flows { rows } => rows.iter().for_each(|row| self.flow(row, at)),
            Fact::CpuStat { rows } => rows.into_iter().for_each(|row| self.cpu_stat(row, at)),
            Fact::CpuWindows {
                start,
                windows,
                lost,
                rows,
                unmeasured,
            } => {
                if lost > 0 {
                    self.count("cpu_windows", "overwritten", u64::from(lost));
                }
                self.cpu_windows(start, windows, &rows, &unmeasured);
            }
            Fact::Declared(declared) => self.declared(declared),
            Fact::Probe(status) => {
                self.probes.insert(status.probe.clone(), status);
            }
            Fact::Dropped {
                place,
                reason,
                count,
            } => {
                self.dropped.insert((place, reason), count);
            }
            Fact::Occupancy {
                place,
                entries,
                capacity,
            } => {
                self.occupancy.insert(place, (entries, capacity));
            }
            Fact::SelfCgroup { cgroup } => self.self_cgroup = Some(cgroup),
        }
    }

    /// Says that a report as of `now` has been handed to export: peaks begin anew, and containers long gone are forgotten.
    pub fn exported(&mut self, now: Timestamp) {
        for container in self.containers.values_mut() {
            container.cpu.exported();
        }
        let old: Vec<CgroupId> = self
            .containers
            .iter()
            .filter(|(_, container)| container.gone.is_some_and(|gone| now.since(gone) >= LINGER))
            .map(|(id, _)| *id)
            .collect();
        for id in old {
            self.containers.remove(&id);
            self.flows.forget(id);
        }
    }

    /// The node as of `now`.
    #[must_use]
    pub fn snapshot(&self, now: Timestamp) -> Snapshot {
        let ids = self.sorted_containers();
        let position: BTreeMap<CgroupId, usize> = ids
            .iter()
            .enumerate()
            .map(|(index, id)| (*id, index))
            .collect();
        let views = ids.iter().map(|id| self.view(*id)).collect();
        Snapshot {
            now,
            wall: self.clock.unix(now),
            node: self.identity.clone(),
            settings: self.settings.clone(),
            origin: self.origin.unwrap_or(self.clock),
            declared: self.declared.clone(),
            containers: views,
            flows: self.flow_views(&position),
            scans: self.scans,
            probes: self.probes.values().cloned().collect(),
            dropped: self.dropped_views(),
            occupancy: self.occupancy_views(),
        }
    }

    fn dropped_views(&self) -> Vec<Dropped> {
        let mut counts = self.dropped.clone();
        counts.insert(("flows".into(), "overflow".into()), self.flows.overflowed());
        let view = |((place, reason), count)| Dropped {
            place,
            reason,
            count,
        };
        counts
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(view)
            .collect()
    }

    fn occupancy_views(&self) -> Vec<Occupancy> {
        let mut places = self.occupancy.clone();
        places.insert(
            "containers".into(),
            (self.containers.len() as u64, CONTAINERS_MAX as u64),
        );
        places.insert(
            "cgroups".into(),
            (self.cgroups.len() as u64, CGROUPS_MAX as u64),
        );
        let series = (
            self.flows.named() as u64,
            crate::settings::FLOW_SERIES_MAX as u64,
        );
        places.insert("flow_series".into(), series);
        let view = |(place, (entries, capacity))| Occupancy {
            place,
            entries,
            capacity,
        };
        places.into_iter().map(view).collect()
    }

    fn count(&mut self, place: &str, reason: &str, more: u64) {
        let count = self
            .dropped
            .entry((place.to_owned(), reason.to_owned()))
            .or_default();
        *count = count.saturating_add(more);
    }

    fn cgroup_seen(&mut self, row: CgroupRow, at: Timestamp) {
        let CgroupRow { cgroup, path } = row;
        if self.cgroups.contains_key(&cgroup) {
            return;
        }
        if let Some(container) = self.containers.get_mut(&cgroup) {
            // Ids are not reused: it was taken for gone by mistake.
            container.gone = None;
        }
        if self.cgroups.len() >= CGROUPS_MAX {
            return self.count("cgroups", "full", 1);
        }
        if let Some(found) = container_of(&path).filter(|found| found.path == path) {
            if self.containers.len() >= CONTAINERS_MAX {
                return self.count("containers", "full", 1);
            }
            let container = Container::new(found.pod_uid, found.container_id, at);
            self.containers.entry(cgroup).or_insert(container);
            self.container_paths.insert(path.clone(), cgroup);
        }
        self.cgroups.insert(cgroup, Cgroup { path, seen: at });
    }

    fn cgroup_gone(&mut self, cgroup: CgroupId, at: Timestamp) {
        if let Some(known) = self.cgroups.remove(&cgroup) {
            self.container_paths.remove(&known.path);
        }
        if let Some(container) = self.containers.get_mut(&cgroup) {
            container.gone.get_or_insert(at);
            container.listeners.clear();
        }
    }

    fn cgroup_tree(&mut self, rows: Vec<CgroupRow>, at: Timestamp) {
        let alive: BTreeSet<CgroupId> = rows.iter().map(|row| row.cgroup).collect();
        let gone: Vec<CgroupId> = self
            .cgroups
            .iter()
            .filter(|(id, known)| !alive.contains(id) && known.seen < at)
            .map(|(id, _)| *id)
            .collect();
        gone.into_iter().for_each(|id| self.cgroup_gone(id, at));
        rows.into_iter().for_each(|row| self.cgroup_seen(row, at));
    }

    /// The container that owns a cgroup: itself, or the nearest one above it.
    fn container_above(&self, cgroup: CgroupId) -> Option<CgroupId> {
        if self.containers.contains_key(&cgroup) {
            return Some(cgroup);
        }
        let found = container_of(&self.cgroups.get(&cgroup)?.path)?;
        self.container_paths.get(found.path).copied()
    }

    fn listener(&mut self, event: &ListenerEvent, at: Timestamp, opened: bool) {
        let Some(container) = self.containers.get_mut(&event.owner) else {
            return self.count("listener_events", "unattributed", 1);
        };
        if opened {
            container.listeners.opened(event.address, event.port, at);
        } else {
            container.listeners.closed(event.address, event.port, at);
        }
    }

    /// Sorts the rows of a scan to containers and replaces their tables.
    fn listeners_scanned(
        &mut self,
        scope: ScanScope,
        rows: Vec<ListenerRow>,
        unreadable: &[CgroupId],
        at: Timestamp,
    ) {
        let complete = scope == ScanScope::Node;
        let first = complete && self.scans == 0;
        let unreadable: BTreeSet<CgroupId> = unreadable
            .iter()
            .filter_map(|cgroup| self.container_above(*cgroup))
            .collect();
        let mut found: BTreeMap<CgroupId, BTreeMap<_, Scanned>> = match scope {
            ScanScope::Node => self
                .containers
                .keys()
                .map(|id| (*id, BTreeMap::new()))
                .collect(),
            ScanScope::Containers(ids) => ids.into_iter().map(|id| (id, BTreeMap::new())).collect(),
        };
        for row in rows {
            let Some(holder) = self.container_above(row.owner) else {
                continue;
            };
            let owner = self.creator(holder, &row);
            let Some(rows) = found.get_mut(&owner) else {
                continue;
            };
            let scanned: &mut Scanned = rows.entry((row.port, row.address)).or_default();
            scanned.sockets += 1;
            scanned.held_by_owner |= owner == holder
                || row
                    .holders
                    .iter()
                    .any(|holder| self.container_above(holder.cgroup) == Some(owner));
            scanned.host_netns |= row.host_netns;
            scanned.holders.extend(row.holders);
        }
        for (id, rows) in found {
            let Some(container) = self.containers.get_mut(&id) else {
                continue;
            };
            container.unreadable =
                complete && unreadable.contains(&id) || !complete && container.unreadable;
            let reach = if complete && !container.unreadable {
                let first = first && container.pre_existing;
                Reach::Whole { first }
            } else {
                Reach::Part
            };
            container.listeners.scanned(at, rows, reach);
        }
        self.scans += u32::from(complete);
    }

    /// A socket belongs to its creator, which the kernel told when it began to listen; a scan sees only who holds it. A
    /// socket that was passed between containers of a pod is found in the holder's hands, unknown there, and missing
    /// from the creator's.
    fn creator(&self, holder: CgroupId, row: &ListenerRow) -> CgroupId {
        let knows = |id: CgroupId| {
            self.containers
                .get(&id)
                .is_some_and(|container| container.listeners.contains(row.address, row.port))
        };
        let Some(pod) = self
            .containers
            .get(&holder)
            .map(|container| &container.pod_uid)
        else {
            return holder;
        };
        if knows(holder) {
            return holder;
        }
        let mut others = self
            .containers
            .iter()
            .filter(|(id, other)| **id != holder && other.pod_uid == *pod);
        others
            .find(|(id, _)| knows(**id))
            .map_or(holder, |(id, _)| *id)
    }

    fn flow(&mut self, row: &FlowRow, at: Timestamp) {
        let Some(container) = self.containers.get_mut(&row.owner) else {
            return self.count("flows", "unattributed", 1);
        };
        if row.role == Role::Server && row.peer.is_some() {
            container.accepted(row.server_port, row.counts.connections);
        }
        let key = match row.peer {
            Some(peer) => FlowKey {
                container: row.owner,
                role: row.role,
                peer: self.peers.name(peer),
                server_port: row.server_port,
                overflow: false,
            },
            None => FlowKey::overflow(row.owner, row.role),
        };
        self.flows.add(key, &row.counts, at);
    }

    fn cpu_stat(&mut self, row: CpuStatRow, at: Timestamp) {
        if let Some(container) = self.containers.get_mut(&row.cgroup) {
            container.cpu.read(at, row);
        }
    }

    fn declared(&mut self, declared: Declared) {
        self.index = DeclaredIndex::new(&declared);
        self.peers = PeerTable::new(&declared);
        self.declared = Some(Arc::new(declared));
    }

    fn cpu_windows(
        &mut self,
        start: Timestamp,
        windows: u16,
        rows: &[CpuWindowRow],
        unmeasured: &[CgroupId],
    ) {
        let unmeasured: BTreeSet<CgroupId> = unmeasured
            .iter()
            .filter_map(|cgroup| self.container_above(*cgroup))
            .collect();
        let mut sums: BTreeMap<CgroupId, Vec<u32>> = BTreeMap::new();
        for row in rows {
            let Some(id) = self.container_above(row.cgroup) else {
                continue;
            };
            let sum = sums
                .entry(id)
                .or_insert_with(|| vec![0; usize::from(windows)]);
            for (sum, busy_us) in sum.iter_mut().zip(&row.busy_us) {
                *sum = sum.saturating_add(*busy_us);
            }
        }
        let idle = vec![0; usize::from(windows)];
        for (id, container) in self
            .containers
            .iter_mut()
            .filter(|(_, container)| container.gone.is_none())
        {
            // A sum that lacks a part of the container is no measure of it.
            if unmeasured.contains(id) {
                continue;
            }
            let busy = sums.get(id).unwrap_or(&idle);
            for (index, busy_us) in (0_u64..).zip(busy) {
                let window = Timestamp(start.0.saturating_add(index * CPU_WINDOW_NS));
                if window >= container.first_seen {
                    container.cpu.window(window, *busy_us, &self.settings);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
