//! When a watch asks again: so that an API server in trouble is not asked more, and a fleet does not ask at once. Pure.

use std::time::{Duration, Instant};

use super::trouble::Failure;

/// What the server asks to wait for, it gets up to here.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
/// A list that is asked for because the server forgot where a watch was comes this much later, and up to twice that.
const RELIST_AFTER: Duration = Duration::from_secs(1);

/// Times of the watches. Tests have shorter ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pacing {
    /// The first request comes within this, at random: the agents of a fleet start together.
    pub start_jitter: Duration,
    /// After a failure, doubled with each that follows.
    pub backoff_min: Duration,
    /// And no longer than this.
    pub backoff_max: Duration,
    /// The same for what is not served here.
    pub absent_max: Duration,
    /// Between two lists of one resource at least, when the server does not know where a watch was.
    pub relist: Duration,
    /// A watch or a list on which nothing comes for this long is given up. Servers send a bookmark a minute.
    pub idle: Duration,
    /// A list that is not complete after this is given up.
    pub list: Duration,
    /// A watch is ended by the server after this, up to twice that.
    pub watch: Duration,
    /// Changes of what this node needs that come so close together are told as one.
    pub debounce: Duration,
    /// How often the age of each source is told.
    pub heartbeat: Duration,
}

impl Default for Pacing {
    fn default() -> Self {
        Self {
            start_jitter: Duration::ZERO,
            backoff_min: Duration::from_millis(800),
            backoff_max: Duration::from_secs(30),
            absent_max: Duration::from_secs(300),
            relist: Duration::from_secs(30),
            idle: Duration::from_secs(240),
            list: Duration::from_secs(300),
            watch: Duration::from_secs(3_600),
            debounce: Duration::from_millis(200),
            heartbeat: Duration::from_secs(5),
        }
    }
}

/// The pace of one watch.
#[derive(Debug)]
pub(super) struct Pace {
    pacing: Pacing,
    /// Failures since the last success.
    failures: u32,
    /// When the last list was asked for.
    listed: Option<Instant>,
}

impl Pace {
    pub(super) fn new(pacing: Pacing) -> Self {
        Self {
            pacing,
            failures: 0,
            listed: None,
        }
    }

    /// A list is asked for now.
    pub(super) fn listing(&mut self, now: Instant) {
        self.listed = Some(now);
    }

    /// The server answered as it should.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// How long to wait after what ended the last request. `random` is from 0 to 1.
    pub(super) fn after(&mut self, failure: &Failure, now: Instant, random: f64) -> Duration {
        let Pacing {
            backoff_min,
            backoff_max,
            absent_max,
            relist,
            ..
        } = self.pacing;
        if *failure == Failure::Ended && self.failures == 0 {
            return backoff_min.mul_f64(random);
        }
        if *failure == Failure::Gone {
            let spaced = self.listed.map(|listed| listed + relist);
            let spaced = spaced.map_or(Duration::ZERO, |next| next.saturating_duration_since(now));
            let unit = RELIST_AFTER.min(relist);
            return (spaced + unit.mul_f64(random)).max(unit.mul_f64(1.0 + random));
        }
        let max = if failure.is_absent() {
            absent_max
        } else {
            backoff_max
        };
        let doubled = backoff_min.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let wait = doubled.min(max).mul_f64(0.5 + random / 2.0);
        let asked = failure.retry_after().unwrap_or_default();
        wait.max(asked.min(RETRY_AFTER_MAX))
    }

    /// How long the server is asked to keep a watch.
    pub(super) fn watch_seconds(&self, random: f64) -> u64 {
        self.pacing.watch.mul_f64(1.0 + random).as_secs().max(1)
    }
}

/// A number from 0 to 1 that differs from agent to agent. Good enough to spread requests, and for nothing else.
pub(super) fn random() -> f64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    // The standard library seeds its hash maps from the system's random numbers.
    let bits = std::hash::RandomState::new().build_hasher().finish();
    let bits = u32::try_from(bits >> 32).unwrap_or(u32::MAX);
    f64::from(bits) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Failure, Pace, Pacing, random};
    use crate::clock;

    fn status(code: u16) -> Failure {
        Failure::Status {
            code,
            message: String::new(),
            retry_after: None,
        }
    }

    /// F21: a hundred times the server forgets at once where the watch was.
    #[test]
    fn lists_after_410_are_thirty_seconds_apart() {
        let mut pace = Pace::new(Pacing::default());
        let mut now = clock::instant();
        let mut lists: Vec<Instant> = Vec::new();
        for round in 0..100 {
            pace.listing(now);
            lists.push(now);
            pace.succeeded();
            now += Duration::from_millis(5);
            now += pace.after(&Failure::Gone, now, f64::from(round % 10) / 10.0);
        }
        for two in lists.windows(2) {
            assert!(
                two[1] - two[0] >= Duration::from_secs(30),
                "{:?}",
                two[1] - two[0]
            );
        }
    }

    #[test]
    fn the_first_list_after_a_long_watch_comes_after_a_second_and_jitter() {
        let start = clock::instant();
        let wait = |random| {
            let mut pace = Pace::new(Pacing::default());
            pace.listing(start);
            pace.after(&Failure::Gone, start + Duration::from_secs(3_600), random)
        };
        assert_eq!(wait(0.0), Duration::from_secs(1));
        assert_eq!(wait(1.0), Duration::from_secs(2));
    }

    #[test]
    fn failures_back_off_up_to_a_limit_and_success_ends_that() {
        let mut pace = Pace::new(Pacing::default());
        let now = clock::instant();
        let waits: Vec<u64> = (0..8)
            .map(|_| {
                pace.after(&status(500), now, 1.0)
                    .as_millis()
                    .try_into()
                    .unwrap()
            })
            .collect();
        assert_eq!(
            waits,
            [800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000]
        );
        pace.succeeded();
        assert_eq!(
            pace.after(&status(500), now, 0.0),
            Duration::from_millis(400)
        );
        for _ in 0..70 {
            pace.after(&status(404), now, 1.0);
        }
        assert_eq!(
            pace.after(&status(404), now, 1.0),
            Duration::from_secs(300),
            "not served here"
        );
    }

    #[test]
    fn a_watch_that_ends_at_once_each_time_backs_off() {
        let mut pace = Pace::new(Pacing::default());
        let now = clock::instant();
        assert!(pace.after(&Failure::Ended, now, 0.5) <= Duration::from_secs(1));
        pace.after(&Failure::EndedAtOnce, now, 1.0);
        pace.after(&Failure::EndedAtOnce, now, 1.0);
        assert!(pace.after(&Failure::EndedAtOnce, now, 1.0) >= Duration::from_secs(3));
    }

    #[test]
    fn the_server_says_how_long_within_reason() {
        let mut pace = Pace::new(Pacing::default());
        let asks = |seconds| Failure::Status {
            code: 429,
            message: String::new(),
            retry_after: Some(Duration::from_secs(seconds)),
        };
        let now = clock::instant();
        assert_eq!(pace.after(&asks(7), now, 0.0), Duration::from_secs(7));
        assert_eq!(
            pace.after(&asks(1_000_000_000), now, 0.0),
            Duration::from_secs(300)
        );
    }

    #[test]
    fn random_numbers_are_spread() {
        let mut slots = [0_u32; 10];
        for _ in 0..10_000 {
            let number = random();
            assert!((0.0..=1.0).contains(&number));
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "0 to 10"
            )]
            let slot = (number * 10.0) as usize;
            slots[slot.min(9)] += 1;
        }
        assert!(slots.iter().all(|slot| *slot > 800), "{slots:?}");
    }
}
