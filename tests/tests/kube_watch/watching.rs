//! The agent's watch in a thread of its own, and what it told last.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use plumbline::clock;
use plumbline::sources::Sink;
use plumbline::sources::kube::{KubeSettings, Pacing, Peers, run};
use plumbline_core::declared::Declared;
use plumbline_core::observation::{Fact, Health, Observation, ProbeStatus, SourceRow};
use plumbline_core::time::Timestamp;
use tokio::sync::{mpsc, oneshot};

use crate::cluster::ControlPlane;
use crate::{NODE, PATIENCE};

/// The agent's watch in a thread of its own, and what it told last.
pub(crate) struct Watch {
    receiver: mpsc::Receiver<Observation>,
    shutdown: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    pub(crate) declared: Option<Declared>,
    status: Option<ProbeStatus>,
    pub(crate) others: BTreeMap<String, ProbeStatus>,
    ages: Vec<SourceRow>,
    pub(crate) told: usize,
}

impl Watch {
    pub(crate) fn start(kubeconfig: &Path, peers: Peers) -> Self {
        let (sink, receiver) = Sink::new();
        let (shutdown, stopped) = oneshot::channel::<()>();
        let settings = KubeSettings {
            kubeconfig: Some(kubeconfig.to_owned()),
            node_name: NODE.to_owned(),
            peers,
            pacing: Pacing::default(),
        };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let stopped = async { drop(stopped.await) };
            runtime.block_on(run(settings, sink, stopped)).unwrap();
        });
        let (shutdown, thread) = (Some(shutdown), Some(thread));
        Self {
            receiver,
            shutdown,
            thread,
            declared: None,
            status: None,
            others: BTreeMap::new(),
            ages: Vec::new(),
            told: 0,
        }
    }

    pub(crate) fn receive(&mut self) {
        while let Ok(observation) = self.receiver.try_recv() {
            let fact = observation.fact;
            if let Fact::Declared(declared) = fact {
                assert_ne!(self.declared.as_ref(), Some(&declared), "told twice");
                self.declared = Some(declared);
                self.told += 1;
            } else if let Fact::Probe(status) = fact {
                // Names of peers have probes of their own: this server is too old for one of them.
                if status.probe == "declared" {
                    self.status = Some(status);
                } else {
                    self.others.insert(status.probe.clone(), status);
                }
            } else if let Fact::DeclaredSources { rows } = fact {
                self.ages = rows;
            } else {
                panic!("{fact:?}");
            }
        }
    }

    /// Waits until `holds` of what was told last.
    pub(crate) fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = clock::instant() + PATIENCE;
        while clock::instant() < deadline {
            self.receive();
            if holds(self) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!(
            "{what}: not in {PATIENCE:?}; told {:#?} {:#?}",
            self.declared, self.status
        );
    }

    /// Waits until the watch says what a dump says.
    pub(crate) fn until_equal(&mut self, cluster: &ControlPlane) {
        self.until("as in the dump", |watch| {
            let Some(told) = &watch.declared else {
                return false;
            };
            let dumped = cluster.dumped();
            let all = |of: &Declared| {
                let (nodes, problems) = (of.nodes.clone(), of.problems.clone());
                (of.pods.clone(), of.services.clone(), nodes, problems)
            };
            all(told) == all(&dumped)
        });
    }

    pub(crate) fn health(&self) -> Option<Health> {
        self.status.as_ref().map(|status| status.health)
    }

    pub(crate) fn reason(&self) -> &str {
        self.status
            .as_ref()
            .and_then(|status| status.reason.as_deref())
            .unwrap_or_default()
    }

    /// As of when what is known of a source is current.
    pub(crate) fn as_of(&self, source: &str) -> Option<Timestamp> {
        let row = self.ages.iter().find(|row| row.source == source);
        row.map(|row| row.as_of)
    }

    pub(crate) fn pods(&self) -> Vec<&str> {
        let pods = self.declared.iter().flat_map(|declared| &declared.pods);
        pods.map(|pod| pod.name.as_str()).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.shutdown.take());
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}
