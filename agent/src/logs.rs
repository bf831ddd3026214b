//! Container logs: who a container is to the collector, and the reader's start and end.

mod facts;
mod health;
mod index;
pub mod options;
mod points;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use plumbline_core::attribution;
use plumbline_core::observation::{Fact, Health, ProbeStatus};
use plumbline_core::report::Report;
use plumbline_core::settings::NodeIdentity;
use plumbline_core::snapshot::Snapshot;
use plumbline_logs::stats::{Shared, Stats};
use plumbline_logs::tailer::{self, Settings};
use plumbline_logs::watch::Waker;

use crate::export::Exporter;
use crate::export::records::{Hold, IN_FLIGHT_MAX, Pace};
use crate::export::settings::Endpoint;
use index::{Index, Names};
use options::LogOptions;

/// Counts are told to the core every so many ticks of a second: rules look at minutes.
const FACTS_EVERY: u64 = 10;

/// Where logs are, and where to.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// The directory of the pods' logs.
    pub root: PathBuf,
    /// Where the checkpoint lives.
    pub state: PathBuf,
    /// The collector.
    pub endpoint: Endpoint,
    /// What is left out or changed on the way.
    pub options: LogOptions,
}

/// The running reader.
#[derive(Debug)]
pub struct Logs {
    reader: tailer::Handle,
    /// The lane that the reader's batches go through.
    lane: Hold,
    index: Arc<Index>,
    /// Labels of pods matter.
    with_labels: bool,
    /// What was last said of its health.
    said: Option<ProbeStatus>,
    /// How often facts were told.
    told: u64,
}

impl Logs {
    /// Starts reading, if there is something to read.
    ///
    /// # Errors
    ///
    /// A certificate cannot be used, or a thread cannot be started.
    pub fn if_asked(
        config: Option<&LogConfig>,
        node: &NodeIdentity,
        export: &mut Exporter,
    ) -> anyhow::Result<Option<Self>> {
        let Some(config) = config else {
            return Ok(None);
        };
        let waker = Waker::new().context("make the reader's bell")?;
        let (sink, lane) = export.start_records(
            config.endpoint.clone(),
            node,
            waker.clone(),
            Pace::default(),
        )?;
        let index = Arc::new(Index::new(node.clone()));
        let options = config.options.clone();
        let own = own_pod();
        if own.is_none() {
            tracing::warn!(
                "POD_UID is not set and the agent's own pod cannot be told: if it is in one its log is read and sent too"
            );
        }
        let settings = Settings {
            state: Some(config.state.clone()),
            in_flight_max: IN_FLIGHT_MAX,
            exclude_uids: own.into_iter().collect(),
            select: options.select,
            process: options.process,
            join: options.join,
            pod_bytes_per_second: options.pod_bytes_per_second,
            ..Settings::new(config.root.clone())
        };
        let with_labels = !options.labels.is_empty();
        let resources = Box::new(Names {
            index: Arc::clone(&index),
            labels: options.labels,
            waiting: Mutex::default(),
        });
        let reader = tailer::spawn(settings, Box::new(sink), resources, waker)
            .context("start the reader of container logs")?;
        Ok(Some(Self {
            reader,
            lane,
            index,
            with_labels,
            said: None,
            told: 0,
        }))
    }

    /// Takes over who is who.
    pub fn learn(&self, snapshot: &Snapshot) {
        self.index.learn(snapshot, self.with_labels);
    }

    /// What it counts.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.reader.stats().read()
    }

    /// What the core is to know: how the reader is when that changes, and every tenth time what it counts.
    pub fn facts(&mut self) -> Vec<Fact> {
        let stats = self.stats();
        let threads = health::Threads {
            reader: self.reader.is_alive(),
            lane: self.lane.is_alive(),
        };
        let status = health::of(&stats, threads);
        let mut facts = Vec::new();
        if self.said.as_ref() != Some(&status) {
            self.said = Some(status.clone());
            facts.push(Fact::Probe(status));
        }
        if self.told.is_multiple_of(FACTS_EVERY) {
            facts.push(facts::of(&stats));
        }
        self.told += 1;
        facts
    }

    /// Adds what it counts to a report.
    pub fn add_points(&self, report: &mut Report, snapshot: &Snapshot) {
        points::add(report, &self.stats(), &self.index, snapshot);
    }

    /// No more is read. Returns at once; [`Logs::end`] waits for the last answers.
    pub fn stop(&self) {
        self.reader.stop();
    }

    /// Lets the reader end in its own time: it waits for the last answers, for at most three seconds, and writes the
    /// checkpoint.
    #[must_use]
    pub fn end(self) -> Ending {
        let Self {
            reader,
            lane,
            index,
            ..
        } = self;
        let stats = reader.stats();
        let joined = tokio::task::spawn_blocking(move || {
            lane.hasten();
            drop(reader.join());
            // Only now: the reader's last batch is sent when it ends.
            drop(lane);
        });
        Ending {
            stats,
            index,
            joined,
        }
    }
}

/// A reader that was told to stop.
#[derive(Debug)]
pub struct Ending {
    stats: Shared,
    index: Arc<Index>,
    joined: tokio::task::JoinHandle<()>,
}

impl Ending {
    /// Until it has ended, at most for so long. `false`: it still waits for answers.
    pub async fn wait(&mut self, limit: Duration) -> bool {
        if self.joined.is_finished() {
            return true;
        }
        match tokio::time::timeout(limit, &mut self.joined).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::error!(error = %error, "the reader of container logs did not end in order");
                true
            }
            Err(_elapsed) => false,
        }
    }

    /// Adds its last counts to a report, or those so far.
    pub fn add_points(&self, report: &mut Report, snapshot: &Snapshot) {
        points::add(report, &self.stats.read(), &self.index, snapshot);
    }
}

/// How the probe `logs` is where container logs are not asked for.
#[must_use]
pub fn off() -> Fact {
    Fact::Probe(ProbeStatus {
        probe: health::PROBE.into(),
        health: Health::Off,
        reason: Some("container logs are not read: --log-root would".into()),
    })
}

/// The UID of the pod that the agent itself is in: what it says must not come back to it.
fn own_pod() -> Option<String> {
    let told = std::env::var("POD_UID").ok().filter(|uid| !uid.is_empty());
    told.or_else(|| {
        let cgroups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let paths = cgroups
            .lines()
            .filter_map(|line| line.splitn(3, ':').nth(2));
        let mut pods = paths.filter_map(attribution::container_of);
        pods.next().map(|own| own.pod_uid.to_string())
    })
}
