//! Network namespaces of the node, and a way to ask each for its sockets.
//!
//! A thread of its own enters them one after the other and makes a netlink socket in each, which the asker uses from
//! outside. The thread never comes back to other work: it ends when all were entered or nobody asks any more. Nothing is
//! kept between two visits: a descriptor into a namespace would keep a pod's network alive after the pod.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use anyhow::Context as _;
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::socket::DiagSocket;

/// Processes remembered as ways into one namespace: some may end before their turn comes.
pub(crate) const WAYS_MAX: usize = 8;

/// Namespaces visited in one go; further ones are left out. A node has one per pod and some.
pub(crate) const NAMESPACES_MAX: usize = 4_096;

/// Threads that hang in a namespace, after which no more are made.
const HANGING_MAX: usize = 4;

/// How long one namespace may take to be entered.
const PATIENCE: Duration = Duration::from_secs(10);

/// Threads that enter namespaces.
static ENTERING: AtomicUsize = AtomicUsize::new(0);

/// A network namespace and files that lead to it, such as `/proc/<pid>/ns/net`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Namespace {
    /// Its inode.
    pub(crate) inode: u64,
    /// At most [`WAYS_MAX`] are tried.
    pub(crate) ways: Vec<PathBuf>,
}

/// Why a namespace cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Closed {
    /// No way leads there any more: its processes ended.
    #[error("it is gone")]
    Gone,
    /// The kernel refuses: `EPERM` without `CAP_SYS_ADMIN`.
    #[error("{0}")]
    Refused(Errno),
}

/// The network namespaces of the node, as far as they can be found.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// At most [`NAMESPACES_MAX`].
    pub(crate) namespaces: Vec<Namespace>,
    /// How many there are beyond that.
    pub(crate) beyond: usize,
    /// Processes whose namespace may not be looked at: it is listed only if another process is in it.
    pub(crate) unreadable: usize,
}

/// A network namespace that was entered.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Asks it.
    pub(crate) socket: DiagSocket,
    /// Its range of dynamic ports, where it was asked for and could be read.
    pub(crate) ports: Option<(u16, u16)>,
}

/// Namespaces being opened by the thread that enters them.
#[derive(Debug)]
pub(crate) struct Visits {
    opened: Receiver<(u64, Result<Opened, Closed>)>,
    hangs: bool,
}

impl Iterator for Visits {
    type Item = (u64, Result<Opened, Closed>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.hangs {
            return None;
        }
        match self.opened.recv_timeout(PATIENCE) {
            Ok(visit) => Some(visit),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                self.hangs = true;
                Some((0, Err(Closed::Refused(Errno::TIMEDOUT))))
            }
        }
    }
}

/// Counts a thread while it lives.
struct Entering;

impl Entering {
    fn begin() -> anyhow::Result<Self> {
        let before = ENTERING.fetch_add(1, Ordering::Relaxed);
        let this = Self;
        anyhow::ensure!(
            before < HANGING_MAX,
            "{before} threads hang in network namespaces"
        );
        Ok(this)
    }
}

impl Drop for Entering {
    fn drop(&mut self) {
        ENTERING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Opens each namespace in turn; the next one while the caller is busy with one. The caller's own namespace needs no right
/// when it comes first, and is put there. `ports` asks for ranges of dynamic ports, too.
///
/// # Errors
///
/// The system gives no thread, or too many hang.
pub(crate) fn visit(mut namespaces: Vec<Namespace>, ports: bool) -> anyhow::Result<Visits> {
    let here = own();
    namespaces.sort_by_key(|namespace| (Some(namespace.inode) != here, namespace.inode));
    // At most two are open at a time: each takes descriptors.
    let (sender, opened) = sync_channel(1);
    let entering = Entering::begin()?;
    std::thread::Builder::new()
        .name("netns".into())
        .spawn(move || {
            let _entering = entering;
            let mut current = here;
            for Namespace { inode, ways } in namespaces {
                let opened = enter(inode, &ways, &mut current).and_then(|()| {
                    Ok(Opened {
                        socket: DiagSocket::open().map_err(Closed::Refused)?,
                        ports: if ports { dynamic_ports() } else { None },
                    })
                });
                if sender.send((inode, opened)).is_err() {
                    return;
                }
            }
        })
        .context("start the thread that enters network namespaces")?;
    Ok(Visits {
        opened,
        hangs: false,
    })
}

/// Moves the calling thread.
fn enter(inode: u64, ways: &[PathBuf], current: &mut Option<u64>) -> Result<(), Closed> {
    if *current == Some(inode) {
        return Ok(());
    }
    let mut refused = None;
    for way in ways.iter().take(WAYS_MAX) {
        match open(way, inode) {
            Ok(Some(namespace)) => {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .map_err(Closed::Refused)?;
                *current = Some(inode);
                return Ok(());
            }
            Ok(None) => {}
            Err(error) => refused = Errno::from_io_error(&error).or(refused),
        }
    }
    Err(refused.map_or(Closed::Gone, Closed::Refused))
}

/// The namespace, if the way still leads to the one that is meant: pids are reused.
fn open(way: &Path, inode: u64) -> io::Result<Option<File>> {
    match File::open(way) {
        Ok(file) => Ok((file.metadata()?.ino() == inode).then_some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The network namespace of the calling thread.
pub(crate) fn own() -> Option<u64> {
    inode(Path::new("/proc/thread-self/ns/net")).ok()
}

/// `net.ipv4.ip_local_port_range` of the network namespace that the calling thread is in.
pub(crate) fn dynamic_ports() -> Option<(u16, u16)> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let (first, last) = text.trim().split_once(char::is_whitespace)?;
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
}

/// Inode of the network namespace that a file leads to.
pub(crate) fn inode(way: &Path) -> io::Result<u64> {
    std::fs::metadata(way).map(|meta| meta.ino())
}

/// The network namespaces that processes are in, by inode.
///
/// # Errors
///
/// The list of processes cannot be read.
pub(crate) fn of_processes(proc_root: &Path) -> io::Result<Listing> {
    let mut found: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
    let mut listing = Listing::default();
    for entry in std::fs::read_dir(proc_root)?.flatten() {
        let is_process = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.parse::<u32>().is_ok());
        if !is_process {
            continue;
        }
        let process = entry.path();
        let way = process.join("ns/net");
        match inode(&way) {
            Ok(inode) => {
                let ways = found.entry(inode).or_default();
                if ways.len() < WAYS_MAX {
                    ways.push(way);
                }
            }
            // One that ends is denied too, or not found any more.
            Err(error) if error.kind() == io::ErrorKind::NotFound || !process.exists() => {}
            Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => {}
            Err(_) => listing.unreadable += 1,
        }
    }
    listing.beyond = found.len().saturating_sub(NAMESPACES_MAX);
    let namespaces = found.into_iter().take(NAMESPACES_MAX);
    listing.namespaces = namespaces
        .map(|(inode, ways)| Namespace { inode, ways })
        .collect();
    Ok(listing)
}

/// Whether foreign network namespaces can be entered: asks by entering our own once more, for which the kernel asks the
/// same right.
///
/// # Errors
///
/// `EPERM` without `CAP_SYS_ADMIN`, or where a filter of system calls forbids it.
pub(crate) fn may_enter() -> Result<(), Errno> {
    let asked = std::thread::Builder::new().name("netns".into()).spawn(|| {
        let own = File::open("/proc/thread-self/ns/net")
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Network))
    });
    let Ok(asked) = asked else {
        return Err(Errno::AGAIN);
    };
    asked.join().unwrap_or(Err(Errno::IO))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::ops::ControlFlow;
    use std::path::{Path, PathBuf};

    use super::super::message::{IPV4, LISTENING, Query, TCP};
    use super::{Closed, NAMESPACES_MAX, Namespace, of_processes, own, visit};

    #[test]
    fn the_own_namespace_is_asked_without_any_right() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let all = of_processes(Path::new("/proc")).unwrap();
        let mine = all
            .namespaces
            .into_iter()
            .find(|namespace| Some(namespace.inode) == own())
            .expect("this process is in one");
        let (inode, opened) = visit(vec![mine], true).unwrap().next().unwrap();
        assert_eq!(Some(inode), own());
        let mut opened = opened.unwrap();
        assert!(opened.ports.is_some_and(|(first, last)| first <= last));
        let query = Query {
            family: IPV4,
            protocol: TCP,
            states: LISTENING,
            info: false,
        };
        let mut found = 0;
        opened
            .socket
            .dump(query, |entry| {
                found += usize::from(entry.local_port == port);
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(found, 1);
    }

    #[test]
    fn what_is_not_listed_is_counted() {
        let proc_root = tempfile::tempdir().unwrap();
        let process = |pid: usize| proc_root.path().join(pid.to_string()).join("ns");
        for pid in 1..=NAMESPACES_MAX + 3 {
            std::fs::create_dir_all(process(pid)).unwrap();
            // Files of their own: as many namespaces.
            std::fs::write(process(pid).join("net"), "").unwrap();
        }
        for pid in [100_001, 100_002] {
            std::fs::create_dir_all(process(pid)).unwrap();
            // Leads in a circle, which is an error even to root.
            std::os::unix::fs::symlink("net", process(pid).join("net")).unwrap();
        }
        // Ended while it was looked at.
        std::fs::create_dir_all(process(100_003)).unwrap();
        let listing = of_processes(proc_root.path()).unwrap();
        assert_eq!(listing.namespaces.len(), NAMESPACES_MAX);
        assert_eq!((listing.beyond, listing.unreadable), (3, 2));
    }

    #[test]
    fn a_namespace_whose_processes_ended_is_gone() {
        let ways = vec![
            PathBuf::from("/proc/0/ns/net"),
            // There, and not the one that is meant.
            PathBuf::from("/proc/self/ns/net"),
        ];
        let (_, socket) = visit(vec![Namespace { inode: 1, ways }], false)
            .unwrap()
            .next()
            .unwrap();
        assert_eq!(socket.err(), Some(Closed::Gone));
    }
}
