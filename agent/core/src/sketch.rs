//! How CPU use is distributed over windows of 100 ms: an exponential histogram as OTLP defines it, of a fixed scale.
//!
//! Two sketches have the same buckets, so that merging is exact: the sketch of all windows is the sum of the sketches of
//! any parts. A value is known to its bucket, whose upper bound is 2^(1/16) of its lower: an upper bound taken for the
//! value is at most 4.4 % too high, the middle at most 2.2 % off. Bounds are powers of two of a CPU and what lies between
//! them, so common limits (0.25, 0.5, 1, 2) are bounds, and what exceeds them is counted exactly.
//!
//! Memory: 4 bytes for each bucket between the lowest and the highest that are in use. A container that uses between
//! 0.01 and 2 CPUs has 123; one cannot have more than [`BUCKETS`].

use serde::Serialize;

/// OTLP's scale: 2^[`SCALE`] buckets for each doubling.
pub const SCALE: i32 = 4;
/// Buckets for each doubling.
const PER_OCTAVE: usize = 1 << SCALE;
/// The first bucket begins at 2^-10 CPUs; what uses less in a window counts as nothing.
const LOWEST_OCTAVE: i32 = -10;
/// Up to 2^16 CPUs: more than 32 bits of microseconds in a window can say.
const OCTAVES: usize = 26;
/// Buckets there are.
pub const BUCKETS: usize = OCTAVES * PER_OCTAVE;
/// Use in a window, in CPUs, up to which it counts as nothing: 98 us.
pub const ZERO_THRESHOLD_CORES: f64 = 1.0 / 1_024.0;
/// Microseconds of CPU time in a window that are one CPU.
pub const CORE_US: u32 = 100_000;

/// 2^(k/16) in units of 2^-32.
const STEPS: [u64; PER_OCTAVE] = [
    4_294_967_296,
    4_485_121_744,
    4_683_695_048,
    4_891_059_943,
    5_107_605_667,
    5_333_738_689,
    5_569_883_475,
    5_816_483_285,
    6_074_001_000,
    6_342_919_999,
    6_623_745_059,
    6_917_003_306,
    7_223_245_206,
    7_543_045_592,
    7_877_004_752,
    8_225_749_546,
];

/// Upper bounds of the buckets in whole microseconds of a window, each inclusive.
static UPPERS: [u64; BUCKETS] = uppers();

#[expect(
    clippy::cast_possible_truncation,
    reason = "the highest is 2^16 CPUs: 33 bits of microseconds"
)]
const fn uppers() -> [u64; BUCKETS] {
    let mut uppers = [0; BUCKETS];
    let mut index = 0;
    while index < BUCKETS {
        let above = index + 1;
        let step = CORE_US as u128 * STEPS[above % PER_OCTAVE] as u128;
        uppers[index] = ((step << (above / PER_OCTAVE)) >> (32 - LOWEST_OCTAVE)) as u64;
        index += 1;
    }
    uppers
}

/// A distribution of CPU time in windows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sketch {
    /// Windows that used nothing, or next to nothing.
    zero: u64,
    /// Position of the first bucket of `counts`.
    low: usize,
    /// Windows by bucket. Without zeros at its ends, unless windows were taken away.
    counts: Vec<u32>,
    /// All windows.
    count: u64,
    /// CPU time of all windows in microseconds.
    sum_us: u64,
    /// The most CPU time in a window, in microseconds.
    max_us: u32,
}

/// A number that is only known to lie between two others, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Between<T> {
    /// Not less than this.
    pub low: T,
    /// Not more than this.
    pub high: T,
}

impl Sketch {
    /// Counts one window.
    pub fn add(&mut self, busy_us: u32) {
        match position(busy_us) {
            None => self.zero += 1,
            Some(position) => {
                let bucket = self.bucket_mut(position);
                *bucket = bucket.saturating_add(1);
            }
        }
        self.count += 1;
        self.sum_us = self.sum_us.saturating_add(busy_us.into());
        self.max_us = self.max_us.max(busy_us);
    }

    /// Counts the windows of another sketch.
    pub fn merge(&mut self, other: &Self) {
        if let (Some(last), false) = (other.counts.len().checked_sub(1), other.counts.is_empty()) {
            self.bucket_mut(other.low);
            self.bucket_mut(other.low + last);
        }
        for (position, count) in other.buckets() {
            let bucket = self.bucket_mut(position);
            *bucket = bucket.saturating_add(count);
        }
        self.zero += other.zero;
        self.count += other.count;
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
        self.max_us = self.max_us.max(other.max_us);
    }

    /// Takes away windows that were counted before. The maximum stays: [`Self::set_max`] corrects it.
    pub fn subtract(&mut self, other: &Self) {
        for (position, count) in other.buckets() {
            let bucket = self.bucket_mut(position);
            *bucket = bucket.saturating_sub(count);
        }
        self.zero = self.zero.saturating_sub(other.zero);
        self.count = self.count.saturating_sub(other.count);
        self.sum_us = self.sum_us.saturating_sub(other.sum_us);
    }

    /// Says what the maximum is, after [`Self::subtract`].
    pub fn set_max(&mut self, max_us: u32) {
        self.max_us = max_us;
    }

    /// Windows counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Windows that used nothing, or next to nothing.
    #[must_use]
    pub fn zero_count(&self) -> u64 {
        self.zero
    }

    /// CPU time of all windows in microseconds.
    #[must_use]
    pub fn sum_us(&self) -> u64 {
        self.sum_us
    }

    /// The most CPU time in a window, in microseconds.
    #[must_use]
    pub fn max_us(&self) -> u32 {
        self.max_us
    }

    /// OTLP's index of the first of [`Self::counts`]: bucket `i` is from 2^(i/16) (exclusive) to 2^((i+1)/16) CPUs.
    #[must_use]
    pub fn offset(&self) -> i32 {
        i32::try_from(self.low).unwrap_or(i32::MAX) + LOWEST_OCTAVE * (1 << SCALE)
    }

    /// Windows by bucket, without gaps.
    #[must_use]
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }

    /// CPU time of the window at this rank (nearest rank, in thousandths), in microseconds; `None` without windows.
    #[must_use]
    pub fn quantile_us(&self, per_mille: u64) -> Option<Between<u64>> {
        let rank = (u128::from(self.count) * u128::from(per_mille.min(1_000))).div_ceil(1_000);
        let rank = u64::try_from(rank).ok()?.max(1);
        if self.count == 0 {
            return None;
        }
        let max = u64::from(self.max_us);
        let mut below = self.zero;
        if below >= rank {
            return Some(Between {
                low: 0,
                high: zero_us().min(max),
            });
        }
        for (position, count) in self.buckets() {
            below += u64::from(count);
            if below >= rank {
                return Some(Between {
                    low: (lower(position) + 1).min(max),
                    high: UPPERS[position].min(max),
                });
            }
        }
        Some(Between {
            low: max,
            high: max,
        })
    }

    /// Windows that used more than this many microseconds of CPU time. Exact at the bounds of buckets.
    #[must_use]
    pub fn exceeding(&self, limit_us: u64) -> Between<u64> {
        let zero_may = limit_us < zero_us() && self.zero > 0;
        let mut found = Between {
            low: 0,
            high: if zero_may { self.zero } else { 0 },
        };
        for (position, count) in self.buckets() {
            if lower(position) >= limit_us {
                found.low += u64::from(count);
            }
            if UPPERS[position] > limit_us {
                found.high += u64::from(count);
            }
        }
        if u64::from(self.max_us) <= limit_us {
            found.high = 0;
        }
        found
    }

    /// Buckets in use: position and windows.
    fn buckets(&self) -> impl Iterator<Item = (usize, u32)> {
        (self.low..).zip(self.counts.iter().copied())
    }

    /// The bucket, which is made if it is not there.
    fn bucket_mut(&mut self, position: usize) -> &mut u32 {
        if self.counts.is_empty() {
            self.low = position;
        }
        if position < self.low {
            let missing = self.low - position;
            self.counts.splice(0..0, std::iter::repeat_n(0, missing));
            self.low = position;
        }
        let at = position - self.low;
        if at >= self.counts.len() {
            self.counts.resize(at + 1, 0);
        }
        &mut self.counts[at]
    }
}

/// Which bucket a window belongs to; `None` for one that counts as nothing.
fn position(busy_us: u32) -> Option<usize> {
    let busy_us = u64::from(busy_us);
    (busy_us > zero_us()).then(|| UPPERS.partition_point(|upper| *upper < busy_us))
}

/// Lower bound of a bucket, exclusive.
fn lower(position: usize) -> u64 {
    position
        .checked_sub(1)
        .map_or(zero_us(), |below| UPPERS[below])
}

/// The most that counts as nothing.
fn zero_us() -> u64 {
    u64::from(CORE_US >> -LOWEST_OCTAVE)
}

#[cfg(test)]
mod tests;
