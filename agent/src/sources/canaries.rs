//! The cgroups in which agents try themselves out: what happens in them is told to nobody.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use plumbline_core::id::CgroupId;
use plumbline_core::observation::ListenerRow;

use super::cgroups::CgroupRoot;

/// How the directories begin; the agent's pid follows.
pub(super) const PREFIX: &str = "plumbline-canary-";

/// The directories below the root, each with its agent's pid.
pub(super) fn directories(root: &CgroupRoot) -> impl Iterator<Item = (u32, PathBuf)> + use<> {
    let entries = fs::read_dir(&root.directory);
    entries.into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name();
        let pid = name.to_str()?.strip_prefix(PREFIX)?.parse().ok()?;
        Some((pid, entry.path()))
    })
}

/// Takes the sockets of canaries out of what a scan found: it may come at the very moment in which one listens.
pub(super) fn strip(rows: &mut Vec<ListenerRow>, root: &CgroupRoot) {
    let ids = directories(root).filter_map(|(_, path)| Some(fs::metadata(path).ok()?.ino()));
    let canaries: BTreeSet<CgroupId> = ids.map(CgroupId).collect();
    rows.retain(|row| !canaries.contains(&row.owner));
}
