//! Every key of the configuration: what it means, its default, and which flag and variable say the same. The file is checked
//! against this, `plumbline config print` goes by it, and `agent/CONFIG.md` is generated from it.

use std::fmt::Write as _;

use clap::CommandFactory as _;

use crate::cli::Cli;

/// What a key may be set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text.
    Text,
    /// A whole number.
    Number,
    /// Yes or no.
    Bool,
    /// A span of time: `500ms`, `30s`, `1h 30m`.
    Span,
    /// A number of bytes: `52428800`, `50Mi`.
    Size,
    /// One of these words.
    Word(&'static [&'static str]),
    /// What is set about rules, by id.
    Rules,
    /// A list of objects with these keys, of which the value is text or a list of texts.
    List(&'static [(&'static str, Kind)]),
    /// A list of such values.
    Each(&'static Self),
    /// A label of pods: `NAMESPACE:KEY=VALUE`.
    Label,
    /// What a process of the host may listen on: `kubelet.service tcp/10250`.
    Listener,
}

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    /// `cpu.mean_window`.
    pub(super) path: &'static str,
    pub(super) kind: Kind,
    /// In words where it is no value.
    pub(super) default: &'static str,
    /// The flag, without its value.
    pub(super) flag: Option<&'static str>,
    /// The environment variable.
    pub(super) variable: Option<&'static str>,
    /// A change of the file is taken over while the agent runs.
    pub(super) hot: bool,
    pub(super) meaning: &'static str,
}

/// Words of severities.
pub(super) const SEVERITIES: &[&str] = &["info", "low", "medium", "high"];

/// Keys of one entry of `rules`.
pub(super) const RULE: &[(&str, Kind)] = &[
    ("enabled", Kind::Bool),
    ("severity", Kind::Word(SEVERITIES)),
];

const SUPPRESSION: &[(&str, Kind)] = &[
    ("rule", Kind::Text),
    ("fingerprint", Kind::Text),
    ("namespace", Kind::Text),
    ("workload", Kind::Text),
    ("container", Kind::Text),
    ("until", Kind::Text),
    ("reason", Kind::Text),
];

const GRANT: &[(&str, Kind)] = &[
    ("namespace", Kind::Text),
    ("rules", Kind::Each(&Kind::Text)),
];

const fn key(path: &'static str, kind: Kind, default: &'static str, meaning: &'static str) -> Key {
    Key {
        path,
        kind,
        default,
        flag: None,
        variable: None,
        hot: false,
        meaning,
    }
}

impl Key {
    const fn flag(self, flag: &'static str, variable: &'static str) -> Self {
        Self {
            flag: Some(flag),
            variable: Some(variable),
            ..self
        }
    }

    const fn variable(self, variable: &'static str) -> Self {
        Self {
            variable: Some(variable),
            ..self
        }
    }

    const fn hot(self) -> Self {
        Self { hot: true, ..self }
    }
}

/// All of them, in the order of the reference.
#[rustfmt::skip]
pub(super) const KEYS: &[Key] = &[
    key("cluster_name", Kind::Text, "none", "Name of the cluster; part of every finding's fingerprint.").flag("--cluster-name", "PLUMBLINE_CLUSTER_NAME"),
    key("node_name", Kind::Text, "the host's name", "Name of this node.").flag("--node-name", "NODE_NAME"),
    key("environment", Kind::Text, "none", "Environment, such as production.").flag("--environment", "PLUMBLINE_ENVIRONMENT"),
    key("declared", Kind::Text, "none", "File or directory of manifests or dumps, watched for changes. Not together with `kube`.").flag("--declared", "PLUMBLINE_DECLARED"),
    key("candidate_policies", Kind::Text, "none", "File or directory of NetworkPolicies that are not in force: which connections of today they would deny is told (F006). Watched for changes.").flag("--candidate-policies", "PLUMBLINE_CANDIDATE_POLICIES"),
    key("kube", Kind::Bool, "false", "Read declarations of this node's pods from the API server.").flag("--kube", "PLUMBLINE_KUBE"),
    key("kubeconfig", Kind::Text, "in-cluster", "For `kube` outside a cluster.").flag("--kubeconfig", "PLUMBLINE_KUBECONFIG"),
    key("peers", Kind::Word(&["cluster", "node", "off"]), "node", "With `kube`, what of the rest of the cluster is watched, to name peers and judge policies.").flag("--peers", "PLUMBLINE_PEERS"),
    key("start_jitter", Kind::Span, "0s", "With `kube`, the first request comes within this, at random: agents of a fleet start together.").flag("--start-jitter", "PLUMBLINE_START_JITTER"),
    key("cgroup_root", Kind::Text, "found in mountinfo", "The cgroup v2 directory below which kubepods is.").flag("--cgroup-root", "PLUMBLINE_CGROUP_ROOT"),
    key("proc_root", Kind::Text, "/proc", "Where procfs of the node is mounted.").flag("--proc-root", "PLUMBLINE_PROC_ROOT"),
    key("grace", Kind::Span, "30s", "How long a condition must hold before it is a finding, and be absent before it is resolved.").flag("--grace", "PLUMBLINE_GRACE").hot(),
    key("cpu.startup_exclusion", Kind::Span, "5m", "CPU use this soon after a container's start is not judged.").flag("--cpu-startup-exclusion", "PLUMBLINE_CPU_STARTUP_EXCLUSION").hot(),
    key("cpu.mean_window", Kind::Span, "1m", "Span of the mean that bursts are compared with; 1s to 5m.").flag("--cpu-mean-window", "PLUMBLINE_CPU_MEAN_WINDOW").hot(),
    key("probes.tcp", Kind::Bool, "true", "Listeners and connections of containers; `--disable tcp` turns it off.").flag("--disable", "PLUMBLINE_DISABLE"),
    key("probes.udp", Kind::Word(&["peers", "flows", "off"]), "peers", "What is seen of UDP.").flag("--udp", "PLUMBLINE_UDP"),
    key("probes.cpu_windows", Kind::Bool, "true", "CPU time in windows of 100 ms; `--disable cpu-windows`.").flag("--disable", "PLUMBLINE_DISABLE"),
    key("probes.connections", Kind::Bool, "true", "Bytes of connections while they are open; `--disable connections`.").flag("--disable", "PLUMBLINE_DISABLE"),
    key("probes.canary", Kind::Bool, "true", "Something that each probe must see once a minute; `--disable canary`.").flag("--disable", "PLUMBLINE_DISABLE"),
    key("scan_interval", Kind::Span, "30s", "Time between two scans of the node's sockets; 1s to 30s.").flag("--scan-interval", "PLUMBLINE_SCAN_INTERVAL"),
    key("connection_interval", Kind::Span, "30s", "Time between two readings of open connections' bytes; 1s to 5m.").flag("--connection-interval", "PLUMBLINE_CONNECTION_INTERVAL"),
    key("canary_interval", Kind::Span, "1m", "Time between two rounds of the canary; 1s to 1m.").flag("--canary-interval", "PLUMBLINE_CANARY_INTERVAL"),
    key("socket", Kind::Text, "/run/plumbline/plumbline.sock", "Unix socket for `plumbline status` and `explain`.").flag("--socket", "PLUMBLINE_SOCKET"),
    key("log_root", Kind::Text, "none", "Ship the container logs below this directory, usually /var/log/pods.").flag("--log-root", "PLUMBLINE_LOG_ROOT"),
    key("log_state", Kind::Text, "/var/lib/plumbline", "Where the checkpoint of `log_root` lives.").flag("--log-state", "PLUMBLINE_LOG_STATE"),
    key("log_kept", Kind::Size, "50Mi", "What the kubelet keeps of a container's logs: containerLogMaxSize times containerLogMaxFiles.").flag("--log-kept", "PLUMBLINE_LOG_KEPT").hot(),
    key("log_flood", Kind::Size, "30Mi", "Logs of a container in each of ten minutes that are called a flood.").flag("--log-flood", "PLUMBLINE_LOG_FLOOD").hot(),
    key("log_namespace", Kind::Each(&Kind::Text), "[]", "Ship logs of these namespaces only; without any, of all.").flag("--log-namespace", "PLUMBLINE_LOG_NAMESPACE"),
    key("log_exclude_namespace", Kind::Each(&Kind::Text), "[]", "Ship no logs of these namespaces.").flag("--log-exclude-namespace", "PLUMBLINE_LOG_EXCLUDE_NAMESPACE"),
    key("log_exclude_container", Kind::Each(&Kind::Text), "[]", "Ship no logs of containers of this name: `NAME` or `NAMESPACE/NAME`.").flag("--log-exclude-container", "PLUMBLINE_LOG_EXCLUDE_CONTAINER"),
    key("log_exclude_label", Kind::Each(&Kind::Label), "[]", "Ship no logs of pods with this label when they begin, `NAMESPACE:KEY=VALUE`: who may set it in the namespace may then silence its pods.").flag("--log-exclude-label", "PLUMBLINE_LOG_EXCLUDE_LABEL"),
    key("log_redact", Kind::Each(&Kind::Text), "[]", "Replace what matches by *** in each record: expressions, or @aws-key, @bearer, @email, @jwt, @password, @private-key, @url-password.").flag("--log-redact", "PLUMBLINE_LOG_REDACT"),
    key("log_join", Kind::Text, "none", "Join lines that are one message: `indented`, or `start:EXPRESSION` for first lines.").flag("--log-join", "PLUMBLINE_LOG_JOIN"),
    key("log_severity", Kind::Bool, "false", "Tell the severity that a record says of itself; a guess.").flag("--log-severity", "PLUMBLINE_LOG_SEVERITY"),
    key("log_min_severity", Kind::Word(&["trace", "debug", "info", "warn", "error", "fatal"]), "none", "Drop records that say that they are less severe.").flag("--log-min-severity", "PLUMBLINE_LOG_MIN_SEVERITY"),
    key("log_pod_rate", Kind::Size, "none", "Drop what a pod logs beyond so many bytes a second.").flag("--log-pod-rate", "PLUMBLINE_LOG_POD_RATE"),
    key("log_format", Kind::Word(&["auto", "text", "json"]), "auto", "How the agent's own log looks.").flag("--log-format", "PLUMBLINE_LOG_FORMAT"),
    key("state.dir", Kind::Text, "none", "Directory in which findings outlive the agent. Without it, a restart tells of open ones anew.").flag("--state-dir", "PLUMBLINE_STATE_DIR"),
    key("findings.heartbeat", Kind::Span, "6h", "An open finding is told of again this often; at least 1m. A hidden one once a day.").hot(),
    key("rules", Kind::Rules, "all as they are", "By id of the rule: `enabled` (default true) and `severity` (default: what the rule says).").hot(),
    key("trusted_registries", Kind::Each(&Kind::Text), "[]", "Registries, with or without a path, whose images are trusted (I003). Without any, the rule is silent.").hot(),
    key("metadata_namespaces", Kind::Each(&Kind::Text), "[]", "Namespaces whose pods may use the cloud's metadata service (F007).").hot(),
    key("undeclared_namespaces", Kind::Each(&Kind::Text), "[]", "Namespaces whose pods may listen on ports that nobody declares (P001).").hot(),
    key("mesh_namespaces", Kind::Each(&Kind::Text), "[]", "Namespaces in which a pod that has a mesh's container or label is believed to be in one, so that none of its connections is called denied (F001, F006). Those with a label or annotation of Istio, Kuma or Linkerd that turns injection on need not be named.").hot(),
    key("sandbox_runtime_classes", Kind::Each(&Kind::Text), "[]", "Runtime classes whose pods have a kernel of their own, so that the node's sees none of their sockets (M001). Those with gvisor, runsc, kata or firecracker in their name need not be named.").hot(),
    key("host_listeners", Kind::Each(&Kind::Listener), "[]", "What processes of the host may listen on (P008): `sshd.service`, `tcp/22`, `tcp/30000-32767`, or `kubelet.service tcp/10250`. Without any, the rule is silent.").hot(),
    key("suppressions", Kind::List(SUPPRESSION), "[]", "Findings to hide, each with `until` and `reason`; see below.").hot(),
    key("annotations", Kind::List(GRANT), "[]", "Namespaces and rules for which annotations of pods may hide findings; see below.").hot(),
    key("otlp.endpoint", Kind::Text, "none: nothing is sent", "Where metrics and findings go.").variable("OTEL_EXPORTER_OTLP_ENDPOINT"),
    key("otlp.protocol", Kind::Word(&["http/protobuf", "grpc"]), "http/protobuf", "How to speak to it.").variable("OTEL_EXPORTER_OTLP_PROTOCOL"),
    key("otlp.compression", Kind::Word(&["gzip", "none"]), "gzip", "Compression of requests.").variable("OTEL_EXPORTER_OTLP_COMPRESSION"),
    key("otlp.timeout", Kind::Number, "10000", "Deadline of one request in milliseconds. A log record that does not get through in that time, alone, is given up to 5 min.").variable("OTEL_EXPORTER_OTLP_TIMEOUT"),
    key("otlp.certificate", Kind::Text, "the system's", "PEM file of the authorities to trust.").variable("OTEL_EXPORTER_OTLP_CERTIFICATE"),
    key("otlp.client_certificate", Kind::Text, "none", "PEM file of the agent's own certificate.").variable("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"),
    key("otlp.client_key", Kind::Text, "none", "PEM file of its key.").variable("OTEL_EXPORTER_OTLP_CLIENT_KEY"),
    key("otlp.metric_interval", Kind::Number, "60000", "Time between two reports in milliseconds.").variable("OTEL_METRIC_EXPORT_INTERVAL"),
];

/// What is set of the keys `otlp.*`.
pub(super) fn otlp(get: impl Fn(&str) -> Option<String>) -> Vec<(&'static str, String)> {
    let keys = KEYS.iter().filter(|key| key.path.starts_with("otlp."));
    keys.filter_map(|key| Some((key.path, get(key.variable?)?)))
        .collect()
}

const HEAD: &str = "\
# Configuration

Generated from `agent/src/config/keys.rs`; do not edit. Anew: `UPDATE_EXPECT=1 cargo test -p plumbline config_reference`.

A flag wins over an environment variable, a variable over the file (`--config FILE` or `PLUMBLINE_CONFIG`, YAML), the file
over the default. Unknown keys and bad values are refused, all at once, each with its line. `plumbline config check` says what
is wrong, `plumbline config print` what is in force.

The file is looked at every two seconds. Keys marked with * are taken over while the agent runs; for the others it must be
restarted, and `plumbline status` says which have changed. A file that does not check changes nothing: the old one stays in
force, `plumbline status` says why, and M001 names the probe `config`.

| key | default | flag | variable | meaning |
| --- | --- | --- | --- | --- |
";

const FLAGS_HEAD: &str = "
## Flags and variables without a key

| flag | variable | meaning |
| --- | --- | --- |
";

/// An example with every kind of entry; a test reads it.
pub(super) const EXAMPLE: &str = "\
cluster_name: prod-1
state:
  dir: /var/lib/plumbline
cpu: {mean_window: 60s}
rules:
  C003: {enabled: false}
  P001: {severity: high}
suppressions:
  - rule: P001
    namespace: shop
    workload: Deployment/web
    container: app
    until: 2030-12-31T18:00:00Z
    reason: \"INC-42: debug port until the migration is over\"
  - fingerprint: 3f9a0c1d22e4b5a697887f6e5d4c3b2a
    until: 2030-06-01
    reason: accepted by the security board
annotations:
  - namespace: sandbox
    rules: [P001, C001]
undeclared_namespaces: [playground]
mesh_namespaces: [edge]
sandbox_runtime_classes: [strict]
";

const TAIL: &str = "
Further variables of OpenTelemetry are honoured (`OTEL_EXPORTER_OTLP_HEADERS`, the `_METRICS_` and `_LOGS_` forms,
`OTEL_RESOURCE_ATTRIBUTES`, `OTEL_SERVICE_NAME`); they have no key in the file, since headers are secrets.

## Hiding findings

An entry of `suppressions` hides every finding that fits all that it gives: `rule` (an id) or `fingerprint`, one of which is
needed, and `namespace`, `workload` (`Kind/name`) and `container`. It also needs `until` (a day, which then begins it, or a
moment like `2030-12-31T18:00:00Z`) and `reason`. One that lacks any of these, or is over, hides nothing: `plumbline config
check`, `plumbline status` and the finding itself say so. A hidden finding is told of when it is hidden, once a day, and when it
shows again or ends; `plumbline.findings.suppressed` counts it.

Pods cannot hide anything, nor say that they are in a mesh (`mesh_namespaces`) where their namespace does not. Where `annotations` names their namespace and the rule, the annotation
`plumbline/suppress.RULE: \"UNTIL REASON\"` of a pod hides the findings of that rule about it, if all replicas on the node that
share the finding have it.
";

/// The reference in Markdown.
#[must_use]
pub fn reference() -> String {
    let mut text = HEAD.to_owned();
    let code = |text: Option<&str>| text.map_or_else(String::new, |text| format!("`{text}`"));
    for key in KEYS {
        let star = if key.hot { " *" } else { "" };
        let (path, default, meaning) = (key.path, key.default, key.meaning);
        let (flag, variable) = (code(key.flag), code(key.variable));
        writeln!(
            text,
            "| `{path}`{star} | {default} | {flag} | {variable} | {meaning} |"
        )
        .expect("a String takes all text");
    }
    text.push_str(FLAGS_HEAD);
    let mut command = Cli::command();
    let run = command.find_subcommand_mut("run").into_iter();
    let arguments: Vec<clap::Arg> = run.flat_map(|run| run.get_arguments().cloned()).collect();
    for argument in &arguments {
        let Some(flag) = argument.get_long().map(|name| format!("--{name}")) else {
            continue;
        };
        let known = KEYS.iter().any(|key| key.flag == Some(flag.as_str()));
        if known || flag == "--help" || flag == "--version" {
            continue;
        }
        let variable = argument
            .get_env()
            .map(|name| name.to_string_lossy().into_owned());
        let help = argument
            .get_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        let variable = code(variable.as_deref());
        writeln!(
            text,
            "| `{flag}` | {variable} | {} |",
            help.replace('|', "\\|")
        )
        .expect("a String takes all text");
    }
    text.push_str("\n## Example\n\n```yaml\n");
    text.push_str(EXAMPLE);
    text.push_str("```\n");
    text.push_str(TAIL);
    text
}
