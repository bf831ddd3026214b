//! From the cgroup of a socket to the container that it belongs to.

use std::collections::BTreeMap;

use plumbline_core::attribution::container_of;
use plumbline_core::id::CgroupId;

use crate::sources::cgroups::{self, CgroupRoot};

/// Cgroups remembered. Full: all are forgotten, and found again.
const KNOWN_MAX: usize = 65_536;

/// Remembers what walks of the tree found.
#[derive(Debug)]
pub(super) struct Owners {
    root: CgroupRoot,
    /// The container above a cgroup; `None` for one that is no container's. Ids are not reused.
    known: BTreeMap<CgroupId, Option<CgroupId>>,
    walked: bool,
}

impl Owners {
    pub(super) const fn new(root: CgroupRoot) -> Self {
        Self {
            root,
            known: BTreeMap::new(),
            walked: false,
        }
    }

    /// Begins a reading, which may walk the tree once.
    pub(super) fn begin(&mut self) {
        self.walked = false;
        if self.known.len() > KNOWN_MAX {
            self.known.clear();
        }
    }

    /// The container that a cgroup is, or the nearest above it. A cgroup that is not known makes for a walk.
    pub(super) fn container(&mut self, cgroup: CgroupId) -> Option<CgroupId> {
        if let Some(known) = self.known.get(&cgroup) {
            return *known;
        }
        if self.walked {
            return None;
        }
        self.walked = true;
        let walk = cgroups::walk(&self.root.directory);
        let ids: BTreeMap<&str, CgroupId> = walk
            .rows
            .iter()
            .map(|row| (row.path.as_str(), row.cgroup))
            .collect();
        for row in &walk.rows {
            let container = container_of(&row.path).and_then(|found| ids.get(found.path).copied());
            self.known.insert(row.cgroup, container);
        }
        if walk.is_complete() {
            // Elsewhere, or removed since: it will not come to be below the root.
            self.known.entry(cgroup).or_insert(None);
        }
        self.known.get(&cgroup).copied().flatten()
    }
}
