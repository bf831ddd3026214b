//! Listening sockets and who holds them, read from procfs: at start, every interval, and for one container right after the
//! kernel told of a new listener in it (events carry no process).
//!
//! Needs `CAP_SYS_PTRACE` and `CAP_DAC_READ_SEARCH` for processes of other users, and never enters a foreign namespace.

mod scan;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use plumbline_core::observation::{CgroupRow, Fact, Health, ProbeStatus, ScanScope};

use crate::clock;
use crate::sources::Sink;
use crate::sources::cgroups::CgroupRoot;
use crate::sources::processes::CgroupResolver;
use rustix::thread::{CapabilitySet, capabilities};
use scan::{Errors, Scan};

/// Containers waiting for a scan of their own. A request that finds the queue full is dropped: the next scan of the node
/// covers it.
const REQUESTS_MAX: usize = 256;

/// New listeners are gathered for this long before their containers are scanned: a server often opens several at once.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// How often a waiting thread looks whether it should end.
const STOP_POLL: Duration = Duration::from_millis(200);

/// What to scan and how often.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where procfs of the node is mounted.
    pub proc_root: PathBuf,
    /// The cgroup directory that the agent watches.
    pub cgroup_root: CgroupRoot,
    /// Time between two scans of the whole node.
    pub interval: Duration,
}

/// The running scanner.
#[derive(Debug)]
pub struct Scanner {
    requests: SyncSender<CgroupRow>,
    thread: JoinHandle<()>,
}

impl Scanner {
    /// Starts the thread. It ends soon after `stop` is set.
    ///
    /// # Errors
    ///
    /// The system gives no thread.
    pub fn spawn(settings: Settings, sink: Sink, stop: Arc<AtomicBool>) -> anyhow::Result<Self> {
        let (requests, receiver) = sync_channel(REQUESTS_MAX);
        let thread = std::thread::Builder::new()
            .name("sockets".into())
            .spawn(move || work(&settings, &sink, &receiver, &stop))
            .context("start the socket scanner's thread")?;
        Ok(Self { requests, thread })
    }

    /// Asks for a scan of one container soon. Never waits.
    pub fn request(&self, container: CgroupRow) {
        if self.requests.try_send(container).is_err() {
            tracing::debug!("socket scan requests are full; the next scan of the node will do");
        }
    }

    /// Waits for the thread to end; `stop` must have been set.
    pub fn join(self) {
        drop(self.requests);
        if self.thread.join().is_err() {
            tracing::error!("the socket scanner's thread panicked");
        }
    }
}

fn work(settings: &Settings, sink: &Sink, requests: &Receiver<CgroupRow>, stop: &AtomicBool) {
    let mut resolver = CgroupResolver::new(settings.cgroup_root.clone());
    if let Some(cgroup) = resolver.own() {
        sink.send(clock::monotonic(), Fact::SelfCgroup { cgroup });
    }
    let mut health = None;
    while !stop.load(Ordering::Relaxed) {
        resolver.forget();
        let next = clock::instant() + settings.interval;
        let errors = send(settings, sink, &mut resolver, None);
        report_health(sink, &mut health, errors);
        while !stop.load(Ordering::Relaxed) {
            let left = next.saturating_duration_since(clock::instant());
            if left.is_zero() {
                break;
            }
            match requests.recv_timeout(left.min(STOP_POLL)) {
                Ok(first) => {
                    std::thread::sleep(DEBOUNCE);
                    let asked: BTreeMap<_, _> = std::iter::once(first)
                        .chain(requests.try_iter())
                        .map(|row| (row.cgroup, row))
                        .collect();
                    for container in asked.values() {
                        send(settings, sink, &mut resolver, Some(container));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                // Nobody asks any more; `stop` follows.
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

/// Scans one container or the node, and sends. Returns what could not be read.
fn send(
    settings: &Settings,
    sink: &Sink,
    resolver: &mut CgroupResolver,
    container: Option<&CgroupRow>,
) -> Errors {
    let at = clock::monotonic();
    let path = container.map(|row| row.path.as_str());
    let Scan { rows, errors } = scan::scan(&settings.proc_root, resolver, path);
    let scope = container.map_or(ScanScope::Node, |row| ScanScope::Container(row.cgroup));
    let fact = Fact::Listeners {
        scope,
        rows,
        errors: errors.sum(),
    };
    sink.send(at, fact);
    errors
}

/// Says how the probe is, when that changes. That a single process could not be read is counted, and no reason to call
/// the probe broken: the kernel also denies a process that ends while it is looked at.
fn report_health(sink: &Sink, last: &mut Option<Health>, errors: Errors) {
    let missing = missing_rights();
    let (health, reason) = if errors.denied > 0 && !missing.is_empty() {
        let reason = format!(
            "{} processes may not be read without {}; new listeners are still seen by the tcp probe, without their process",
            errors.denied,
            missing.join(" and ")
        );
        (Health::Unsupported, Some(reason))
    } else if errors.cut > 0 {
        let reason = format!(
            "{} listening sockets are beyond the limit of a scan",
            errors.cut
        );
        (Health::Broken, Some(reason))
    } else {
        (Health::Ok, None)
    };
    if last.replace(health) == Some(health) {
        return;
    }
    if let Some(reason) = &reason {
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
    sink.send(clock::monotonic(), Fact::Probe(status));
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
