//! Which files there are below a path, and what tells that one changed. Reads names and attributes, no contents.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Files read below one path.
pub(super) const FILES_MAX: usize = 10_000;
/// Directories inside directories.
pub(super) const DEPTH_MAX: usize = 16;
/// Bytes of one file.
pub(super) const BYTES_MAX: u64 = 64 << 20;
/// Names looked at below one path, those of other files too.
const NAMES_MAX: usize = 200_000;

/// What changes when a file does: a ConfigMap's swap changes device or inode, a rewrite size or times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// What a walk found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Files by their name in messages: the path below the root, or the file's own name when it is the root.
    pub(super) files: BTreeMap<String, (PathBuf, Stamp)>,
    /// What could not be looked at, and why.
    pub(super) problems: BTreeMap<String, String>,
    names: usize,
    directories: BTreeSet<(u64, u64)>,
}

/// All manifests below `root`, symbolic links followed.
///
/// # Errors
/// `root` itself cannot be looked at.
pub(super) fn walk(root: &Path) -> io::Result<Found> {
    let meta = fs::metadata(root)?;
    let mut found = Found::default();
    if meta.is_dir() {
        fs::read_dir(root)?;
        found.directory(root, "", &meta, 0);
    } else if meta.is_file() {
        let name = root
            .file_name()
            .unwrap_or(root.as_os_str())
            .to_string_lossy()
            .into_owned();
        found
            .files
            .insert(name, (root.to_owned(), Stamp::of(&meta)));
    } else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "neither a file nor a directory",
        ));
    }
    Ok(found)
}

impl Found {
    /// Whether a file is out of sight rather than gone: it, or a directory above it, could not be looked at.
    pub(super) fn hides(&self, name: &str) -> bool {
        self.problems.keys().any(|unseen| {
            unseen.is_empty()
                || name
                    .strip_prefix(unseen.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    fn directory(&mut self, path: &Path, name: &str, meta: &Metadata, depth: usize) {
        // A link to a directory above would be walked until the depth runs out.
        if !self.directories.insert((meta.dev(), meta.ino())) {
            return;
        }
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => return self.problem(name, format!("cannot be read: {error}")),
        };
        let mut names: Vec<String> = Vec::new();
        for entry in entries.flatten() {
            self.names += 1;
            if self.names > NAMES_MAX {
                return self.problem(
                    name,
                    format!("more than {NAMES_MAX} names: the rest is not read"),
                );
            }
            match entry.file_name().into_string() {
                // Hidden names are editors' copies, and `..data` of a ConfigMap, whose files are linked by plain names.
                Ok(name) if !name.starts_with('.') => names.push(name),
                Ok(_) | Err(_) => {}
            }
        }
        names.sort_unstable();
        for child in names {
            let child_name = if name.is_empty() {
                child.clone()
            } else {
                format!("{name}/{child}")
            };
            self.entry(&path.join(&child), child_name, depth);
        }
    }

    fn entry(&mut self, path: &Path, name: String, depth: usize) {
        let manifest = [".yaml", ".yml", ".json"]
            .iter()
            .any(|suffix| name.ends_with(suffix));
        let meta = match fs::metadata(path) {
            Ok(meta) => meta,
            Err(error) if manifest => {
                return self.problem(&name, format!("cannot be read: {error}"));
            }
            Err(_) => return,
        };
        if meta.is_dir() {
            if depth == DEPTH_MAX {
                return self.problem(
                    &name,
                    format!("more than {DEPTH_MAX} directories deep: not read"),
                );
            }
            self.directory(path, &name, &meta, depth + 1);
        } else if manifest && meta.is_file() {
            if self.files.len() == FILES_MAX {
                return self.problem(
                    "",
                    format!("more than {FILES_MAX} manifests: the rest is not read"),
                );
            }
            self.files.insert(name, (path.to_owned(), Stamp::of(&meta)));
        }
    }

    /// One problem for one name: ten thousand files too many are one.
    fn problem(&mut self, name: &str, message: String) {
        self.problems.entry(name.to_owned()).or_insert(message);
    }
}

/// The contents of a file, and its stamp from before they were read.
pub(super) fn read(path: &Path) -> Result<(Vec<u8>, Stamp), String> {
    let cannot = |error: io::Error| format!("cannot be read: {error}");
    // What was a file a moment ago may be a pipe now, and opening one would wait for its writer.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).expect("open flags fit an int");
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(cannot)?;
    let meta = file.metadata().map_err(cannot)?;
    let too_large = || {
        format!(
            "larger than {} MiB: split it, or dump fewer objects",
            BYTES_MAX >> 20
        )
    };
    if !meta.is_file() {
        return Err("not a file any more".to_owned());
    }
    if meta.size() > BYTES_MAX {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    let read = file
        .take(BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(cannot)?;
    if u64::try_from(read).is_ok_and(|read| read > BYTES_MAX) {
        return Err(too_large());
    }
    Ok((bytes, Stamp::of(&meta)))
}
