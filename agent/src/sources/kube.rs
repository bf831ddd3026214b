//! The declared side from the API server: the pods of the own node, and all Services; for the names of peers the own Node
//! and the EndpointSlice of the API server itself.
//!
//! Four watches, nothing polled: `list` once (from the server's cache), then `watch` with bookmarks, resumed where it broke
//! off, with backoff and jitter. Objects go through the same conversion as those of files and only its result is kept.
//! What is broken leaves the last state in force and is told as the health of the probe `declared`, or of the names' own
//! probes: without those two everything else works.

mod extra;
mod table;
mod trouble;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Config};
use plumbline_core::declared::{Declared, DeclaredNode, DeclaredPod, DeclaredService};
use plumbline_core::observation::{Fact, Health, ProbeStatus};
use tower::util::MapResponseLayer;

use super::Sink;
use super::objects::{
    OBJECTS_MAX, ObjectError, Objects, api_servers, node_value, pod_value, service_value,
};
use crate::clock;
use extra::Extra;
use table::Table;
use trouble::Troubles;

/// Changes this close together are told as one.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// A request that answers nothing for this long is given up. Longer than the watches' own 290 s plus 5 s.
const READ_TIMEOUT: Duration = Duration::from_secs(300);

/// Where the API server is and which node is ours.
#[derive(Clone, Debug)]
pub struct KubeSettings {
    /// A kubeconfig; without one the in-cluster configuration is used.
    pub kubeconfig: Option<PathBuf>,
    /// `spec.nodeName` of the pods to watch.
    pub node_name: String,
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
    let node = checked(&settings.node_name)?;
    let config = config(settings.kubeconfig).await?;
    let source = format!(
        "api:{}",
        config.cluster_url.to_string().trim_end_matches('/')
    );
    let named = |name: &str| from_cache().fields(&format!("metadata.name={name}"));
    let own_pods = from_cache().fields(&format!("spec.nodeName={node}"));
    let (mut pods, pod_answers) = watch::<Pod>(&config, None, own_pods)?;
    let (mut services, service_answers) = watch::<Service>(&config, None, from_cache())?;
    let (mut nodes, node_answers) = watch::<Node>(&config, None, named(node))?;
    // The API server gives the slice of its own Service that name.
    let (mut slices, slice_answers) =
        watch::<EndpointSlice>(&config, Some("default"), named("kubernetes"))?;
    let mut state = State {
        source,
        sink,
        pods: Table::new("pods"),
        services: Table::new("services"),
        nodes: Extra::new("peers.nodes", "nodes", node_answers),
        slices: Extra::new("peers.endpointslices", "endpointslices", slice_answers),
        server: address_of(&config),
        troubles: Troubles::new([("pods", pod_answers), ("services", service_answers)]),
        changed: false,
        due: None,
        sent: None,
        sent_status: None,
    };
    let mut shutdown = pin!(shutdown);
    state.send_status();
    loop {
        let wake = tokio::time::Instant::from_std(state.next_wake());
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            Some(event) = pods.next() => state.on_pod(event),
            Some(event) = services.next() => state.on_service(event),
            Some(event) = nodes.next() => state.on_node(event),
            Some(event) = slices.next() => state.on_slice(event),
            () = state.troubles.answered() => state.send_status(),
            () = state.nodes.answered() => state.send_status(),
            () = state.slices.answered() => state.send_status(),
            () = tokio::time::sleep_until(wake) => state.on_wake(),
        }
    }
}

/// Lists are answered from the server's cache and not from etcd. With a page size kube would leave `resourceVersion=0` out,
/// and the list would be a quorum read after all.
fn from_cache() -> watcher::Config {
    let mut config = watcher::Config::default().any_semantic();
    config.page_size = None;
    config
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

async fn config(kubeconfig: Option<PathBuf>) -> Result<Config, KubeError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let wrong = |error| {
                KubeError(format!(
                    "kubeconfig {}: {error}: give one that works with kubectl",
                    path.display()
                ))
            };
            let kubeconfig = Kubeconfig::read_from(&path).map_err(wrong)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .map_err(wrong)?
        }
        None => Config::incluster().map_err(|error| {
            let fix = "give --kubeconfig, or run as a pod with automountServiceAccountToken: true";
            KubeError(format!(
                "no kubeconfig, and not in a cluster ({error}): {fix}"
            ))
        })?,
    };
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    Ok(config)
}

type Event = watcher::Result<watcher::Event<DynamicObject>>;
type Watch = BoxStream<'static, Event>;

/// The server's address, if the configuration has one and not a name: names change their addresses. Not on loopback, which is
/// another server in each network namespace.
fn address_of(config: &Config) -> Option<SocketAddr> {
    let host = config.cluster_url.host()?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let ip: IpAddr = host.parse().ok()?;
    let by_scheme = match config.cluster_url.scheme_str() {
        Some("http") => 80,
        _ => 443,
    };
    let port = config.cluster_url.port_u16().unwrap_or(by_scheme);
    (!ip.is_loopback()).then(|| SocketAddr::new(ip, port))
}

/// One watch with a client of its own, and the count of its successful answers: a watch that was resumed tells nothing
/// until an object changes, so that only the answer itself shows that the server is back.
fn watch<K: kube::Resource<DynamicType = ()>>(
    config: &Config,
    namespace: Option<&str>,
    selection: watcher::Config,
) -> Result<(Watch, trouble::Answers), KubeError> {
    let answers = trouble::Answers::default();
    let builder = ClientBuilder::try_from(config.clone());
    let builder = builder
        .map_err(|error| KubeError(format!("client for {}: {error}", config.cluster_url)))?;
    let count = {
        let answers = answers.clone();
        move |response: http::Response<_>| {
            if response.status().is_success() {
                answers.count();
            }
            response
        }
    };
    let client: Client = builder.with_layer(&MapResponseLayer::new(count)).build();
    let resource = ApiResource::erase::<K>(&());
    let api = match namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    };
    let stream = watcher(api, selection).default_backoff();
    Ok((stream.boxed(), answers))
}

struct State {
    source: String,
    sink: Sink,
    pods: Table<DeclaredPod>,
    services: Table<DeclaredService>,
    nodes: Extra<DeclaredNode>,
    slices: Extra<Vec<SocketAddr>>,
    /// The address that the configuration has.
    server: Option<SocketAddr>,
    troubles: Troubles<2>,
    /// Something was not told yet.
    changed: bool,
    /// When it is to be told.
    due: Option<Instant>,
    sent: Option<Declared>,
    sent_status: Option<ProbeStatus>,
}

impl State {
    fn on_pod(&mut self, event: Event) {
        match event {
            Ok(event) => self.changed |= self.pods.apply(event, pod_value),
            Err(error) => self.on_error("pods", &error),
        }
        self.schedule();
    }

    fn on_service(&mut self, event: Event) {
        match event {
            Ok(event) => self.changed |= self.services.apply(event, service_value),
            Err(error) => self.on_error("services", &error),
        }
        self.schedule();
    }

    fn on_node(&mut self, event: Event) {
        self.changed |= self.nodes.on_event(event, node_value);
        self.send_status();
        self.schedule();
    }

    fn on_slice(&mut self, event: Event) {
        let convert = |value| Ok::<_, ObjectError>(api_servers(&value)?.unwrap_or_default());
        self.changed |= self.slices.on_event(event, convert);
        self.send_status();
        self.schedule();
    }

    fn on_error(&mut self, resource: &'static str, error: &watcher::Error) {
        self.troubles.note(resource, error, clock::instant());
        self.send_status();
    }

    fn schedule(&mut self) {
        if self.changed {
            self.due.get_or_insert_with(|| clock::instant() + DEBOUNCE);
        }
    }

    fn next_wake(&self) -> Instant {
        let now = clock::instant();
        let verdicts = [
            self.due,
            self.troubles.next_verdict(now),
            self.nodes.next_verdict(now),
            self.slices.next_verdict(now),
        ];
        let soonest = verdicts.into_iter().flatten().min();
        soonest.unwrap_or(now + Duration::from_secs(3_600))
    }

    fn on_wake(&mut self) {
        if self.due.is_some_and(|due| due <= clock::instant()) {
            self.due = None;
            self.changed = false;
            self.send_declared();
        }
        self.send_status();
        self.schedule();
    }

    fn send_declared(&mut self) {
        if !(self.pods.synced() && self.services.synced()) {
            return;
        }
        let declared = self.declared();
        if self.sent.as_ref() == Some(&declared) {
            return;
        }
        if self
            .sink
            .send(clock::monotonic(), Fact::Declared(declared.clone()))
        {
            let (pods, services) = (declared.pods.len(), declared.services.len());
            tracing::debug!(
                source = self.source,
                pods,
                services,
                "declared side changed"
            );
            self.sent = Some(declared);
        } else {
            self.changed = true;
        }
    }

    fn declared(&self) -> Declared {
        let mut all = Objects::new(OBJECTS_MAX);
        all.pods.extend(self.pods.values().cloned());
        all.services
            .extend(self.services.values().map(|service| (**service).clone()));
        all.nodes
            .extend(self.nodes.table.values().map(|node| (**node).clone()));
        let servers = self
            .slices
            .table
            .values()
            .flat_map(|servers| servers.iter());
        all.api_servers.extend(servers.chain(&self.server));
        self.pods.report(&mut all);
        self.services.report(&mut all);
        self.nodes.table.report(&mut all);
        self.slices.table.report(&mut all);
        let problems_total = self.pods.problems_total()
            + self.services.problems_total()
            + self.nodes.table.problems_total()
            + self.slices.table.problems_total();
        Declared {
            problems_total,
            ..all.into_declared(self.source.clone())
        }
    }

    fn send_status(&mut self) {
        let told = self.nodes.send_status(&self.sink) & self.slices.send_status(&self.sink);
        self.changed |= !told;
        self.send_declared_status();
    }

    fn send_declared_status(&mut self) {
        let reason = self.troubles.reason(clock::instant());
        let reason = match (reason, self.sent.is_some()) {
            (Some(reason), true) => Some(format!(
                "{}: {reason}; the last state stays in force",
                self.source
            )),
            (Some(reason), false) => Some(format!("{}: {reason}", self.source)),
            (None, true) => None,
            (None, false) => Some(format!(
                "{}: no complete list of pods and services yet",
                self.source
            )),
        };
        let health = if reason.is_some() {
            Health::Broken
        } else {
            Health::Ok
        };
        let status = ProbeStatus {
            probe: "declared".to_owned(),
            health,
            reason,
        };
        if self.sent_status.as_ref() == Some(&status) {
            return;
        }
        if self
            .sink
            .send(clock::monotonic(), Fact::Probe(status.clone()))
        {
            self.sent_status = Some(status);
        } else {
            self.changed = true;
        }
    }
}
