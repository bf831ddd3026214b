//! C001, no CPU request: the scheduler places the container as if it used nothing, and under contention the kernel
//! gives it next to nothing.
//!
//! **What.** Running containers whose declaration is known and has no `resources.requests.cpu`, or 0, which Kubernetes
//! treats alike. Severity low. A request is proposed only from what was measured: the 95th percentile of at least
//! [`WINDOWS_MIN`] windows of 100 ms.
//!
//! **Traps.** A limit without a request is the request. Pod-level resources stand for all containers of the pod; there
//! too a limit is the request. Ephemeral containers cannot have resources. Init containers count while they run and are
//! past the grace, so that short ones are not reported. The agent does not report itself.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::declared::{ContainerKind, DeclaredContainer, DeclaredPod};
use crate::finding::{Condition, Coverage, Evidence, Rule, Severity};
use crate::rules::c007::ratio;
use crate::rules::{grace, patch};
use crate::snapshot::{ContainerView, Snapshot, WindowView};

/// C001.
pub static RULE: Rule = Rule {
    id: "C001",
    title: "No CPU request",
    category: "cpu",
};

/// Windows needed to propose a request: ten seconds' worth. Fewer say what happened once, not what is usual.
pub const WINDOWS_MIN: usize = 100;

/// Proposals are rounded up to this, and are at least this.
const STEP_MILLIS: u64 = 10;

/// Whether a container has no CPU request.
pub(super) fn condition(snapshot: &Snapshot, container: &ContainerView) -> Option<Condition> {
    snapshot.declared.as_ref()?;
    let (pod, declared) = (container.pod.as_ref()?, container.declared()?);
    if declared.kind == ContainerKind::Ephemeral
        || has_request(pod, declared)
        || !grace::container_is_over(snapshot, container)
    {
        return None;
    }
    let usual = container.cpu.windows.as_ref().and_then(usual);
    let (observed, remediation) = match &usual {
        Some(usual) => (
            format!(
                "uses {}m or less in 95 % of the windows of 100 ms",
                usual.p95_millis
            ),
            format!(
                "Set requests.cpu; {}m would have covered 95 % of the last {} s.",
                usual.proposal_millis(),
                usual.span.as_secs()
            ),
        ),
        None => (
            format!("CPU use: {NOT_ENOUGH}"),
            format!(
                "Set requests.cpu to what the container usually needs. There is {NOT_ENOUGH} \
                 to propose a value."
            ),
        ),
    };
    let patch = usual.as_ref().and_then(|usual| {
        let request = format!("    cpu: {}m", usual.proposal_millis());
        patch::for_container(
            pod,
            declared,
            &["resources:".into(), "  requests:".into(), request],
        )
    });
    Some(Condition {
        rule: &RULE,
        severity: Severity::Low,
        subject: container.subject.clone(),
        key: "requests.cpu".into(),
        declared: declared_text(declared),
        observed,
        evidence: usual.map(evidence).unwrap_or_default(),
        // A matter of the declaration alone.
        coverage: Coverage::Full,
        remediation,
        patch,
    })
}

/// Said instead of a value.
const NOT_ENOUGH: &str = "not enough data yet";

/// What a container usually uses.
struct Usual {
    /// 95th percentile (nearest rank) of the CPUs in use in a window, in thousandths, rounded up.
    p95_millis: u64,
    mean_cores: f64,
    windows: u64,
    span: Duration,
}

impl Usual {
    fn proposal_millis(&self) -> u64 {
        self.p95_millis.div_ceil(STEP_MILLIS).max(1) * STEP_MILLIS
    }
}

/// `None` with fewer windows than [`WINDOWS_MIN`].
fn usual(windows: &WindowView) -> Option<Usual> {
    let mut busy_us = windows.busy_us.clone();
    if busy_us.len() < WINDOWS_MIN {
        return None;
    }
    busy_us.sort_unstable();
    let rank = (busy_us.len() * 95).div_ceil(100);
    Some(Usual {
        // 100,000 us in a window are one CPU.
        p95_millis: u64::from(*busy_us.get(rank - 1)?).div_ceil(100),
        mean_cores: windows.mean_cores()?,
        windows: busy_us.len() as u64,
        span: windows.span,
    })
}

fn evidence(usual: Usual) -> BTreeMap<&'static str, Evidence> {
    let p95_cores = ratio(usual.p95_millis, 1_000).unwrap_or_default();
    BTreeMap::from([
        ("p95_cores", Evidence::Measure(p95_cores)),
        ("mean_cores", Evidence::Measure(usual.mean_cores)),
        ("windows", Evidence::Count(usual.windows)),
    ])
}

fn has_request(pod: &DeclaredPod, container: &DeclaredContainer) -> bool {
    let of_container = container.cpu_request_millis.or(container.cpu_limit_millis);
    let of_pod = pod.cpu_request_millis.or(pod.cpu_limit_millis);
    [of_container, of_pod]
        .into_iter()
        .flatten()
        .any(|millis| millis > 0)
}

fn declared_text(container: &DeclaredContainer) -> String {
    match container.cpu_request_millis {
        Some(_) => "requests.cpu is 0".into(),
        None => "no requests.cpu, neither for the container nor for its pod".into(),
    }
}

#[cfg(test)]
mod tests;
