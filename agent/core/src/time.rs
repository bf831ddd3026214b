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

impl UnixNanos {
    /// A moment as people write it: `2026-12-31`, which begins that day, `2026-12-31T18:00Z`, `2026-12-31T18:00:00.5Z` or
    /// with an offset such as `+02:00`. `None` for everything else, and before 1970.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (date, time) = match text.split_once(['T', 't', ' ']) {
            Some((date, time)) => (date, Some(time)),
            None => (text, None),
        };
        let mut parts = date.splitn(3, '-');
        let (year, month, day) = (
            digits(parts.next()?, 4)?,
            digits(parts.next()?, 2)?,
            digits(parts.next()?, 2)?,
        );
        let days = days_from_civil(year, month, day)?;
        let nanos = time.map_or(Some(0), of_day)?;
        let all = i128::from(days) * 86_400_000_000_000 + nanos;
        Some(Self(u64::try_from(all).ok()?))
    }
}

/// Nanoseconds after midnight in UTC of `18:00Z`, `18:00:00.5Z`, `18:00+02:00`.
fn of_day(time: &str) -> Option<i128> {
    let zone = time.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = time.split_at(zone);
    let offset = match zone.split_at_checked(1)? {
        ("Z" | "z", "") => 0,
        (sign, of) => {
            let (hours, minutes) = of.split_once(':')?;
            let minutes = i64::try_from(digits(hours, 2)? * 60 + digits(minutes, 2)?).ok()?;
            if sign == "-" { -minutes } else { minutes }
        }
    };
    let (whole, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut parts = whole.split(':');
    let (hour, minute) = (digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let second = parts.next().map_or(Some(0), |part| digits(part, 2))?;
    let odd = parts.next().is_some() || hour > 23 || minute > 59 || second > 60;
    if odd || fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let nanos =
        digits(fraction, fraction.len())? * 10_u64.pow(9 - u32::try_from(fraction.len()).ok()?);
    let seconds = i128::from(hour * 3_600 + minute * 60 + second) - i128::from(offset) * 60;
    Some(seconds * 1_000_000_000 + i128::from(nanos))
}

/// A number of exactly so many digits.
fn digits(text: &str, count: usize) -> Option<u64> {
    let plain = text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

/// The inverse of [`civil_from_days`]; `None` for days that no month has.
fn days_from_civil(year: u64, month: u64, day: u64) -> Option<u64> {
    if year < 1970 || !(1..=12).contains(&month) || day == 0 {
        return None;
    }
    let shifted_year = year - u64::from(month <= 2);
    let (era, year_of_era) = (shifted_year / 400, shifted_year % 400);
    let shifted_month = (month + 9) % 12;
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
    (civil_from_days(days) == (year, month, day)).then_some(days)
}

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
    fn moments_are_read_as_people_write_them() {
        for (text, expected) in [
            ("1970-01-01", Some("1970-01-01T00:00:00.000Z")),
            ("2026-12-31", Some("2026-12-31T00:00:00.000Z")),
            ("2024-02-29T23:59:59.999Z", Some("2024-02-29T23:59:59.999Z")),
            ("2026-12-31T18:00Z", Some("2026-12-31T18:00:00.000Z")),
            (
                "2026-12-31 18:00:00+02:00",
                Some("2026-12-31T16:00:00.000Z"),
            ),
            (
                "2026-12-31T23:30:00-01:00",
                Some("2027-01-01T00:30:00.000Z"),
            ),
            ("2026-02-29", None),
            ("2026-13-01", None),
            ("2026-00-10", None),
            ("2026-1-1", None),
            ("2026-12-31T18:00", None),
            ("2026-12-31T25:00Z", None),
            ("2026-12-31T18:00:00.Z", None),
            ("1969-12-31", None),
            ("+026-12-31", None),
            ("tomorrow", None),
            ("", None),
            ("2026-12-31Té", None),
        ] {
            let parsed = UnixNanos::parse(text).map(|at| at.to_string());
            assert_eq!(parsed.as_deref(), expected, "{text}");
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
