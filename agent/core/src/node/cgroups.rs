//! Cgroup directories that come and go, and the containers among them.

use std::collections::BTreeSet;

use crate::attribution::container_of;
use crate::id::CgroupId;
use crate::node::containers::Container;
use crate::node::{Cgroup, NodeState};
use crate::observation::CgroupRow;
use crate::settings::{CGROUPS_MAX, CONTAINERS_MAX};
use crate::time::Timestamp;

impl NodeState {
    pub(super) fn cgroup_seen(&mut self, row: CgroupRow, at: Timestamp) {
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
            self.note_restart(cgroup);
        }
        self.cgroups.insert(cgroup, Cgroup { path, seen: at });
    }

    pub(super) fn cgroup_gone(&mut self, cgroup: CgroupId, at: Timestamp) {
        if let Some(known) = self.cgroups.remove(&cgroup) {
            self.container_paths.remove(&known.path);
        }
        if let Some(container) = self.containers.get_mut(&cgroup) {
            container.gone.get_or_insert(at);
            container.listeners.clear();
        }
    }

    pub(super) fn cgroup_tree(&mut self, rows: Vec<CgroupRow>, at: Timestamp) {
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
    pub(super) fn container_above(&self, cgroup: CgroupId) -> Option<CgroupId> {
        if self.containers.contains_key(&cgroup) {
            return Some(cgroup);
        }
        let found = container_of(&self.cgroups.get(&cgroup)?.path)?;
        self.container_paths.get(found.path).copied()
    }
}
