//! Sockets that wait for others: events and scans, sorted to containers.

use std::collections::{BTreeMap, BTreeSet};

use crate::attribution::is_of_kubelet;
use crate::id::CgroupId;
use crate::node::{Container, NodeState};
use crate::observation::{DynamicPortsRow, ListenerEvent, ListenerRow, ScanScope};
use crate::observed::host;
use crate::observed::listeners::{Reach, Scanned, is_dynamic_udp};
use crate::time::Timestamp;

impl NodeState {
    pub(super) fn listener(&mut self, event: &ListenerEvent, at: Timestamp, opened: bool) {
        let Some(container) = self.containers.get_mut(&event.owner) else {
            return self.count("listener_events", "unattributed", 1);
        };
        let key = (event.transport, event.port, event.address);
        if opened {
            let pod = self.index.find(&container.pod_uid, &container.container_id);
            container.listeners.belong_to(pod.0);
            container.listeners.opened(key, at);
        } else {
            container.listeners.closed(key, at);
        }
    }

    /// Sorts ranges of dynamic ports to containers.
    pub(super) fn dynamic_ports_read(&mut self, rows: &[DynamicPortsRow]) {
        let of_containers = rows.iter().filter_map(|row| {
            let container = self.container_above(row.cgroup)?;
            Some((container, (row.first, row.last)))
        });
        self.dynamic_ports = of_containers.collect();
    }

    /// The ports that the kernel gives out by itself in a container.
    #[must_use]
    pub fn dynamic_ports(&self, container: CgroupId) -> (u16, u16) {
        let own = self.dynamic_ports.get(&container).copied();
        own.unwrap_or(self.settings.ephemeral_ports)
    }

    /// The containers in which they are not those of the node.
    #[must_use]
    pub const fn other_dynamic_ports(&self) -> &BTreeMap<CgroupId, (u16, u16)> {
        &self.dynamic_ports
    }

    /// Containers with a UDP server, of which an event or a scan told.
    #[must_use]
    pub fn udp_servers(&self) -> BTreeSet<CgroupId> {
        let serves = |(id, container): (&CgroupId, &Container)| {
            let serves = container.listeners.has_udp_server(self.dynamic_ports(*id));
            (serves && container.gone.is_none()).then_some(*id)
        };
        self.containers.iter().filter_map(serves).collect()
    }

    /// Sorts the rows of a scan to containers and replaces their tables.
    pub(super) fn listeners_scanned(
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
        let rows = self.without_host(rows, complete, at);
        for row in rows {
            let holder = self.container_above(row.owner);
            let owner = match row.creator {
                Some(creator) => self.container_above(creator),
                None => holder.map(|holder| self.creator(holder, &row)),
            };
            let Some((owner, rows)) = owner.and_then(|id| Some((id, found.get_mut(&id)?))) else {
                continue;
            };
            let key = (row.transport, row.port, row.address);
            // Chosen by its program only if an event told so: most are clients (trap 9).
            if is_dynamic_udp(row.transport, row.port, self.dynamic_ports(owner))
                && self
                    .containers
                    .get(&owner)
                    .is_none_or(|container| !container.listeners.contains(key))
            {
                continue;
            }
            let scanned: &mut Scanned = rows.entry(key).or_default();
            scanned.sockets += 1;
            // Nobody who could be looked at holds it: not known to be in other hands.
            scanned.held_by_owner |= self.is_held_by(owner, holder, &row);
            scanned.host_netns |= row.host_netns;
            scanned.v6only = match (scanned.v6only, row.v6only) {
                // One socket that also takes IPv4 is enough.
                (Some(false), _) | (_, Some(false)) => Some(false),
                (one, other) => one.or(other),
            };
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
            let pod = self.index.find(&container.pod_uid, &container.container_id);
            container.listeners.belong_to(pod.0);
            container.listeners.scanned(at, rows, reach);
        }
        self.scans += u32::from(complete);
    }

    /// Whether the container serves the socket itself, in a network of its own: not where it was passed to others, nor where its
    /// processes are in another network than the socket (trap 12).
    fn is_held_by(&self, owner: CgroupId, holder: Option<CgroupId>, row: &ListenerRow) -> bool {
        let of_owner = |cgroup| self.container_above(cgroup) == Some(owner);
        let mut holders = row.holders.iter();
        let held = holder == Some(owner) || holders.any(|one| of_owner(one.cgroup));
        row.holders.is_empty() || held && !row.foreign_netns
    }

    /// Takes out what units of the host listen on, and remembers it where the scan was of the whole node.
    fn without_host(
        &mut self,
        rows: Vec<ListenerRow>,
        complete: bool,
        at: Timestamp,
    ) -> Vec<ListenerRow> {
        let (mut of_host, mut others) = (Vec::new(), Vec::new());
        let mut unknown = 0;
        for row in rows {
            unknown += u64::from(row.host_netns && !self.cgroups.contains_key(&row.owner));
            match self.host_unit(&row) {
                Some(unit) => of_host.push((unit, row)),
                None => others.push(row),
            }
        }
        if complete {
            self.host_unknown = unknown;
            let left_out = self.host_listeners.scanned(of_host, at);
            self.count("host_listeners", "full", left_out);
        }
        others
    }

    /// The unit of the host whose processes listen on it in the node's own network. `None` for what is a pod's or the agent's,
    /// and for what is likely a client's.
    fn host_unit(&self, row: &ListenerRow) -> Option<String> {
        let known = self.cgroups.get(&row.owner)?;
        let of_creator = row
            .creator
            .and_then(|creator| self.container_above(creator));
        let of_pods = of_creator
            .or_else(|| self.container_above(row.owner))
            .is_some()
            || is_of_kubelet(&known.path);
        let own = self.self_cgroup == Some(row.owner);
        let client = is_dynamic_udp(row.transport, row.port, self.settings.ephemeral_ports);
        (row.host_netns && !of_pods && !own && !client).then(|| host::unit(&known.path))
    }

    /// A socket belongs to its creator, which the kernel told when it began to listen; a scan sees only who holds it. A
    /// socket that was passed between containers of a pod is found in the holder's hands, unknown there, and missing
    /// from the creator's.
    pub(super) fn creator(&self, holder: CgroupId, row: &ListenerRow) -> CgroupId {
        let key = (row.transport, row.port, row.address);
        let knows = |id: CgroupId| {
            self.containers
                .get(&id)
                .is_some_and(|container| container.listeners.contains(key))
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
}
