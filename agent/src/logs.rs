//! Container logs: who a container is to the collector, and the reader's start and end.

mod points;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use plumbline_core::attribution;
use plumbline_core::finding::Subject;
use plumbline_core::report::Report;
use plumbline_core::settings::NodeIdentity;
use plumbline_core::snapshot::Snapshot;
use plumbline_core::time::UnixNanos;
use plumbline_logs::otlp::Envelope;
use plumbline_logs::source::Source;
use plumbline_logs::stats::Stats;
use plumbline_logs::tailer::{self, Resources, Settings};
use plumbline_logs::watch::Waker;
use prost::Message as _;

use crate::export::Exporter;
use crate::export::encode::resource;
use crate::export::records::{Hold, IN_FLIGHT_MAX, Pace};
use crate::export::semconv::SCHEMA_URL;
use crate::export::settings::Endpoint;

/// Where logs are, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The directory of the pods' logs.
    pub root: PathBuf,
    /// Where the checkpoint lives.
    pub state: PathBuf,
    /// The collector.
    pub endpoint: Endpoint,
}

/// The running reader.
#[derive(Debug)]
pub struct Logs {
    reader: tailer::Handle,
    /// The lane that the reader's batches go through.
    lane: Hold,
    index: Arc<Index>,
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
            ..Settings::new(config.root.clone())
        };
        let resources = Box::new(Names(Arc::clone(&index)));
        let reader = tailer::spawn(settings, Box::new(sink), resources, waker)
            .context("start the reader of container logs")?;
        Ok(Some(Self {
            reader,
            lane,
            index,
        }))
    }

    /// Takes over who is who.
    pub fn learn(&self, snapshot: &Snapshot) {
        self.index.learn(snapshot);
    }

    /// What it counts.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.reader.stats().read()
    }

    /// Adds what it counts to a report; counters began at `start`.
    pub fn add_points(&self, report: &mut Report, start: UnixNanos) {
        points::add(report, &self.stats(), &self.index, start);
    }

    /// Whether its thread runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.reader.is_alive()
    }

    /// No more is read. Returns at once; [`Logs::join`] waits for the last answers.
    pub fn stop(&self) {
        self.reader.stop();
    }

    /// Waits for the last answers, for at most three seconds, and for the checkpoint.
    #[must_use]
    pub fn join(self) -> Stats {
        let Self { reader, lane, .. } = self;
        let stats = reader.join();
        // Only now: the reader's last batch is sent when it ends.
        drop(lane);
        stats
    }
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

/// Containers by pod UID and name, as the core knows them.
#[derive(Debug)]
struct Index {
    node: NodeIdentity,
    generation: AtomicU64,
    subjects: Mutex<HashMap<(String, String), Subject>>,
}

impl Index {
    fn new(node: NodeIdentity) -> Self {
        Self {
            node,
            generation: AtomicU64::new(0),
            subjects: Mutex::default(),
        }
    }

    fn learn(&self, snapshot: &Snapshot) {
        let known = snapshot
            .containers
            .iter()
            .filter(|container| !container.gone);
        let subjects: HashMap<_, _> = known
            .filter_map(|container| {
                let subject = &container.subject;
                let key = (subject.pod_uid.clone()?, subject.container.clone()?);
                Some((key, subject.clone()))
            })
            .collect();
        let mut known = self.subjects();
        if *known != subjects {
            *known = subjects;
            drop(known);
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    fn subject(&self, source: &Source) -> Subject {
        let key = (source.pod.uid.clone(), source.container.clone());
        let known = self.subjects().get(&key).cloned();
        // The path says it too. A pod that runs as declared has the same names there.
        known.unwrap_or_else(|| Subject {
            namespace: Some(source.pod.namespace.clone()),
            pod: Some(source.pod.pod.clone()),
            pod_uid: Some(source.pod.uid.clone()),
            container: Some(source.container.clone()),
            ..Subject::default()
        })
    }

    fn subjects(&self) -> MutexGuard<'_, HashMap<(String, String), Subject>> {
        self.subjects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Names(Arc<Index>);

impl Resources for Names {
    fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    fn envelope(&self, source: &Source) -> Envelope {
        let resource = resource(&self.0.subject(source), &self.0.node).encode_to_vec();
        Envelope::new(
            &resource,
            "plumbline",
            &self.0.node.agent_version,
            SCHEMA_URL,
        )
    }
}
