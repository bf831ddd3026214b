//! A finding: one deviation of the observed from the declared, with its evidence and what to do about it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::declared::WorkloadRef;
use crate::settings::NodeIdentity;
use crate::snapshot::{ContainerView, Snapshot};
use crate::time::UnixNanos;

/// How bad it is. The order is the order of badness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Should be mended some day.
    Low,
    /// Should be mended.
    Medium,
    /// Should be mended now.
    High,
}

impl Severity {
    /// The lower-case word used in JSON, metrics and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where a finding is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingState {
    /// The condition holds.
    Open,
    /// The condition holds, and the operator has hidden it for a time, for a reason.
    Suppressed,
    /// The condition has been absent, while it was observable, for the grace period; or its owner is gone.
    Resolved,
}

impl FindingState {
    /// The lower-case word used in JSON and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Suppressed => "suppressed",
            Self::Resolved => "resolved",
        }
    }
}

/// Why a finding is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transition {
    /// It was not there before.
    Opened,
    /// It was there before, and had been resolved.
    Reopened,
    /// Its severity has changed.
    Severity,
    /// It was hidden.
    Suppressed,
    /// It is hidden no more.
    Unsuppressed,
    /// It has ended.
    Resolved,
    /// Nothing has changed: it is told of again, so that a receiver that lost it learns of it.
    Heartbeat,
}

impl Transition {
    /// The lower-case word used in JSON and events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Reopened => "reopened",
            Self::Severity => "severity",
            Self::Suppressed => "suppressed",
            Self::Unsuppressed => "unsuppressed",
            Self::Resolved => "resolved",
            Self::Heartbeat => "heartbeat",
        }
    }
}

/// Why a finding has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// Its condition was absent for the grace, with everything watched that would have shown it.
    Absent,
    /// Nothing of its owner is on this node any more.
    OwnerGone,
    /// The operator has turned its rule off.
    RuleDisabled,
}

impl Resolution {
    /// The lower-case words used in JSON and events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::OwnerGone => "owner_gone",
            Self::RuleDisabled => "rule_disabled",
        }
    }
}

/// By what, until when and why a finding is hidden.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Suppressed {
    /// `suppressions[0]` of the configuration, or the annotation's name.
    pub by: String,
    /// It shows again from then on.
    pub until: UnixNanos,
    /// The operator's words.
    pub reason: String,
}

/// How much of the subject was seen while the finding was made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "state", content = "reason", rename_all = "snake_case")]
pub enum Coverage {
    /// Everything since the container began.
    Full,
    /// The container was there before the agent: what happened before is not known.
    PreExisting,
    /// Some is missing, for the reason given.
    Partial(String),
    /// Nothing was seen, for the reason given.
    Blind(String),
}

impl Coverage {
    /// The lower-case word used in JSON and metrics.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::PreExisting => "pre_existing",
            Self::Partial(_) => "partial",
            Self::Blind(_) => "blind",
        }
    }

    /// Why it is not complete, where that is known.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Full | Self::PreExisting => None,
            Self::Partial(reason) | Self::Blind(reason) => Some(reason),
        }
    }
}

/// One value of evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Evidence {
    /// Text.
    Text(String),
    /// A whole number.
    Count(u64),
    /// A measure; finite.
    Measure(f64),
    /// Several texts.
    List(Vec<String>),
}

/// Whom a finding or a point is about: the identity that leaves as OTLP resource attributes.
///
/// A subject without a namespace is the node itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Subject {
    /// `k8s.namespace.name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// `k8s.deployment.name` and the like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<WorkloadRef>,
    /// `k8s.pod.name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// `k8s.pod.uid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// `k8s.container.name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// `container.id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// `container.image.name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// What a rule says at one moment; [`crate::findings`] gives it a life.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// The rule that says so.
    pub rule: &'static Rule,
    /// How bad it is.
    pub severity: Severity,
    /// Whom it is about.
    pub subject: Subject,
    /// What tells this condition from others of the rule and subject: `tcp/9999`, `dynamic`. Never a pid, a pod's name
    /// or address, a client port or an image tag.
    pub key: String,
    /// What was declared, in short.
    pub declared: String,
    /// What was observed, in short.
    pub observed: String,
    /// Details, by the names of CATALOGUE.
    pub evidence: BTreeMap<&'static str, Evidence>,
    /// How much was seen.
    pub coverage: Coverage,
    /// What to do, in a sentence or two.
    pub remediation: String,
    /// A patch that can be pasted (YAML or a command), where there is one.
    pub patch: Option<String>,
}

/// What is fixed about a rule: how it judges, and its entry in the reference (`agent/RULES.md`, `plumbline explain`).
///
/// A rule is one file with one static of this type. Listed in [`crate::rules::ALL`], it is evaluated, documented, told
/// by M001 when it cannot decide, and can be set in the configuration; nothing else needs to know of it.
#[derive(Debug)]
pub struct Rule {
    /// `P001`; stable once shipped.
    pub id: &'static str,
    /// One line.
    pub title: &'static str,
    /// The word of `security_rule.category`: `ports`, `flows`, `cpu`, `images`, `identity`, `logs` or `monitoring`.
    pub category: &'static str,
    /// What is held against what.
    pub what: &'static str,
    /// Why it matters.
    pub why: &'static str,
    /// How severe, and what makes it more or less so.
    pub severity: &'static str,
    /// What it is not fooled by, a sentence each; numbers in brackets are those of the traps in CATALOGUE.
    pub traps: &'static [&'static str],
    /// What to do, in general; a finding says it for its case.
    pub remediation: &'static str,
    /// Without any of these it says nothing. In the order in which the lack of one is told.
    pub needs: &'static [Need],
    /// How long it must have watched before its silence means that all is well.
    pub memory: Memory,
    /// How it judges.
    pub judge: Judge,
}

/// How a rule judges.
#[derive(Clone, Copy, Debug)]
pub enum Judge {
    /// The node as a whole.
    Node(fn(&Snapshot) -> Vec<Condition>),
    /// Each container that runs and is not the agent; one condition at most.
    Container(fn(&Snapshot, &ContainerView) -> Option<Condition>),
    /// The same with any number of conditions.
    ContainerMany(fn(&Snapshot, &ContainerView) -> Vec<Condition>),
    /// The same with the container's place in the snapshot, by which flows refer to it.
    ContainerFlows(fn(&Snapshot, usize, &ContainerView) -> Vec<Condition>),
}

/// What a rule cannot do without.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// A declared side, of which none of these sources is stale: [`Need::PODS`], [`Need::SERVICES`].
    Declared(&'static [&'static str]),
    /// Listening sockets, by events or scans.
    Listeners,
    /// Listening sockets of the host's own processes, by scans that know which unit they are of.
    HostListeners,
    /// Connections, by the program for TCP.
    Connections,
    /// CPU windows of 100 ms.
    CpuWindows,
    /// `cpu.stat`, and the kernel's account of who waited for a CPU (PSI).
    Pressure,
    /// `cpu.stat`, and the `cpu` controller of cgroup v2.
    Quotas,
    /// The reader of container logs.
    Logs,
    /// What only this rule needs: says why it is not there, unless it is.
    Own(fn(&Snapshot) -> Option<String>),
}

impl Need {
    /// What is declared of pods.
    pub const PODS: Self = Self::Declared(&["files", "pods"]);
    /// What is declared of pods, of Services and of their endpoints.
    pub const SERVICES: Self = Self::Declared(&["files", "pods", "services", "endpointslices"]);
    /// What is declared of pods and of who may reach them.
    pub const POLICIES: Self = Self::Declared(&[
        "files",
        "pods",
        "services",
        "endpointslices",
        "namespaces",
        "networkpolicies",
        "peers",
    ]);
}

/// How long a rule must have watched a container before the absence of its condition says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// It judges the moment.
    Moment,
    /// It judges [`crate::settings::CoreSettings::cpu_mean_window`], start-up left out.
    CpuWindow,
    /// It judges this long.
    For(Duration),
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Rule {}

impl Rule {
    /// Where the rule is described: an anchor of the reference.
    #[must_use]
    pub fn doc_url(&self) -> String {
        format!("agent/RULES.md#{}", self.id.to_ascii_lowercase())
    }
}

impl Condition {
    /// The identity of this condition across replicas, restarts and nodes, as 32 hex digits.
    ///
    /// SHA-256 over rule, cluster, namespace, owner, container name and key, each with its length, cut to 128 bits:
    /// names are chosen by those whom findings are about, so they must not be able to make two fingerprints collide.
    #[must_use]
    pub fn fingerprint(&self, node: &NodeIdentity) -> String {
        let owner = self.subject.owner.as_ref();
        let mut parts = vec![
            self.rule.id,
            node.cluster.as_deref().unwrap_or_default(),
            self.subject.namespace.as_deref().unwrap_or_default(),
            owner.map_or("", |owner| &owner.kind),
            owner.map_or("", |owner| &owner.name),
            self.subject.container.as_deref().unwrap_or_default(),
            &self.key,
        ];
        if self.subject.namespace.is_none() {
            // About the node: its name is the identity, where a pod's name would not be.
            parts.push(node.node.as_deref().unwrap_or_default());
            // Or about a pod that nobody declared, of which nothing else is known: two of them are not one.
            parts.extend(self.subject.pod_uid.as_deref());
            parts.extend(self.subject.container_id.as_deref());
        }
        digest(parts.into_iter().map(str::as_bytes))
    }
}

/// SHA-256 over the parts, each with its length, cut to 128 bits: 32 hex digits.
#[must_use]
pub fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A condition with its history: what is printed and exported. Field names are those of CATALOGUE.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// `P001`.
    pub rule_id: &'static str,
    /// One line.
    pub title: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// Where it is in its life.
    pub state: FindingState,
    /// Its identity: 32 hex digits.
    pub fingerprint: String,
    /// Wall time at which the condition was first seen.
    pub first_seen: UnixNanos,
    /// Wall time at which the condition was last seen.
    pub last_seen: UnixNanos,
    /// In how many evaluations it was seen.
    pub occurrences: u64,
    /// How often it came back after it was resolved.
    pub reopened: u64,
    /// Why it is told of; absent where findings are listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transition: Option<Transition>,
    /// By what it is hidden, while it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suppression: Option<Suppressed>,
    /// What was to hide it and does not, each with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub suppression_ignored: Vec<String>,
    /// Why it has ended, once it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolution: Option<Resolution>,
    /// Whom it is about.
    pub resource: Subject,
    /// What was declared, in short.
    pub declared: String,
    /// What was observed, in short.
    pub observed: String,
    /// Details.
    pub evidence: BTreeMap<Cow<'static, str>, Evidence>,
    /// How much was seen.
    pub coverage: Coverage,
    /// What to do.
    pub remediation: String,
    /// A patch that can be pasted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch: Option<String>,
    /// Where the rule is described.
    pub doc_url: String,
    /// `ports`, `cpu` or `monitoring`.
    #[serde(skip)]
    pub category: &'static str,
}
