//! C006, the cgroup differs from the spec. What, why and traps are in [`RULE`].
//!
//! Settings are read every 30 s, and the kubelet needs a while. `plumbline check` sees only a moment: it judges what it
//! sees. There are two curves from requests to weights: either fits ([`super::weight`]).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::declared::{ContainerKind, DeclaredContainer, DeclaredPod};
use crate::finding::{Condition, Coverage, Evidence, Judge, Memory, Need, Rule, Severity};
use crate::observation::CpuMax;
use crate::rules::c003::may_be_exclusive;
use crate::rules::c007::{quota_cores, ratio};
use crate::rules::{grace, weight};
use crate::settings::Grace;
use crate::snapshot::{ContainerView, Snapshot};

/// C006.
pub static RULE: Rule = Rule {
    id: "C006",
    title: "CPU settings of the cgroup differ from the spec",
    category: "cpu",
    what: "`cpu.max` against `limits.cpu`, and `cpu.weight` against `requests.cpu`, once both have been as they are for \
           90 s.",
    why: "What the kernel enforces is not what the pod declares.",
    severity: "medium; low where the pod's status names what is in force: then a resize of the running pod waits",
    traps: &[
        "A quota is rounded: the kubelet gives at least 1 ms a period, systemd rounds up to a hundredth of a CPU (23).",
        "Any length of period is right (`--cpu-cfs-quota-period`).",
        "There are two curves from requests to weights: either fits.",
        "Whole CPUs of the static CPU manager have no quota (23).",
        "A node may run without quotas: a missing quota counts only where another container of the node has one.",
        "With pod-level resources a container without its own limit may have none or its pod's, and its weight is not \
         judged (23).",
    ],
    remediation: "Where a resize waits, make room on the node or create the pod anew. Otherwise check the kubelet's CPU \
                  manager and the runtime, and who else writes to the cgroup.",
    needs: &[Need::PODS, Need::Quotas],
    memory: Memory::For(SETTLE),
    judge: Judge::Container(condition),
};

/// How long spec and cgroup must have been as they are: three readings of the settings.
pub const SETTLE: Duration = Duration::from_secs(90);

/// What rounding may add to a limit, in CPUs: a hundredth by systemd or the kubelet, and a thousandth to compare by.
const ROUNDING_CORES: f64 = 0.011;

/// Whether what is in force is not what was declared.
pub(super) fn condition(snapshot: &Snapshot, container: &ContainerView) -> Option<Condition> {
    snapshot.declared.as_ref()?;
    let (pod, declared) = (container.pod.as_ref()?, container.declared()?);
    if declared.kind == ContainerKind::Ephemeral || !is_settled(snapshot, container) {
        return None;
    }
    let limit_differs = limit_differs(snapshot, container, pod, declared);
    let weight_differs = weight_differs(container, pod, declared);
    if !limit_differs && !weight_differs {
        return None;
    }
    let pending = status_fits(container, declared, limit_differs, weight_differs);
    let (severity, remediation) = if pending {
        (
            Severity::Low,
            "A resize waits: see the pod's conditions PodResizePending and PodResizeInProgress; make room on the node, \
             or create the pod anew.",
        )
    } else {
        (
            Severity::Medium,
            "Check the kubelet's CPU manager and the runtime, and who else writes to the cgroup; creating the pod anew \
             sets it right.",
        )
    };
    let differs = match (limit_differs, weight_differs) {
        (true, true) => "cpu.max and cpu.weight",
        (true, false) => "cpu.max",
        (false, _) => "cpu.weight",
    };
    Some(Condition {
        rule: &RULE,
        severity,
        subject: container.subject.clone(),
        key: "cgroup".into(),
        declared: declared_text(declared),
        observed: format!("{differs} of the cgroup: {}", in_force(container)),
        evidence: evidence(container, declared, differs),
        coverage: Coverage::Full,
        remediation: remediation.into(),
        patch: None,
    })
}

/// Spec and cgroup have been as they are for long enough. A check sees a moment only.
fn is_settled(snapshot: &Snapshot, container: &ContainerView) -> bool {
    let settled = |since: Option<crate::time::Timestamp>| {
        since.is_some_and(|since| snapshot.now.since(since) >= SETTLE)
    };
    grace::container_is_over(snapshot, container)
        && match snapshot.settings.grace {
            Grace::Scans(_) => container.cpu.settings_since.is_some(),
            Grace::Time(_) => {
                settled(container.cpu.settings_since) && settled(container.declared_cpu_since)
            }
        }
}

fn limit_differs(
    snapshot: &Snapshot,
    container: &ContainerView,
    pod: &DeclaredPod,
    declared: &DeclaredContainer,
) -> bool {
    let Some(max) = &container.cpu.max else {
        return false;
    };
    let quota = quota_cores(max);
    match (declared.cpu_limit_millis.filter(|limit| *limit > 0), quota) {
        (Some(limit), Some(quota)) => !limit_fits(quota, max, limit),
        (Some(_), None) => {
            !may_be_exclusive(container, declared) && enforces_quotas(snapshot, container)
        }
        (None, Some(quota)) => pod
            .cpu_limit_millis
            .is_none_or(|limit| !limit_fits(quota, max, limit)),
        (None, None) => false,
    }
}

fn limit_fits(quota_cores: f64, max: &CpuMax, limit_millis: u64) -> bool {
    let least = ratio(1_000, max.period_us).unwrap_or(0.0);
    let limit = ratio(limit_millis, 1_000).unwrap_or(0.0).max(least);
    quota_cores >= limit - 0.001 && quota_cores <= limit + ROUNDING_CORES
}

/// Another container of the node has a quota.
fn enforces_quotas(snapshot: &Snapshot, container: &ContainerView) -> bool {
    snapshot
        .containers
        .iter()
        .filter(|other| other.cgroup != container.cgroup && !other.gone)
        .any(|other| other.cpu.max.is_some_and(|max| max.quota_us.is_some()))
}

fn weight_differs(
    container: &ContainerView,
    pod: &DeclaredPod,
    declared: &DeclaredContainer,
) -> bool {
    let Some(weight) = container.cpu.weight else {
        return false;
    };
    match declared.cpu_request_millis {
        Some(request) => !weight::fits(weight, request),
        None if pod.cpu_request_millis.is_some() || pod.cpu_limit_millis.is_some() => false,
        None => !weight::fits(weight, 0),
    }
}

/// What differs is what the pod's status names: the kubelet knows.
fn status_fits(
    container: &ContainerView,
    declared: &DeclaredContainer,
    limit_differs: bool,
    weight_differs: bool,
) -> bool {
    let limit = || {
        let current = declared.cpu_limit_current_millis?;
        let max = container.cpu.max.as_ref()?;
        Some(limit_fits(quota_cores(max)?, max, current))
    };
    let request = || {
        let current = declared.cpu_request_current_millis?;
        Some(weight::fits(container.cpu.weight?, current))
    };
    (!limit_differs || limit() == Some(true)) && (!weight_differs || request() == Some(true))
}

fn declared_text(declared: &DeclaredContainer) -> String {
    let millis = |millis: Option<u64>| millis.map_or("none".into(), |millis| format!("{millis}m"));
    let mut text = format!(
        "limits.cpu {}, requests.cpu {}",
        millis(declared.cpu_limit_millis),
        millis(declared.cpu_request_millis)
    );
    let current = (
        declared.cpu_limit_current_millis,
        declared.cpu_request_current_millis,
    );
    if current != (None, None) {
        text += &format!(
            "; by its status {} and {}",
            millis(current.0),
            millis(current.1)
        );
    }
    text
}

fn in_force(container: &ContainerView) -> String {
    let limit = match container.cpu.max.as_ref().map(quota_cores) {
        Some(Some(cores)) => format!("a limit of {cores:.2} CPUs"),
        Some(None) => "no limit".into(),
        None => "a limit that is not known".into(),
    };
    match container.cpu.weight {
        Some(weight) => format!("{limit}, a weight of {weight}"),
        None => limit,
    }
}

fn evidence(
    container: &ContainerView,
    declared: &DeclaredContainer,
    differs: &str,
) -> BTreeMap<&'static str, Evidence> {
    let mut evidence = BTreeMap::from([("differs", Evidence::Text(differs.into()))]);
    let cores = [
        ("limit_declared_cores", declared.cpu_limit_millis),
        ("limit_status_cores", declared.cpu_limit_current_millis),
        ("request_declared_cores", declared.cpu_request_millis),
        ("request_status_cores", declared.cpu_request_current_millis),
        ("request_allocated_cores", declared.cpu_allocated_millis),
    ];
    for (name, millis) in cores {
        if let Some(cores) = millis.and_then(|millis| ratio(millis, 1_000)) {
            evidence.insert(name, Evidence::Measure(cores));
        }
    }
    if let Some(cores) = container.cpu.max.as_ref().and_then(quota_cores) {
        evidence.insert("limit_cores", Evidence::Measure(cores));
    }
    if let Some(weight) = container.cpu.weight {
        evidence.insert("weight", Evidence::Count(weight));
    }
    if let Some(request) = declared.cpu_request_millis {
        let expected = [weight::linear(request), weight::quadratic(request)];
        evidence.insert("weight_linear", Evidence::Count(expected[0]));
        evidence.insert("weight_quadratic", Evidence::Count(expected[1]));
    }
    evidence
}

#[cfg(test)]
mod tests;
