//! Changes of the configuration file while the agent runs: rules, windows and suppressions are taken over, for the rest it
//! must be restarted, and a file that does not check changes nothing.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Thread;
use std::time::Duration;

use plumbline_core::observation::{Health, ProbeStatus};
use plumbline_core::settings::CoreSettings;
use plumbline_core::time::UnixNanos;
use serde::Serialize;

use super::{Config, Problem, print, read_file, resolve, warnings};
use crate::cli::NodeArgs;

/// Time between two looks at the file. ConfigMap volumes swap links, so that there is no event to wait for.
const POLL: Duration = Duration::from_secs(2);
/// A changed file must have stayed the same for this long: one that is being written is empty or half there, which may well be a
/// configuration too.
const SETTLED: Duration = Duration::from_millis(100);
/// Problems told of; their number is told in full.
const PROBLEMS_SHOWN: usize = 20;

/// Name of the probe that tells how the file fares.
pub const PROBE: &str = "config";

/// How the configuration fares: part of `plumbline status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConfigStats {
    /// The file.
    pub file: Option<PathBuf>,
    /// Changes of it that were taken over.
    pub reloaded: u64,
    /// Changes that were refused; the configuration before them stays in force.
    pub refused: u64,
    /// Why the file as it is now was refused.
    pub problems: Vec<String>,
    /// What is taken and has no effect: suppressions that are over, and the like.
    pub warnings: Vec<String>,
    /// Keys that have changed and take a restart.
    pub restart: Vec<String>,
}

/// Follows the file.
#[derive(Debug)]
pub struct Reloader {
    running: Config,
    inbox: Option<Receiver<Read>>,
    thread: Option<Thread>,
    stats: ConfigStats,
    told: Option<ProbeStatus>,
}

/// The file as it is now, resolved.
type Read = Result<Box<Config>, Vec<Problem>>;

impl Reloader {
    /// Follows the file of `args`, if there is one, from the configuration that it gave.
    ///
    /// # Errors
    ///
    /// The system gives no thread.
    pub fn start(running: &Config, args: &NodeArgs) -> std::io::Result<Self> {
        let mut reloader = Self {
            running: running.clone(),
            inbox: None,
            thread: None,
            stats: ConfigStats {
                file: args.config.clone(),
                ..ConfigStats::default()
            },
            told: None,
        };
        if let Some(path) = args.config.clone() {
            let (outbox, inbox) = sync_channel(1);
            let args = args.clone();
            let thread = std::thread::Builder::new()
                .name("config".into())
                .spawn(move || follow(&path, &args, &outbox))?;
            reloader.inbox = Some(inbox);
            reloader.thread = Some(thread.thread().clone());
        }
        Ok(reloader)
    }

    /// What is new since the last call: settings to take over.
    pub fn news(&mut self, now: UnixNanos) -> Option<CoreSettings> {
        let read = self.inbox.as_ref().and_then(|inbox| inbox.try_recv().ok());
        let settings = read.and_then(|read| self.take(read));
        let told = warnings(&self.running.core.rulebook, now);
        self.stats.warnings = shown(&told);
        settings
    }

    fn take(&mut self, read: Read) -> Option<CoreSettings> {
        match read {
            Err(problems) => {
                self.stats.refused += 1;
                self.stats.problems = shown(&problems);
                for problem in &problems {
                    tracing::error!(%problem, "the changed configuration is refused; the old one stays in force");
                }
                None
            }
            Ok(new) => {
                self.stats.problems.clear();
                let differ = print::cold_differences(&self.running, &new);
                self.stats.restart = differ.iter().map(|key| (*key).to_owned()).collect();
                if !differ.is_empty() {
                    tracing::warn!(keys = ?differ, "changed in the configuration; takes a restart");
                }
                // What the kernel says, not the file: it stays as it was when the agent began.
                let core = CoreSettings {
                    ephemeral_ports: self.running.core.ephemeral_ports,
                    ..new.core
                };
                if core == self.running.core {
                    return None;
                }
                self.stats.reloaded += 1;
                tracing::info!(
                    "rules, windows and suppressions of the changed configuration are in force"
                );
                self.running.core = core.clone();
                Some(core)
            }
        }
    }

    /// How the configuration fares.
    #[must_use]
    pub fn stats(&self) -> ConfigStats {
        self.stats.clone()
    }

    /// The health of the probe, where it has changed; never without a file.
    pub fn probe(&mut self) -> Option<ProbeStatus> {
        let file = self.stats.file.as_ref()?;
        let reason = self.stats.problems.first().map(|first| {
            let file = file.display();
            format!("{file} is refused, the configuration before stays in force: {first}")
        });
        let status = ProbeStatus {
            probe: PROBE.into(),
            health: if reason.is_some() {
                Health::Broken
            } else {
                Health::Ok
            },
            reason,
        };
        if self.told.as_ref() == Some(&status) {
            return None;
        }
        self.told = Some(status.clone());
        Some(status)
    }
}

impl Drop for Reloader {
    fn drop(&mut self) {
        // The thread ends when nobody receives any more; it need not wait for its next look.
        self.inbox = None;
        if let Some(thread) = &self.thread {
            thread.unpark();
        }
    }
}

fn shown(problems: &[Problem]) -> Vec<String> {
    let mut shown: Vec<String> = problems
        .iter()
        .take(PROBLEMS_SHOWN)
        .map(ToString::to_string)
        .collect();
    if problems.len() > PROBLEMS_SHOWN {
        shown.push(format!("{} more", problems.len() - PROBLEMS_SHOWN));
    }
    shown
}

/// Until nobody receives any more. The first look is told too: the file may have changed since the agent read it.
fn follow(path: &Path, args: &NodeArgs, outbox: &SyncSender<Read>) {
    let mut known = None;
    loop {
        let now = Some(std::fs::read(path).ok());
        if now != known {
            std::thread::park_timeout(SETTLED);
            if now != Some(std::fs::read(path).ok()) {
                continue;
            }
            let read = read_file(path)
                .and_then(|file| resolve(args, file, |name| std::env::var(name).ok()));
            if outbox.send(read.map(Box::new)).is_err() {
                return;
            }
            known = now;
        }
        std::thread::park_timeout(POLL);
    }
}
