//! Waiting by polling, and the wall clock of the node that is played.

use std::thread;
use std::time::Duration;

use plumbline_core::time::UnixNanos;
use rustix::time::{ClockId, clock_gettime};

use crate::scale::scale;

/// How long a poll waits before it gives up unless told otherwise: generous, because machines stall.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How often a poll looks.
const STEP: Duration = Duration::from_millis(5);

/// `CLOCK_MONOTONIC` in nanoseconds.
#[must_use]
pub fn monotonic_ns() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

/// CPU time of the calling thread in nanoseconds.
#[must_use]
pub fn thread_cpu_ns() -> u64 {
    nanoseconds(ClockId::ThreadCPUTime)
}

/// CPU time of the whole process in nanoseconds.
#[must_use]
pub fn process_cpu_ns() -> u64 {
    nanoseconds(ClockId::ProcessCPUTime)
}

fn nanoseconds(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}

/// The wall clock as the API server writes it: `2026-11-22T09:34:18Z`.
#[must_use]
pub fn rfc3339_now() -> String {
    let seconds = nanoseconds(ClockId::Realtime) / 1_000_000_000;
    UnixNanos(seconds * 1_000_000_000)
        .to_string()
        .replace(".000Z", "Z")
}

/// Asks until there is an answer; `None` after `patience`, which is longer in the tier of slow machines.
pub fn poll<T>(patience: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let patience = scale().patience(patience);
    let give_up =
        monotonic_ns().saturating_add(u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX));
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if monotonic_ns() >= give_up {
            return None;
        }
        thread::sleep(STEP);
    }
}
