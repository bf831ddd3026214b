//! The agent's watch in a thread of its own, and what it told last.

use std::collections::BTreeMap;
use std::thread::JoinHandle;
use std::time::Duration;

use plumbline::sources::Sink;
use plumbline::sources::kube::{KubeSettings, Pacing, Peers, run};
use plumbline_core::declared::Declared;
use plumbline_core::node::NodeState;
use plumbline_core::observation::{Fact, Health, Observation, ProbeStatus, SourceRow};
use plumbline_core::settings::{CoreSettings, NodeIdentity};
use plumbline_core::time::Timestamp;
use tokio::sync::{mpsc, oneshot};

use crate::double::Api;

/// As the agent's, a hundred times faster; watches that are silent or slow are given up late.
pub(crate) const QUICK: Pacing = Pacing {
    start_jitter: Duration::ZERO,
    backoff_min: Duration::from_millis(20),
    backoff_max: Duration::from_millis(200),
    absent_max: Duration::from_millis(300),
    relist: Duration::from_millis(100),
    idle: Duration::from_secs(240),
    list: Duration::from_secs(240),
    watch: Duration::from_secs(3_600),
    debounce: Duration::from_millis(20),
    heartbeat: Duration::from_millis(100),
};

/// Everything that was told, and a node that believes it.
pub(crate) struct Watching {
    receiver: mpsc::Receiver<Observation>,
    shutdown: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    pub(crate) node: NodeState,
    pub(crate) declared: Option<Declared>,
    pub(crate) told: usize,
    pub(crate) probes: BTreeMap<String, ProbeStatus>,
    pub(crate) ages: Vec<SourceRow>,
    /// When the ages were told last.
    pub(crate) at: Timestamp,
}

impl Watching {
    pub(crate) fn start(api: &Api) -> Self {
        Self::with(api, Peers::Node, QUICK, None)
    }

    /// As the agent of another node than `node-a`.
    pub(crate) fn of_node(api: &Api, node: &str) -> Self {
        Self::begin(api, Peers::Node, QUICK, None, node)
    }

    pub(crate) fn with(
        api: &Api,
        peers: Peers,
        pacing: Pacing,
        token: Option<&std::path::Path>,
    ) -> Self {
        Self::begin(api, peers, pacing, token, "node-a")
    }

    fn begin(
        api: &Api,
        peers: Peers,
        pacing: Pacing,
        token: Option<&std::path::Path>,
        node: &str,
    ) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let settings = KubeSettings {
            kubeconfig: Some(api.kubeconfig(scratch.path(), token)),
            node_name: node.to_owned(),
            peers,
            pacing,
        };
        let (sink, receiver) = Sink::new();
        let (shutdown, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let _scratch = scratch;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let stopped = async { drop(stopped.await) };
            runtime.block_on(run(settings, sink, stopped)).unwrap();
        });
        let identity = NodeIdentity {
            node: Some("node-a".to_owned()),
            ..NodeIdentity::default()
        };
        Self {
            receiver,
            shutdown: Some(shutdown),
            thread: Some(thread),
            node: NodeState::new(identity, CoreSettings::default()),
            declared: None,
            told: 0,
            probes: BTreeMap::new(),
            ages: Vec::new(),
            at: Timestamp(0),
        }
    }

    pub(crate) fn receive(&mut self) {
        while let Ok(observation) = self.receiver.try_recv() {
            self.node.apply(observation.clone());
            let fact = observation.fact;
            if let Fact::Declared(declared) = fact {
                assert_ne!(self.declared.as_ref(), Some(&declared), "told twice");
                self.declared = Some(declared);
                self.told += 1;
            } else if let Fact::Probe(status) = fact {
                let former = self.probes.insert(status.probe.clone(), status.clone());
                assert_ne!(former, Some(status), "told twice");
            } else if let Fact::DeclaredSources { rows } = fact {
                (self.ages, self.at) = (rows, observation.at);
            } else {
                panic!("{fact:?}");
            }
        }
    }

    pub(crate) fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        for _ in 0..12_000 {
            self.receive();
            if holds(self) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!(
            "{what}: not in two minutes; told {:#?} {:#?} {:#?}",
            self.declared, self.probes, self.ages
        );
    }

    pub(crate) fn until_health(&mut self, health: Health) {
        self.until("health", |watch| {
            watch
                .probes
                .get("declared")
                .is_some_and(|status| status.health == health)
        });
    }

    pub(crate) fn until_reason(&mut self, probe: &str, part: &str) {
        self.until(part, |watch| watch.reason(probe).contains(part));
    }

    pub(crate) fn until_names(&mut self, names: &[&str]) {
        self.until(&format!("{names:?}"), |watch| watch.names() == names);
    }

    pub(crate) fn reason(&self, probe: &str) -> &str {
        let status = self.probes.get(probe);
        status
            .and_then(|status| status.reason.as_deref())
            .unwrap_or_default()
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        let pods = self.declared.iter().flat_map(|declared| &declared.pods);
        pods.map(|pod| pod.name.as_str()).collect()
    }

    /// As of when the source is current.
    pub(crate) fn as_of(&self, source: &str) -> Option<Timestamp> {
        let row = self.ages.iter().find(|row| row.source == source);
        row.map(|row| row.as_of)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        drop(self.shutdown.take());
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}
