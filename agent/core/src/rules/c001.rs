//! C001, no CPU request. What, why and traps are in [`RULE`].
//!
//! A limit without a request is the request. Pod-level resources stand for all containers of the pod; there too a limit
//! is the request.

use crate::declared::{ContainerKind, DeclaredContainer, DeclaredPod};
use crate::finding::{Condition, Coverage, Judge, Memory, Need, Rule, Severity};
use crate::rules::advice::Usual;
use crate::rules::{grace, patch};
use crate::snapshot::{ContainerView, Snapshot};

/// C001.
pub static RULE: Rule = Rule {
    id: "C001",
    title: "No CPU request",
    category: "cpu",
    what: "A running container whose declaration is known and has no `resources.requests.cpu`, or 0, which Kubernetes \
           treats alike.",
    why: "The scheduler places the container as if it used nothing, and under contention the kernel gives it next to \
          nothing.",
    severity: "low",
    traps: &[
        "A limit without a request is the request, for a container and for its pod (23).",
        "Pod-level resources stand for all containers of the pod (23).",
        "Ephemeral containers cannot have resources (5).",
        "Init containers count while they run and are past the grace: short ones are not reported (5).",
        "The agent does not report itself (22).",
    ],
    remediation: "Set requests.cpu. A value is proposed only from what was measured: the 95th percentile of the last \
                  day's windows of 100 ms, at least 100 of them.",
    needs: &[Need::PODS],
    memory: Memory::Moment,
    judge: Judge::Container(condition),
};

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
    let usual = container.cpu.day.as_ref().and_then(Usual::of);
    let (observed, remediation) = match &usual {
        Some(usual) => (
            format!(
                "uses {}m or less in 95 % of the windows of 100 ms",
                usual.p95_millis
            ),
            format!(
                "Set requests.cpu; {}m would have covered 95 % of the last {}.",
                usual.request_millis(),
                usual.span_text()
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
        let request = format!("    cpu: {}m", usual.request_millis());
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
        evidence: usual.as_ref().map(Usual::evidence).unwrap_or_default(),
        // A matter of the declaration alone.
        coverage: Coverage::Full,
        remediation,
        patch,
    })
}

/// Said instead of a value.
const NOT_ENOUGH: &str = "not enough data yet";

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
