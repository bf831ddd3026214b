//! C003, request far too high. What, why and traps are in [`RULE`].
//!
//! The week is kept in days: it is full with [`WINDOW_MIN`], of which nine tenths must have been measured. The evidence
//! says of what span it is. History lives in memory, so an agent or a container that restarts begins anew.

use std::time::Duration;

use crate::declared::DeclaredContainer;
use crate::finding::{Condition, Coverage, Evidence, Judge, Memory, Need, Rule, Severity};
use crate::rules::advice::Usual;
use crate::rules::c007::ratio;
use crate::rules::patch;
use crate::snapshot::{ContainerView, Distribution, Snapshot};

/// C003.
pub static RULE: Rule = Rule {
    id: "C003",
    title: "CPU request far too high",
    category: "cpu",
    what: "Over a full week, the 99th percentile of the windows of 100 ms is below 30 % of the request, and the \
           difference is at least a tenth of a CPU.",
    why: "CPUs that nobody else can request, and that the container never uses.",
    severity: "info",
    traps: &[
        "Whether an autoscaler sizes replicas by use over request cannot be seen from a node: never more than info, and \
         the remedy says so (23).",
        "Whole CPUs of the static CPU manager are exclusive because they are requested: silent (23).",
        "A pod-level request is shared: a container without its own is not judged (23).",
        "Lowering only the request of a container whose limit equals it changes its class of service: no patch.",
        "A week that was not measured in full says nothing.",
    ],
    remediation: "Lower requests.cpu to what 99 % of the windows needed.",
    needs: &[Need::PODS, Need::CpuWindows],
    memory: Memory::For(WINDOW_MIN),
    judge: Judge::Container(condition),
};

/// Share of the request that is used at most.
pub const USED: f64 = 0.3;
/// Less than this is not worth a change.
pub const WASTE_MILLIS: u64 = 100;
/// Six whole days and the one that is running.
pub const WINDOW_MIN: Duration = Duration::from_secs(6 * 86_400);

/// Whether a container requests far more than it uses.
pub(super) fn condition(snapshot: &Snapshot, container: &ContainerView) -> Option<Condition> {
    snapshot.declared.as_ref()?;
    let (pod, declared) = (container.pod.as_ref()?, container.declared()?);
    let request = declared.cpu_request_millis.filter(|millis| *millis > 0)?;
    let week = container.cpu.week.as_ref().filter(|week| is_full(week))?;
    let usual = Usual::of(week)?;
    let waste = request.checked_sub(usual.p99_millis)?;
    let used = ratio(usual.p99_millis, request)?;
    if used >= USED || waste < WASTE_MILLIS || may_be_exclusive(container, declared) {
        return None;
    }
    let proposal = usual.cautious_request_millis();
    let mut evidence = usual.evidence();
    evidence.insert("request_cores", Evidence::Measure(ratio(request, 1_000)?));
    evidence.insert("waste_cores", Evidence::Measure(ratio(waste, 1_000)?));
    let patch = (declared.cpu_limit_millis != Some(request)).then(|| {
        patch::for_container(
            pod,
            declared,
            &[
                "resources:".into(),
                "  requests:".into(),
                format!("    cpu: {proposal}m"),
            ],
        )
    });
    Some(Condition {
        rule: &RULE,
        severity: Severity::Info,
        subject: container.subject.clone(),
        key: "requests.cpu".into(),
        declared: format!("requests.cpu is {request}m"),
        observed: format!(
            "uses {}m or less in 99 % of the windows of the last {}",
            usual.p99_millis,
            usual.span_text()
        ),
        evidence,
        coverage: if week.measured() < week.span() {
            Coverage::Partial("windows_lost".into())
        } else {
            Coverage::Full
        },
        remediation: format!(
            "Lower requests.cpu to {proposal}m, unless an autoscaler sizes the workload by its use of the request."
        ),
        patch: patch.flatten(),
    })
}

fn is_full(week: &Distribution) -> bool {
    week.span() >= WINDOW_MIN && week.measured() >= week.span() / 10 * 9
}

/// Whole CPUs, requested and limited alike, without a quota that is known to be in force.
pub(super) fn may_be_exclusive(container: &ContainerView, declared: &DeclaredContainer) -> bool {
    let whole = declared
        .cpu_limit_millis
        .is_some_and(|limit| limit > 0 && limit % 1_000 == 0);
    let has_quota = container.cpu.max.is_some_and(|max| max.quota_us.is_some());
    whole && declared.cpu_request_millis == declared.cpu_limit_millis && !has_quota
}

#[cfg(test)]
mod tests;
