//! Directories of the cgroup v2 tree: finding the mount, making, filling, killing and removing.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::wait::poll;

/// How long the processes of a killed cgroup may take to go.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Where the cgroup v2 tree is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on hybrid hosts.
///
/// # Errors
/// When no mount shows the whole tree (its root directory has inode 1).
pub fn mount() -> Result<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    let found = table
        .lines()
        .filter_map(cgroup2_mount_point)
        .find(|path| fs::metadata(path).is_ok_and(|metadata| metadata.ino() == 1));
    found.context(
        "no mount of the whole cgroup v2 tree: mount -t cgroup2 none /sys/fs/cgroup/unified",
    )
}

/// The mount point of a line of mountinfo, if its file system is cgroup2.
fn cgroup2_mount_point(line: &str) -> Option<PathBuf> {
    let (before, after) = line.split_once(" - ")?;
    if after.split(' ').next()? != "cgroup2" {
        return None;
    }
    before.split(' ').nth(4).map(PathBuf::from)
}

/// Makes the directory and its parents, and tells its id: the inode.
///
/// # Errors
/// When the kernel refuses.
pub fn create(path: &Path) -> Result<u64> {
    fs::create_dir_all(path).with_context(|| format!("create cgroup {}", path.display()))?;
    Ok(fs::metadata(path)
        .with_context(|| format!("stat {}", path.display()))?
        .ino())
}

/// Whether a process lives in the directory or below it.
#[must_use]
pub fn populated(path: &Path) -> bool {
    fs::read_to_string(path.join("cgroup.events"))
        .is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
}

/// `usage_usec` of the directory: CPU time of it and everything below, in microseconds.
///
/// # Errors
/// When `cpu.stat` cannot be read or has no such line.
pub fn usage_us(path: &Path) -> Result<u64> {
    let file = path.join("cpu.stat");
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "));
    value
        .context("cpu.stat has no usage_usec")?
        .parse()
        .context("usage_usec is not a number")
}

/// Kills all processes in the directory and below, and waits until they are gone.
///
/// # Errors
/// When processes remain.
pub fn kill(path: &Path) -> Result<()> {
    let gone = poll(KILL_PATIENCE, || {
        if !populated(path) {
            return Some(());
        }
        // cgroup.kill exists from Linux 5.14; before, each process is killed by itself.
        if fs::write(path.join("cgroup.kill"), "1").is_err() {
            kill_each(path);
        }
        None
    });
    if gone.is_none() {
        bail!("processes in {} survive SIGKILL", path.display());
    }
    Ok(())
}

fn kill_each(path: &Path) {
    for directory in tree(path) {
        let Ok(list) = fs::read_to_string(directory.join("cgroup.procs")) else {
            continue;
        };
        for pid in list
            .lines()
            .filter_map(|line| line.parse().ok())
            .filter_map(rustix::process::Pid::from_raw)
        {
            // The process may be gone already; the caller looks again.
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
        }
    }
}

/// Kills what lives in the directory and removes it with everything below.
///
/// # Errors
/// When processes or directories remain.
pub fn remove(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    kill(path)?;
    let removed = poll(KILL_PATIENCE, || {
        // A killed process may keep its directory busy for a moment.
        tree(path)
            .iter()
            .rev()
            .try_for_each(|directory| match fs::remove_dir(directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            })
            .ok()
    });
    removed.with_context(|| format!("remove cgroup {}", path.display()))
}

/// The directory and all below it, parents first.
fn tree(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![path.to_path_buf()];
    let mut next = 0;
    while let Some(directory) = found.get(next).cloned() {
        next += 1;
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        found.extend(
            entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    found
}

/// Turns the cpu controller on from `top` down to the parent of `leaf`. `false` when the host gives it to nobody: hybrid
/// hosts keep it in the v1 hierarchy.
#[must_use]
pub fn enable_cpu(top: &Path, leaf: &Path) -> bool {
    enable("cpu", top, leaf)
}

/// Turns a controller on from `top` down to the parent of `leaf`. `false` when it is not to be had in this hierarchy.
#[must_use]
pub fn enable(controller: &str, top: &Path, leaf: &Path) -> bool {
    let on = format!("+{controller}");
    let mut between: Vec<&Path> = leaf
        .ancestors()
        .skip(1)
        .take_while(|path| path.starts_with(top))
        .collect();
    between.reverse();
    between
        .iter()
        .all(|path| fs::write(path.join("cgroup.subtree_control"), &on).is_ok())
}
