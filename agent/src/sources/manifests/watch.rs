//! The thread that looks for changes and sends what it finds.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use plumbline_core::declared::Declared;
use plumbline_core::observation::{Fact, ProbeStatus, SourceRow};
use plumbline_core::time::Timestamp;

use super::Manifests;
use crate::clock;
use crate::sources::Sink;

/// Time between two looks. A change is in the agent's state after two of them at most.
pub const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// How old the state is is told at every so many looks.
const LOOKS_PER_AGE: u32 = 5;

/// Sends what was read, at once, then looks for changes in a thread of its own until `stop`. Unpark the thread to end it
/// without waiting for its next look.
///
/// # Errors
/// The system gives no thread.
pub fn spawn(
    manifests: Manifests,
    sink: Sink,
    stop: Arc<AtomicBool>,
) -> io::Result<JoinHandle<()>> {
    let mut sent = Sent::new(sink);
    sent.update(&manifests, clock::monotonic());
    sent.age(&manifests, clock::monotonic());
    let mut looks = 0_u32;
    follow(
        "declared",
        manifests,
        stop,
        move |manifests, changed, at| {
            if changed || sent.behind {
                sent.update(manifests, at);
            }
            looks += 1;
            if looks.is_multiple_of(LOOKS_PER_AGE) {
                sent.age(manifests, at);
            }
        },
    )
}

/// Looks for changes until `stop`, in a thread of that name, and calls `each` after each look with whether there may be any.
pub(super) fn follow(
    name: &str,
    mut manifests: Manifests,
    stop: Arc<AtomicBool>,
    mut each: impl FnMut(&Manifests, bool, Timestamp) + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        loop {
            thread::park_timeout(POLL_INTERVAL);
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let at = clock::monotonic();
            let changed = manifests.refresh();
            each(&manifests, changed, at);
        }
    })
}

/// What the loop was told last. Equal things are not told again; what found no room in the channel is.
struct Sent {
    sink: Sink,
    declared: Option<Declared>,
    status: Option<ProbeStatus>,
    behind: bool,
    /// When the files were last there.
    as_of: Timestamp,
}

impl Sent {
    fn new(sink: Sink) -> Self {
        Self {
            sink,
            declared: None,
            status: None,
            behind: false,
            as_of: clock::monotonic(),
        }
    }

    /// Tells how current the state is: as of now, as long as the files can be looked at.
    fn age(&mut self, manifests: &Manifests, now: Timestamp) {
        let error = manifests.status().reason;
        if error.is_none() {
            self.as_of = now;
        }
        let row = SourceRow {
            source: "files".to_owned(),
            as_of: self.as_of,
            error,
        };
        let rows = vec![row];
        self.sink.send(now, Fact::DeclaredSources { rows });
    }

    fn update(&mut self, manifests: &Manifests, at: Timestamp) {
        self.behind = false;
        let declared = manifests.declared();
        if self.declared.as_ref() != Some(&declared) {
            if self.sink.send(at, Fact::Declared(declared.clone())) {
                tracing::debug!(
                    source = declared.source,
                    pods = declared.pods.len(),
                    services = declared.services.len(),
                    problems = declared.problems.len(),
                    ignored = ?manifests.ignored(),
                    "declared side read"
                );
                self.declared = Some(declared);
            } else {
                self.behind = true;
            }
        }
        let status = manifests.status();
        if self.status.as_ref() != Some(&status) {
            if self.sink.send(at, Fact::Probe(status.clone())) {
                self.status = Some(status);
            } else {
                self.behind = true;
            }
        }
    }
}
