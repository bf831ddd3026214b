//! Which cgroup2 mount shows the node, and what is in it. Reads mountinfo and directories, tells nobody.

mod mounts;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use plumbline_core::id::CgroupId;
use plumbline_core::observation::CgroupRow;

use mounts::{Mount, parse_mountinfo};

/// Directories that a walk reports. A node has some hundred; beyond this something runs away: the rest is left out, and
/// the walk counts as incomplete ([`Walk::is_complete`]).
pub const CGROUPS_MAX: usize = 32_768;

/// Inode of the root directory of a cgroup hierarchy. Whoever sees it has the whole tree, whatever the namespace.
const ROOT_INODE: u64 = 1;

/// Target of `/proc/self/ns/cgroup` in the first cgroup namespace: `PROC_CGROUP_INIT_INO` of the kernel.
const FIRST_NAMESPACE: &str = "cgroup:[4026531835]";

/// The directory below which pods are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupRoot {
    /// Where it is.
    pub directory: PathBuf,
    /// Its path as the kernel tells it in cgroup events, without a trailing slash: empty for the root of the hierarchy.
    /// `None` when that cannot be known: the mount shows a part of the tree from inside a cgroup namespace.
    pub kernel_path: Option<String>,
}

/// Why there is no cgroup root.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// A file or directory could not be read.
    #[error("{path}: {error}")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The kernel has no cgroup v2 here.
    #[error("no cgroup2 file system is mounted; mount one, or give --cgroup-root")]
    NoMount,
    /// What was given is something else.
    #[error("{0} is not below a cgroup2 mount: containers can only be seen in cgroup v2")]
    NotCgroup2(PathBuf),
}

impl CgroupRoot {
    /// The root that was given, or the mount that shows the whole hierarchy, or any cgroup2 mount.
    ///
    /// # Errors
    ///
    /// When mountinfo cannot be read, or what was given is not in cgroup v2, or there is none.
    pub fn find(given: Option<&Path>) -> Result<Self, RootError> {
        let mounts = read_mounts()?;
        let Some(given) = given else {
            let whole = mounts
                .iter()
                .find(|mount| inode(&mount.point).is_ok_and(|inode| inode == ROOT_INODE));
            let mount = whole.or_else(|| mounts.first()).ok_or(RootError::NoMount)?;
            return Ok(Self {
                directory: mount.point.clone(),
                kernel_path: kernel_path(mount, Path::new("")),
            });
        };
        let directory = fs::canonicalize(given).map_err(|error| RootError::Read {
            path: given.to_path_buf(),
            error,
        })?;
        // Of mounts on top of each other the last is the one in sight.
        let mount = mounts
            .iter()
            .filter(|mount| directory.starts_with(&mount.point))
            .max_by_key(|mount| mount.point.components().count())
            .ok_or_else(|| RootError::NotCgroup2(directory.clone()))?;
        let below = directory
            .strip_prefix(&mount.point)
            .unwrap_or(Path::new(""))
            .to_path_buf();
        Ok(Self {
            kernel_path: kernel_path(mount, &below),
            directory,
        })
    }

    /// A path of a cgroup event as a path below this root; `None` for a path elsewhere, and when that cannot be known.
    #[must_use]
    pub fn below<'a>(&self, kernel_path: &'a str) -> Option<&'a str> {
        let below = kernel_path.strip_prefix(self.kernel_path.as_deref()?)?;
        (below.starts_with('/') && below.len() > 1).then_some(below)
    }

    /// The directory of a path below this root.
    #[must_use]
    pub fn directory_of(&self, path: &str) -> PathBuf {
        self.directory.join(path.trim_start_matches('/'))
    }
}

/// What a walk found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// One row a directory, the root (as `/`) first, parents before children.
    pub rows: Vec<CgroupRow>,
    /// Directories that could not be read, other than those that went away meanwhile.
    pub errors: u32,
    /// Directories beyond [`CGROUPS_MAX`] were left out.
    pub cut: bool,
}

impl Walk {
    /// Whether what is not in the rows is not there.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.errors == 0 && !self.cut
    }
}

/// Reads the whole tree. Directories that go away meanwhile are left out.
#[must_use]
pub fn walk(root: &Path) -> Walk {
    let mut walk = Walk::default();
    let mut queue = vec![String::new()];
    while let Some(path) = queue.pop() {
        let directory = root.join(path.trim_start_matches('/'));
        let children = inode(&directory).and_then(|inode| Ok((inode, children(&directory)?)));
        match children {
            Ok((inode, children)) => {
                if walk.rows.len() == CGROUPS_MAX {
                    walk.cut = true;
                    return walk;
                }
                let shown = if path.is_empty() {
                    "/".to_owned()
                } else {
                    path.clone()
                };
                walk.rows.push(CgroupRow {
                    cgroup: CgroupId(inode),
                    path: shown,
                });
                queue.extend(children.into_iter().map(|child| format!("{path}/{child}")));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_empty() => {}
            Err(_) => walk.errors += 1,
        }
    }
    walk
}

/// Names of the directories in a directory. A name that is no text cannot be a pod's and is left out.
fn children(directory: &Path) -> io::Result<Vec<String>> {
    let mut children = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir()
            && let Ok(name) = entry.file_name().into_string()
        {
            children.push(name);
        }
    }
    Ok(children)
}

/// The cgroup v2 path in the text of `/proc/<pid>/cgroup`, as the reader's cgroup namespace shows it: it may begin with
/// `/..`, see [`resolve`]. `None` for a process that is gone or a kernel without cgroup v2.
#[must_use]
pub fn v2_path(proc_cgroup: &str) -> Option<&str> {
    let path = proc_cgroup
        .lines()
        .find_map(|line| line.strip_prefix("0::"))?;
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    path.starts_with('/').then_some(path)
}

/// A path that a cgroup namespace shows, as a path from the root that the namespace's own root `base` is told from.
/// `/../b/c` with the base `/a` is `/b/c`; `..` beyond the root stays at the root.
#[must_use]
pub fn resolve(base: &str, shown: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in base.split('/').chain(shown.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Whether pods live in a cgroup v1 hierarchy, whose mount it returns: then network and CPU probes see none of them.
#[must_use]
pub fn pods_in_v1() -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mut v1 = parse_mountinfo(&text)
        .into_iter()
        .filter(|mount| mount.file_system == "cgroup");
    v1.find(|mount| {
        ["kubepods", "kubepods.slice"]
            .iter()
            .any(|name| mount.point.join(name).is_dir())
    })
    .map(|mount| mount.point)
}

/// Mounts of cgroup v2, in the order of mountinfo.
fn read_mounts() -> Result<Vec<Mount>, RootError> {
    let path = PathBuf::from("/proc/self/mountinfo");
    let text = fs::read_to_string(&path).map_err(|error| RootError::Read { path, error })?;
    Ok(parse_mountinfo(&text)
        .into_iter()
        .filter(|mount| mount.file_system == "cgroup2")
        .collect())
}

fn inode(directory: &Path) -> io::Result<u64> {
    Ok(fs::metadata(directory)?.ino())
}

/// What the kernel calls the directory `below` a mount in events, which do not know namespaces.
fn kernel_path(mount: &Mount, below: &Path) -> Option<String> {
    let first = || {
        fs::read_link("/proc/self/ns/cgroup")
            .is_ok_and(|target| target.as_os_str() == FIRST_NAMESPACE)
    };
    let whole = inode(&mount.point).is_ok_and(|inode| inode == ROOT_INODE);
    let mounted = if whole {
        ""
    } else if first() {
        mount.root.trim_end_matches('/')
    } else {
        return None;
    };
    let below = below.to_str()?;
    Some(if below.is_empty() {
        mounted.to_owned()
    } else {
        format!("{mounted}/{below}")
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::{CgroupRoot, resolve, v2_path, walk};

    fn root(kernel_path: Option<&str>) -> CgroupRoot {
        CgroupRoot {
            directory: PathBuf::from("/cg"),
            kernel_path: kernel_path.map(str::to_owned),
        }
    }

    #[test]
    fn kernel_paths_are_placed_below_the_root_or_nowhere() {
        let whole = root(Some(""));
        assert_eq!(whole.below("/a/b"), Some("/a/b"));
        assert_eq!(
            whole.below("/"),
            None,
            "the root itself does not come or go"
        );
        let part = root(Some("/a"));
        assert_eq!(part.below("/a/b/c"), Some("/b/c"));
        for elsewhere in ["/a", "/ab/c", "/b", "", "a/b"] {
            assert_eq!(part.below(elsewhere), None, "{elsewhere}");
        }
        assert_eq!(root(None).below("/a/b"), None);
        assert_eq!(part.directory_of("/b/c"), Path::new("/cg/b/c"));
    }

    #[test]
    fn the_v2_line_of_a_process_is_found_in_pure_and_hybrid_layouts() {
        assert_eq!(v2_path("0::/init.scope\n"), Some("/init.scope"));
        assert_eq!(
            v2_path("12:cpu:/a\n1:name=systemd:/b\n0::/../c\n"),
            Some("/../c")
        );
        assert_eq!(v2_path("0::/a (deleted)\n"), Some("/a"));
        for without in ["", "12:cpu:/a\n", "0::", "0::x"] {
            assert_eq!(v2_path(without), None, "{without:?}");
        }
    }

    #[test]
    fn what_a_namespace_shows_is_placed() {
        for (base, shown, placed) in [
            ("/", "/a/b", "/a/b"),
            ("/pods/me", "/", "/pods/me"),
            ("/pods/me", "/child", "/pods/me/child"),
            ("/pods/me", "/../other/c", "/pods/other/c"),
            ("/pods/me", "/../../system", "/system"),
            ("/", "/../../system", "/system"),
        ] {
            assert_eq!(resolve(base, shown), placed);
        }
    }

    #[test]
    fn a_walk_tells_parents_before_children_and_ignores_files() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("kubepods/pod1/c1")).unwrap();
        fs::create_dir_all(directory.path().join("system")).unwrap();
        fs::write(directory.path().join("cgroup.procs"), "1").unwrap();
        let walk = walk(directory.path());
        assert_eq!((walk.errors, walk.cut), (0, false));
        assert!(walk.is_complete());
        let paths: Vec<&str> = walk.rows.iter().map(|row| row.path.as_str()).collect();
        assert_eq!(paths[0], "/");
        for (parent, child) in [
            ("/kubepods", "/kubepods/pod1"),
            ("/kubepods/pod1", "/kubepods/pod1/c1"),
        ] {
            let at = |path: &str| paths.iter().position(|p| *p == path).unwrap();
            assert!(at(parent) < at(child));
        }
        assert_eq!(paths.len(), 5);
        assert!(walk.rows.iter().all(|row| row.cgroup.0 != 0));
    }

    #[test]
    fn a_root_that_is_not_there_is_an_error_not_an_empty_tree() {
        let nothing = walk(Path::new("/nonexistent"));
        assert_eq!((nothing.errors, nothing.is_complete()), (1, false));
        assert!(CgroupRoot::find(Some(Path::new("/nonexistent"))).is_err());
        assert!(CgroupRoot::find(Some(Path::new("/proc"))).is_err());
    }
}
