//! Bytes of connections while they are open: reads `sock_diag` in every network namespace, follows what it finds, and tells
//! what was added since the last reading. Works on a thread of its own.
//!
//! Takes `CAP_SYS_ADMIN`, to enter the pods' network namespaces. Without it, or turned off, the bytes of a connection arrive
//! when it closes.

mod ledger;
mod owners;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use aya::maps::{HashMap, MapData};
use plumbline_core::observation::{Fact, Health, ProbeStatus};
use plumbline_ebpf::connection::{CONNECTIONS_MAX, Connection};

use super::report::Reporter;
use crate::clock;
use crate::sources::Sink;
use crate::sources::cgroups::CgroupRoot;
use crate::sources::sock_diag::message::{Entry, IPV4, IPV6, OPEN, Query, TCP};
use crate::sources::sock_diag::netns::{self, Closed};
use crate::sources::sock_diag::socket::{DiagError, DiagSocket};
use ledger::{Covered, Ledger};
use owners::Owners;
use rustix::io::Errno;

/// Name of the probe.
pub(super) const CONNECTIONS: &str = "connections";

/// What still works without the probe.
const WITHOUT: &str = "bytes of a connection are counted when it closes";

/// Connections of one network namespace that one reading looks at. Further ones are left out and counted.
const SOCKETS_MAX: usize = 65_536;

/// The first reading may take this long: programs are attached after it, so that it tells what is older than the agent.
const FIRST: Duration = Duration::from_secs(10);

/// `BPF_NOEXIST`.
const NEW: u64 = 1;

/// Entries of followed connections, which the network program finds at close.
pub(super) type Entries = HashMap<MapData, u64, Connection>;

/// Where and how often to read.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Where procfs of the node is mounted.
    pub(super) proc_root: PathBuf,
    /// Below which containers are.
    pub(super) cgroup_root: CgroupRoot,
    /// Between two readings.
    pub(super) interval: Duration,
}

/// The running reader. Dropping it reads a last time and ends it.
#[derive(Debug)]
pub(super) struct Connections {
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Connections {
    /// Starts the reader, before any network program is attached, and waits for the first reading.
    ///
    /// # Errors
    ///
    /// How the probe is when it does not run.
    pub(super) fn start(
        settings: Settings,
        entries: Entries,
        sink: Sink,
    ) -> Result<Self, ProbeStatus> {
        netns::may_enter().map_err(|error| match error {
            Errno::PERM => {
                unsupported("missing CAP_SYS_ADMIN to enter the pods' network namespaces")
            }
            error => unsupported(&format!("network namespaces cannot be entered: {error}")),
        })?;
        let (stop, stopped) = sync_channel(0);
        let (ready, read) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name(CONNECTIONS.into())
            .spawn(move || Reader::new(settings, entries, sink).run(&stopped, &ready))
            .context("start the thread that follows connections")
            .map_err(|error| status(Health::Broken, &format!("{error:#}")))?;
        if read.recv_timeout(FIRST) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the first reading of connections takes longer than {FIRST:?}");
        }
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Whether it still reads.
    pub(super) fn is_alive(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.stop = None;
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the thread that follows connections panicked");
        }
    }
}

/// It is not to run.
pub(super) fn off() -> ProbeStatus {
    status(Health::Off, "turned off by a setting")
}

/// It needs something that is not there.
pub(super) fn unsupported(what: &str) -> ProbeStatus {
    status(Health::Unsupported, what)
}

/// It should run and does not.
pub(super) fn broken(what: &str) -> ProbeStatus {
    status(Health::Broken, what)
}

fn status(health: Health, why: &str) -> ProbeStatus {
    ProbeStatus {
        probe: CONNECTIONS.into(),
        health,
        reason: Some(format!("{why}; {WITHOUT}")),
    }
}

/// The thread's own state.
struct Reader {
    settings: Settings,
    entries: Entries,
    sink: Sink,
    reporter: Reporter,
    owners: Owners,
    ledger: Ledger,
    /// Namespaces that were there at start and were not read yet: what is found in them is older than the agent.
    unread: Option<BTreeSet<u64>>,
    cut: u64,
}

impl Reader {
    fn new(settings: Settings, entries: Entries, sink: Sink) -> Self {
        Self {
            owners: Owners::new(settings.cgroup_root.clone()),
            reporter: Reporter::new(sink.clone()),
            settings,
            entries,
            sink,
            ledger: Ledger::default(),
            unread: None,
            cut: 0,
        }
    }

    fn run(mut self, stopped: &Receiver<()>, ready: &SyncSender<()>) {
        self.read();
        // Whoever started us may have given up waiting.
        ready.try_send(()).unwrap_or_default();
        while stopped.recv_timeout(self.settings.interval) == Err(RecvTimeoutError::Timeout) {
            self.read();
        }
        self.read();
    }

    /// Reads every namespace once, and tells.
    fn read(&mut self) {
        self.owners.begin();
        let status = match self.visit_all() {
            Ok(refused) => judge(refused),
            Err(error) => broken(&format!("{error:#}")),
        };
        let rows = self.ledger.rows();
        if !rows.is_empty() && self.sink.send(clock::monotonic(), Fact::Flows { rows }) {
            self.ledger.told();
        }
        self.report(&status);
    }

    fn report(&mut self, status: &ProbeStatus) {
        // Everything is told each time: the loop may have had no room for the last.
        self.reporter.forget();
        self.reporter.probe(status);
        let followed = (self.ledger.len(), u64::from(CONNECTIONS_MAX));
        self.reporter.occupancy(CONNECTIONS, followed);
        for (reason, count) in [
            ("full", self.ledger.refusals()),
            ("cut", self.cut),
            ("unseen_close", self.ledger.unseen()),
            ("pending_full", self.ledger.folded()),
        ] {
            self.reporter.dropped(CONNECTIONS, reason, count);
        }
    }

    /// Returns how many namespaces could not be read, and why the last could not.
    fn visit_all(&mut self) -> anyhow::Result<Option<(usize, DiagError)>> {
        let proc_root = &self.settings.proc_root;
        let namespaces = netns::of_processes(proc_root)
            .with_context(|| format!("list the processes in {}", proc_root.display()))?;
        let listed: BTreeSet<u64> = namespaces.iter().map(|namespace| namespace.inode).collect();
        let unread = self.unread.get_or_insert_with(|| listed.clone()).clone();
        let mut covered = Covered {
            listed,
            ..Covered::default()
        };
        let mut refused = 0;
        let mut why = None;
        for (inode, socket) in netns::visit(namespaces)? {
            let older = unread.contains(&inode);
            let read = match socket {
                Ok(mut socket) => self.ask(&mut socket, inode, older),
                Err(Closed::Gone) => continue,
                Err(Closed::Refused(errno)) => Err(errno.into()),
            };
            match read {
                Ok(true) => {
                    covered.read.insert(inode);
                }
                Ok(false) => self.cut += 1,
                Err(error) => {
                    refused += 1;
                    why = Some(error);
                }
            }
        }
        if let Some(unread) = &mut self.unread {
            unread.retain(|inode| covered.listed.contains(inode) && !covered.read.contains(inode));
        }
        let entries = &self.entries;
        let over = self
            .ledger
            .end_reading(&covered, |cookie| look(entries, cookie));
        for cookie in over {
            if let Err(error) = self.entries.remove(&cookie) {
                tracing::debug!(error = %error, "an entry cannot be removed");
            }
        }
        Ok(why.map(|why| (refused, why)))
    }

    /// Reads one namespace. `false` when it has too many connections.
    fn ask(&mut self, socket: &mut DiagSocket, netns: u64, older: bool) -> Result<bool, DiagError> {
        let mut found = 0;
        for family in [IPV4, IPV6] {
            let query = Query {
                family,
                protocol: TCP,
                states: OPEN,
                info: true,
            };
            socket.dump(query, |entry| {
                found += 1;
                if found > SOCKETS_MAX {
                    return ControlFlow::Break(());
                }
                self.found(&entry, netns, older);
                ControlFlow::Continue(())
            })?;
            if found > SOCKETS_MAX {
                return Ok(false);
            }
        }
        for (family, id) in self.ledger.doubtful(netns) {
            let query = Query {
                family,
                protocol: TCP,
                states: OPEN,
                info: true,
            };
            if let Some(entry) = socket.find(query, &id)? {
                self.found(&entry, netns, older);
            }
        }
        Ok(true)
    }

    fn found(&mut self, entry: &Entry, netns: u64, older: bool) {
        // In TIME_WAIT there is no sample: the connection has closed already.
        let (Some(sample), Some(cgroup)) = (entry.sample, entry.cgroup) else {
            return;
        };
        let Some(owner) = self.owners.container(cgroup) else {
            return;
        };
        let entries = &mut self.entries;
        self.ledger
            .see(entry, sample, (owner, netns, older), |cookie| {
                entries.insert(cookie, Connection::default(), NEW).is_ok()
            });
    }
}

fn judge(refused: Option<(usize, DiagError)>) -> ProbeStatus {
    match refused {
        Some((_, DiagError::Refused(code))) if Errno::from_raw_os_error(code) == Errno::NOENT => {
            unsupported("the kernel has no tcp_diag (CONFIG_INET_TCP_DIAG)")
        }
        Some((many, why)) => broken(&format!(
            "{many} network namespaces cannot be read ({why}): for them"
        )),
        None => ProbeStatus {
            probe: CONNECTIONS.into(),
            health: Health::Ok,
            reason: None,
        },
    }
}

/// The entry of a connection. One that is closed is read again: the first reading may have met it half written.
fn look(entries: &Entries, cookie: u64) -> Option<Connection> {
    let entry = entries.get(&cookie, 0).ok()?;
    if entry.closed_as == 0 {
        return Some(entry);
    }
    entries.get(&cookie, 0).ok()
}
