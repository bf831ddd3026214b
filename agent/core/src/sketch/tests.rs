use proptest::prelude::*;

use super::{BUCKETS, Between, CORE_US, Sketch, UPPERS, lower, position, zero_us};

fn sketch(windows: &[u32]) -> Sketch {
    let mut sketch = Sketch::default();
    windows.iter().for_each(|busy_us| sketch.add(*busy_us));
    sketch
}

/// Windows of a container: idle, small, around a CPU, and absurd.
fn windows() -> impl Strategy<Value = Vec<u32>> {
    let window = prop_oneof![
        Just(0),
        0..200_u32,
        1_000..300_000_u32,
        Just(50_000),
        any::<u32>()
    ];
    prop::collection::vec(window, 0..100)
}

#[test]
fn bounds_are_powers_of_two_of_a_cpu() {
    assert!(UPPERS.is_sorted_by(|a, b| a < b));
    assert!(UPPERS[BUCKETS - 1] > u64::from(u32::MAX));
    for (cores, us) in [
        (-3, 12_500),
        (-2, 25_000),
        (-1, 50_000),
        (0, 100_000),
        (3, 800_000),
    ] {
        let index = (cores + 10) * 16 - 1;
        assert_eq!(UPPERS[usize::try_from(index).unwrap()], us);
    }
    assert_eq!(zero_us(), 97);
    assert_eq!(position(97), None);
    assert_eq!(position(98), Some(0));
    assert!(position(u32::MAX).unwrap() < BUCKETS);
}

#[test]
fn otlp_index_of_one_cpu() {
    // One CPU exactly is the upper bound of (2^(-1/16), 1].
    assert_eq!(sketch(&[CORE_US]).offset(), -1);
    assert_eq!(sketch(&[CORE_US + 1]).offset(), 0);
    assert_eq!(sketch(&[98]).offset(), -160);
}

#[test]
fn nothing_has_no_quantile() {
    assert_eq!(Sketch::default().quantile_us(950), None);
    assert_eq!(Sketch::default().exceeding(0), Between { low: 0, high: 0 });
}

#[test]
fn common_limits_are_counted_exactly() {
    let of = sketch(&[50_000, 50_000, 50_001, 49_999, 0, 200_000]);
    assert_eq!(of.exceeding(50_000), Between { low: 2, high: 2 });
    assert_eq!(of.exceeding(100_000), Between { low: 1, high: 1 });
    assert_eq!(of.exceeding(200_000), Between { low: 0, high: 0 });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn merging_is_exact(a in windows(), b in windows()) {
        let mut merged = sketch(&a);
        merged.merge(&sketch(&b));
        prop_assert_eq!(&merged, &sketch(&[a.clone(), b.clone()].concat()));
        let mut turned = sketch(&b);
        turned.merge(&sketch(&a));
        prop_assert_eq!(&merged, &turned);
        merged.subtract(&sketch(&b));
        let whole = sketch(&a);
        prop_assert_eq!((merged.count(), merged.sum_us()), (whole.count(), whole.sum_us()));
        for limit in [0, 98, 1_000, 50_000, 70_000] {
            merged.set_max(whole.max_us());
            prop_assert_eq!(merged.exceeding(limit), whole.exceeding(limit));
        }
    }

    #[test]
    fn a_quantile_is_the_value_within_its_bucket(all in windows(), per_mille in 0..=1_000_u64) {
        let of = sketch(&all);
        let mut sorted = all.clone();
        sorted.sort_unstable();
        let rank = (all.len() as u64 * per_mille).div_ceil(1_000).max(1);
        let Some(found) = of.quantile_us(per_mille) else {
            prop_assert!(all.is_empty());
            return Ok(());
        };
        let value = u64::from(sorted[usize::try_from(rank).unwrap() - 1]);
        prop_assert!(found.low <= value && value <= found.high, "{value} in {found:?}");
        // 2^(1/16) is 1.0443; bounds are cut to whole microseconds.
        prop_assert!(found.high <= zero_us() || found.high * 10_000 <= value * 10_443 + 10_000, "{value}: {found:?}");
    }

    #[test]
    fn what_exceeds_a_limit_is_what_counting_says(all in windows(), limit in 0..400_000_u64) {
        let found = sketch(&all).exceeding(limit);
        let over = |limit: u64| all.iter().filter(|us| u64::from(**us) > limit).count() as u64;
        prop_assert!(found.low <= over(limit) && over(limit) <= found.high, "{} in {found:?}", over(limit));
        // The uncertainty is one bucket: 4.5 % of the limit to either side.
        let most = if limit < 98 { all.len() as u64 } else { over(limit * 955 / 1_000) };
        let least = over(limit * 1_045 / 1_000 + 98);
        prop_assert!(least <= found.low && found.high <= most);
        if let Some(position) = UPPERS.iter().position(|upper| *upper == limit) {
            prop_assert!(lower(position) < limit);
            prop_assert_eq!(found.low, found.high);
        }
    }

    #[test]
    fn sums_and_counts_are_those_of_the_windows(all in windows()) {
        let of = sketch(&all);
        let in_buckets: u64 = of.counts().iter().map(|count| u64::from(*count)).sum();
        prop_assert_eq!(of.zero_count() + in_buckets, all.len() as u64);
        prop_assert_eq!(of.sum_us(), all.iter().map(|us| u64::from(*us)).sum::<u64>());
        prop_assert_eq!(of.max_us(), all.iter().copied().max().unwrap_or(0));
        prop_assert!(of.counts().len() <= BUCKETS);
    }
}
