//! The text of the kernel's CPU files to figures. Pure; what makes no sense is absent.

use plumbline_core::observation::{CpuMax, CpuPressure, CpuStatRow, NodeCpuRow};

/// Microseconds of one tick of `/proc/stat`: `USER_HZ` is 100 on every architecture that Rust knows.
const TICK_US: u64 = 10_000;

/// `cpu.stat`; `None` without `usage_usec`.
pub(super) fn stat(text: &str) -> Option<CpuStatRow> {
    let mut row = CpuStatRow::default();
    let mut usage_us = None;
    for line in text.lines() {
        let Some((name, value)) = line.split_once(' ') else {
            continue;
        };
        let value = value.parse().ok();
        match name {
            "usage_usec" => usage_us = value,
            "nr_periods" => row.periods = value,
            "nr_throttled" => row.throttled_periods = value,
            "throttled_usec" => row.throttled_us = value,
            "nr_bursts" => row.bursts = value,
            "burst_usec" => row.burst_us = value,
            _ => {}
        }
    }
    row.usage_us = usage_us?;
    Some(row)
}

/// `cpu.max` with `cpu.max.burst`, which Linux has from 5.14.
pub(super) fn max(max: &str, burst: Option<&str>) -> Option<CpuMax> {
    let (quota, period) = max.trim().split_once(' ')?;
    let quota_us = if quota == "max" {
        None
    } else {
        Some(quota.parse().ok()?)
    };
    Some(CpuMax {
        quota_us,
        period_us: period.parse().ok().filter(|period| *period > 0)?,
        burst_us: burst
            .and_then(|burst| burst.trim().parse().ok())
            .unwrap_or(0),
    })
}

/// The totals of a pressure file; `None` without `some`.
pub(super) fn pressure(text: &str) -> Option<CpuPressure> {
    let total = |kind: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))
            .and_then(|line| line.rsplit_once("total=")?.1.parse().ok())
    };
    Some(CpuPressure {
        some_us: total("some")?,
        full_us: total("full"),
    })
}

/// `/proc/stat`, and the node's pressure where there is any. Its `full` says nothing: the kernel keeps it at zero.
pub(super) fn node(stat: &str, of_pressure: Option<&str>) -> Option<NodeCpuRow> {
    let mut lines = stat.lines();
    let all = lines.next()?.strip_prefix("cpu ")?;
    let cpus = lines
        .take_while(|line| {
            line.strip_prefix("cpu")
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })
        .count();
    let ticks: Vec<u64> = all
        .split_whitespace()
        .map_while(|ticks| ticks.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; guest time is in user and nice already.
    let &[user, nice, system, _, _, irq, softirq, steal, ..] = ticks.as_slice() else {
        return None;
    };
    let busy = [user, nice, system, irq, softirq]
        .into_iter()
        .fold(0_u64, u64::saturating_add);
    Some(NodeCpuRow {
        cpus: u32::try_from(cpus).ok().filter(|cpus| *cpus > 0)?,
        busy_us: busy.saturating_mul(TICK_US),
        steal_us: steal.saturating_mul(TICK_US),
        pressure_some_us: of_pressure.and_then(pressure).map(|of| of.some_us),
    })
}

#[cfg(test)]
mod tests {
    use plumbline_core::observation::{CpuMax, CpuPressure, CpuStatRow, NodeCpuRow};

    use super::{max, node, pressure, stat};

    #[test]
    fn with_the_cpu_controller_everything_is_known() {
        let text = "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 10\nnr_throttled 4\nthrottled_usec 900\n\
                    nr_bursts 2\nburst_usec 70\n";
        let expected = CpuStatRow {
            usage_us: 5,
            periods: Some(10),
            throttled_periods: Some(4),
            throttled_us: Some(900),
            bursts: Some(2),
            burst_us: Some(70),
            ..CpuStatRow::default()
        };
        assert_eq!(stat(text), Some(expected));
    }

    #[test]
    fn without_it_the_rest_is_absent_and_not_zero() {
        let expected = CpuStatRow {
            usage_us: 5,
            ..CpuStatRow::default()
        };
        assert_eq!(
            stat("usage_usec 5\nuser_usec 3\nsystem_usec 2\n"),
            Some(expected)
        );
    }

    #[test]
    fn limits() {
        let of = |quota_us, burst_us| {
            Some(CpuMax {
                quota_us,
                period_us: 100_000,
                burst_us,
            })
        };
        assert_eq!(
            max("50000 100000\n", Some("1000\n")),
            of(Some(50_000), 1_000)
        );
        assert_eq!(max("50000 100000\n", None), of(Some(50_000), 0));
        assert_eq!(max("max 100000\n", None), of(None, 0));
        for nonsense in ["1 0\n", "-1 100000\n", "max\n", ""] {
            assert_eq!(max(nonsense, None), None, "{nonsense:?}");
        }
    }

    #[test]
    fn pressure_of_old_and_new_kernels() {
        let some = "some avg10=0.12 avg60=0.00 avg300=0.00 total=198982559\n";
        let full = "full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let of = |full_us| {
            Some(CpuPressure {
                some_us: 198_982_559,
                full_us,
            })
        };
        assert_eq!(pressure(some), of(None));
        assert_eq!(pressure(&format!("{some}{full}")), of(Some(7)));
        assert_eq!(pressure(full), None);
        assert_eq!(pressure("some avg10=0.12\n"), None);
    }

    #[test]
    fn nonsense_is_absent() {
        for nonsense in ["usage_usec many\n", "", "usage_usec\n", "usage_usec -5\n"] {
            assert_eq!(stat(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn a_node() {
        let text = "cpu  10 20 30 400 50 6 7 8 9 1\ncpu0 5 10 15 200 25 3 3 4 0 0\n\
                    cpu1 5 10 15 200 25 3 4 4 0 0\nintr 1 2\n";
        let expected = NodeCpuRow {
            cpus: 2,
            busy_us: 730_000,
            steal_us: 80_000,
            pressure_some_us: Some(3),
        };
        assert_eq!(node(text, Some("some total=3\n")), Some(expected));
        assert_eq!(node(text, None).unwrap().pressure_some_us, None);
        for nonsense in ["", "cpu  1 2 3\ncpu0 1\n", "cpu  1 2 3 4 5 6 7 8\nintr 1\n"] {
            assert_eq!(node(nonsense, None), None, "{nonsense:?}");
        }
    }
}
