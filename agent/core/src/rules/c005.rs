//! C005, no limit and a noisy neighbour. What, why and traps are in [`RULE`].

use std::collections::BTreeSet;

use crate::finding::{Condition, Coverage, Evidence, Judge, Memory, Need, Rule, Severity};
use crate::rules::advice::Usual;
use crate::rules::c007::ratio;
use crate::rules::{is_judged, patch, waiting};
use crate::snapshot::{ContainerView, CpuRates, Snapshot};

/// C005.
pub static RULE: Rule = Rule {
    id: "C005",
    title: "No CPU limit, and neighbours wait",
    category: "cpu",
    what: "A container without a CPU limit, neither declared nor in force, that over the mean window (60 s) used at \
           least twice its request and a tenth of a CPU more, while tasks of the node waited for at least a tenth of \
           the time, and so did at least one other container that used less than it requested.",
    why: "It takes what others have requested.",
    severity: "low: not to set a limit is a sound choice while nobody suffers",
    traps: &[
        "A container that waits because of its own limit, or beyond its request, is no victim: it has no claim (23).",
        "Containers of the same pod are no neighbours.",
        "Where `cpu.max` was read and sets a limit, there is one, whatever is declared (23).",
        "A pod-level limit is one (23).",
        "The agent is neither judged nor a victim (22).",
    ],
    remediation: "Set a limit, or raise the request to what is used.",
    needs: &[Need::PODS, Need::Pressure],
    memory: Memory::CpuWindow,
    judge: Judge::Container(condition),
};

/// Use beyond the request, in CPUs, from which on it counts.
pub const EXCESS_CORES: f64 = 0.1;
/// Neighbours named in the evidence.
const NAMED_MAX: usize = 10;

/// Whether a container without a limit takes what others have requested.
pub(super) fn condition(snapshot: &Snapshot, container: &ContainerView) -> Option<Condition> {
    snapshot.declared.as_ref()?;
    let (pod, declared) = (container.pod.as_ref()?, container.declared()?);
    let in_force = container.cpu.max.is_some_and(|max| max.quota_us.is_some());
    if declared.cpu_limit_millis.is_some() || pod.cpu_limit_millis.is_some() || in_force {
        return None;
    }
    let request = declared.cpu_request_millis.or(pod.cpu_request_millis);
    let request_cores = ratio(request.unwrap_or(0), 1_000)?;
    let rates = waiting::rates(snapshot, container)?;
    if rates.usage_cores < 2.0 * request_cores || rates.usage_cores < request_cores + EXCESS_CORES {
        return None;
    }
    let node_waits = waiting::contention(snapshot)?;
    let victims = victims(snapshot, container);
    let worst = victims
        .iter()
        .map(|(_, waits)| *waits)
        .max_by(f64::total_cmp)?;
    let usual = container.cpu.day.as_ref().and_then(Usual::of);
    let names: BTreeSet<String> = victims.iter().map(|(victim, _)| label(victim)).collect();
    let mut evidence = usual.as_ref().map(Usual::evidence).unwrap_or_default();
    for (name, value) in [
        ("usage_cores", rates.usage_cores),
        ("request_cores", request_cores),
        ("node_wait_share", node_waits),
        ("neighbour_wait_share", worst),
    ] {
        evidence.insert(name, Evidence::Measure(value));
    }
    evidence.insert("neighbours", Evidence::Count(victims.len() as u64));
    evidence.insert(
        "neighbour_names",
        Evidence::List(names.into_iter().take(NAMED_MAX).collect()),
    );
    Some(Condition {
        rule: &RULE,
        severity: Severity::Low,
        subject: container.subject.clone(),
        key: "limits.cpu".into(),
        declared: match request {
            Some(millis) => format!("no limits.cpu; requests.cpu is {millis}m"),
            None => "neither limits.cpu nor requests.cpu".into(),
        },
        observed: format!(
            "uses {:.2} CPUs while {} up to {:.0} % of the time",
            rates.usage_cores,
            match victims.len() {
                1 => "1 container below its request waits".into(),
                count => format!("{count} containers below their request wait"),
            },
            worst * 100.0
        ),
        remediation: remediation(usual.as_ref()),
        patch: usual.and_then(|usual| {
            let request = format!("    cpu: {}m", usual.request_millis());
            let body = ["resources:".into(), "  requests:".into(), request];
            patch::for_container(pod, declared, &body)
        }),
        evidence,
        coverage: Coverage::Full,
    })
}

fn remediation(usual: Option<&Usual<'_>>) -> String {
    let Some(usual) = usual else {
        return "Raise requests.cpu to what the container usually needs, or set limits.cpu.".into();
    };
    let limit = usual.limit_millis();
    format!(
        "Raise requests.cpu to {}m, which would have covered 95 % of the last {}, or set limits.cpu; {limit}m would have \
         throttled {:.1} % of the periods.",
        usual.request_millis(),
        usual.span_text(),
        usual.would_throttle(limit).high * 100.0
    )
}

/// Containers of other pods that wait although they use less than they requested, and for what share of the time.
fn victims<'a>(snapshot: &'a Snapshot, noisy: &ContainerView) -> Vec<(&'a ContainerView, f64)> {
    let waits = |container: &'a ContainerView| {
        let rates: &CpuRates = waiting::rates(snapshot, container)?;
        let request = ratio(container.declared()?.cpu_request_millis?, 1_000)?;
        let waits = waiting::waits(container, rates)?;
        (rates.usage_cores < request).then_some((container, waits))
    };
    snapshot
        .containers
        .iter()
        .filter(|container| is_judged(container) && container.pod_uid != noisy.pod_uid)
        .filter_map(waits)
        .collect()
}

/// `shop/web-1/app`, as far as it is known.
fn label(container: &ContainerView) -> String {
    let subject = &container.subject;
    [&subject.namespace, &subject.pod, &subject.container]
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join("/")
}

#[cfg(test)]
mod tests;
