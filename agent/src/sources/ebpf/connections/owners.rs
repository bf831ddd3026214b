//! From the cgroup of a socket to the container that it belongs to.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use plumbline_core::attribution::container_of;
use plumbline_core::id::CgroupId;

use crate::sources::cgroups::{self, CgroupRoot};

/// Cgroups remembered. Full: all are forgotten, and found again.
const KNOWN_MAX: usize = 65_536;

/// Containers whose place is remembered. More: those that are gone are forgotten.
const PATHS_MAX: usize = 4_096;

/// Remembers what walks of the tree found.
#[derive(Debug)]
pub(super) struct Owners {
    root: CgroupRoot,
    /// The container above a cgroup; `None` for one that is no container's. Ids are not reused.
    known: BTreeMap<CgroupId, Option<CgroupId>>,
    /// Where containers are, or were; those that are gone are removed as they are found to be.
    paths: BTreeMap<CgroupId, String>,
    walked: bool,
}

impl Owners {
    pub(super) const fn new(root: CgroupRoot) -> Self {
        Self {
            root,
            known: BTreeMap::new(),
            paths: BTreeMap::new(),
            walked: false,
        }
    }

    /// Begins a reading, which may walk the tree once.
    pub(super) fn begin(&mut self) {
        self.walked = false;
        if self.known.len() > KNOWN_MAX {
            self.known.clear();
        }
        if self.paths.len() > PATHS_MAX {
            let root = &self.root;
            self.paths
                .retain(|container, path| is_there(root, *container, path));
        }
    }

    /// Whether a container is known to be gone.
    pub(super) fn is_gone(&mut self, container: CgroupId) -> bool {
        let Some(path) = self.paths.get(&container) else {
            // Never found by a walk, or removed from here because it was gone.
            return true;
        };
        let there = is_there(&self.root, container, path);
        if !there {
            self.paths.remove(&container);
        }
        !there
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
            if container == Some(row.cgroup) {
                self.paths.insert(row.cgroup, row.path.clone());
            }
        }
        if walk.is_complete() {
            // Elsewhere, or removed since: it will not come to be below the root.
            self.known.entry(cgroup).or_insert(None);
        }
        self.known.get(&cgroup).copied().flatten()
    }
}

/// Whether the cgroup is still at its place.
fn is_there(root: &CgroupRoot, container: CgroupId, path: &str) -> bool {
    fs::metadata(root.directory_of(path)).is_ok_and(|found| found.ino() == container.0)
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;
    use std::path::PathBuf;

    use plumbline_core::id::CgroupId;
    use tempfile::TempDir;

    use super::Owners;
    use crate::sources::cgroups::CgroupRoot;

    /// A tree with one container, its id and its directory.
    pub(in super::super) fn one() -> (TempDir, Owners, CgroupId, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let pod = "kubepods/pod0a1b2c3d-0000-4000-8000-000000000001";
        let path = directory.path().join(pod).join("a".repeat(64));
        fs::create_dir_all(&path).unwrap();
        let container = CgroupId(fs::metadata(&path).unwrap().ino());
        let owners = Owners::new(CgroupRoot {
            directory: directory.path().to_owned(),
            kernel_path: None,
        });
        (directory, owners, container, path)
    }

    #[test]
    fn a_container_is_gone_when_its_directory_is() {
        let (_directory, mut owners, container, path) = one();
        owners.begin();
        assert_eq!(owners.container(container), Some(container));
        assert!(!owners.is_gone(container));
        fs::remove_dir(&path).unwrap();
        assert!(owners.is_gone(container) && owners.is_gone(container));
    }
}
