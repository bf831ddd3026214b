//! Settings: flags > environment > file > defaults. All problems are reported at once.

mod check;
pub mod file;
pub mod keys;
pub mod print;
pub mod reload;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plumbline_core::rules;
use plumbline_core::settings::{
    CPU_MEAN_WINDOW_MAX, CoreSettings, Grace, NodeIdentity, SUPPRESSIONS_MAX,
};
use plumbline_core::suppression::Rulebook;
use plumbline_core::time::UnixNanos;
use serde::Deserialize;

pub use file::{File, read_file};

use crate::cli::{LogFormat, NodeArgs, Probe};
use crate::export::settings::ExportSettings;
use crate::logs::LogConfig;
use crate::sources::ebpf::UdpMode;

/// Everything the agent may be told, with defaults filled in.
#[derive(Clone, Debug, PartialEq)]
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
    let core = core_settings(args, &file, &mut problems);
    let scan_interval = args
        .scan_interval
        .or(file.scan_interval)
        .map_or(SCAN_INTERVAL, |span| span.0);
    if scan_interval < Duration::from_secs(1) || scan_interval > SCAN_INTERVAL_MAX {
        let message = format!("must be between 1s and {}s", SCAN_INTERVAL_MAX.as_secs());
        problems.push(Problem {
            at: "--scan-interval".into(),
            message,
        });
    }
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
    let logs = logs(args, &file, &export, &mut problems);
    let node = NodeIdentity {
        cluster: args.cluster_name.clone().or(file.cluster_name),
        node: args.node_name.clone().or(file.node_name).or_else(hostname),
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
        state_dir: args.state_dir.clone().or(file.state.dir),
        log_format: args.log_format.or(file.log_format).unwrap_or_default(),
    })
}

/// What of the configuration is taken but has no effect: suppressions that hide nothing, and why. The agent runs with it,
/// and says so.
#[must_use]
pub fn warnings(rulebook: &Rulebook, now: UnixNanos) -> Vec<Problem> {
    let suppressions = rulebook.suppressions.iter().enumerate();
    let mut warnings: Vec<Problem> = suppressions
        .filter_map(|(index, suppression)| {
            let unknown = suppression
                .rule
                .as_ref()
                .filter(|id| rules::find(id).is_none());
            let why = match (suppression.in_force(now), unknown) {
                (Err(why), _) => why,
                (Ok(_), Some(id)) => format!("there is no rule {id}"),
                (Ok(_), None) => return None,
            };
            Some(Problem {
                at: format!("suppressions[{index}]"),
                message: format!("hides nothing: {why}"),
            })
        })
        .collect();
    for (index, grant) in rulebook.annotations.iter().enumerate() {
        for id in grant.rules.iter().filter(|id| rules::find(id).is_none()) {
            warnings.push(Problem {
                at: format!("annotations[{index}]"),
                message: format!("there is no rule {id}"),
            });
        }
    }
    warnings
}

/// Which rules judge, how severe they are, and what is hidden. Ids of rules may be written in either case.
fn rulebook(file: &File, problems: &mut Vec<Problem>) -> Rulebook {
    let id = |id: &str| rules::find(id).map_or_else(|| id.to_owned(), |rule| rule.id.to_owned());
    for unknown in file.rules.keys().filter(|id| rules::find(id).is_none()) {
        problems.push(Problem {
            at: format!("rules.{unknown}"),
            message: "there is no such rule; `plumbline explain` lists them".into(),
        });
    }
    if file.suppressions.len() > SUPPRESSIONS_MAX {
        problems.push(Problem {
            at: "suppressions".into(),
            message: format!("more than {SUPPRESSIONS_MAX}"),
        });
    }
    let mut suppressions = file.suppressions.clone();
    for suppression in &mut suppressions {
        suppression.rule = suppression.rule.as_deref().map(id);
    }
    let mut annotations = file.annotations.clone();
    for grant in &mut annotations {
        grant.rules = grant.rules.iter().map(|rule| id(rule)).collect();
    }
    let rules = file.rules.iter().map(|(rule, set)| (id(rule), set.clone()));
    Rulebook {
        rules: rules.collect(),
        suppressions,
        annotations,
    }
}

/// Container logs: only where they were asked for.
fn logs(
    args: &NodeArgs,
    file: &File,
    export: &ExportSettings,
    problems: &mut Vec<Problem>,
) -> Option<LogConfig> {
    let root = args.log_root.clone().or_else(|| file.log_root.clone())?;
    let state = args.log_state.clone().or_else(|| file.log_state.clone());
    let Some(endpoint) = export.findings.clone() else {
        problems.push(Problem {
            at: "--log-root".into(),
            message: "needs a collector: set OTEL_EXPORTER_OTLP_LOGS_ENDPOINT, or OTEL_EXPORTER_OTLP_ENDPOINT".into(),
        });
        return None;
    };
    Some(LogConfig {
        root,
        state: state.unwrap_or_else(|| LOG_STATE.into()),
        endpoint,
    })
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
    core.rulebook = Arc::new(rulebook(file, problems));
    if let Some(range) = ephemeral_ports() {
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
/// Default of `--log-state`.
const LOG_STATE: &str = "/var/lib/plumbline";
/// Default of `--scan-interval`.
const SCAN_INTERVAL: Duration = Duration::from_secs(30);
/// An event that was lost must heal within this.
const SCAN_INTERVAL_MAX: Duration = Duration::from_secs(30);

/// Rates over a minute then have six steps.
const CONNECTION_INTERVAL: Duration = Duration::from_secs(10);
/// A connection that moves bytes is to be seen to in every interval of ordinary rules.
const CONNECTION_INTERVAL_MAX: Duration = Duration::from_secs(300);

/// The node's name for itself, for want of a better one.
fn hostname() -> Option<String> {
    let name = rustix::system::uname().nodename().to_str().ok()?.to_owned();
    (!name.is_empty()).then_some(name)
}

/// `net.ipv4.ip_local_port_range` of the agent's network namespace: pods inherit the kernel's default, which nodes rarely
/// change. Reading another namespace's would need `CAP_SYS_ADMIN`.
fn ephemeral_ports() -> Option<(u16, u16)> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let (first, last) = text.trim().split_once(char::is_whitespace)?;
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
}

#[cfg(test)]
mod tests;
