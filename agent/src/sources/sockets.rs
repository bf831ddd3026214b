//! Listening sockets and who holds them: at start, every interval, and for one container right after the kernel told of a
//! new listener in it (events carry no process).
//!
//! The sockets come from `sock_diag` where foreign network namespaces may be entered (`CAP_SYS_ADMIN`), else from procfs; who
//! holds them always from procfs, for which processes of other users need `CAP_SYS_PTRACE` and `CAP_DAC_READ_SEARCH`.

mod landmark;
mod process;
mod scan;
mod share;
mod tables;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use plumbline_core::id::CgroupId;
use plumbline_core::observation::{
    CgroupRow, DynamicPortsRow, Fact, Health, ProbeStatus, ScanScope,
};
use plumbline_core::time::Timestamp;

use crate::clock;
use crate::sources::cgroups::CgroupRoot;
use crate::sources::processes::CgroupResolver;
use crate::sources::sock_diag::netns;
use crate::sources::{Sink, addresses, canaries};
pub use landmark::Landmark;
use rustix::thread::{CapabilitySet, capabilities};
use scan::{Errors, Scan};
use tables::Method;

/// Containers waiting for a scan of their own. A request that finds the queue full is dropped: the next scan of the node
/// covers it.
const REQUESTS_MAX: usize = 256;

/// New listeners are gathered for this long before their containers are scanned: a server often opens several at once.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// Time between two batches of containers.
const BATCH_PAUSE: Duration = Duration::from_millis(900);

/// How often a waiting thread looks whether it should end, unless nobody can ask it any more.
const STOP_POLL: Duration = Duration::from_secs(1);

/// What to scan and how often.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where procfs of the node is mounted.
    pub proc_root: PathBuf,
    /// The cgroup directory that the agent watches.
    pub cgroup_root: CgroupRoot,
    /// Time between two scans of the whole node.
    pub interval: Duration,
    /// Whether to ask `sock_diag` where the rights allow it, or procfs alone.
    pub sock_diag: bool,
}

/// The running scanner.
#[derive(Debug)]
pub struct Scanner {
    requests: SyncSender<CgroupRow>,
    thread: JoinHandle<()>,
    refused: u64,
}

impl Scanner {
    /// Starts the thread. It ends soon after `stop` is set. Each scan of the node must find the landmark.
    ///
    /// # Errors
    ///
    /// The system gives no thread.
    pub fn spawn(
        settings: Settings,
        landmark: Landmark,
        sink: Sink,
        stop: Arc<AtomicBool>,
    ) -> anyhow::Result<Self> {
        let (requests, receiver) = sync_channel(REQUESTS_MAX);
        let thread = std::thread::Builder::new()
            .name("sockets".into())
            .spawn(move || {
                let resolver = CgroupResolver::new(settings.cgroup_root.clone());
                let method = if settings.sock_diag && netns::may_enter().is_ok() {
                    Method::SockDiag
                } else {
                    Method::Procfs
                };
                let mut work = Work {
                    method,
                    settings,
                    sink,
                    resolver,
                    landmark,
                    health: None,
                };
                work.run(&receiver, &stop);
            })
            .context("start the socket scanner's thread")?;
        Ok(Self {
            requests,
            thread,
            refused: 0,
        })
    }

    /// Asks for a scan of one container soon. Never waits: with a full queue the next scan of the node has to do.
    pub fn request(&mut self, container: CgroupRow) {
        if self.requests.try_send(container).is_err() {
            self.refused += 1;
        }
    }

    /// Requests that found the queue full.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Whether the thread still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Waits for the thread to end; `stop` must have been set.
    pub fn join(self) {
        drop(self.requests);
        if self.thread.join().is_err() {
            tracing::error!("the socket scanner's thread panicked");
        }
    }
}

/// The thread's own state.
struct Work {
    method: Method,
    settings: Settings,
    sink: Sink,
    resolver: CgroupResolver,
    landmark: Landmark,
    /// Last said, so that only changes are logged.
    health: Option<Health>,
}

impl Work {
    fn run(&mut self, requests: &Receiver<CgroupRow>, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let next = clock::instant() + self.settings.interval;
            self.scan_node();
            let mut earliest = clock::instant();
            while !stop.load(Ordering::Relaxed) {
                let left = next.saturating_duration_since(clock::instant());
                if left.is_zero() {
                    break;
                }
                // A container that opens listeners all the time must not keep us busy: one batch, then a pause.
                let pause = earliest.saturating_duration_since(clock::instant());
                if !pause.is_zero() {
                    std::thread::sleep(pause.min(left).min(STOP_POLL));
                    continue;
                }
                match requests.recv_timeout(left.min(STOP_POLL)) {
                    Ok(first) => {
                        std::thread::sleep(DEBOUNCE);
                        let asked = std::iter::once(first).chain(requests.try_iter());
                        self.scan_containers(&asked.map(|row| (row.cgroup, row)).collect());
                        earliest = clock::instant() + BATCH_PAUSE;
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    // Nobody asks any more; `stop` follows.
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        }
    }

    /// Scans the node and says how the probe is: both anew each time, since the loop may have had no room for the last.
    fn scan_node(&mut self) {
        self.read_addresses();
        self.resolver.forget();
        let at = clock::monotonic();
        if let Some(cgroup) = self.resolver.own() {
            self.sink.send(at, Fact::SelfCgroup { cgroup });
        }
        match scan::scan(
            &self.settings.proc_root,
            &mut self.resolver,
            None,
            self.method,
        ) {
            Ok(Scan {
                mut rows,
                errors,
                ports,
            }) => {
                self.tell_ports(ports, at);
                self.landmark.take(&mut rows);
                canaries::strip(&mut rows, &self.settings.cgroup_root);
                let (health, reason) = verdict(&errors, self.method, &self.landmark.missed());
                let fact = Fact::Listeners {
                    scope: ScanScope::Node,
                    rows,
                    errors: errors.sum(),
                    unreadable: errors.missing(),
                };
                self.sink.send(at, fact);
                self.report(health, reason);
            }
            Err(error) => {
                let root = self.settings.proc_root.display();
                let reason = format!("{root} cannot be read: {error}; give --proc-root");
                self.report(Health::Broken, Some(reason));
            }
        }
    }

    /// Tells in which containers the range of dynamic ports is not that of the agent's own network namespace.
    fn tell_ports(&self, ports: BTreeMap<CgroupId, (u16, u16)>, at: Timestamp) {
        let (Method::SockDiag, Some(own)) = (self.method, netns::dynamic_ports()) else {
            return;
        };
        let others = ports.into_iter().filter(|(_, range)| *range != own);
        let row = |(cgroup, (first, last))| DynamicPortsRow {
            cgroup,
            first,
            last,
        };
        let rows = others.map(row).collect();
        self.sink.send(at, Fact::DynamicPorts { rows });
    }

    /// Reads the node's own addresses: probes and everything of the host come from them.
    fn read_addresses(&mut self) {
        let at = clock::monotonic();
        let read = addresses::read(&self.settings.proc_root);
        let status = addresses::status(&read);
        if let Ok(read) = read {
            let addresses = read.all.into_iter().collect();
            self.sink.send(at, Fact::NodeAddresses { addresses });
        }
        self.sink.send(at, Fact::Probe(status));
    }

    /// Scans containers, all in one pass over the processes. What it finds is added to what is known.
    fn scan_containers(&mut self, asked: &BTreeMap<CgroupId, CgroupRow>) {
        let at = clock::monotonic();
        let paths: Vec<&str> = asked.values().map(|row| row.path.as_str()).collect();
        let proc_root = &self.settings.proc_root;
        let scan = scan::scan(proc_root, &mut self.resolver, Some(&paths), self.method);
        let Ok(Scan {
            mut rows, errors, ..
        }) = scan
        else {
            // The next scan of the node says so.
            return;
        };
        self.landmark.strip(&mut rows);
        let fact = Fact::Listeners {
            scope: ScanScope::Containers(asked.keys().copied().collect()),
            rows,
            errors: errors.sum(),
            unreadable: errors.missing(),
        };
        self.sink.send(at, fact);
    }

    fn report(&mut self, health: Health, reason: Option<String>) {
        if self.health.replace(health) != Some(health)
            && health != Health::Ok
            && let Some(reason) = &reason
        {
            tracing::warn!(
                probe = "listeners",
                reason,
                "not all listening sockets are attributed"
            );
        }
        let status = ProbeStatus {
            probe: "listeners".into(),
            health,
            reason,
        };
        self.sink.send(clock::monotonic(), Fact::Probe(status));
    }
}

/// How the probe is. That a process of the host could not be read is counted, and no reason to call the probe broken; one
/// of a container is.
fn verdict(errors: &Errors, method: Method, missed: &[&str]) -> (Health, Option<String>) {
    let missing = missing_rights();
    if errors.denied > 0 && (!missing.is_empty() || !errors.unreadable.is_empty()) {
        let why = if missing.is_empty() {
            "although no capability is missing: a security module (SELinux, AppArmor) or a user namespace refuses".into()
        } else {
            format!("without {}", missing.join(" and "))
        };
        let reason = format!(
            "{} processes may not be read, {why}; new listeners are still seen by the tcp probe, without their process",
            errors.denied
        );
        return (Health::Unsupported, Some(reason));
    }
    if errors.cut > 0 {
        let reason = format!(
            "{} listening sockets are beyond the limit of a scan",
            errors.cut
        );
        return (Health::Broken, Some(reason));
    }
    if errors.host_unknown {
        let reason = "neither process 1 nor kthreadd may be looked at, so that it is not known which listening sockets are in the \
                      node's own network (P007, P008): run with hostPID, and with CAP_SYS_PTRACE";
        return (Health::Broken, Some(reason.into()));
    }
    if !missed.is_empty() {
        let reason = format!(
            "the agent's own {} is not found: is --proc-root that of the node, and of all its processes?",
            missed.join(" and ")
        );
        return (Health::Broken, Some(reason));
    }
    let source = match method {
        Method::SockDiag => "read by sock_diag",
        Method::Procfs => {
            "read from procfs, which tells neither V6ONLY nor a socket's creator; sock_diag would, with CAP_SYS_ADMIN"
        }
    };
    (Health::Ok, Some(source.into()))
}

/// Rights that reading other users' processes takes and that we do not have. With all of them, a process is denied only
/// while it ends.
fn missing_rights() -> Vec<&'static str> {
    let Ok(sets) = capabilities(None) else {
        return vec!["capabilities that can be read"];
    };
    let needed = [
        (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE"),
        (CapabilitySet::DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"),
    ];
    let missing = needed
        .into_iter()
        .filter(|(right, _)| !sets.effective.contains(*right));
    missing.map(|(_, name)| name).collect()
}
