//! The source of declarations that the configuration asks for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use plumbline_core::observation::{Fact, Health, ProbeStatus};

use crate::clock;
use crate::config::{Config, DeclaredSource};
use crate::sources::{Sink, kube, manifests};

/// After a configuration that could not be used: a token or a certificate may be there later.
const AGAIN: Duration = Duration::from_secs(30);

/// Starts the source of declarations.
pub(super) fn start(
    config: &Config,
    sink: &Sink,
    stop: &Arc<AtomicBool>,
) -> anyhow::Result<Option<std::thread::JoinHandle<()>>> {
    match &config.declared {
        DeclaredSource::Files(path) => {
            let manifests = manifests::Manifests::open(path)?;
            let thread = manifests::spawn(manifests, sink.clone(), Arc::clone(stop));
            thread
                .map(Some)
                .context("start the thread that reads declarations")
        }
        DeclaredSource::Kube(kubeconfig) => {
            let node_name = config
                .node
                .node
                .clone()
                .context("--kube needs the node's name: give --node-name")?;
            let settings = kube::KubeSettings {
                kubeconfig: kubeconfig.clone(),
                node_name,
                peers: config.peers,
                pacing: kube::Pacing {
                    start_jitter: config.start_jitter,
                    ..kube::Pacing::default()
                },
            };
            tokio::spawn(watch_api(settings, sink.clone(), Arc::clone(stop)));
            Ok(None)
        }
        DeclaredSource::None => {
            let reason = "no declarations were given: --declared or --kube would".to_owned();
            let status = ProbeStatus {
                probe: "declared".into(),
                health: Health::Off,
                reason: Some(reason),
            };
            sink.send(clock::monotonic(), Fact::Probe(status));
            Ok(None)
        }
    }
}

/// Starts the source of candidate policies, if any are given.
pub(super) fn start_candidates(
    config: &Config,
    sink: &Sink,
    stop: &Arc<AtomicBool>,
) -> anyhow::Result<Option<std::thread::JoinHandle<()>>> {
    let Some(path) = &config.candidate_policies else {
        return Ok(None);
    };
    let manifests = manifests::Manifests::of_flag("--candidate-policies", path)?;
    let thread = manifests::spawn_candidates(manifests, sink.clone(), Arc::clone(stop));
    thread
        .map(Some)
        .context("start the thread that reads candidate policies")
}

/// Runs the watch until the agent ends. That it cannot start is the probe's health, not the agent's end.
async fn watch_api(settings: kube::KubeSettings, sink: Sink, stop: Arc<AtomicBool>) {
    let stopped = async {
        while !stop.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::pin!(stopped);
    loop {
        let watching = kube::run(settings.clone(), sink.clone(), &mut stopped);
        let Err(error) = watching.await else { return };
        let reason = Some(format!("{:#}", anyhow::Error::new(error)));
        tracing::error!(reason, "the API server is not watched");
        let status = ProbeStatus {
            probe: "declared".into(),
            health: Health::Broken,
            reason,
        };
        sink.send(clock::monotonic(), Fact::Probe(status));
        tokio::select! {
            () = &mut stopped => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}
