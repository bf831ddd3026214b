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
use rustix::io::Errno;

use crate::sources::processes::{CgroupResolver, Placed};

/// Rows of one scan. More listening sockets than this are left out and counted.
const ROWS_MAX: usize = 65_536;

/// What a scan found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) rows: Vec<ListenerRow>,
    pub(super) errors: Errors,
}

/// What a scan could not read or keep. A process that ended while it was looked at is not among it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Errors {
    /// Processes whose descriptors or tables we have no right to read.
    pub(super) denied: u32,
    /// Processes and tables that could not be read for another reason.
    pub(super) failed: u32,
    /// Sockets beyond [`ROWS_MAX`].
    pub(super) cut: u32,
}

impl Errors {
    /// All of them.
    pub(super) fn sum(self) -> u32 {
        self.denied
            .saturating_add(self.failed)
            .saturating_add(self.cut)
    }

    fn add(&mut self, error: &ProcError) {
        match error {
            ProcError::PermissionDenied(_) => self.denied = self.denied.saturating_add(1),
            ProcError::NotFound(_) => {}
            ProcError::Io(error, _) if is_gone(error) => {}
            ProcError::Io(_, _)
            | ProcError::Incomplete(_)
            | ProcError::Other(_)
            | ProcError::InternalError(_) => self.failed = self.failed.saturating_add(1),
        }
    }
}

/// What the kernel answers about a process that has ended (`ESRCH`), also to who still holds its directory, and about the
/// network of one that nobody has waited for yet (`EINVAL`).
fn is_gone(error: &io::Error) -> bool {
    let gone = [Errno::NOENT, Errno::SRCH, Errno::INVAL];
    Errno::from_io_error(error).is_some_and(|errno| gone.contains(&errno))
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
    let host_netns = host_netns(proc_root);
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
            scan.errors.cut = scan.errors.cut.saturating_add(1);
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
    errors: &mut Errors,
) -> Vec<Candidate> {
    let entries = match std::fs::read_dir(proc_root) {
        Ok(entries) => entries,
        Err(error) => {
            errors.add(&ProcError::from(error));
            return Vec::new();
        }
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
            Err(error) => errors.add(&error),
        }
    }
    found
}

fn is_within(path: &str, container: &str) -> bool {
    path.strip_prefix(container)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Inode of the node's own network namespace: that of process 1, or of kthreadd where process 1 is closed even to root.
fn host_netns(proc_root: &Path) -> Option<u64> {
    let of_init = netns(&proc_root.join("1")).ok();
    of_init.or_else(|| {
        let name = std::fs::read_to_string(proc_root.join("2/comm")).ok()?;
        netns(&proc_root.join("2"))
            .ok()
            .filter(|_| name.trim() == "kthreadd")
    })
}

/// Inode of the network namespace of a process.
fn netns(process: &Path) -> io::Result<u64> {
    std::fs::metadata(process.join("ns/net")).map(|meta| meta.ino())
}

/// Listening sockets by inode, of every network namespace that a candidate is in.
fn listening(candidates: &[Candidate], errors: &mut Errors) -> BTreeMap<u64, Socket> {
    let mut representatives: BTreeMap<u64, Vec<&Candidate>> = BTreeMap::new();
    for candidate in candidates {
        representatives
            .entry(candidate.netns)
            .or_default()
            .push(candidate);
    }
    let mut sockets = BTreeMap::new();
    for (netns, members) in representatives {
        let Some(entries) = tables_of_any(&members, errors) else {
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

/// The tables of a namespace, by whichever of its processes still lives to show them.
fn tables_of_any(members: &[&Candidate], errors: &mut Errors) -> Option<Vec<TcpNetEntry>> {
    let mut last = None;
    for member in members {
        match tables(&member.process) {
            Ok(entries) => return Some(entries),
            // A right that is missing here is missing for the whole namespace.
            Err(error @ ProcError::PermissionDenied(_)) => {
                errors.add(&error);
                return None;
            }
            Err(error) => last = Some(error),
        }
    }
    if let Some(error) = last {
        errors.add(&error);
    }
    None
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
fn hold(candidate: &Candidate, sockets: &mut BTreeMap<u64, Socket>, errors: &mut Errors) {
    if sockets.is_empty() {
        return;
    }
    let descriptors = match candidate.process.fd() {
        Ok(descriptors) => descriptors,
        Err(error) => return errors.add(&error),
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
