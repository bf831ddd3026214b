//! The configuration file, as it is written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use plumbline_core::host_listener::AllowedListener;
use plumbline_core::suppression::{AnnotationGrant, RuleSettings, Suppression};
use serde::Deserialize;

use super::{Problem, Span, check};
use crate::cli::LogFormat;
use crate::logs::options::{LabelRule, Size};
use crate::sources::ebpf::UdpMode;
use crate::sources::kube::Peers;

/// A larger file is refused: a suppression has some 200 bytes.
const BYTES_MAX: u64 = 1 << 20;

/// The configuration file (YAML). Keys are those of the flags; unknown ones are refused.
///
/// `keys` documents each of them; a test holds the two together.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// `k8s.cluster.name`.
    pub cluster_name: Option<String>,
    /// `k8s.node.name`.
    pub node_name: Option<String>,
    /// `deployment.environment.name`.
    pub environment: Option<String>,
    /// File or directory of manifests or dumps.
    pub declared: Option<PathBuf>,
    /// File or directory of policies that are not in force.
    pub candidate_policies: Option<PathBuf>,
    /// Watch the API server.
    pub kube: Option<bool>,
    /// For the watch; in-cluster configuration when absent.
    pub kubeconfig: Option<PathBuf>,
    /// What is watched of the rest of the cluster: `cluster`, `node` or `off`.
    pub peers: Option<Peers>,
    /// The first request to the API server comes within this, at random.
    pub start_jitter: Option<Span>,
    /// The cgroup directory to watch.
    pub cgroup_root: Option<PathBuf>,
    /// Where procfs of the node is mounted.
    pub proc_root: Option<PathBuf>,
    /// Before a finding opens.
    pub grace: Option<Span>,
    /// Windows of the CPU rules.
    pub cpu: CpuFile,
    /// Which probes run.
    pub probes: ProbesFile,
    /// Between two scans.
    pub scan_interval: Option<Span>,
    /// Between two readings of open connections.
    pub connection_interval: Option<Span>,
    /// Between two rounds of the canary.
    pub canary_interval: Option<Span>,
    /// The Unix socket.
    pub socket: Option<PathBuf>,
    /// Directory of the container logs to ship.
    pub log_root: Option<PathBuf>,
    /// Where their checkpoint lives.
    pub log_state: Option<PathBuf>,
    /// What the kubelet keeps of a container's logs.
    pub log_kept: Option<Size>,
    /// What is called a flood.
    pub log_flood: Option<Size>,
    /// Namespaces whose logs are shipped.
    pub log_namespace: Vec<String>,
    /// Namespaces whose logs are not.
    pub log_exclude_namespace: Vec<String>,
    /// Containers whose logs are not.
    pub log_exclude_container: Vec<String>,
    /// Labels of pods whose logs are not.
    pub log_exclude_label: Vec<LabelRule>,
    /// What is replaced in records.
    pub log_redact: Vec<String>,
    /// Which lines are one message.
    pub log_join: Option<String>,
    /// Tell the severity that a record says of itself.
    pub log_severity: Option<bool>,
    /// Drop what is less severe.
    pub log_min_severity: Option<String>,
    /// Bytes that a pod may log in a second.
    pub log_pod_rate: Option<Size>,
    /// How the agent's own log looks.
    pub log_format: Option<LogFormat>,
    /// What outlives the agent.
    pub state: StateFile,
    /// The life of findings.
    pub findings: FindingsFile,
    /// Where metrics and findings go.
    pub otlp: OtlpFile,
    /// What is set about rules, by id.
    pub rules: BTreeMap<String, RuleSettings>,
    /// Registries whose images are trusted.
    pub trusted_registries: Vec<String>,
    /// Namespaces whose pods may use the metadata service.
    pub metadata_namespaces: Vec<String>,
    /// Namespaces whose pods may listen on ports that nobody declares.
    pub undeclared_namespaces: Vec<String>,
    /// Namespaces in which a pod's word that it is in a mesh is believed.
    pub mesh_namespaces: Vec<String>,
    /// Runtime classes whose pods have a kernel of their own.
    pub sandbox_runtime_classes: Vec<String>,
    /// What processes of the host may listen on.
    pub host_listeners: Vec<AllowedListener>,
    /// What is hidden.
    pub suppressions: Vec<Suppression>,
    /// Whose annotations are heard.
    pub annotations: Vec<AnnotationGrant>,
}

/// `state` in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StateFile {
    /// Directory in which findings outlive the agent.
    pub dir: Option<PathBuf>,
}

/// `findings` in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FindingsFile {
    /// How often an open finding is told of again.
    pub heartbeat: Option<Span>,
}

/// `cpu` in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CpuFile {
    /// Windows this soon after a start are not judged.
    pub startup_exclusion: Option<Span>,
    /// The span over which C007 takes its mean.
    pub mean_window: Option<Span>,
}

/// `probes` in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProbesFile {
    /// TCP.
    pub tcp: Option<bool>,
    /// UDP: `peers`, `flows` or `off`.
    pub udp: Option<UdpMode>,
    /// 100 ms windows.
    pub cpu_windows: Option<bool>,
    /// Bytes of connections while they are open.
    pub connections: Option<bool>,
    /// The canary.
    pub canary: Option<bool>,
}

/// `otlp` in the file: what variables of OpenTelemetry say too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "`keys` documents them")]
pub struct OtlpFile {
    pub endpoint: Option<String>,
    pub protocol: Option<String>,
    pub compression: Option<String>,
    pub timeout: Option<u64>,
    pub certificate: Option<String>,
    pub client_certificate: Option<String>,
    pub client_key: Option<String>,
    pub metric_interval: Option<u64>,
}

impl OtlpFile {
    /// What the file says in place of a variable.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        match name {
            "OTEL_EXPORTER_OTLP_ENDPOINT" => self.endpoint.clone(),
            "OTEL_EXPORTER_OTLP_PROTOCOL" => self.protocol.clone(),
            "OTEL_EXPORTER_OTLP_COMPRESSION" => self.compression.clone(),
            "OTEL_EXPORTER_OTLP_TIMEOUT" => self.timeout.map(|ms| ms.to_string()),
            "OTEL_EXPORTER_OTLP_CERTIFICATE" => self.certificate.clone(),
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE" => self.client_certificate.clone(),
            "OTEL_EXPORTER_OTLP_CLIENT_KEY" => self.client_key.clone(),
            "OTEL_METRIC_EXPORT_INTERVAL" => self.metric_interval.map(|ms| ms.to_string()),
            _ => None,
        }
    }
}

/// Reads a configuration file.
///
/// # Errors
///
/// The file cannot be read, is no YAML, or has keys or values that are not allowed: all of them, each with its line.
pub fn read_file(path: &Path) -> Result<File, Vec<Problem>> {
    use std::io::Read as _;
    let at = format!("--config {}", path.display());
    let one = |message: String| {
        vec![Problem {
            at: at.clone(),
            message,
        }]
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| one(error.to_string()))?;
    file.take(BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| one(error.to_string()))?;
    if text.len() as u64 > BYTES_MAX {
        return Err(one(format!("larger than {BYTES_MAX} bytes")));
    }
    parse(&text, &path.display().to_string())
}

/// Reads the text of a configuration file; `name` is the file in messages.
///
/// # Errors
///
/// As [`read_file`].
pub fn parse(text: &str, name: &str) -> Result<File, Vec<Problem>> {
    let problems = check::problems(text, name);
    if !problems.is_empty() {
        return Err(problems);
    }
    if is_empty(text) {
        return Ok(File::default());
    }
    serde_saphyr::from_str(text).map_err(|error| {
        vec![Problem {
            at: name.to_owned(),
            message: error.to_string(),
        }]
    })
}

/// Nothing but blanks and comments, of which YAML makes no mapping.
pub(super) fn is_empty(text: &str) -> bool {
    text.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line == "---"
    })
}
