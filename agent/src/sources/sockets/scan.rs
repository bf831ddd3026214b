//! One scan: tables of listening sockets, and of UDP sockets without a peer, per network namespace, joined with the
//! descriptors of processes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use plumbline_core::attribution::container_of;
use plumbline_core::id::{CgroupId, PodUid};
use plumbline_core::observation::{HOLDERS_MAX, Holder, ListenerRow};
use procfs::ProcError;
use procfs::process::Process;
use rustix::io::Errno;

use super::tables::{self, Method, Sockets};
use super::{process, share};
use crate::sources::processes::{CgroupResolver, Placed};
use crate::sources::sock_diag::netns;

/// Rows of one scan, and sockets that one network namespace is asked for. More than this are left out and counted, of those who
/// have most.
pub(super) const ROWS_MAX: usize = 32_768;

/// What a scan found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) rows: Vec<ListenerRow>,
    /// Ranges of dynamic ports by cgroup of a process, where the range of its namespace is known.
    pub(super) ports: BTreeMap<CgroupId, (u16, u16)>,
    pub(super) errors: Errors,
}

/// What a scan could not read or keep. A process that ended while it was looked at is not among it.
#[derive(Clone, Debug, Default)]
pub(super) struct Errors {
    /// Processes, and tables of network namespaces, that we have no right to read.
    pub(super) denied: u32,
    /// The same that could not be read for another reason.
    pub(super) failed: u32,
    /// Which network namespace is the node's own is not known.
    pub(super) host_unknown: bool,
    /// Sockets beyond [`ROWS_MAX`].
    pub(super) cut: u32,
    /// Cgroups of the processes that could not be read: their sockets may be missing from the rows.
    pub(super) unreadable: BTreeSet<CgroupId>,
    /// Likewise of those whose sockets were too many.
    pub(super) too_many: BTreeSet<CgroupId>,
}

impl Errors {
    /// All of them.
    pub(super) fn sum(&self) -> u32 {
        self.denied
            .saturating_add(self.failed)
            .saturating_add(self.cut)
    }

    /// Cgroups of which some sockets may be missing.
    pub(super) fn missing(&self) -> Vec<CgroupId> {
        self.unreadable.union(&self.too_many).copied().collect()
    }

    /// Counts an error about a process. The kernel also denies one that has just ended: that is none.
    fn add(&mut self, error: &ProcError, process: &Path, placed: Option<&Placed>) {
        match error {
            ProcError::NotFound(_) => return,
            ProcError::Io(error, _) if is_gone(error) => return,
            ProcError::PermissionDenied(_) if !process.exists() => return,
            ProcError::PermissionDenied(_) => self.denied = self.denied.saturating_add(1),
            ProcError::Io(_, _)
            | ProcError::Incomplete(_)
            | ProcError::Other(_)
            | ProcError::InternalError(_) => self.failed = self.failed.saturating_add(1),
        }
        self.unreadable.extend(placed.map(|placed| placed.cgroup));
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
    dir: PathBuf,
    process: Process,
    /// `None` for a process outside the watched cgroups.
    placed: Option<Placed>,
    netns: u64,
}

/// Reads the sockets that processes of some containers hold, given the paths of their cgroups, or those of the whole node.
///
/// # Errors
///
/// The list of processes cannot be read: then nothing is known.
pub(super) fn scan(
    proc_root: &Path,
    resolver: &mut CgroupResolver,
    containers: Option<&[&str]>,
    method: Method,
) -> io::Result<Scan> {
    let mut scan = Scan::default();
    let errors = &mut scan.errors;
    let candidates = candidates(proc_root, resolver, containers, errors)?;
    let host_netns = host_netns(proc_root);
    errors.host_unknown = host_netns.is_none();
    let (mut sockets, ports) = listening(&candidates, method, errors);
    for candidate in &candidates {
        if let Some((placed, ports)) = candidate.placed.as_ref().zip(ports.get(&candidate.netns)) {
            scan.ports.insert(placed.cgroup, *ports);
        }
    }
    let homes = homes(&candidates);
    for candidate in &candidates {
        hold(candidate, &homes, &mut sockets, errors);
    }
    for (inode, socket) in sockets {
        // Held by nobody that was looked at: of another container in a shared namespace, or gone since. Who created it is
        // enough where the whole node is looked at.
        let held_by = socket.holders.first().map(|first| first.cgroup);
        let creator = socket.creator.filter(|_| containers.is_none());
        let Some(owner) = held_by.or(creator) else {
            continue;
        };
        let host_netns = Some(socket.netns) == host_netns;
        scan.rows.push(ListenerRow {
            owner,
            creator: socket.creator,
            transport: socket.transport,
            v6only: socket.v6only,
            cookie: socket.cookie,
            address: socket.address,
            port: socket.port,
            inode,
            netns: socket.netns,
            host_netns,
            // What is in the node's own network is the node's to answer for, whoever left it behind.
            foreign_netns: !socket.holders.is_empty() && !socket.at_home && !host_netns,
            holders: socket.holders,
        });
    }
    let left = share::out(&mut scan.rows, ROWS_MAX);
    scan.errors.cut = scan.errors.cut.saturating_add(left.rows);
    scan.errors.too_many.extend(left.owners);
    Ok(scan)
}

/// The processes to look at, by pid.
fn candidates(
    proc_root: &Path,
    resolver: &mut CgroupResolver,
    containers: Option<&[&str]>,
    errors: &mut Errors,
) -> io::Result<Vec<Candidate>> {
    let names = std::fs::read_dir(proc_root)?
        .flatten()
        .map(|entry| entry.file_name());
    let mut pids: Vec<u32> = names
        .filter_map(|name| name.to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    let mut found = Vec::new();
    for pid in pids {
        let placed = resolver.of_process(proc_root, pid);
        let within = |paths: &[&str]| {
            let placed = placed.as_ref();
            placed.is_some_and(|placed| paths.iter().any(|path| is_within(&placed.path, path)))
        };
        if !containers.is_none_or(within) {
            continue;
        }
        let dir = proc_root.join(pid.to_string());
        let opened = netns(&dir)
            .map_err(ProcError::from)
            .and_then(|netns| Ok((netns, Process::new_with_root(dir.clone())?)));
        match opened {
            Ok((netns, process)) => found.push(Candidate {
                pid,
                dir,
                process,
                placed,
                netns,
            }),
            Err(error) => errors.add(&error, &dir, placed.as_ref()),
        }
    }
    Ok(found)
}

/// Whether a cgroup path is a container's or below it.
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
    netns::inode(&process.join("ns/net"))
}

/// Listening sockets by inode, of every network namespace that a candidate is in, and their ranges of dynamic ports.
fn listening(
    candidates: &[Candidate],
    method: Method,
    errors: &mut Errors,
) -> (Sockets, BTreeMap<u64, (u16, u16)>) {
    let mut members: BTreeMap<u64, Vec<&Candidate>> = BTreeMap::new();
    for candidate in candidates {
        members.entry(candidate.netns).or_default().push(candidate);
    }
    let way = |member: &&Candidate| member.dir.join("ns/net");
    let mut told = match method {
        Method::SockDiag => tables::by_sock_diag(
            members
                .iter()
                .map(|(netns, members)| {
                    (
                        *netns,
                        members.iter().take(netns::WAYS_MAX).map(way).collect(),
                    )
                })
                .collect(),
        ),
        Method::Procfs => BTreeMap::new(),
    };
    let (mut sockets, mut ports) = (Sockets::new(), BTreeMap::new());
    for (netns, members) in members {
        let told = told.remove(&netns);
        ports.extend(told.as_ref().and_then(|told| Some((netns, told.ports?))));
        if told.as_ref().is_some_and(|told| told.cut) {
            // At least one, whose is not known.
            errors.cut = errors.cut.saturating_add(1);
            let placed = members.iter().filter_map(|member| member.placed.as_ref());
            errors.too_many.extend(placed.map(|placed| placed.cgroup));
        }
        let tcp = told
            .map(|told| told.sockets)
            .or_else(|| tables_of_any(&members, errors, |of| tables::by_procfs(of, netns)));
        // Always from procfs: kernels without the module `udp_diag` answer `sock_diag` about TCP alone.
        let udp = tables_of_any(&members, errors, |of| tables::udp_by_procfs(of, netns));
        sockets.extend(tcp.into_iter().chain(udp).flatten());
    }
    (sockets, ports)
}

/// The tables of a namespace, by whichever of its processes still lives to show them.
fn tables_of_any(
    members: &[&Candidate],
    errors: &mut Errors,
    read: impl Fn(&Process) -> Result<Sockets, ProcError>,
) -> Option<Sockets> {
    let mut failed = None;
    for member in members {
        match read(&member.process) {
            Ok(sockets) => return Some(sockets),
            Err(error) => failed = Some((error, member)),
        }
    }
    if let Some((error, member)) = failed {
        errors.add(&error, &member.dir, member.placed.as_ref());
    }
    None
}

/// Pods, with the network namespaces that some process of theirs is in: the pause container stays in the pod's own, whatever
/// the others do.
type Homes = BTreeSet<(PodUid, u64)>;

fn homes(candidates: &[Candidate]) -> Homes {
    let home = |candidate: &Candidate| Some((pod_of(candidate)?, candidate.netns));
    candidates.iter().filter_map(home).collect()
}

fn pod_of(candidate: &Candidate) -> Option<PodUid> {
    let placed = candidate.placed.as_ref()?;
    container_of(&placed.path).map(|found| found.pod_uid)
}

/// Adds a process to the sockets that it holds.
fn hold(candidate: &Candidate, homes: &Homes, sockets: &mut Sockets, errors: &mut Errors) {
    if sockets.is_empty() {
        return;
    }
    let (placed, pod) = (candidate.placed.as_ref(), pod_of(candidate));
    let is_home = |netns: u64| {
        let of_pod = |pod: &PodUid| homes.contains(&(pod.clone(), netns));
        candidate.netns == netns || pod.as_ref().is_some_and(of_pod)
    };
    let mut executable = None;
    let looked_at = process::each_socket(&candidate.process, |inode| {
        let Some(socket) = sockets.get_mut(&inode) else {
            return;
        };
        socket.at_home |= is_home(socket.netns);
        let known = socket
            .holders
            .last()
            .is_some_and(|last| last.pid == candidate.pid);
        if known || socket.holders.len() >= HOLDERS_MAX {
            return;
        }
        let executable = executable.get_or_insert_with(|| candidate.process.exe().ok());
        let executable = executable
            .as_ref()
            .map(|path| path.to_string_lossy().into_owned());
        socket.holders.push(Holder {
            pid: candidate.pid,
            executable,
            cgroup: placed.map_or(CgroupId(0), |placed| placed.cgroup),
        });
    });
    if let Err(error) = looked_at {
        errors.add(&error, &candidate.dir, placed);
    }
}
