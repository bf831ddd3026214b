//! Time as data: the core never asks what time it is.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Nanoseconds of `CLOCK_MONOTONIC`, the clock of `bpf_ktime_get_ns`. Starts near zero at boot, never steps back.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// How long after `earlier` this is; zero if it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The time `span` later, saturating.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)),
        )
    }

    /// The time `span` earlier, saturating at zero.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

/// Nanoseconds since 1970-01-01T00:00:00Z, the unit of OTLP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixNanos(pub u64);

impl fmt::Display for UnixNanos {
    /// RFC 3339 in UTC with milliseconds: `2026-11-22T09:34:18.120Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / 1_000_000_000;
        let (days, of_day) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = civil_from_days(days);
        let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
        let millis = self.0 / 1_000_000 % 1_000;
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"
        )
    }
}

impl Serialize for UnixNanos {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Days since 1970-01-01 to year, month and day (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// One reading of both clocks, from which a [`Timestamp`] becomes wall time. Renewed at least every minute, so that a
/// stepped wall clock is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockAnchor {
    /// When the anchor was read.
    pub monotonic: Timestamp,
    /// What the wall clock said then, in nanoseconds since 1970.
    pub unix_ns: u64,
}

impl ClockAnchor {
    /// Wall time of a monotonic instant.
    #[must_use]
    pub fn unix(&self, at: Timestamp) -> UnixNanos {
        let unix = if at >= self.monotonic {
            self.unix_ns.saturating_add(at.0 - self.monotonic.0)
        } else {
            self.unix_ns.saturating_sub(self.monotonic.0 - at.0)
        };
        UnixNanos(unix)
    }
}

#[cfg(test)]
mod tests {
    use super::{ClockAnchor, Timestamp, UnixNanos};

    #[test]
    fn wall_time_is_rfc_3339() {
        for (unix_ns, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00.000Z"),
            (1_795_340_058_120_999_999, "2026-11-22T09:34:18.120Z"),
            (4_102_444_799_999_000_000, "2099-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(UnixNanos(unix_ns).to_string(), text);
        }
    }

    #[test]
    fn an_anchor_maps_both_directions() {
        let anchor = ClockAnchor {
            monotonic: Timestamp(1_000),
            unix_ns: 50_000,
        };
        assert_eq!(anchor.unix(Timestamp(1_500)), UnixNanos(50_500));
        assert_eq!(anchor.unix(Timestamp(400)), UnixNanos(49_400));
    }
}
