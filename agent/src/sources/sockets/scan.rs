//! One scan: tables of listening sockets per network namespace, joined with the descriptors of processes.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use plumbline_core::id::CgroupId;
use plumbline_core::observation::{HOLDERS_MAX, Holder, ListenerRow};
use procfs::ProcError;
use procfs::net::{TcpNetEntry, TcpState};
use procfs::process::{FDTarget, Process};

use crate::sources::processes::{CgroupResolver, Placed};

/// Rows of one scan. More listening sockets than this are left out and counted as errors.
const ROWS_MAX: usize = 65_536;

/// What a scan found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) rows: Vec<ListenerRow>,
    /// Processes, tables and rows that could not be read or kept.
    pub(super) errors: u32,
}

/// A process that is looked at.
struct Candidate {
    pid: u32,
    process: Process,
    /// `None` for a process outside the watched cgroups.
    placed: Option<Placed>,
    netns: u64,
}

/// A listening socket of one network namespace.
struct Socket {
    address: IpAddr,
    port: u16,
    netns: u64,
    holders: Vec<Holder>,
}

/// Reads the sockets that processes of one container hold, given the path of its cgroup, or those of the whole node.
pub(super) fn scan(
    proc_root: &Path,
    resolver: &mut CgroupResolver,
    container: Option<&str>,
) -> Scan {
    let mut scan = Scan::default();
    let candidates = candidates(proc_root, resolver, container, &mut scan.errors);
    let host_netns = netns(&proc_root.join("1")).ok();
    let mut sockets = listening(&candidates, &mut scan.errors);
    for candidate in &candidates {
        hold(candidate, &mut sockets, &mut scan.errors);
    }
    for (inode, socket) in sockets {
        // Held by nobody that was looked at: another container's in a shared namespace, or gone since.
        let Some(first) = socket.holders.first() else {
            continue;
        };
        if scan.rows.len() >= ROWS_MAX {
            scan.errors = scan.errors.saturating_add(1);
            continue;
        }
        scan.rows.push(ListenerRow {
            owner: first.cgroup,
            address: socket.address,
            port: socket.port,
            inode,
            netns: socket.netns,
            host_netns: Some(socket.netns) == host_netns,
            holders: socket.holders,
        });
    }
    scan
}

/// The processes to look at, by pid.
fn candidates(
    proc_root: &Path,
    resolver: &mut CgroupResolver,
    container: Option<&str>,
    errors: &mut u32,
) -> Vec<Candidate> {
    let Ok(entries) = std::fs::read_dir(proc_root) else {
        *errors = errors.saturating_add(1);
        return Vec::new();
    };
    let mut pids: Vec<u32> = entries
        .flatten()
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
        })
        .collect();
    pids.sort_unstable();
    let mut found = Vec::new();
    for pid in pids {
        let placed = resolver.of_process(proc_root, pid);
        let within = |container| {
            placed
                .as_ref()
                .is_some_and(|placed| is_within(&placed.path, container))
        };
        if !container.is_none_or(within) {
            continue;
        }
        let dir = proc_root.join(pid.to_string());
        match netns(&dir)
            .map_err(ProcError::from)
            .and_then(|netns| Ok((netns, Process::new_with_root(dir)?)))
        {
            Ok((netns, process)) => found.push(Candidate {
                pid,
                process,
                placed,
                netns,
            }),
            Err(error) => count(&error, errors),
        }
    }
    found
}

fn is_within(path: &str, container: &str) -> bool {
    path.strip_prefix(container)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Inode of the network namespace of a process.
fn netns(process: &Path) -> io::Result<u64> {
    std::fs::metadata(process.join("ns/net")).map(|meta| meta.ino())
}

/// Listening sockets by inode, of every network namespace that a candidate is in.
fn listening(candidates: &[Candidate], errors: &mut u32) -> BTreeMap<u64, Socket> {
    let mut representatives: BTreeMap<u64, Vec<&Candidate>> = BTreeMap::new();
    for candidate in candidates {
        representatives
            .entry(candidate.netns)
            .or_default()
            .push(candidate);
    }
    let mut sockets = BTreeMap::new();
    for (netns, members) in representatives {
        // A process may end while it is read; another one of the namespace will do.
        let tables = members
            .iter()
            .take(8)
            .find_map(|member| tables(&member.process).ok());
        let Some(entries) = tables else {
            *errors = errors.saturating_add(1);
            continue;
        };
        for entry in entries
            .into_iter()
            .filter(|entry| entry.state == TcpState::Listen && entry.inode != 0)
        {
            let address = entry.local_address.ip().to_canonical();
            let socket = Socket {
                address,
                port: entry.local_address.port(),
                netns,
                holders: Vec::new(),
            };
            sockets.insert(entry.inode, socket);
        }
    }
    sockets
}

fn tables(process: &Process) -> Result<Vec<TcpNetEntry>, ProcError> {
    let mut entries = process.tcp()?;
    // Absent when the kernel runs without IPv6.
    match process.tcp6() {
        Ok(more) => entries.extend(more),
        Err(ProcError::NotFound(_)) => {}
        Err(error) => return Err(error),
    }
    Ok(entries)
}

/// Adds a process to the sockets that it holds.
fn hold(candidate: &Candidate, sockets: &mut BTreeMap<u64, Socket>, errors: &mut u32) {
    if sockets.is_empty() {
        return;
    }
    let descriptors = match candidate.process.fd() {
        Ok(descriptors) => descriptors,
        Err(error) => return count(&error, errors),
    };
    let mut executable = None;
    for descriptor in descriptors.flatten() {
        let FDTarget::Socket(inode) = descriptor.target else {
            continue;
        };
        let Some(socket) = sockets
            .get_mut(&inode)
            .filter(|socket| socket.holders.len() < HOLDERS_MAX)
        else {
            continue;
        };
        if socket
            .holders
            .last()
            .is_some_and(|last| last.pid == candidate.pid)
        {
            continue;
        }
        let executable = executable.get_or_insert_with(|| candidate.process.exe().ok());
        let executable = executable
            .as_ref()
            .map(|path| path.to_string_lossy().into_owned());
        let cgroup = candidate
            .placed
            .as_ref()
            .map_or(CgroupId(0), |placed| placed.cgroup);
        socket.holders.push(Holder {
            pid: candidate.pid,
            executable,
            cgroup,
        });
    }
}

/// Counts what is worth telling: a process that ended while it was looked at is not.
fn count(error: &ProcError, errors: &mut u32) {
    let gone = match error {
        ProcError::NotFound(_) => true,
        ProcError::Io(error, _) => {
            matches!(error.kind(), io::ErrorKind::NotFound) || error.raw_os_error() == Some(3)
        }
        ProcError::PermissionDenied(_)
        | ProcError::Incomplete(_)
        | ProcError::Other(_)
        | ProcError::InternalError(_) => false,
    };
    *errors = errors.saturating_add(u32::from(!gone));
}
