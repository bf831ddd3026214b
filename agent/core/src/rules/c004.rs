//! C004, throttled by the limit. What, why and traps are in [`RULE`]. Works without a declared side: the limit is
//! `cpu.max`.

use std::collections::BTreeMap;

use crate::finding::{Condition, Coverage, Evidence, Judge, Memory, Need, Rule, Severity};
use crate::rules::c007::{key, quota_cores, ratio};
use crate::rules::waiting;
use crate::snapshot::{ContainerView, CpuRates, Snapshot};

/// C004.
pub static RULE: Rule = Rule {
    id: "C004",
    title: "Throttled by the CPU limit",
    category: "cpu",
    what: "Over the mean window (60 s) the container was stopped by `cpu.max` for more than 5 % of the time, or in at \
           least a tenth of its periods for more than 50 ms each, and a task of it waited for at least 5 % of the time.",
    why: "The kernel stops the container so often or so long that its work waits. The share of throttled periods alone \
          does not tell that: a period in which the last millisecond was cut off counts like one that was stopped for \
          its whole length (kubernetes-monitoring/kubernetes-mixin#108).",
    severity: "medium; low if the use is background work (a Job, or a container that is seen in full and listens on \
               nothing), or if the kernel keeps no pressure, so that the effect is not known",
    traps: &[
        "Throttled time is summed over CPUs, so that eight threads stopped for 1 % each look like 8 %: what waited is \
         wall time and decides (23).",
        "What `cpu.max.burst` lends is not throttled (23).",
        "A limit that was changed begins a new window (23).",
        "Start-up is left out (23).",
        "No limit in force, as with the static CPU manager: nothing (23).",
    ],
    remediation: "Raise or remove the limit, or cut threads (GOMAXPROCS and the like).",
    needs: &[Need::Quotas],
    memory: Memory::CpuWindow,
    judge: Judge::Container(condition),
};

/// Share of the time for which a container is stopped.
pub const STOPPED: f64 = 0.05;
/// Share of the periods that are stopped long.
pub const OFTEN: f64 = 0.1;
/// Half of a period: a request that meets it waits for 50 ms.
pub const LONG_US: u64 = 50_000;
/// Share of the time in which a task waited.
pub const WAITED: f64 = 0.05;

/// How a container is throttled.
struct Throttling {
    limit_cores: f64,
    periods: u64,
    throttled: u64,
    /// Share of the time, summed over CPUs.
    stopped: f64,
    /// Mean time in a throttled period, summed over CPUs, in microseconds.
    stall_us: u64,
    /// Share of the time in which a task waited; `None` where the kernel does not say.
    waited: Option<f64>,
}

/// Whether a container is throttled to its harm.
pub(super) fn condition(snapshot: &Snapshot, container: &ContainerView) -> Option<Condition> {
    let rates = waiting::rates(snapshot, container)?;
    let throttling = throttling(container, rates)?;
    if !is_harm(&throttling) {
        return None;
    }
    let background = is_background(container);
    let severity = if background || throttling.waited.is_none() {
        Severity::Low
    } else {
        Severity::Medium
    };
    Some(Condition {
        rule: &RULE,
        severity,
        subject: container.subject.clone(),
        key: key(container),
        declared: format!("limit of {:.2} CPUs (in force)", throttling.limit_cores),
        observed: observed(&throttling, rates),
        evidence: evidence(container, &throttling, rates, background),
        coverage: Coverage::Full,
        remediation: "Use fewer threads at once (such as GOMAXPROCS at the limit), or raise limits.cpu in steps, or remove \
                      it: it cuts use off, so what is wanted cannot be seen."
            .into(),
        patch: None,
    })
}

fn throttling(container: &ContainerView, rates: &CpuRates) -> Option<Throttling> {
    let limit_cores = container.cpu.max.as_ref().and_then(quota_cores)?;
    let (periods, throttled) = (rates.periods?, rates.throttled_periods?);
    Some(Throttling {
        limit_cores,
        periods,
        throttled,
        stopped: waiting::throttled_share(container, rates)?,
        stall_us: rates.throttled_us?.checked_div(throttled).unwrap_or(0),
        waited: rates.some,
    })
}

fn is_harm(of: &Throttling) -> bool {
    let often = ratio(of.throttled, of.periods).is_some_and(|share| share >= OFTEN);
    let stops = of.stopped > STOPPED || (often && of.stall_us > LONG_US);
    stops && of.waited.is_none_or(|waited| waited >= WAITED)
}

/// Work that nobody waits for: what a Job runs, and what listens on nothing although all of it is seen.
fn is_background(container: &ContainerView) -> bool {
    let owner = container.subject.owner.as_ref();
    let job = owner.is_some_and(|owner| matches!(owner.kind.as_str(), "Job" | "CronJob"));
    job || (container.listeners.is_empty()
        && container.listeners_overflow.is_empty()
        && container.coverage == Coverage::Full)
}

fn observed(of: &Throttling, rates: &CpuRates) -> String {
    let effect = match of.waited {
        Some(waited) => format!("tasks waited {:.0} % of the time", waited * 100.0),
        None => "whether tasks waited is not known".into(),
    };
    format!(
        "stopped in {} of {} periods, for {:.0} ms each (summed over CPUs), at a mean of {:.2} CPUs; {effect}",
        of.throttled,
        of.periods,
        std::time::Duration::from_micros(of.stall_us).as_secs_f64() * 1e3,
        rates.usage_cores
    )
}

fn evidence(
    container: &ContainerView,
    of: &Throttling,
    rates: &CpuRates,
    background: bool,
) -> BTreeMap<&'static str, Evidence> {
    let mut evidence = BTreeMap::from([
        ("limit_cores", Evidence::Measure(of.limit_cores)),
        ("usage_cores", Evidence::Measure(rates.usage_cores)),
        ("periods", Evidence::Count(of.periods)),
        ("throttled_periods", Evidence::Count(of.throttled)),
        ("throttled_share_of_time", Evidence::Measure(of.stopped)),
        ("stall_us", Evidence::Count(of.stall_us)),
        ("span_seconds", Evidence::Count(rates.span.as_secs())),
    ]);
    if let Some(waited) = of.waited {
        evidence.insert("wait_share", Evidence::Measure(waited));
    }
    if let Some(bursts) = rates.bursts.filter(|bursts| *bursts > 0) {
        evidence.insert("burst_periods", Evidence::Count(bursts));
    }
    let windows = container.cpu.windows.as_ref();
    if let Some(peak) = windows.and_then(|windows| windows.busy_us.iter().max()) {
        evidence.insert(
            "peak_cores",
            Evidence::Measure(f64::from(*peak) / 100_000.0),
        );
    }
    if background {
        evidence.insert("background", Evidence::Text("yes".into()));
    }
    evidence
}

#[cfg(test)]
mod tests;
