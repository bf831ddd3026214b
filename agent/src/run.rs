//! THE loop of a live node: starts the sources, feeds the engine, hands what it says to export and status, and ends in order.

mod declared;
mod delivery;
mod life;
mod signals;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use plumbline_core::finding::{Finding, Transition};
use plumbline_core::observation::{Fact, Health, Observation, ProbeStatus};
use plumbline_core::observed::listeners::is_dynamic_udp;
use plumbline_core::snapshot::Dropped;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use crate::cli::NodeArgs;
use crate::clock;
use crate::config::Config;
use crate::engine::{Engine, Evaluation};
use crate::export::Exporter;
use crate::logs::{self, Logs};
use crate::record::{Header, Recorder};
use crate::sources::cgroups::CgroupRoot;
use crate::sources::memory::MemoryEvents;
use crate::sources::sockets::Scanner;
use crate::sources::{Sink, cpu, ebpf, manifests, sockets};
use crate::status::{self, Kept, Published};
use crate::telemetry::{SelfStats, SelfValues, Telemetry};
use life::Life;
use signals::Signals;

/// Rules are evaluated this often: a listener is in a finding's way within 2 s.
const TICK: Duration = Duration::from_secs(1);

/// Ticks between two readings of `cpu.stat`, and in the first minute, in which there is little to compare with.
const CPU_STAT_TICKS: u64 = 10;
const CPU_STAT_FIRST_TICKS: u64 = 5;
const FIRST_TICKS: u64 = 60;

/// The last export may take this long.
const LAST_EXPORT: Duration = Duration::from_secs(3);

/// The last report waits this long for the last answers to container logs, so that it has their counts.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Observations taken before the loop looks at its clock and signals again.
const BATCH: usize = 512;

/// The running sources of a node.
pub struct Node {
    engine: Engine,
    receiver: mpsc::Receiver<Observation>,
    sink: Sink,
    stop: Arc<AtomicBool>,
    kernel: Option<ebpf::Handle>,
    scanner: Scanner,
    memory: MemoryEvents,
    files: Option<std::thread::JoinHandle<()>>,
    candidates: Option<std::thread::JoinHandle<()>>,
    cpu: cpu::Reader,
    cgroup_root: CgroupRoot,
    ticks: u64,
    dropped: Vec<Dropped>,
}

impl Node {
    /// Starts every source that the configuration asks for. Must be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// There is no cgroup v2, the declarations cannot be read, or the recording cannot be created. A probe that cannot
    /// attach is no error: it says so in its health.
    pub fn start(
        config: &Config,
        export_interval: Duration,
        record: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let cgroup_root = CgroupRoot::find(config.cgroup_root.as_deref())?;
        let header = Header::new(config.node.clone(), config.core.clone(), export_interval);
        let recorder = record
            .map(|path| Recorder::create(path, &header))
            .transpose()?;
        let engine = Engine::new(&header, recorder);
        let (sink, receiver) = Sink::new();
        let stop = Arc::new(AtomicBool::new(false));
        let files = declared::start(config, &sink, &stop)?;
        let candidates = declared::start_candidates(config, &sink, &stop)?;
        let settings = ebpf::Settings {
            tcp: config.tcp,
            udp: config.udp,
            ephemeral_ports: config.core.ephemeral_ports,
            cpu_windows: config.cpu_windows,
            connection_interval: config.connection_interval,
            proc_root: config.proc_root.clone(),
            canary: config.canary,
            flow_interval: TICK,
            rescan_interval: config.scan_interval,
            ..ebpf::Settings::new(cgroup_root.clone())
        };
        let landmark = sockets::Landmark::open();
        let kernel = ebpf::spawn(settings, sink.clone())?;
        let settings = sockets::Settings {
            proc_root: config.proc_root.clone(),
            cgroup_root: cgroup_root.clone(),
            interval: config.scan_interval,
            sock_diag: true,
        };
        let scanner = Scanner::spawn(settings, landmark, sink.clone(), Arc::clone(&stop))?;
        let memory = MemoryEvents::spawn(cgroup_root.clone(), sink.clone(), Arc::clone(&stop))?;
        Ok(Self {
            engine,
            receiver,
            sink,
            stop,
            kernel: Some(kernel),
            scanner,
            memory,
            files,
            candidates,
            cpu: cpu::Reader::new(cgroup_root.clone(), config.proc_root.clone()),
            cgroup_root,
            ticks: 0,
            dropped: Vec::new(),
        })
    }

    /// Takes what has arrived, at most [`BATCH`] observations. Waits for the first.
    async fn receive(&mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        self.receiver.recv_many(&mut batch, BATCH).await;
        for observation in batch {
            self.take(observation);
        }
    }

    fn take(&mut self, observation: Observation) {
        if let Fact::ListenerOpened(event) = &observation.fact
            // Resolvers choose a random port for each question: no scan for each of them.
            && !is_dynamic_udp(event.transport, event.port, self.engine.dynamic_ports(event.owner))
        {
            // The kernel's event names no process: a scan of the container does.
            if let Some(container) = self.engine.container(event.owner) {
                self.scanner.request(container);
            }
        }
        let is_about_ports = matches!(observation.fact, Fact::DynamicPorts { .. });
        let is_scan = matches!(observation.fact, Fact::Listeners { .. });
        self.engine.take(observation);
        let Some(kernel) = &self.kernel else {
            return;
        };
        if is_about_ports {
            // Programs tell servers of UDP from clients by it.
            kernel.set_dynamic_ports(self.engine.other_dynamic_ports().clone());
        }
        if is_scan {
            // Of those that were there before the agent no event told.
            kernel.set_udp_servers(self.engine.udp_servers());
        }
    }

    /// Takes what another part of the agent says of itself.
    fn tell(&mut self, facts: impl IntoIterator<Item = Fact>) {
        for fact in facts {
            self.engine.take(Observation {
                at: clock::monotonic(),
                fact,
            });
        }
    }

    /// One clock tick: counts what was lost, reads what is read on a tick, and evaluates.
    /// What is to be done once a second. Rules are not evaluated each time, see [`Engine::take`].
    fn tick(&mut self, export: Option<&Exporter>) -> Option<Evaluation> {
        let every = match self.ticks {
            ..FIRST_TICKS => CPU_STAT_FIRST_TICKS,
            _ => CPU_STAT_TICKS,
        };
        if self.ticks.is_multiple_of(every) {
            let status = self.cpu.read(&self.engine.containers(), &self.sink);
            self.take(Observation {
                at: clock::monotonic(),
                fact: Fact::Probe(status),
            });
        }
        self.ticks += 1;
        self.watch_threads();
        self.count_drops(export);
        let now = Observation {
            at: clock::monotonic(),
            fact: Fact::Clock {
                unix_ns: clock::unix_ns(),
            },
        };
        let evaluation = self.engine.take(now);
        if evaluation.is_some() {
            self.memory.watch(self.engine.containers());
        }
        self.engine.flush();
        evaluation
    }

    /// A source whose thread has ended measures nothing, whatever it said last.
    fn watch_threads(&mut self) {
        if self.stop.load(Ordering::Relaxed) {
            return;
        }
        let mut ended = Vec::new();
        if self
            .kernel
            .as_ref()
            .is_some_and(|kernel| !kernel.is_alive())
        {
            ended.extend([
                "tcp",
                "udp",
                "cpu_windows",
                "cgroups",
                "connections",
                "canary",
            ]);
        }
        if !self.scanner.is_alive() {
            ended.push("listeners");
        }
        if !self.memory.is_alive() {
            ended.push("oom_kills");
        }
        for (thread, probe) in [
            (&self.files, "declared"),
            (&self.candidates, manifests::CANDIDATES),
        ] {
            if thread
                .as_ref()
                .is_some_and(std::thread::JoinHandle::is_finished)
            {
                ended.push(probe);
            }
        }
        for probe in ended {
            let status = ProbeStatus {
                probe: probe.into(),
                health: Health::Broken,
                reason: Some("its thread has ended; the log says why; restart the agent".into()),
            };
            let fact = Fact::Probe(status);
            self.engine.take(Observation {
                at: clock::monotonic(),
                fact,
            });
        }
    }

    /// Tells the engine what the shell itself lost, where that has changed.
    fn count_drops(&mut self, export: Option<&Exporter>) {
        let mut dropped = export.map(Exporter::dropped).unwrap_or_default();
        let own = |place: &str, count| Dropped {
            place: place.into(),
            reason: "full".into(),
            count,
        };
        dropped.push(own("observations", self.sink.dropped()));
        dropped.push(own("recording", self.engine.unrecorded()));
        dropped.push(own("socket_scan_requests", self.scanner.refused()));
        for now in dropped
            .iter()
            .filter(|now| now.count > 0 && !self.dropped.contains(now))
        {
            let Dropped {
                place,
                reason,
                count,
            } = now.clone();
            self.engine.take(Observation {
                at: clock::monotonic(),
                fact: Fact::Dropped {
                    place,
                    reason,
                    count,
                },
            });
        }
        self.dropped = dropped;
    }

    /// Stops the sources, takes what they still have to say, and evaluates a last time. The threads that only read end by
    /// themselves, or with the process.
    pub async fn finish(mut self) -> (Engine, Evaluation) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(kernel) = self.kernel.take() {
            // It reads a last time, which takes as long as it takes: meanwhile the caller hears signals, and what it tells
            // finds room.
            let mut stopped = tokio::task::spawn_blocking(move || kernel.stop());
            loop {
                tokio::select! {
                    ended = &mut stopped => {
                        if let Err(error) = ended {
                            tracing::error!(error = %error, "the eBPF source did not end in order");
                        }
                        break;
                    }
                    () = self.receive() => {}
                }
            }
        }
        self.cpu.read(&self.engine.containers(), &self.sink);
        while let Ok(observation) = self.receiver.try_recv() {
            self.take(observation);
        }
        let evaluation = self.tick(None).or_else(|| self.engine.catch_up());
        let evaluation = evaluation.expect("a tick is evaluated at once or caught up with");
        (self.engine, evaluation)
    }

    /// Observes for `duration`, with `progress` after each evaluation.
    pub async fn observe(&mut self, duration: Duration, mut progress: impl FnMut(&Evaluation)) {
        let end = tokio::time::sleep(duration);
        tokio::pin!(end);
        let mut ticks = ticks();
        loop {
            tokio::select! {
                biased;
                () = &mut end => return,
                _ = ticks.tick() => self.tick(None).iter().for_each(&mut progress),
                () = self.receive() => {}
            }
        }
    }
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

/// `plumbline run`: until SIGTERM or SIGINT. A second signal ends it at once, without the last export.
///
/// # Errors
///
/// What [`Node::start`] says; the status socket is taken; a certificate cannot be used.
pub async fn run(config: Config, args: &NodeArgs, record: Option<&Path>) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let socket = status::Listener::bind(config.socket.as_deref())?;
    let mut export = Exporter::start(config.export.clone(), config.node.clone())?;
    let own = Arc::new(SelfStats::default());
    let telemetry = Telemetry::start(&config.export, &config.node, Arc::clone(&own))?;
    let mut node = Node::start(&config, config.export.metric_interval, record)?;
    let mut life = Life::start(&config, args, &mut node)?;
    let mut logs = Logs::if_asked(config.logs.as_ref(), &config.node, &mut export)?;
    if logs.is_none() {
        node.tell([logs::off()]);
    }
    let (publish, published) = watch::channel(None);
    let server = socket.map(|socket| tokio::spawn(socket.serve(published)));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), cgroup_root = %node.cgroup_root.directory.display(), "observing");

    let mut ticks = ticks();
    loop {
        tokio::select! {
            biased;
            () = signals.any() => break,
            _ = ticks.tick() => {
                life.before(&mut node);
                node.tell(logs.iter_mut().flat_map(Logs::facts));
                if let Some(evaluation) = node.tick(Some(&export)) {
                    life.evaluated(&evaluation, &export);
                    if let Some(logs) = &logs {
                        logs.learn(&evaluation.snapshot);
                    }
                    let snapshot = Arc::clone(&evaluation.snapshot);
                    handle(evaluation, life.kept(), &export, logs.as_ref(), &own, &publish);
                    life.keep(&node.engine, &snapshot);
                }
            }
            () = node.receive() => {}
        }
    }
    if let Some(logs) = &logs {
        logs.stop();
    }
    tracing::info!("ending: the last export takes at most 3 s; a second signal ends at once");
    let ended = end(node, life, export, logs, telemetry, &own, &publish);
    tokio::select! {
        () = ended => {}
        () = signals.any() => tracing::warn!("ended by a second signal, without a last export"),
    }
    if let Some(server) = server {
        server.abort();
    }
    Ok(())
}

/// Ends in order: the last evaluation, the last logs, the last export, the last state.
async fn end(
    node: Node,
    mut life: Life,
    export: Exporter,
    mut logs: Option<Logs>,
    telemetry: Option<Telemetry>,
    own: &SelfStats,
    publish: &watch::Sender<Option<Arc<Published>>>,
) {
    let (mut engine, evaluation) = node.finish().await;
    let snapshot = Arc::clone(&evaluation.snapshot);
    let mut report = engine.last_report(snapshot.now);
    life.evaluated(&evaluation, &export);
    handle(
        evaluation,
        life.kept(),
        &export,
        logs.as_ref(),
        own,
        publish,
    );
    let mut last_logs = logs.take().map(Logs::end);
    if let Some(logs) = &mut last_logs {
        // With a collector that answers these are the last counts.
        logs.wait(LAST_ANSWERS).await;
        logs.add_points(&mut report, &snapshot);
    }
    export.offer_report(Arc::new(report));
    let own_lane = async {
        if let Some(telemetry) = telemetry {
            telemetry.shutdown(LAST_EXPORT).await;
        }
    };
    let last_logs = async {
        if let Some(mut logs) = last_logs {
            logs.wait(LAST_EXPORT).await;
        }
    };
    let (lanes, (), ()) = tokio::join!(export.shutdown(LAST_EXPORT), own_lane, last_logs);
    life.end(engine, snapshot, &lanes).await;
    tracing::info!(?lanes, "ended");
}

/// Hands one evaluation to everyone who waits for it.
fn handle(
    evaluation: Evaluation,
    kept: Kept,
    export: &Exporter,
    logs: Option<&Logs>,
    own: &SelfStats,
    publish: &watch::Sender<Option<Arc<Published>>>,
) {
    let Evaluation {
        snapshot,
        transitions,
        open,
        suppressed,
        report,
    } = evaluation;
    for finding in &transitions {
        log_finding(finding);
    }
    if !transitions.is_empty() {
        export.offer_findings(transitions);
    }
    if let Some(mut report) = report {
        if let Some(logs) = logs {
            logs.add_points(&mut report, &snapshot);
        }
        export.offer_report(Arc::new(report));
    }
    own.update(SelfValues {
        dropped: snapshot.dropped.clone(),
        lanes: export.stats(),
    });
    publish.send_replace(Some(Arc::new(Published {
        snapshot,
        open,
        suppressed,
        lanes: export.stats(),
        logs: logs.map(Logs::stats),
        kept,
    })));
}

fn log_finding(finding: &Finding) {
    tracing::info!(
        rule = finding.rule_id,
        state = finding.state.as_str(),
        transition = finding.transition.map(Transition::as_str),
        severity = finding.severity.as_str(),
        namespace = finding.resource.namespace,
        pod = finding.resource.pod,
        container = finding.resource.container,
        observed = finding.observed,
        "finding"
    );
}
