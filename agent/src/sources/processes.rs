//! Which cgroup a process is in, from `/proc/<pid>/cgroup`, as ids of the tree that the agent watches.
//!
//! The kernel shows that path relative to the *reader's* cgroup namespace: a sibling of the agent's own container appears as
//! `/../cri-containerd-….scope`, with everything above cut off. So the agent first finds itself in the tree.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plumbline_core::id::CgroupId;

/// Paths whose id is remembered between two scans; cleared when full.
const CACHE_MAX: usize = 16_384;

/// Directories searched for the agent's own cgroup at start.
const SEARCH_MAX: usize = 100_000;

/// From the text of `/proc/<pid>/cgroup` to a cgroup id.
#[derive(Debug)]
pub struct CgroupResolver {
    root: PathBuf,
    frame: Frame,
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

/// How a path that the kernel shows relates to the watched root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Path, below the watched root, of the directory that the kernel shows as `/`; `None` when that is not below it.
    pub(super) namespace: Option<String>,
    /// Path of the watched root below the directory that the kernel shows as `/`, when it is below: `/plumbline-demo-7`.
    pub(super) above: String,
}

impl Frame {
    /// The path below the watched root, with a leading slash; `None` when it is not below it.
    fn locate(&self, shown: &str) -> Option<String> {
        let Some(namespace) = &self.namespace else {
            let below = shown.strip_prefix(self.above.as_str())?;
            return (below.is_empty() || below.starts_with('/')).then(|| below.to_owned());
        };
        let mut parts: Vec<&str> = namespace
            .split('/')
            .filter(|part| !part.is_empty())
            .collect();
        for part in shown.split('/').filter(|part| !part.is_empty()) {
            if part == ".." {
                parts.pop()?;
            } else {
                parts.push(part);
            }
        }
        Some(parts.iter().map(|part| format!("/{part}")).collect())
    }
}

impl CgroupResolver {
    /// Finds the agent's own place. `root` is the watched cgroup directory.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        let own_shown = fs::read_to_string("/proc/self/cgroup")
            .ok()
            .as_deref()
            .and_then(unified)
            .map(str::to_owned);
        let own = find_own(root);
        let namespace = own
            .as_ref()
            .zip(own_shown.as_ref())
            .and_then(|((path, _), shown)| {
                let shown = shown.trim_end_matches('/');
                path.strip_suffix(shown).map(str::to_owned)
            });
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let above = below_mount(&mounts, root).unwrap_or_default();
        let frame = Frame { namespace, above };
        Self {
            root: root.to_owned(),
            frame,
            own: own.map(|(_, id)| id),
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
        let shown = unified(&text)?;
        if let Some(known) = self.cache.get(shown) {
            return known.clone();
        }
        let placed = self.frame.locate(shown).and_then(|below| {
            let meta = fs::metadata(self.root.join(below.trim_start_matches('/'))).ok()?;
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

    /// Forgets remembered paths: a directory may have been removed and made again under its old name.
    pub fn forget(&mut self) {
        self.cache.clear();
    }
}

/// The path in cgroup v2 of a `/proc/<pid>/cgroup`.
fn unified(text: &str) -> Option<&str> {
    text.lines()
        .find_map(|line| line.strip_prefix("0::"))
        .map(|path| path.trim_end_matches(" (deleted)"))
}

/// Path below `root` and id of the cgroup that the agent runs in.
fn find_own(root: &Path) -> Option<(String, CgroupId)> {
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
            return Some((path, CgroupId(fs::metadata(&dir).ok()?.ino())));
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

/// Path of `dir` below the root of the cgroup2 mount that it is in, as the kernel would show it.
fn below_mount(mountinfo: &str, dir: &Path) -> Option<String> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut fields = left.split(' ');
        let (root, point) = (fields.nth(3)?, fields.next()?);
        (right.split(' ').next() == Some("cgroup2")).then_some((root, point))
    });
    let (mount_root, point) = mounts
        .filter(|(_, point)| dir.starts_with(point))
        .max_by_key(|(_, point)| point.len())?;
    let below = dir.strip_prefix(point).ok()?.to_str()?;
    let mut path = mount_root.trim_end_matches('/').to_owned();
    if !below.is_empty() {
        path.push('/');
        path.push_str(below);
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Frame, below_mount, unified};

    #[test]
    fn the_unified_line_is_found_among_v1_hierarchies() {
        assert_eq!(
            unified("12:cpu:/x\n0::/kubepods/pod1/c1\n"),
            Some("/kubepods/pod1/c1")
        );
        assert_eq!(unified("0::/gone (deleted)\n"), Some("/gone"));
        assert_eq!(unified("12:cpu:/x\n"), None);
    }

    #[test]
    fn paths_are_located_from_inside_and_outside_a_cgroup_namespace() {
        let host = Frame {
            namespace: None,
            above: String::new(),
        };
        assert_eq!(
            host.locate("/kubepods/pod1/c1").as_deref(),
            Some("/kubepods/pod1/c1")
        );
        let demo = Frame {
            namespace: None,
            above: "/plumbline-demo-7".into(),
        };
        assert_eq!(
            demo.locate("/plumbline-demo-7/kubepods").as_deref(),
            Some("/kubepods")
        );
        assert_eq!(demo.locate("/plumbline-demo-77/kubepods"), None);
        assert_eq!(demo.locate("/system.slice/ssh.service"), None);
        let namespaced = Frame {
            namespace: Some("/kubepods/pod1/agent".into()),
            above: String::new(),
        };
        assert_eq!(
            namespaced.locate("/").as_deref(),
            Some("/kubepods/pod1/agent")
        );
        assert_eq!(
            namespaced.locate("/../../pod2/c2").as_deref(),
            Some("/kubepods/pod2/c2")
        );
        assert_eq!(
            namespaced.locate("/../../../system.slice").as_deref(),
            Some("/system.slice")
        );
        assert_eq!(
            namespaced.locate("/../../../../x"),
            None,
            "nothing is above the root"
        );
    }

    #[test]
    fn the_deepest_mount_tells_where_the_root_is() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      31 23 0:26 /../.. /host/cgroup ro - cgroup2 cgroup2 rw\n\
                      32 23 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        let below = |dir: &str| below_mount(mounts, Path::new(dir));
        assert_eq!(below("/sys/fs/cgroup/unified").as_deref(), Some(""));
        assert_eq!(below("/sys/fs/cgroup/unified/a/b").as_deref(), Some("/a/b"));
        assert_eq!(below("/host/cgroup").as_deref(), Some("/../.."));
        assert_eq!(below("/sys/fs/cgroup/cpu"), None);
    }
}
