//! `cpu.weight` and the request that it comes from.
//!
//! The kubelet turns a request into shares, 1,024 a CPU and at least 2 (`MilliCPUToShares`, `pkg/kubelet/cm`); the runtime
//! turns shares into a weight. There are two curves. Linear, in use since cgroup v2 came: `1 + (shares - 2) * 9999 / 262142`,
//! which makes 39 of a CPU. Quadratic, from runc 1.3.2 and crun 1.23 on (opencontainers/cgroups#20, containers/crun#1767):
//! `ceil(10 ^ ((l^2 + 125 l) / 612 - 7 / 34))` with `l = log2(shares)`, which makes 100 of a CPU. Both are right.

/// Shares that the kubelet gives at least and at most.
const SHARES_MIN: u64 = 2;
const SHARES_MAX: u64 = 262_144;

/// The shares of a request in thousandths of a CPU.
fn shares(request_millis: u64) -> u64 {
    (request_millis.saturating_mul(1_024) / 1_000).clamp(SHARES_MIN, SHARES_MAX)
}

/// The weight of a request by the linear curve.
pub(super) fn linear(request_millis: u64) -> u64 {
    1 + (shares(request_millis) - SHARES_MIN) * 9_999 / 262_142
}

/// The weight of a request by the quadratic curve.
pub(super) fn quadratic(request_millis: u64) -> u64 {
    let shares = shares(request_millis);
    if shares == SHARES_MIN {
        return 1;
    }
    let l = f64::from(u32::try_from(shares).unwrap_or(u32::MAX)).log2();
    let weight = 10_f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0).ceil();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "1 <= weight <= 10,000 for all shares"
    )]
    let weight = weight as u64;
    weight.min(10_000)
}

/// Whether a weight is that of a request by either curve. One more or less is rounding.
pub(super) fn fits(weight: u64, request_millis: u64) -> bool {
    [linear(request_millis), quadratic(request_millis)]
        .into_iter()
        .any(|expected| weight.abs_diff(expected) <= 1)
}

#[cfg(test)]
mod tests {
    use super::{fits, linear, quadratic};

    #[test]
    fn known_weights() {
        for (millis, by_linear, by_quadratic) in [
            (0, 1, 1),
            (1, 1, 1),
            (100, 4, 17),
            (250, 10, 35),
            (500, 20, 59),
            (1_000, 39, 100),
            (4_000, 157, 303),
            (256_000, 10_000, 10_000),
            (u64::MAX, 10_000, 10_000),
        ] {
            assert_eq!(
                (linear(millis), quadratic(millis)),
                (by_linear, by_quadratic),
                "{millis}m"
            );
            assert!(fits(by_linear, millis) && fits(by_quadratic, millis));
        }
    }

    #[test]
    fn another_requests_weight_does_not_fit() {
        assert!(!fits(10, 1_000));
        assert!(!fits(100, 500));
        assert!(!fits(0, 500), "an idle group");
    }
}
