//! C007, bursts hidden by the average. What, why and traps are in [`RULE`]. Works without a declared side.
//!
//! **Why 0.95 of the limit.** A group under a quota cannot use more than quota and burst in a period, but our windows do
//! not begin with the kernel's periods, its accounting includes a few microseconds of switching that ours leaves out,
//! and time stolen by the hypervisor is in ours only. So a container that the limit stops may show slightly less than
//! the limit in each window. One that uses 95 % of its limit in a window is stopped by it, or about to be.
//!
//! Nothing is said unless the windows span the mean window, but for [`SLACK_MAX`]: they are read once a second, so the
//! last may be missing yet. Nor if less than half of that time was measured.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::finding::{Condition, Coverage, Evidence, Judge, Memory, Need, Rule, Severity};
use crate::observation::{CPU_WINDOW_NS, CpuMax};
use crate::rules::patch;
use crate::snapshot::{ContainerView, Snapshot, WindowView};

/// C007.
pub static RULE: Rule = Rule {
    id: "C007",
    title: "Bursts over the CPU limit, hidden by the average",
    category: "cpu",
    what: "The highest window of 100 ms within the mean window (60 s) reaches 95 % of the limit, and the mean is below \
           half of it. The limit is the one in force (`cpu.max`); the declared one only where `cpu.max` was not read.",
    why: "The kernel throttles by periods of 100 ms. A dashboard that shows 30 s means says that there is room, and \
          requests stall all the same.",
    severity: "info",
    traps: &[
        "`cpu.max` without a quota although a limit is declared (static CPU manager): no limit, nothing (23).",
        "What may be saved up (`cpu.max.burst`) is added to the limit for the peak: to spend it is what it is for (23).",
        "Start-up windows are left out (23).",
        "Nothing is said if less than half of the mean window was measured.",
    ],
    remediation: "Size the limit for the peak, or smooth the work.",
    needs: &[Need::CpuWindows],
    memory: Memory::CpuWindow,
    judge: Judge::Container(condition),
};

/// Share of the limit at which a window counts as having reached it.
pub const REACHED: f64 = 0.95;
/// Share of the limit below which the mean says that all is well.
pub const HIDDEN: f64 = 0.5;
/// How much of the mean window may be missing at its ends; at most half of it.
pub const SLACK_MAX: Duration = Duration::from_secs(2);

/// Microseconds of CPU time in a window that are one CPU.
const WINDOW_US: u64 = CPU_WINDOW_NS / 1_000;
/// Proposed limits are rounded up to this.
const STEP_MILLIS: u64 = 100;

/// A CPU limit.
#[derive(Clone, Copy)]
struct Limit {
    /// In CPUs.
    cores: f64,
    /// What may come on top in a single window, in CPUs.
    burst_cores: f64,
    /// The kernel enforces it, so nothing above it can be seen.
    enforced: bool,
}

/// The windows, held against a limit.
struct Bursts {
    peak_cores: f64,
    mean_cores: f64,
    over: u64,
    windows: u64,
}

/// Whether a container's bursts reach its limit while its mean hides them.
pub(super) fn condition(snapshot: &Snapshot, container: &ContainerView) -> Option<Condition> {
    let windows = container.cpu.windows.as_ref()?;
    let limit = limit(container)?;
    if !is_enough(windows, snapshot.settings.cpu_mean_window) {
        return None;
    }
    let bursts = bursts(windows, &limit)?;
    if bursts.over == 0 || bursts.mean_cores >= HIDDEN * limit.cores {
        return None;
    }
    Some(Condition {
        rule: &RULE,
        severity: Severity::Info,
        subject: container.subject.clone(),
        key: key(container),
        declared: format!(
            "limit of {:.2} CPUs ({})",
            limit.cores,
            if limit.enforced {
                "in force"
            } else {
                "declared; cpu.max was not read"
            }
        ),
        observed: format!(
            "peak of {:.2} CPUs in 100 ms, mean of {:.2}; {} of {} windows reach the limit",
            bursts.peak_cores, bursts.mean_cores, bursts.over, bursts.windows
        ),
        evidence: evidence(container, &limit, &bursts),
        coverage: coverage(windows),
        remediation: remediation(&limit, bursts.peak_cores),
        patch: raise(container, &limit, bursts.peak_cores),
    })
}

/// The limit in force, else the declared one; `None` where there is none.
fn limit(container: &ContainerView) -> Option<Limit> {
    let limit = match &container.cpu.max {
        Some(max) => Limit {
            cores: quota_cores(max)?,
            // A burst is spent at once, however long the period is.
            burst_cores: ratio(max.burst_us, WINDOW_US)?,
            enforced: true,
        },
        None => Limit {
            cores: ratio(container.declared()?.cpu_limit_millis?, 1_000)?,
            burst_cores: 0.0,
            enforced: false,
        },
    };
    (limit.cores > 0.0).then_some(limit)
}

/// The number of CPUs that `cpu.max` allows; `None` if it sets no limit.
pub(crate) fn quota_cores(max: &CpuMax) -> Option<f64> {
    ratio(max.quota_us?, max.period_us)
}

/// `None` for a division by zero. What exceeds 32 bits (an hour of CPU time) is cut to that.
pub(crate) fn ratio(above: u64, below: u64) -> Option<f64> {
    let [above, below] =
        [above, below].map(|value| f64::from(u32::try_from(value).unwrap_or(u32::MAX)));
    (below > 0.0).then(|| above / below)
}

/// Whether the windows tell about the whole of the mean window.
fn is_enough(windows: &WindowView, mean_window: Duration) -> bool {
    spans(windows.span, mean_window) && measured(windows) * 2 >= windows.span
}

/// Whether a span of time is the mean window, but for the slack.
pub(super) fn spans(span: Duration, mean_window: Duration) -> bool {
    span + SLACK_MAX.min(mean_window / 2) >= mean_window
}

fn measured(windows: &WindowView) -> Duration {
    Duration::from_nanos(CPU_WINDOW_NS.saturating_mul(windows.busy_us.len() as u64))
}

fn bursts(windows: &WindowView, limit: &Limit) -> Option<Bursts> {
    let cores = |busy_us: u32| ratio(busy_us.into(), WINDOW_US);
    let reached = |busy_us: &&u32| {
        cores(**busy_us).is_some_and(|cores| cores >= REACHED * (limit.cores + limit.burst_cores))
    };
    Some(Bursts {
        peak_cores: cores(windows.busy_us.iter().copied().max()?)?,
        mean_cores: windows.mean_cores()?,
        over: windows.busy_us.iter().filter(reached).count() as u64,
        windows: windows.busy_us.len() as u64,
    })
}

/// A container whose pod is not known has no name to be told by from others.
pub(super) fn key(container: &ContainerView) -> String {
    match container.subject.namespace {
        Some(_) => "limits.cpu".into(),
        None => format!("limits.cpu/{}", container.container_id),
    }
}

fn evidence(
    container: &ContainerView,
    limit: &Limit,
    bursts: &Bursts,
) -> BTreeMap<&'static str, Evidence> {
    let share = ratio(bursts.over, bursts.windows).unwrap_or(0.0);
    let mut evidence = BTreeMap::from([
        ("peak_cores", Evidence::Measure(bursts.peak_cores)),
        ("mean_cores", Evidence::Measure(bursts.mean_cores)),
        ("limit_cores", Evidence::Measure(limit.cores)),
        ("windows_over_limit", Evidence::Count(bursts.over)),
        ("windows", Evidence::Count(bursts.windows)),
        ("share_over_limit", Evidence::Measure(share)),
    ]);
    if limit.burst_cores > 0.0 {
        evidence.insert("burst_cores", Evidence::Measure(limit.burst_cores));
    }
    if let Some((periods, throttled)) = container.cpu.periods {
        evidence.insert("periods", Evidence::Count(periods));
        evidence.insert("throttled_periods", Evidence::Count(throttled));
    }
    evidence
}

fn coverage(windows: &WindowView) -> Coverage {
    if measured(windows) < windows.span {
        Coverage::Partial("windows_lost".into())
    } else {
        Coverage::Full
    }
}

fn remediation(limit: &Limit, peak_cores: f64) -> String {
    let size = match proposal(limit, peak_cores) {
        Some(millis) => format!("raise limits.cpu to the peak ({millis}m)"),
        None => "raise limits.cpu in steps: it cuts the peak off, so the true peak cannot be seen"
            .into(),
    };
    format!("Smooth the work (fewer threads at once, such as GOMAXPROCS at the limit), or {size}.")
}

fn raise(container: &ContainerView, limit: &Limit, peak_cores: f64) -> Option<String> {
    let millis = proposal(limit, peak_cores)?;
    let body = [
        "resources:".into(),
        "  limits:".into(),
        format!("    cpu: {millis}m"),
    ];
    patch::for_container(container.pod.as_ref()?, container.declared()?, &body)
}

/// The peak in thousandths of a CPU, rounded up. `None` if a limit in force may have cut it off: it would be a guess.
fn proposal(limit: &Limit, peak_cores: f64) -> Option<u64> {
    let millis = Duration::try_from_secs_f64(peak_cores).ok()?.as_millis();
    let millis = u64::try_from(millis).ok()?;
    (!limit.enforced && peak_cores > limit.cores)
        .then(|| (millis / STEP_MILLIS + 1).saturating_mul(STEP_MILLIS))
}

#[cfg(test)]
mod tests;
