//! A pod's share of bytes a second, where the operator gives it one. Pure.

use std::time::Duration;

/// What was saved up may be spent at once: so many seconds of it.
const BURST_SECONDS: u64 = 10;

/// Tokens, one a byte.
#[derive(Clone, Debug)]
pub struct Bucket {
    per_second: u64,
    tokens: u64,
    filled: Duration,
}

impl Bucket {
    /// Full, as of `now`.
    #[must_use]
    pub fn new(per_second: u64, now: Duration) -> Self {
        Self {
            per_second,
            tokens: per_second.saturating_mul(BURST_SECONDS),
            filled: now,
        }
    }

    /// Time has passed.
    pub fn fill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.filled);
        let more = u128::from(self.per_second) * passed.as_nanos() / 1_000_000_000;
        let more = u64::try_from(more).unwrap_or(u64::MAX);
        if more == 0 {
            return;
        }
        let most = self.per_second.saturating_mul(BURST_SECONDS);
        self.tokens = self.tokens.saturating_add(more).min(most);
        self.filled = now;
    }

    /// Whether so many bytes may pass. A record that is longer than all that can be saved passes when all is there.
    pub fn take(&mut self, bytes: u64) -> bool {
        let most = self.per_second.saturating_mul(BURST_SECONDS);
        let price = bytes.min(most);
        let passes = self.tokens >= price;
        if passes {
            self.tokens -= price;
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_its_rate() {
        let mut bucket = Bucket::new(100, Duration::ZERO);
        assert!(bucket.take(600) && bucket.take(400));
        assert!(!bucket.take(1));
        let mut passed = 0;
        for millis in 1..=20_000 {
            bucket.fill(Duration::from_millis(millis));
            passed += u64::from(bucket.take(10)) * 10;
        }
        assert_eq!(passed, 2_000);
    }

    #[test]
    fn a_record_longer_than_the_burst_passes_alone() {
        let mut bucket = Bucket::new(1, Duration::ZERO);
        assert!(bucket.take(1_000));
        assert!(!bucket.take(1));
        bucket.fill(Duration::from_secs(100));
        assert!(bucket.take(1_000));
    }
}
