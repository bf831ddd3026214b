//! What a container usually uses, and the request and limit that follow from it.
//!
//! **Request**: the 95th percentile of the windows. **Limit**: what at most one window in a thousand exceeded, so that at
//! most about one period in a thousand would have been throttled. Both are rounded up, and values are taken at the upper
//! bound of their bucket ([`crate::sketch`]), so they are at most 4.4 % and one step too high, never too low.
//!
//! What a limit *would have* throttled is the share of windows that used more. It is the least there would have been:
//! work that a limit puts off falls into the next period and may exceed it too. Where a limit in force cuts use off, what
//! was wanted cannot be seen: nothing above it may be concluded.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::finding::Evidence;
use crate::rules::c007::ratio;
use crate::sketch::{Between, CORE_US, Sketch};
use crate::snapshot::Distribution;

/// Windows needed to say what is usual: ten seconds' worth. Fewer say what happened once.
pub(crate) const WINDOWS_MIN: u64 = 100;

/// Requests are rounded up to this, and are at least this.
const REQUEST_STEP_MILLIS: u64 = 10;
/// Limits are rounded up to this, and are at least this.
const LIMIT_STEP_MILLIS: u64 = 100;

/// Microseconds in a window that are a thousandth of a CPU.
const MILLI_US: u64 = CORE_US as u64 / 1_000;

/// What a container usually uses, in thousandths of a CPU, rounded up.
pub(super) struct Usual<'a> {
    sketch: &'a Sketch,
    pub(super) span: Duration,
    pub(super) p50_millis: u64,
    pub(super) p95_millis: u64,
    pub(super) p99_millis: u64,
    p999_millis: u64,
}

impl<'a> Usual<'a> {
    /// `None` with fewer windows than [`WINDOWS_MIN`].
    pub(super) fn of(distribution: &'a Distribution) -> Option<Self> {
        let sketch = distribution.sketch.as_ref();
        if sketch.count() < WINDOWS_MIN {
            return None;
        }
        let millis = |per_mille| Some(sketch.quantile_us(per_mille)?.high.div_ceil(MILLI_US));
        Some(Self {
            sketch,
            span: distribution.span(),
            p50_millis: millis(500)?,
            p95_millis: millis(950)?,
            p99_millis: millis(990)?,
            p999_millis: millis(999)?,
        })
    }

    /// A request that covers 95 % of the windows.
    pub(super) fn request_millis(&self) -> u64 {
        round_up(self.p95_millis, REQUEST_STEP_MILLIS)
    }

    /// A request that covers 99 % of the windows: for those who lower one.
    pub(super) fn cautious_request_millis(&self) -> u64 {
        round_up(self.p99_millis, REQUEST_STEP_MILLIS)
    }

    /// A limit that at most one window in a thousand exceeded.
    pub(super) fn limit_millis(&self) -> u64 {
        round_up(self.p999_millis, LIMIT_STEP_MILLIS)
    }

    /// The share of windows that used more than this limit, 0 to 1.
    pub(super) fn would_throttle(&self, limit_millis: u64) -> Between<f64> {
        let windows = self.sketch.exceeding(limit_millis.saturating_mul(MILLI_US));
        let share = |windows| ratio(windows, self.sketch.count()).unwrap_or(0.0);
        Between {
            low: share(windows.low),
            high: share(windows.high),
        }
    }

    /// Mean number of CPUs in use.
    pub(super) fn mean_cores(&self) -> f64 {
        let windows = Duration::from_micros(self.sketch.count().saturating_mul(CORE_US.into()));
        Duration::from_micros(self.sketch.sum_us()).as_secs_f64() / windows.as_secs_f64()
    }

    /// Highest number of CPUs in use in a window.
    pub(super) fn peak_cores(&self) -> f64 {
        f64::from(self.sketch.max_us()) / f64::from(CORE_US)
    }

    /// `10 min`: how far back the windows reach.
    pub(super) fn span_text(&self) -> String {
        span_text(self.span)
    }

    /// What all that follows from it rests on.
    pub(super) fn evidence(&self) -> BTreeMap<&'static str, Evidence> {
        let cores = |millis| Evidence::Measure(ratio(millis, 1_000).unwrap_or_default());
        BTreeMap::from([
            ("p50_cores", cores(self.p50_millis)),
            ("p95_cores", cores(self.p95_millis)),
            ("p99_cores", cores(self.p99_millis)),
            ("mean_cores", Evidence::Measure(self.mean_cores())),
            ("peak_cores", Evidence::Measure(self.peak_cores())),
            ("windows", Evidence::Count(self.sketch.count())),
            ("span_seconds", Evidence::Count(self.span.as_secs())),
        ])
    }
}

/// `90 s`, `10 min`, `5 h`, `7 days`: rounded down.
pub(super) fn span_text(span: Duration) -> String {
    match span.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

fn round_up(millis: u64, step: u64) -> u64 {
    millis.div_ceil(step).max(1).saturating_mul(step)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{Usual, span_text};
    use crate::rules::c007::ratio;
    use crate::rules::testing::distribution;

    #[test]
    fn request_and_limit_follow_from_the_windows() {
        // A second of a CPU and a half in every thousand windows but one in 2,000; else a fifth of a CPU or nothing.
        let windows: Vec<u32> = (0..10_000)
            .map(|index| match index {
                i if i % 2_000 == 0 => 390_000,
                i if i % 200 == 0 => 150_000,
                i if i % 2 == 0 => 20_000,
                _ => 0,
            })
            .collect();
        let distribution = distribution(windows);
        let usual = Usual::of(&distribution).unwrap();
        assert_eq!(usual.p50_millis, 1, "nothing, to a thousandth");
        assert_eq!(usual.request_millis(), 210, "0.2, to its bucket");
        assert_eq!(usual.limit_millis(), 1_600, "1.5, to its bucket");
        let share = usual.would_throttle(usual.limit_millis());
        assert_eq!((share.low, share.high), (0.0005, 0.0005));
        assert_eq!(usual.would_throttle(500).low, 0.005);
        assert!(
            (usual.mean_cores() - 0.107_7).abs() < 0.01,
            "{}",
            usual.mean_cores()
        );
        assert_eq!(usual.peak_cores(), 3.9);
    }

    #[test]
    fn few_windows_say_nothing() {
        assert!(Usual::of(&distribution(vec![1_000; 99])).is_none());
    }

    #[test]
    fn spans() {
        for (seconds, text) in [
            (119, "119 s"),
            (120, "2 min"),
            (7_200, "2 h"),
            (86_400, "24 h"),
            (7 * 86_400, "7 days"),
        ] {
            assert_eq!(span_text(Duration::from_secs(seconds)), text);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_limit_would_have_throttled_what_counting_says(windows in prop::collection::vec(0..400_000_u32, 100..400), limit in 1..4_000_u64) {
            let distribution = distribution(windows.clone());
            let usual = Usual::of(&distribution).unwrap();
            let over = windows.iter().filter(|us| u64::from(**us) > limit * 100).count();
            let share = ratio(over as u64, windows.len() as u64).unwrap();
            let told = usual.would_throttle(limit);
            prop_assert!(told.low <= share && share <= told.high, "{share}: {told:?}");
            let advised = usual.would_throttle(usual.limit_millis());
            prop_assert!(advised.high <= 0.001, "{advised:?}");
            let covered = usual.would_throttle(usual.request_millis());
            prop_assert!(covered.low <= 0.05, "{covered:?}");
        }
    }
}
