//! The canary: once a minute the agent does something that each probe must see, in a cgroup of its own. A probe that says
//! nothing and one that sees nothing look alike otherwise.
//!
//! The other probes that `status` names look after themselves: each scan of listeners and each reading of connections must find
//! sockets of the agent's own. `act` does it. This part keeps what was seen and says what is missing (pure, but for the directory and the thread).
//! What the canary does is taken out before anything is told: its owner is no container.

mod act;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use plumbline_core::declared::Transport;
use plumbline_core::id::CgroupId;
use plumbline_core::observation::{FlowCounts, Health, ProbeStatus};
use plumbline_core::time::Timestamp;

use super::plan::{CANARY, CGROUPS, CPU_WINDOWS, TCP, UDP};
use crate::sources::canaries;
use crate::sources::cgroups::CgroupRoot;

pub(super) use act::{BURN, PAYLOAD};

/// What was done must be told this soon: tables are read every second, windows are told within two.
const SETTLE: Duration = Duration::from_secs(5);
/// What is done takes some milliseconds; its own time-outs end it after 8 s.
const HANGS: Duration = Duration::from_secs(20);
/// At the end, a running round is looked after so often, every 10 ms.
const LAST_LOOKS: u32 = 50;
/// Rounds in a row in which something was missing before a probe is called broken.
const MISSES: u32 = 2;
/// The probes that are tried out.
pub(super) const PROBES: [&str; 4] = [TCP, UDP, CPU_WINDOWS, CGROUPS];

/// What was seen of a round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) opened: bool,
    pub(super) closed: bool,
    pub(super) client: FlowCounts,
    pub(super) server: FlowCounts,
    pub(super) bound: bool,
    pub(super) unbound: bool,
    pub(super) udp_client: u64,
    pub(super) udp_server: u64,
    /// Whether what is received could be seen.
    pub(super) hears: bool,
    pub(super) made: bool,
    pub(super) removed: bool,
    pub(super) cpu_us: u64,
}

impl Seen {
    /// That a socket listens, or has the port that its program chose.
    pub(super) const fn opened(&mut self, transport: Transport) -> &mut bool {
        match transport {
            Transport::Udp => &mut self.bound,
            Transport::Tcp | Transport::Sctp => &mut self.opened,
        }
    }

    /// That it does not any more.
    pub(super) const fn closed(&mut self, transport: Transport) -> &mut bool {
        match transport {
            Transport::Udp => &mut self.unbound,
            Transport::Tcp | Transport::Sctp => &mut self.closed,
        }
    }

    /// What a probe should have told and did not. The other agent on the node has a canary too, so that more is well.
    fn missing(&self, probe: &str) -> Vec<&'static str> {
        let whole = |counts: &FlowCounts| {
            counts.closed > 0 && counts.sent_bytes >= PAYLOAD && counts.received_bytes >= PAYLOAD
        };
        let wanted: &[(bool, &'static str)] = match probe {
            TCP => &[
                (self.opened, "that a socket listens"),
                (self.client.connections > 0, "the connect"),
                (self.server.connections > 0, "the accept"),
                (whole(&self.client), "the client's close with its bytes"),
                (whole(&self.server), "the server's close with its bytes"),
                (self.closed, "that it listens no more"),
            ],
            UDP => &[
                (self.bound, "the port that a socket chose"),
                (self.udp_client > 0, "the datagram that was sent"),
                (
                    self.udp_server > 0 || !self.hears,
                    "the datagram that was received",
                ),
                (self.unbound, "that the socket was closed"),
            ],
            CPU_WINDOWS => &[(
                u128::from(self.cpu_us) >= BURN.as_micros() / 2,
                "the CPU time",
            )],
            CGROUPS => &[
                (self.made, "a cgroup that was made"),
                (self.removed, "a cgroup that was removed"),
            ],
            _ => &[],
        };
        let missing = wanted.iter().filter(|(seen, _)| !seen);
        missing.map(|(_, what)| *what).collect()
    }
}

/// What the worker is to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Wait,
    /// See to it that the directory has its programs, and begin.
    Begin,
    /// Say which probes are well, and judge.
    Judge,
}

/// A round that runs.
#[derive(Debug)]
struct Round {
    begun: Timestamp,
    thread: Option<JoinHandle<io::Result<()>>>,
    /// When it was done, and whether it could be.
    done: Option<(Timestamp, Result<(), String>)>,
    seen: Seen,
}

/// The canary of an agent. Removes its directory when dropped.
#[derive(Debug)]
pub(super) struct Canary {
    interval: Duration,
    directory: PathBuf,
    /// The directory's path below the root.
    path: String,
    /// Whether events of cgroups can be placed below the root.
    placed: bool,
    cgroup: CgroupId,
    next: Timestamp,
    round: Option<Round>,
    /// The thread of a round that took too long: no other round begins before it has ended.
    hanging: Option<JoinHandle<io::Result<()>>>,
    misses: BTreeMap<&'static str, u32>,
    verdicts: BTreeMap<&'static str, String>,
    trouble: Option<String>,
}

impl Canary {
    /// Makes the directory.
    ///
    /// # Errors
    ///
    /// Why there is no canary, in words.
    pub(super) fn new(
        interval: Duration,
        root: &CgroupRoot,
        now: Timestamp,
    ) -> Result<Self, String> {
        sweep(root);
        let path = format!("/{}{}", canaries::PREFIX, std::process::id());
        let directory = root.directory_of(&path);
        let cgroup = make(&directory).map_err(|error| {
            format!(
                "no cgroup can be made below {} ({error}): that probes see is not tried out",
                root.directory.display()
            )
        })?;
        Ok(Self {
            interval,
            directory,
            path,
            placed: root.kernel_path.is_some(),
            cgroup,
            next: now,
            round: None,
            hanging: None,
            misses: BTreeMap::new(),
            verdicts: BTreeMap::new(),
            trouble: None,
        })
    }

    /// The cgroup in which it acts.
    pub(super) const fn cgroup(&self) -> CgroupId {
        self.cgroup
    }

    /// Its directory.
    pub(super) const fn directory(&self) -> &PathBuf {
        &self.directory
    }

    /// What was seen of the running round, to be added to.
    pub(super) fn seen(&mut self) -> Option<&mut Seen> {
        self.round.as_mut().map(|round| &mut round.seen)
    }

    /// Whether an event of cgroups is about the canary.
    pub(super) fn is_own(&self, path: &str) -> bool {
        path.strip_prefix(self.path.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// What is due.
    pub(super) fn step(&mut self, now: Timestamp) -> Step {
        // What it did at last, too late, is no longer of interest.
        drop(self.hanging.take_if(|thread| thread.is_finished()));
        let Some(round) = &mut self.round else {
            return if now >= self.next && self.hanging.is_none() {
                Step::Begin
            } else {
                Step::Wait
            };
        };
        if let Some(thread) = round.thread.take_if(|thread| thread.is_finished()) {
            let result = match thread.join() {
                Ok(result) => result.map_err(|error| error.to_string()),
                Err(_) => Err("its thread panicked".to_owned()),
            };
            round.done = Some((now, result));
        }
        match &round.done {
            Some((done, _)) if now >= done.plus(SETTLE) => Step::Judge,
            None if now >= round.begun.plus(HANGS) => Step::Judge,
            Some(_) | None => Step::Wait,
        }
    }

    /// The directory was removed by someone: makes it anew. Returns the id of the one before.
    pub(super) fn renew(&mut self) -> io::Result<Option<CgroupId>> {
        let now = make(&self.directory)?;
        let before = std::mem::replace(&mut self.cgroup, now);
        Ok((before != now).then_some(before))
    }

    /// Begins a round; `hears`: whether what it receives of UDP can be seen.
    pub(super) fn begin(&mut self, now: Timestamp, hears: bool) {
        let directory = self.directory.clone();
        let thread = std::thread::Builder::new()
            .name("canary".into())
            .spawn(move || act::act(&directory));
        let (thread, done) = match thread {
            Ok(thread) => (Some(thread), None),
            Err(error) => (None, Some((now, Err(error.to_string())))),
        };
        self.round = Some(Round {
            begun: now,
            thread,
            done,
            seen: Seen {
                hears,
                ..Seen::default()
            },
        });
    }

    /// Ends a round and says what was missing of what the probes that are `well` should have told. Returns the probes that
    /// have just become broken.
    pub(super) fn judge(&mut self, well: &[&'static str], now: Timestamp) -> Vec<&'static str> {
        let Some(round) = self.round.take() else {
            return Vec::new();
        };
        self.hanging = round.thread;
        self.next = now.plus(self.interval);
        match round.done {
            Some((_, Ok(()))) => self.trouble = None,
            Some((_, Err(error))) => {
                self.trouble = Some(format!("it could not act: {error}"));
                return Vec::new();
            }
            None => {
                self.trouble = Some("what it does takes longer than 20 s".to_owned());
                return Vec::new();
            }
        }
        let mut broken = Vec::new();
        for probe in PROBES {
            let judged = well.contains(&probe) && (probe != CGROUPS || self.placed);
            let missing = round.seen.missing(probe);
            if !judged || missing.is_empty() {
                self.misses.remove(probe);
                self.verdicts.remove(probe);
                continue;
            }
            let misses = self.misses.entry(probe).or_default();
            *misses += 1;
            if *misses >= MISSES {
                let verdict = format!("the canary was not seen: {} missed", missing.join(", "));
                if self.verdicts.insert(probe, verdict).is_none() {
                    broken.push(probe);
                }
            } else {
                // Once more, at once, before it is said.
                self.next = now;
            }
        }
        broken
    }

    /// Adds to what is said of a broken probe.
    pub(super) fn explain(&mut self, probe: &str, why: &str) {
        if let Some(verdict) = self.verdicts.get_mut(probe) {
            verdict.push_str("; ");
            verdict.push_str(why);
        }
    }

    /// The state of a probe, with what the canary has to say about it.
    pub(super) fn judged(&self, status: &ProbeStatus) -> ProbeStatus {
        match self.verdicts.get(status.probe.as_str()) {
            Some(verdict) if status.health == Health::Ok => ProbeStatus {
                probe: status.probe.clone(),
                health: Health::Broken,
                reason: Some(verdict.clone()),
            },
            _ => status.clone(),
        }
    }

    /// How the canary itself is.
    pub(super) fn status(&self) -> ProbeStatus {
        ProbeStatus {
            probe: CANARY.to_owned(),
            health: if self.trouble.is_some() {
                Health::Broken
            } else {
                Health::Ok
            },
            reason: self.trouble.clone(),
        }
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        if let Some(thread) = self.round.take().and_then(|round| round.thread) {
            // A round takes some milliseconds. One that hangs must not hold up the end; its child dies with us.
            let mut looks = 0..LAST_LOOKS;
            while !thread.is_finished() && looks.next().is_some() {
                std::thread::sleep(Duration::from_millis(10));
            }
            if thread.is_finished() && thread.join().is_err() {
                tracing::error!("the canary's thread panicked");
            }
        }
        if let Err(error) = fs::remove_dir(&self.directory) {
            tracing::debug!(error = %error, "the canary's cgroup stays");
        }
    }
}

/// Makes the directory, or takes the one that is there.
fn make(directory: &PathBuf) -> io::Result<CgroupId> {
    match fs::create_dir(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    Ok(CgroupId(fs::metadata(directory)?.ino()))
}

/// Removes what agents that were killed left. Not as process 1: in a pid namespace of its own it cannot tell who lives.
fn sweep(root: &CgroupRoot) {
    if std::process::id() == 1 {
        return;
    }
    for (pid, directory) in canaries::directories(root) {
        if !PathBuf::from(format!("/proc/{pid}")).exists()
            && let Err(error) = fs::remove_dir(directory)
        {
            tracing::debug!(error = %error, "a canary's cgroup stays");
        }
    }
}

#[cfg(test)]
mod tests;
