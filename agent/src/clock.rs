//! The only place that reads a clock.
#![expect(clippy::disallowed_methods, reason = "this is where time enters")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use plumbline_core::time::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC`, the clock of the eBPF programs.
#[must_use]
pub fn monotonic() -> Timestamp {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    Timestamp(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// Nanoseconds since 1970 by the wall clock; 0 for a clock set before that.
#[must_use]
pub fn unix_ns() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// For deadlines and back-off inside the shell; never for anything the core sees.
#[must_use]
pub fn instant() -> Instant {
    Instant::now()
}
