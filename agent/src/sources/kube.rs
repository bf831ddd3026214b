//! The declared side from the API server: the pods of the own node, and all Services; for the names of peers the own Node
//! and EndpointSlices.
//!
//! Nothing is polled: each resource is listed once (as the beginning of a watch where the server does that, else from its
//! cache), then watched with bookmarks, resumed where it broke off, with backoff and jitter. Objects go through the same
//! conversion as those of files and only its result is kept. What is broken leaves the last state in force; how old that is
//! is told all the time, and what is wrong with it is the health of the probe `declared`, or of one that bears the
//! resource's name: without those everything else works.

mod access;
mod event;
mod items;
mod lines;
mod member;
mod pace;
mod table;
mod tables;
mod trouble;
mod watch;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plumbline_core::declared::Declared;
use plumbline_core::observation::{Fact, SourceRow};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::Sink;
use super::objects::ObjectError;
use crate::clock;
use access::Access;
use member::{Member, Of, Statuses};
pub use pace::Pacing;
use tables::Tables;
use watch::{Resource, Shared, Watch};

/// Where the API server is and which node is ours.
#[derive(Clone, Debug)]
pub struct KubeSettings {
    /// A kubeconfig; without one the in-cluster configuration is used.
    pub kubeconfig: Option<PathBuf>,
    /// `spec.nodeName` of the pods to watch.
    pub node_name: String,
    /// What of the rest of the cluster is watched.
    pub peers: Peers,
    /// Times.
    pub pacing: Pacing,
}

/// What is watched of the rest of the cluster. Each step costs the API server more.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    clap::ValueEnum,
    serde::Deserialize,
    serde::Serialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Peers {
    /// All pods, so that those of other nodes have names too.
    Cluster,
    /// No pods of other nodes.
    #[default]
    Node,
    /// Nothing but what declares ports.
    Off,
}

/// The configuration for the API server cannot be used. Names the cause and the fix.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct KubeError(String);

/// Watches until `shutdown` completes.
///
/// # Errors
/// The configuration cannot be used; what fails later is reported as the health of the probe `declared`.
pub async fn run(
    settings: KubeSettings,
    sink: Sink,
    shutdown: impl Future<Output = ()>,
) -> Result<(), KubeError> {
    let node = checked(&settings.node_name)?.to_owned();
    let (peers, pacing) = (settings.peers, settings.pacing);
    let access = Arc::new(Access::new(settings).await?);
    let mut watches = Watches::new(access, pacing);
    let tables = Tables::start(&mut watches, &node, peers);
    let mut state = State {
        source: format!("api:{}", watches.access.url()),
        server: watches.access.server(),
        sink,
        tables,
        members: watches.members,
        statuses: Statuses::new(peers),
        pacing,
        due: None,
        sent: None,
    };
    let mut heartbeat = tokio::time::interval(pacing.heartbeat);
    heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut shutdown = pin!(shutdown);
    state.send_status();
    loop {
        let wake = tokio::time::Instant::from_std(state.next_wake());
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            ended = watches.tasks.join_next() => return Err(KubeError(watch_ended(ended))),
            () = watches.news.notified() => state.on_news(),
            _ = heartbeat.tick() => state.send_ages(),
            () = tokio::time::sleep_until(wake) => state.on_wake(),
        }
    }
}

/// A watch has no end of its own.
fn watch_ended(ended: Option<Result<(), tokio::task::JoinError>>) -> String {
    let cause = match ended {
        Some(Err(error)) => error.to_string(),
        Some(Ok(())) | None => "it returned".to_owned(),
    };
    format!("a watch of the API server ended ({cause}): restart the agent, and report this")
}

/// A node's name goes into a field selector, where a comma would begin another.
fn checked(node: &str) -> Result<&str, KubeError> {
    let sound = !node.is_empty()
        && node
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
    sound.then_some(node).ok_or_else(|| {
        KubeError(format!(
            "{node:?} is no name of a node: set NODE_NAME by the downward API, or give --node-name"
        ))
    })
}

/// The watches while they are started.
struct Watches {
    access: Arc<Access>,
    pacing: Pacing,
    news: Arc<Notify>,
    tasks: JoinSet<()>,
    members: Vec<Box<dyn Member>>,
    delay: Duration,
}

impl Watches {
    fn new(access: Arc<Access>, pacing: Pacing) -> Self {
        Self {
            access,
            pacing,
            news: Arc::default(),
            tasks: JoinSet::new(),
            members: Vec::new(),
            delay: pacing.start_jitter.mul_f64(pace::random()),
        }
    }

    /// Starts one watch; what it knows is in what is returned.
    fn start<T: PartialEq + Send + Sync + 'static>(
        &mut self,
        of: Of,
        resource: Resource,
        convert: fn(Value) -> Result<T, ObjectError>,
    ) -> Shared<T> {
        let store = Shared::new(&resource.name, &self.news);
        let pacing = if of == Of::Optional {
            self.pacing.optional()
        } else {
            self.pacing
        };
        let watch = Watch::new(resource, &self.access, convert, &store, pacing);
        let delay = self.delay;
        self.tasks.spawn(async move {
            tokio::time::sleep(delay).await;
            watch.run().await;
        });
        self.members.push(member::new(of, store.clone()));
        store
    }
}

struct State {
    source: String,
    /// The address that the configuration has.
    server: Option<SocketAddr>,
    sink: Sink,
    tables: Tables,
    members: Vec<Box<dyn Member>>,
    statuses: Statuses,
    pacing: Pacing,
    /// When something that changed is to be told.
    due: Option<Instant>,
    /// What was told last: an empty list that became known changes nothing that is told.
    sent: Option<Declared>,
}

impl State {
    /// A watch has something new, or is doing better or worse.
    fn on_news(&mut self) {
        let now = clock::instant();
        let (mut near, mut far) = (false, false);
        for member in &self.members {
            if member.take_changed() {
                *(if member.of().is_far() {
                    &mut far
                } else {
                    &mut near
                }) = true;
            }
        }
        let soon = near.then(|| now + self.pacing.debounce);
        let later = far.then(|| now + self.pacing.debounce_peers);
        self.due = self.due.into_iter().chain(soon).chain(later).min();
        self.send_status();
    }

    fn next_wake(&self) -> Instant {
        let now = clock::instant();
        let verdicts = self
            .members
            .iter()
            .filter_map(|member| member.next_verdict(now));
        let soonest = self.due.into_iter().chain(verdicts).min();
        soonest.unwrap_or(now + Duration::from_secs(3_600))
    }

    fn on_wake(&mut self) {
        if self.due.is_some_and(|due| due <= clock::instant()) {
            self.due = None;
            self.send_declared();
        }
        self.send_status();
    }

    fn send_declared(&mut self) {
        if !self.tables.synced() {
            return;
        }
        let at = clock::monotonic();
        let declared = self.declared();
        if self.sent.as_ref() == Some(&declared) {
            return;
        }
        let (pods, services) = (declared.pods.len(), declared.services.len());
        if self.sink.send(at, Fact::Declared(declared.clone())) {
            tracing::debug!(
                source = self.source,
                pods,
                services,
                "declared side changed"
            );
            self.sent = Some(declared);
            self.send_ages();
        } else {
            self.due = Some(clock::instant() + self.pacing.debounce);
        }
    }

    fn declared(&self) -> Declared {
        let mut all = self.tables.all();
        all.api_servers.extend(&self.server);
        let mut problems_total = 0;
        for member in &self.members {
            problems_total += member.report(&mut all);
        }
        Declared {
            problems_total,
            ..all.into_declared(self.source.clone())
        }
    }

    /// How current everything is. Lost ones are told again soon.
    fn send_ages(&self) {
        let now = clock::monotonic();
        let rows: Vec<SourceRow> = self
            .members
            .iter()
            .filter_map(|member| member.age(now))
            .collect();
        if !rows.is_empty() {
            self.sink.send(now, Fact::DeclaredSources { rows });
        }
    }

    fn send_status(&mut self) {
        let told = self.sent.is_some();
        let all = self.statuses.now(&self.members, told, &self.source);
        for status in all {
            if self
                .sink
                .send(clock::monotonic(), Fact::Probe(status.clone()))
            {
                self.statuses.told(status);
            } else {
                self.due
                    .get_or_insert_with(|| clock::instant() + self.pacing.debounce);
            }
        }
    }
}
