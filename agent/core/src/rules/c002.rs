//! C002, request too low under contention. What, why and traps are in [`RULE`].
//!
//! The percentile is taken at the lower bound of its bucket. Use under contention is less than what is wanted, so the
//! proposed request is the least that would do.

use crate::finding::{Condition, Coverage, Evidence, Judge, Memory, Need, Rule, Severity};
use crate::rules::advice::Usual;
use crate::rules::c007::ratio;
use crate::rules::{patch, waiting};
use crate::snapshot::{ContainerView, Snapshot};

/// C002.
pub static RULE: Rule = Rule {
    id: "C002",
    title: "CPU request too low under contention",
    category: "cpu",
    what: "The 95th percentile of the last day's windows of 100 ms exceeds the request, and over the mean window (60 s) \
           a task of the container waited for at least a tenth of the time, throttling taken off, and so did tasks of \
           the node.",
    why: "Under contention the kernel shares CPUs by `cpu.weight`, which comes from the request. What is used beyond it \
          is lent by the neighbours and taken back just when it is needed.",
    severity: "medium",
    traps: &[
        "Waiting that the container's own limit causes is C004's (23).",
        "Threads that queue behind each other on an idle node do not make the node wait (23).",
        "A pod-level request is shared: a container without its own is not judged (23).",
        "A container without any request is C001's.",
        "One whose limit equals its request gets no more by a request: C004 and C007 speak of it.",
        "Start-up is left out (23).",
    ],
    remediation: "Raise requests.cpu to what 95 % of the windows needed; that is the least, since use under contention \
                  is less than what is wanted.",
    needs: &[Need::PODS, Need::CpuWindows, Need::Pressure],
    memory: Memory::CpuWindow,
    judge: Judge::Container(condition),
};

/// Whether a container needs more than it requests while others want it too.
pub(super) fn condition(snapshot: &Snapshot, container: &ContainerView) -> Option<Condition> {
    snapshot.declared.as_ref()?;
    let (pod, declared) = (container.pod.as_ref()?, container.declared()?);
    let request = declared.cpu_request_millis.filter(|millis| *millis > 0)?;
    if declared
        .cpu_limit_millis
        .is_some_and(|limit| limit <= request)
    {
        return None;
    }
    let day = container.cpu.day.as_ref()?;
    let usual = Usual::of(day)?;
    let p95_us = day.sketch.quantile_us(950)?.low;
    if p95_us <= request.saturating_mul(100) {
        return None;
    }
    let node_waits = waiting::contention(snapshot)?;
    let rates = waiting::rates(snapshot, container)?;
    let waits = waiting::waits(container, rates)?;
    let mut evidence = usual.evidence();
    evidence.insert("request_cores", Evidence::Measure(ratio(request, 1_000)?));
    evidence.insert("usage_cores", Evidence::Measure(rates.usage_cores));
    evidence.insert("wait_share", Evidence::Measure(waits));
    evidence.insert("node_wait_share", Evidence::Measure(node_waits));
    let proposal = usual.request_millis();
    Some(Condition {
        rule: &RULE,
        severity: Severity::Medium,
        subject: container.subject.clone(),
        key: "requests.cpu".into(),
        declared: format!("requests.cpu is {request}m"),
        observed: format!(
            "uses up to {}m in 95 % of the windows of 100 ms, and waits for a CPU {:.0} % of the time",
            usual.p95_millis,
            waits * 100.0
        ),
        evidence,
        coverage: Coverage::Full,
        remediation: format!(
            "Raise requests.cpu to at least {proposal}m, which would have covered 95 % of the last {}.",
            usual.span_text()
        ),
        patch: patch::for_container(
            pod,
            declared,
            &[
                "resources:".into(),
                "  requests:".into(),
                format!("    cpu: {proposal}m"),
            ],
        ),
    })
}

#[cfg(test)]
mod tests;
