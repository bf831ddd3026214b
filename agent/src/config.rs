//! Settings: flags > environment > file > defaults. All problems are reported at once.

mod check;
pub mod file;
mod host;
pub mod keys;
pub mod print;
pub mod reload;
mod rulebook;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plumbline_core::settings::{
    CPU_MEAN_WINDOW_MAX, CoreSettings, Grace, NodeIdentity, RuleSettings,
};
use serde::Deserialize;

pub use file::{File, read_file};
pub use rulebook::warnings;

use crate::cli::{LogFormat, NodeArgs, Probe};
use crate::export::settings::ExportSettings;
use crate::logs::LogConfig;
use crate::logs::options::LogArgs;
use crate::sources::ebpf::UdpMode;
use crate::sources::kube::Peers;

/// Everything the agent may be told, with defaults filled in.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who this node is.
    pub node: NodeIdentity,
    /// Windows and limits of the rules.
    pub core: CoreSettings,
    /// The cgroup directory to watch; `None`: found in mountinfo.
    pub cgroup_root: Option<PathBuf>,
    /// Where procfs of the node is mounted.
    pub proc_root: PathBuf,
    /// Where declarations come from.
    pub declared: DeclaredSource,
    /// Where policies are that are not in force.
    pub candidate_policies: Option<PathBuf>,
    /// What is watched of the rest of the cluster.
    pub peers: Peers,
    /// The first request to the API server comes within this.
    pub start_jitter: Duration,
    /// Attach the TCP program to containers.
    pub tcp: bool,
    /// What is seen of UDP.
    pub udp: UdpMode,
    /// Measure CPU in 100 ms windows.
    pub cpu_windows: bool,
    /// Time between two readings of open connections' bytes; `None`: they are counted when a connection closes.
    pub connection_interval: Option<Duration>,
    /// Time between two rounds of the canary; `None`: it is off.
    pub canary: Option<Duration>,
    /// Time between two scans of the node's sockets, and two walks of its cgroups.
    pub scan_interval: Duration,
    /// The Unix socket for status; `None`: none.
    pub socket: Option<PathBuf>,
    /// OTLP.
    pub export: ExportSettings,
    /// What was set of the keys `otlp.*`, by file or variable, as it was written.
    pub otlp: Vec<(&'static str, String)>,
    /// Directory in which findings outlive the agent; `None`: they do not.
    pub state_dir: Option<PathBuf>,
    /// Container logs; `None`: they are not read.
    pub logs: Option<LogConfig>,
    /// What was said about them, by flags and file.
    pub log_args: LogArgs,
    /// How log lines look.
    pub log_format: LogFormat,
}

/// Where declarations come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeclaredSource {
    /// Nowhere: comparison rules are silent, and M001 says so.
    None,
    /// Manifests or dumps.
    Files(PathBuf),
    /// The API server; with a kubeconfig, or from inside the cluster.
    Kube(Option<PathBuf>),
}

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Flag, variable, or file and key.
    pub at: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.message)
    }
}

/// A span of time as people write it: `500ms`, `30s`, `5m`, `1h 30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(pub Duration);

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text).map(Self).map_err(|error| {
            format!("`{text}` is no span of time ({error}); write it like 500ms, 30s or 5m")
        })
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Fills defaults in, and says everything that is wrong.
///
/// # Errors
///
/// All problems of flags, file and `OTEL_*` variables.
pub fn resolve(
    args: &NodeArgs,
    file: File,
    get: impl Fn(&str) -> Option<String>,
) -> Result<Config, Vec<Problem>> {
    let mut problems = Vec::new();
    let log_args = args.logs.over(&file);
    let mut core = core_settings(args, &file, &mut problems);
    log_args.tell(&mut core);
    let scan_interval = scan_interval(args, &file, &mut problems);
    let connection_interval = connection_interval(args, &file, &mut problems);
    let canary = canary(args, &file, &mut problems);
    let declared = declared_source(args, &file, &mut problems);
    let get = |name: &str| get(name).or_else(|| file.otlp.variable(name));
    let otlp = keys::otlp(get);
    let export = ExportSettings::from_env(get).unwrap_or_else(|found| {
        let problem = |from: crate::export::settings::Problem| Problem {
            at: from.variable,
            message: from.message,
        };
        problems.extend(found.into_iter().map(problem));
        ExportSettings::off()
    });
    let logs = log_args.resolve(&export, &mut problems);
    let node = NodeIdentity {
        cluster: args.cluster_name.clone().or(file.cluster_name),
        node: args
            .node_name
            .clone()
            .or(file.node_name)
            .or_else(host::name),
        environment: args.environment.clone().or(file.environment),
        agent_version: env!("CARGO_PKG_VERSION").into(),
    };
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Config {
        node,
        core,
        cgroup_root: args.cgroup_root.clone().or(file.cgroup_root),
        proc_root: args
            .proc_root
            .clone()
            .or(file.proc_root)
            .unwrap_or_else(|| "/proc".into()),
        declared,
        candidate_policies: args.candidate_policies.clone().or(file.candidate_policies),
        peers: args.peers.or(file.peers).unwrap_or_default(),
        start_jitter: args
            .start_jitter
            .or(file.start_jitter)
            .map_or(Duration::ZERO, |span| span.0),
        tcp: !args.disable.contains(&Probe::Tcp) && file.probes.tcp.unwrap_or(true),
        udp: if args.disable.contains(&Probe::Udp) {
            UdpMode::Off
        } else {
            args.udp.or(file.probes.udp).unwrap_or_default()
        },
        cpu_windows: !args.disable.contains(&Probe::CpuWindows)
            && file.probes.cpu_windows.unwrap_or(true),
        connection_interval,
        canary,
        scan_interval,
        socket: args.socket.clone().or(file.socket),
        export,
        otlp,
        logs,
        log_args,
        state_dir: args.state_dir.clone().or(file.state.dir),
        log_format: args.log_format.or(file.log_format).unwrap_or_default(),
    })
}

/// Time between two scans.
fn scan_interval(args: &NodeArgs, file: &File, problems: &mut Vec<Problem>) -> Duration {
    let interval = args
        .scan_interval
        .or(file.scan_interval)
        .map_or(SCAN_INTERVAL, |span| span.0);
    if interval < Duration::from_secs(1) || interval > SCAN_INTERVAL_MAX {
        let message = format!("must be between 1s and {}s", SCAN_INTERVAL_MAX.as_secs());
        problems.push(Problem {
            at: "--scan-interval".into(),
            message,
        });
    }
    interval
}

/// How often bytes of open connections are read, if at all.
fn connection_interval(
    args: &NodeArgs,
    file: &File,
    problems: &mut Vec<Problem>,
) -> Option<Duration> {
    let wanted =
        !args.disable.contains(&Probe::Connections) && file.probes.connections.unwrap_or(true);
    let interval = args
        .connection_interval
        .or(file.connection_interval)
        .map_or(CONNECTION_INTERVAL, |span| span.0);
    if interval < Duration::from_secs(1) || interval > CONNECTION_INTERVAL_MAX {
        problems.push(Problem {
            at: "--connection-interval".into(),
            message: format!(
                "must be between 1s and {}s",
                CONNECTION_INTERVAL_MAX.as_secs()
            ),
        });
    }
    wanted.then_some(interval)
}

/// Windows and limits of the rules.
fn core_settings(args: &NodeArgs, file: &File, problems: &mut Vec<Problem>) -> CoreSettings {
    let mut core = CoreSettings::default();
    if let Some(Span(grace)) = args.grace.or(file.grace) {
        core.grace = Grace::Time(grace);
    }
    if let Some(Span(span)) = args.cpu_startup_exclusion.or(file.cpu.startup_exclusion) {
        core.cpu_startup_exclusion = span;
    }
    if let Some(Span(span)) = args.cpu_mean_window.or(file.cpu.mean_window) {
        core.cpu_mean_window = span;
    }
    if core.cpu_mean_window < Duration::from_secs(1) || core.cpu_mean_window > CPU_MEAN_WINDOW_MAX {
        let message = format!("must be between 1s and {}s", CPU_MEAN_WINDOW_MAX.as_secs());
        problems.push(Problem {
            at: "--cpu-mean-window".into(),
            message,
        });
    }
    if let Some(Span(span)) = file.findings.heartbeat {
        core.heartbeat = span;
    }
    if core.heartbeat < HEARTBEAT_MIN {
        problems.push(Problem {
            at: "findings.heartbeat".into(),
            message: format!("must be at least {}s", HEARTBEAT_MIN.as_secs()),
        });
    }
    core.rules = RuleSettings {
        trusted_registries: file.trusted_registries.clone(),
        metadata_namespaces: file.metadata_namespaces.clone(),
        undeclared_namespaces: file.undeclared_namespaces.clone(),
        mesh_namespaces: file.mesh_namespaces.clone(),
        sandbox_runtime_classes: file.sandbox_runtime_classes.clone(),
        host_listeners: file.host_listeners.clone(),
    };
    core.rulebook = Arc::new(rulebook::of(file, problems));
    if let Some(range) = crate::sources::sock_diag::netns::dynamic_ports() {
        core.ephemeral_ports = range;
    }
    core
}

/// The canary's interval, unless it is off.
fn canary(args: &NodeArgs, file: &File, problems: &mut Vec<Problem>) -> Option<Duration> {
    let off = args.disable.contains(&Probe::Canary) || file.probes.canary == Some(false);
    let interval = args
        .canary_interval
        .or(file.canary_interval)
        .map_or(CANARY_INTERVAL, |span| span.0);
    if interval < Duration::from_secs(1) || interval > CANARY_INTERVAL {
        let message = format!("must be between 1s and {}s", CANARY_INTERVAL.as_secs());
        problems.push(Problem {
            at: "--canary-interval".into(),
            message,
        });
    }
    (!off).then_some(interval)
}

/// Where declarations come from. A flag for one source wins over the file's other.
fn declared_source(args: &NodeArgs, file: &File, problems: &mut Vec<Problem>) -> DeclaredSource {
    let kube = args.kube || (file.kube.unwrap_or(false) && args.declared.is_none());
    let path = args.declared.clone();
    let path = path.or_else(|| file.declared.clone().filter(|_| !args.kube));
    match (path, kube) {
        (Some(_), true) => {
            let message = "declarations come from files or from the API server, not from both";
            problems.push(Problem {
                at: "--declared and --kube".into(),
                message: message.into(),
            });
            DeclaredSource::None
        }
        (Some(path), false) => DeclaredSource::Files(path),
        (None, true) => {
            let kubeconfig = args.kubeconfig.clone();
            DeclaredSource::Kube(kubeconfig.or_else(|| file.kubeconfig.clone()))
        }
        (None, false) => DeclaredSource::None,
    }
}

/// More often would be noise.
const HEARTBEAT_MIN: Duration = Duration::from_secs(60);
/// Default of `--canary-interval`, and its end: a probe that sees nothing must be told of within 90 s.
const CANARY_INTERVAL: Duration = Duration::from_secs(60);
/// Default of `--scan-interval`.
const SCAN_INTERVAL: Duration = Duration::from_secs(30);
/// An event that was lost must heal within this.
const SCAN_INTERVAL_MAX: Duration = Duration::from_secs(30);

/// Rates over a minute then have six steps.
const CONNECTION_INTERVAL: Duration = Duration::from_secs(30);
/// A connection that moves bytes is to be seen to in every interval of ordinary rules.
const CONNECTION_INTERVAL_MAX: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests;
