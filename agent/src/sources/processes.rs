//! Which cgroup a process is in, from `/proc/<pid>/cgroup`, as ids of the tree that the agent watches.
//!
//! The kernel shows that path relative to the *reader's* cgroup namespace: a sibling of the agent's own container appears as
//! `/../cri-containerd-….scope`, with everything above cut off. So the agent first finds itself in the tree.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use plumbline_core::id::CgroupId;

use crate::sources::cgroups::{CgroupRoot, resolve, v2_path};

/// Paths whose id is remembered between two scans; cleared when full.
const CACHE_MAX: usize = 16_384;

/// Directories searched for the agent's own cgroup at start.
const SEARCH_MAX: usize = 100_000;

/// From the text of `/proc/<pid>/cgroup` to a cgroup id.
#[derive(Debug)]
pub struct CgroupResolver {
    root: CgroupRoot,
    /// Path, below the root, of the directory that the kernel shows to us as `/`; `None` when that is not below it: then
    /// what is shown is what the kernel calls it.
    namespace: Option<String>,
    own: Option<CgroupId>,
    cache: BTreeMap<String, Option<Placed>>,
}

/// A cgroup of the watched tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its id.
    pub cgroup: CgroupId,
    /// Its path below the watched root, with a leading slash.
    pub path: Arc<str>,
}

impl CgroupResolver {
    /// Finds the agent's own place.
    #[must_use]
    pub fn new(root: CgroupRoot) -> Self {
        let own = find_own(&root.directory);
        let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let namespace = own.as_ref().zip(v2_path(&text)).and_then(|(own, shown)| {
            let base = own.path.strip_suffix(shown.trim_end_matches('/'));
            base.map(str::to_owned)
        });
        let own = own.map(|own| own.cgroup);
        Self {
            root,
            namespace,
            own,
            cache: BTreeMap::new(),
        }
    }

    /// The agent's own cgroup, if it is below the watched root.
    #[must_use]
    pub fn own(&self) -> Option<CgroupId> {
        self.own
    }

    /// The cgroup of a process; `None` outside the watched root, and for a process that is gone.
    pub fn of_process(&mut self, proc_root: &Path, pid: u32) -> Option<Placed> {
        let text = fs::read_to_string(proc_root.join(pid.to_string()).join("cgroup")).ok()?;
        let shown = v2_path(&text)?;
        if let Some(known) = self.cache.get(shown) {
            return known.clone();
        }
        let placed = self.below_root(shown).and_then(|below| {
            let meta = fs::metadata(self.root.directory_of(&below)).ok()?;
            Some(Placed {
                cgroup: CgroupId(meta.ino()),
                path: below.into(),
            })
        });
        if self.cache.len() >= CACHE_MAX {
            self.cache.clear();
        }
        self.cache.insert(shown.to_owned(), placed.clone());
        placed
    }

    fn below_root(&self, shown: &str) -> Option<String> {
        match &self.namespace {
            Some(base) => Some(resolve(base, shown)),
            None => self.root.below(shown).map(str::to_owned),
        }
    }

    /// Forgets remembered paths: a directory may have been removed and made again under its old name.
    pub fn forget(&mut self) {
        self.cache.clear();
    }
}

/// The cgroup that the agent runs in, with an empty path if that is the root.
fn find_own(root: &Path) -> Option<Placed> {
    let own_pid = std::process::id().to_string();
    let mut left = vec![root.to_owned()];
    let mut searched = 0;
    while let Some(dir) = left.pop() {
        searched += 1;
        if searched > SEARCH_MAX {
            return None;
        }
        let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        if procs.lines().any(|pid| pid == own_pid) {
            let below = dir.strip_prefix(root).ok()?.to_str()?;
            let path = if below.is_empty() {
                String::new()
            } else {
                format!("/{below}")
            };
            return Some(Placed {
                cgroup: CgroupId(fs::metadata(&dir).ok()?.ino()),
                path: path.into(),
            });
        }
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        left.extend(
            entries
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::{CgroupResolver, CgroupRoot};

    fn below(kernel_path: &str, namespace: Option<&str>, shown: &str) -> Option<String> {
        let directory = PathBuf::from("/cgroup");
        let root = CgroupRoot {
            directory,
            kernel_path: Some(kernel_path.to_owned()),
        };
        let namespace = namespace.map(str::to_owned);
        let resolver = CgroupResolver {
            root,
            namespace,
            own: None,
            cache: BTreeMap::new(),
        };
        resolver.below_root(shown)
    }

    #[test]
    fn on_the_host_a_process_is_where_the_kernel_says() {
        assert_eq!(
            below("", None, "/kubepods/pod1/c1").as_deref(),
            Some("/kubepods/pod1/c1")
        );
        let demo = |shown| below("/plumbline-demo-7", None, shown);
        assert_eq!(
            demo("/plumbline-demo-7/kubepods").as_deref(),
            Some("/kubepods")
        );
        assert_eq!(demo("/plumbline-demo-77/kubepods"), None);
        assert_eq!(demo("/system.slice/ssh.service"), None);
    }

    #[test]
    fn in_a_cgroup_namespace_siblings_are_placed_beside_the_agent() {
        let inside = |shown| below("", Some("/kubepods/pod1/agent"), shown);
        assert_eq!(inside("/").as_deref(), Some("/kubepods/pod1/agent"));
        assert_eq!(
            inside("/../../pod2/c2").as_deref(),
            Some("/kubepods/pod2/c2")
        );
        assert_eq!(
            inside("/../../../system.slice").as_deref(),
            Some("/system.slice")
        );
    }
}
