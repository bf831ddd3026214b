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

use crate::declared::{ContainerKind, DeclaredContainer, DeclaredPod};
use crate::finding::{Condition, Coverage, Evidence, Rule, Severity};
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
    let mut evidence = BTreeMap::new();
    let usual = container.cpu.windows.as_ref().and_then(usual_millis);
    let (observed, remediation) = match (usual, &container.cpu.windows) {
        (Some(millis), Some(windows)) => {
            let p95_cores = f64::from(u32::try_from(millis).unwrap_or(u32::MAX)) / 1_000.0;
            evidence.insert("p95_cores", Evidence::Measure(p95_cores));
            evidence.insert("windows", Evidence::Count(windows.busy_us.len() as u64));
            if let Some(mean) = windows.mean_cores() {
                evidence.insert("mean_cores", Evidence::Measure(mean));
            }
            (
                format!("uses {millis}m or less in 95 % of the windows of 100 ms"),
                format!(
                    "Set requests.cpu; {}m would have covered 95 % of the last {} s.",
                    proposal(millis),
                    windows.span.as_secs()
                ),
            )
        }
        _ => (
            "CPU use: not enough data".into(),
            "Set requests.cpu to what the container usually needs. There is not enough data yet to propose a value."
                .into(),
        ),
    };
    let patch = usual.and_then(|millis| {
        let body = [
            "resources:".into(),
            "  requests:".into(),
            format!("    cpu: {}m", proposal(millis)),
        ];
        patch::for_container(pod, declared, &body)
    });
    Some(Condition {
        rule: &RULE,
        severity: Severity::Low,
        subject: container.subject.clone(),
        key: "requests.cpu".into(),
        declared: declared_text(declared),
        observed,
        evidence,
        // A matter of the declaration alone.
        coverage: Coverage::Full,
        remediation,
        patch,
    })
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

/// 95th percentile (nearest rank) of the CPUs in use, in thousandths, rounded up; `None` with fewer windows than
/// [`WINDOWS_MIN`].
fn usual_millis(windows: &WindowView) -> Option<u64> {
    if windows.busy_us.len() < WINDOWS_MIN {
        return None;
    }
    let mut busy_us = windows.busy_us.clone();
    busy_us.sort_unstable();
    let rank = (busy_us.len() * 95).div_ceil(100);
    // 100,000 us in a window are one CPU.
    Some(u64::from(*busy_us.get(rank - 1)?).div_ceil(100))
}

fn proposal(millis: u64) -> u64 {
    millis.div_ceil(STEP_MILLIS).max(1) * STEP_MILLIS
}

#[cfg(test)]
mod tests;
