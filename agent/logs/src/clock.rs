//! The only place of this crate that reads a clock.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time since the first call; never goes back, whatever is done to the wall clock.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where this crate's monotonic time comes from"
)]
pub(crate) fn monotonic() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// Nanoseconds since 1970; 0 before.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where this crate's wall time comes from"
)]
pub(crate) fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}
