//! Bytes of connections while they are open: reads `sock_diag` in every network namespace, follows what it finds, and tells
//! what was added since the last reading. Works on a thread of its own.
//!
//! Takes `CAP_SYS_ADMIN`, to enter the pods' network namespaces. Without it, or turned off, the bytes of a connection arrive
//! when it closes.

mod books;
mod landmark;
mod ledger;
mod owners;
mod quiet;
mod reader;

use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use plumbline_core::observation::{Health, ProbeStatus};
use plumbline_core::time::Timestamp;
use rustix::io::Errno;

use super::containers::LINGER;
use crate::sources::Sink;
use crate::sources::cgroups::CgroupRoot;
use crate::sources::sock_diag::netns;
use books::Books;
use ledger::{Covered, Ledger};
use owners::Owners;
use reader::Reader;

pub(super) use books::Entries;

/// Name of the probe.
pub(super) const CONNECTIONS: &str = "connections";

/// What still works without the probe.
const WITHOUT: &str = "bytes of a connection are counted when it closes";

/// The first reading may take this long: programs are attached after it, so that it tells what is older than the agent.
const FIRST: Duration = Duration::from_secs(10);

/// At the end, the last reading is waited for so often, every 10 ms. One that hangs must not hold up the end.
const LAST_LOOKS: u32 = 300;

/// Where and how often to read.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Where procfs of the node is mounted.
    pub(super) proc_root: PathBuf,
    /// Below which containers are.
    pub(super) cgroup_root: CgroupRoot,
    /// Between two readings.
    pub(super) interval: Duration,
    /// Connections of one network namespace that one reading looks at. Further ones are left out and counted.
    pub(super) sockets_max: usize,
}

/// The running reader. Dropping it reads a last time and ends it.
#[derive(Debug)]
pub(super) struct Connections {
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    books: Arc<Mutex<Books<Entries>>>,
    interval: Duration,
    /// When what a reader that has ended left open is looked after again.
    next: Timestamp,
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
        let interval = settings.interval;
        let owners = Owners::new(settings.cgroup_root.clone());
        let ledger = Ledger::new(readings_over(2 * LINGER, interval));
        let books = Books::new(ledger, owners, entries, sink.clone());
        let books = Arc::new(Mutex::new(books));
        let reader = Reader::new(settings, Arc::clone(&books), sink);
        let thread = std::thread::Builder::new()
            .name(CONNECTIONS.into())
            .spawn(move || reader.run(&stopped, &ready))
            .context("start the thread that follows connections")
            .map_err(|error| status(Health::Broken, &format!("{error:#}")))?;
        if read.recv_timeout(FIRST) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the first reading of connections takes longer than {FIRST:?}");
        }
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
            books,
            interval,
            next: Timestamp(0),
        })
    }

    /// Whether it still reads.
    pub(super) fn is_alive(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }

    /// After the reader has ended: tells of connections that it followed and that have closed since, of which programs leave
    /// the counts to us, and takes their entries out. No new ones are followed: their bytes come when they close.
    pub(super) fn wind_up(&mut self, now: Timestamp) {
        if self.is_alive() || now < self.next {
            return;
        }
        self.next = now.plus(self.interval);
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        books.end_reading(Covered::default(), now);
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.stop = None;
        let Some(thread) = self.thread.take() else {
            return;
        };
        let mut looks = 0..LAST_LOOKS;
        while !thread.is_finished() && looks.next().is_some() {
            std::thread::sleep(Duration::from_millis(10));
        }
        if !thread.is_finished() {
            tracing::error!(
                "the thread that follows connections hangs; its last bytes are not told"
            );
        } else if thread.join().is_err() {
            tracing::error!("the thread that follows connections panicked");
        }
    }
}

/// Readings of which the first and the last are at least a time apart, however long the interval.
fn readings_over(span: Duration, interval: Duration) -> u32 {
    let intervals = span.as_millis().div_ceil(interval.as_millis().max(1));
    u32::try_from(intervals)
        .unwrap_or(u32::MAX)
        .saturating_add(1)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{LINGER, readings_over};

    /// Until then a program may still count the connection's end, as a whole.
    #[test]
    fn who_is_given_up_has_no_program_any_more() {
        for seconds in 1..=300 {
            let interval = Duration::from_secs(seconds);
            let readings = readings_over(2 * LINGER, interval);
            let first_to_last = interval * (readings - 1);
            assert!(first_to_last >= 2 * LINGER, "{seconds} s: {readings}");
            assert!(
                first_to_last < 2 * LINGER + interval,
                "{seconds} s: {readings}"
            );
        }
    }
}
