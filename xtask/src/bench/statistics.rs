//! Medians, quartiles and the seeded order of arms.

use serde::Serialize;

/// How values spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    /// The smallest.
    pub(super) min: f64,
    /// A quarter is below.
    pub(super) lower: f64,
    /// Half is below.
    pub(super) median: f64,
    /// A quarter is above.
    pub(super) upper: f64,
    /// The largest.
    pub(super) max: f64,
}

impl Spread {
    /// Of any values but none.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            min: *sorted.first()?,
            lower: quantile(&sorted, 1),
            median: quantile(&sorted, 2),
            upper: quantile(&sorted, 3),
            max: *sorted.last()?,
        })
    }
}

/// The `quarters`th quartile of sorted values, between two of them where it falls there.
fn quantile(sorted: &[f64], quarters: usize) -> f64 {
    let position = (sorted.len() - 1) * quarters;
    let (at, rest) = (position / 4, position % 4);
    let part = [0.0, 0.25, 0.5, 0.75][rest];
    let next = sorted.get(at + 1).copied().unwrap_or(sorted[at]);
    sorted[at] + (next - sorted[at]) * part
}

/// Puts the values into an order that the seed decides.
pub(super) fn shuffle<T>(values: &mut [T], seed: u64) {
    let mut state = seed;
    for last in (1..values.len()).rev() {
        state = mixed(state);
        // The remainder is smaller than the length, which is a usize.
        let other = usize::try_from(state % (last as u64 + 1)).unwrap_or(0);
        values.swap(last, other);
    }
}

/// The step of splitmix64 (Sebastiano Vigna, public domain).
fn mixed(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `part / whole`, or 0 of nothing. Exact enough below 2^53.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a benchmark stay far below 2^53"
)]
pub(super) fn per(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    part as f64 / whole as f64
}

#[cfg(test)]
mod tests {
    use super::{Spread, per, shuffle};

    #[test]
    fn quartiles_lie_where_they_should() {
        let spread = Spread::of([4.0, 1.0, 2.0, 3.0, 5.0]).unwrap();
        assert_eq!(
            spread,
            Spread {
                min: 1.0,
                lower: 2.0,
                median: 3.0,
                upper: 4.0,
                max: 5.0
            }
        );
        let spread = Spread::of([1.0, 2.0]).unwrap();
        assert_eq!(
            (spread.lower, spread.median, spread.upper),
            (1.25, 1.5, 1.75)
        );
        assert_eq!(Spread::of([7.0]).unwrap().median, 7.0);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn a_seed_gives_one_order_of_all_values() {
        let order = |seed| {
            let mut values: Vec<u32> = (0..6).collect();
            shuffle(&mut values, seed);
            values
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
        let mut sorted = order(3);
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn nothing_of_nothing_is_nothing() {
        assert_eq!((per(1, 4), per(1, 0)), (0.25, 0.0));
    }
}
