//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use plumbline_core::finding::Severity;
use serde::{Deserialize, Serialize};

use crate::config::Span;
use crate::logs::options::LogArgs;
use crate::sources::ebpf::UdpMode;
use crate::sources::kube::Peers;

/// Holds what pods declared against what the kernel observed.
#[derive(Debug, Parser)]
#[command(name = "plumbline", version, propagate_version = true, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 success; 1 failure, also when something asked for could not be measured; 2 bad usage or input; 3 findings.

Data goes to stdout, logs to stderr (RUST_LOG selects them, e.g. RUST_LOG=plumbline=debug).";

const RUN_EXAMPLES: &str = "\
Examples:
  plumbline run --declared /etc/plumbline/declared
  OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 plumbline run --kube --cluster-name prod-1 --environment production
  plumbline run --declared pods.json --record /tmp/node.jsonl
  OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 plumbline run --log-root /var/log/pods

OTLP: OTEL_EXPORTER_OTLP_ENDPOINT, _PROTOCOL, _HEADERS, _COMPRESSION, _TIMEOUT, _CERTIFICATE, _CLIENT_CERTIFICATE,
_CLIENT_KEY, their _METRICS_ and _LOGS_ forms, and OTEL_METRIC_EXPORT_INTERVAL are honoured. Without an endpoint nothing is
sent.";

const CHECK_EXAMPLES: &str = "\
Examples:
  kubectl get pods,services -A -o json > pods.json && sudo plumbline check --declared pods.json
  sudo plumbline check --declared pods.json --duration 60s --output json --fail-on medium";

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  plumbline explain P001
  plumbline explain 3f9a0c1d22e4
  plumbline explain 3f9a0c1d22e4 --patch > patch.yaml";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Observe, compare and export until told to stop
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// Observe for a while, print findings and exit with 3 if there are any
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckArgs),
    /// Run the core on a recording: no root, no kernel, the same output each time
    Replay(ReplayArgs),
    /// Ask the running agent how it is
    Status(StatusArgs),
    /// Say what a finding of the running agent rests on and what to do, or what a rule looks for
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain(ExplainArgs),
    /// Check or print the configuration
    Config(ConfigArgs),
}

/// `plumbline explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Id of a rule, or the fingerprint of a finding (its first digits are enough); without it, the list of rules
    #[arg(value_name = "RULE|FINGERPRINT")]
    pub what: Option<String>,
    /// The agent's socket
    #[arg(long, value_name = "PATH", env = "PLUMBLINE_SOCKET", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Print only the patch
    #[arg(long)]
    pub patch: bool,
}

/// `plumbline config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// What to do with it.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say everything that is wrong with flags, environment and file; exit with 2 if anything is
    Check(Box<NodeArgs>),
    /// Print the configuration in force as a configuration file, defaults included
    Print(Box<NodeArgs>),
}

/// `plumbline run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Where and what to observe.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Write every observation to FILE as JSON lines, for `plumbline replay`
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
}

/// `plumbline check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Where and what to observe.
    #[command(flatten)]
    pub node: NodeArgs,
    /// How long to observe
    #[arg(long, value_name = "SPAN", default_value = "10s")]
    pub duration: Span,
    /// How to print findings
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Exit with 3 when a finding is at least this severe
    #[arg(long, value_name = "SEVERITY", value_enum, default_value_t = FailOn::Low)]
    pub fail_on: FailOn,
    /// Write every observation to FILE as JSON lines, for `plumbline replay`
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
}

/// `plumbline replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// A recording made with --record
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// `plumbline status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The agent's socket
    #[arg(long, value_name = "PATH", env = "PLUMBLINE_SOCKET", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// How to print it
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Print nothing; exit with 0 when the agent has read its declarations and scanned the node, else 1 (for probes)
    #[arg(long)]
    pub ready: bool,
}

/// Where the agent listens for `plumbline status`.
pub const DEFAULT_SOCKET: &str = "/run/plumbline/plumbline.sock";

/// Where and what to observe.
#[derive(Clone, Debug, Default, Args)]
pub struct NodeArgs {
    /// File or directory of manifests, or of `kubectl get pods,services -A -o json` dumps; watched for changes
    #[arg(long, value_name = "PATH", env = "PLUMBLINE_DECLARED")]
    pub declared: Option<PathBuf>,
    /// File or directory of NetworkPolicies that are not in force: which connections of today they would deny is told
    /// (F006); watched for changes [default: none]
    #[arg(long, value_name = "PATH", env = "PLUMBLINE_CANDIDATE_POLICIES")]
    pub candidate_policies: Option<PathBuf>,
    /// Read declarations of this node's pods from the API server
    #[arg(long, env = "PLUMBLINE_KUBE")]
    pub kube: bool,
    /// For --kube outside a cluster
    #[arg(long, value_name = "FILE", env = "PLUMBLINE_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// With --kube, what of the rest of the cluster is watched, to name peers and judge policies [default: node]
    #[arg(long, value_name = "WHAT", env = "PLUMBLINE_PEERS", value_enum)]
    pub peers: Option<Peers>,
    /// With --kube, the first request comes within this, at random: agents of a fleet start together [default: 0s]
    #[arg(long, value_name = "SPAN", env = "PLUMBLINE_START_JITTER")]
    pub start_jitter: Option<Span>,
    /// Name of the cluster; part of every finding's fingerprint
    #[arg(long, value_name = "NAME", env = "PLUMBLINE_CLUSTER_NAME")]
    pub cluster_name: Option<String>,
    /// Name of this node [default: the host's name]
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node_name: Option<String>,
    /// Environment, such as production
    #[arg(long, value_name = "NAME", env = "PLUMBLINE_ENVIRONMENT")]
    pub environment: Option<String>,
    /// YAML file with these settings, suppressions and what is set about rules; agent/CONFIG.md has every key. Rules,
    /// windows and suppressions are taken over while the agent runs
    #[arg(long, value_name = "FILE", env = "PLUMBLINE_CONFIG")]
    pub config: Option<PathBuf>,
    /// The cgroup v2 directory below which kubepods is [default: found in mountinfo]
    #[arg(long, value_name = "DIR", env = "PLUMBLINE_CGROUP_ROOT")]
    pub cgroup_root: Option<PathBuf>,
    /// Where procfs of the node is mounted [default: /proc]
    #[arg(long, value_name = "DIR", env = "PLUMBLINE_PROC_ROOT")]
    pub proc_root: Option<PathBuf>,
    /// How long a condition must hold before it is a finding [default: 30s; check: 2 scans]
    #[arg(long, value_name = "SPAN", env = "PLUMBLINE_GRACE")]
    pub grace: Option<Span>,
    /// CPU use this soon after a container's start is not judged [default: 5m; check: 0s]
    #[arg(long, value_name = "SPAN", env = "PLUMBLINE_CPU_STARTUP_EXCLUSION")]
    pub cpu_startup_exclusion: Option<Span>,
    /// Span of the mean that bursts are compared with [default: 60s; check: its duration]
    #[arg(long, value_name = "SPAN", env = "PLUMBLINE_CPU_MEAN_WINDOW")]
    pub cpu_mean_window: Option<Span>,
    /// Time between two scans of the node's sockets, at most 30s [default: 30s]
    #[arg(long, value_name = "SPAN", env = "PLUMBLINE_SCAN_INTERVAL")]
    pub scan_interval: Option<Span>,
    /// Time between two readings of open connections' bytes [default: 30s]
    #[arg(long, value_name = "SPAN", env = "PLUMBLINE_CONNECTION_INTERVAL")]
    pub connection_interval: Option<Span>,
    /// Between two rounds of the canary, which tries out whether probes see [default: 60s]
    #[arg(long, value_name = "SPAN", env = "PLUMBLINE_CANARY_INTERVAL")]
    pub canary_interval: Option<Span>,
    /// Directory in which findings outlive the agent: what is open stays open, and is not told of anew (run only) [default:
    /// none, a restart tells anew]
    #[arg(long, value_name = "DIR", env = "PLUMBLINE_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Container logs.
    #[command(flatten)]
    pub logs: LogArgs,
    /// Probes not to attach
    #[arg(
        long,
        value_name = "PROBE",
        env = "PLUMBLINE_DISABLE",
        value_enum,
        value_delimiter = ','
    )]
    pub disable: Vec<Probe>,
    /// What is seen of UDP [default: peers]
    #[arg(long, value_name = "WHAT", env = "PLUMBLINE_UDP", value_enum)]
    pub udp: Option<UdpMode>,
    /// Unix socket for `plumbline status` (run only) [default: /run/plumbline/plumbline.sock]
    #[arg(long, value_name = "PATH", env = "PLUMBLINE_SOCKET")]
    pub socket: Option<PathBuf>,
    /// How log lines look [default: auto]
    #[arg(long, value_name = "FORMAT", env = "PLUMBLINE_LOG_FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
}

/// A probe that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Probe {
    /// Listeners and connections of containers, from their cgroups' sockets.
    Tcp,
    /// UDP servers and peers; the same as `--udp off`.
    Udp,
    /// CPU time in 100 ms windows, from the scheduler.
    CpuWindows,
    /// Bytes of connections while they are open, from sock_diag.
    Connections,
    /// Something that each probe must see once a minute, in a cgroup of the agent's own.
    Canary,
}

/// How data is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs; stable field names.
    Json,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    #[default]
    Auto,
    /// Text.
    Text,
    /// One JSON object a line.
    Json,
}

/// The least severity that makes `check` exit with 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(
    missing_docs,
    reason = "the names say it, and clap would print them twice"
)]
pub enum FailOn {
    Info,
    Low,
    Medium,
    High,
}

impl From<FailOn> for Severity {
    fn from(fail_on: FailOn) -> Self {
        match fail_on {
            FailOn::Info => Self::Info,
            FailOn::Low => Self::Low,
            FailOn::Medium => Self::Medium,
            FailOn::High => Self::High,
        }
    }
}
