//! Who waits for a CPU, by the kernel's pressure figures: what C002, C004 and C005 share.
//!
//! Time in the run queue per container cannot be had from stable contexts: the wake-up and switch tracepoints give it
//! only to programs that read `task_struct`. Pressure `some` stands in for it: the share of time in which at least one
//! task of the group was ready and did not run. The kernel counts tasks that a quota stops as waiting, so what throttling
//! may explain is taken off.

use crate::rules::c007::{ratio, spans};
use crate::snapshot::{ContainerView, CpuRates, Snapshot};

/// Share of the mean window in which a task waits, from which on waiting counts.
pub(super) const WAITS: f64 = 0.1;

/// The rates of a container over the whole mean window; `None` while it is too short.
pub(super) fn rates<'a>(snapshot: &Snapshot, container: &'a ContainerView) -> Option<&'a CpuRates> {
    container
        .cpu
        .rates
        .as_ref()
        .filter(|rates| spans(rates.span, snapshot.settings.cpu_mean_window))
}

/// The share of time in which a task of the node waited, if that is enough to speak of contention.
pub(super) fn contention(snapshot: &Snapshot) -> Option<f64> {
    let node = snapshot.node_cpu.as_ref()?;
    node.some
        .filter(|some| *some >= WAITS && spans(node.span, snapshot.settings.cpu_mean_window))
}

/// Throttled time as a share of wall time, summed over CPUs: not less than the share of time in which the group was
/// stopped. `Some(0.0)` where no quota is in force; `None` where that is not known, as with the quota of a pod, which
/// stops its containers and is not in their own files.
pub(super) fn throttled_share(container: &ContainerView, rates: &CpuRates) -> Option<f64> {
    let of_pod = container
        .pod
        .as_ref()
        .is_some_and(|pod| pod.cpu_limit_millis.is_some());
    match (&container.cpu.max, rates.throttled_us) {
        (Some(max), _) if of_pod && max.quota_us.is_none() => None,
        (Some(max), _) if max.quota_us.is_none() => Some(0.0),
        (Some(_), Some(us)) => ratio(us / 1_000, u64::try_from(rates.span.as_millis()).ok()?),
        (Some(_), None) => None,
        // The controller is there, and what it was told could not be read.
        (None, Some(_)) => None,
        // Without the controller there is no quota.
        (None, None) => Some(0.0),
    }
}

/// The share of time in which a task of the container waited for others, throttling taken off, if that counts.
pub(super) fn waits(container: &ContainerView, rates: &CpuRates) -> Option<f64> {
    let share = rates.some? - throttled_share(container, rates)?;
    (share >= WAITS).then_some(share)
}
