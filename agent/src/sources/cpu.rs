//! Cumulative CPU figures of containers, from `cpu.stat`, `cpu.max` and `cpu.max.burst` of their cgroups: the kernel's own
//! account. What a file does not have (no cpu controller) is absent, never zero.

use std::fs;

use plumbline_core::observation::{CgroupRow, CpuMax, CpuStatRow, Fact, Health, ProbeStatus};

use crate::clock;
use crate::sources::Sink;
use crate::sources::cgroups::CgroupRoot;

/// Reads the figures of containers and sends them as one observation. Returns the probe's health.
pub fn read(root: &CgroupRoot, containers: &[CgroupRow], sink: &Sink) -> ProbeStatus {
    let at = clock::monotonic();
    let mut rows = Vec::with_capacity(containers.len());
    let mut unreadable = None;
    for container in containers {
        let dir = root.directory_of(&container.path);
        match fs::read_to_string(dir.join("cpu.stat")) {
            Ok(stat) => {
                let max = fs::read_to_string(dir.join("cpu.max")).ok();
                let burst = fs::read_to_string(dir.join("cpu.max.burst")).ok();
                rows.extend(
                    parse(&stat, max.as_deref(), burst.as_deref()).map(|row| CpuStatRow {
                        cgroup: container.cgroup,
                        ..row
                    }),
                );
            }
            // The container has ended.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => unreadable = Some(format!("{}: {error}", dir.join("cpu.stat").display())),
        }
    }
    if !rows.is_empty() {
        sink.send(at, Fact::CpuStat { rows });
    }
    let health = if unreadable.is_none() {
        Health::Ok
    } else {
        Health::Broken
    };
    ProbeStatus {
        probe: "cpu_stat".into(),
        health,
        reason: unreadable,
    }
}

/// The row of a cgroup from the text of its files; `None` without `usage_usec`.
fn parse(stat: &str, max: Option<&str>, burst: Option<&str>) -> Option<CpuStatRow> {
    let field = |name: &str| {
        stat.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .and_then(|value| value.parse().ok())
    };
    let max = max.and_then(|max| {
        let (quota, period) = max.trim().split_once(' ')?;
        let quota_us = if quota == "max" {
            None
        } else {
            Some(quota.parse().ok()?)
        };
        let burst_us = burst
            .and_then(|burst| burst.trim().parse().ok())
            .unwrap_or(0);
        Some(CpuMax {
            quota_us,
            period_us: period.parse().ok().filter(|period| *period > 0)?,
            burst_us,
        })
    });
    Some(CpuStatRow {
        usage_us: field("usage_usec")?,
        periods: field("nr_periods"),
        throttled_periods: field("nr_throttled"),
        throttled_us: field("throttled_usec"),
        max,
        ..CpuStatRow::default()
    })
}

#[cfg(test)]
mod tests {
    use plumbline_core::observation::{CpuMax, CpuStatRow};

    use super::parse;

    #[test]
    fn with_the_cpu_controller_everything_is_known() {
        let stat = "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 10\nnr_throttled 4\nthrottled_usec 900\n";
        let row = parse(stat, Some("50000 100000\n"), Some("1000\n")).unwrap();
        assert_eq!(
            (row.usage_us, row.periods, row.throttled_periods),
            (5, Some(10), Some(4))
        );
        assert_eq!(
            row.max,
            Some(CpuMax {
                quota_us: Some(50_000),
                period_us: 100_000,
                burst_us: 1_000
            })
        );
    }

    #[test]
    fn without_it_the_rest_is_absent_and_not_zero() {
        let row = parse("usage_usec 5\nuser_usec 3\nsystem_usec 2\n", None, None).unwrap();
        assert_eq!(
            row,
            CpuStatRow {
                usage_us: 5,
                ..CpuStatRow::default()
            }
        );
    }

    #[test]
    fn no_limit_is_known_to_be_none() {
        let row = parse("usage_usec 5\n", Some("max 100000\n"), None).unwrap();
        assert_eq!(
            row.max,
            Some(CpuMax {
                quota_us: None,
                period_us: 100_000,
                burst_us: 0
            })
        );
    }

    #[test]
    fn nonsense_is_absent() {
        assert_eq!(parse("usage_usec many\n", None, None), None);
        assert_eq!(parse("", None, None), None);
        assert_eq!(
            parse("usage_usec 5\n", Some("1 0\n"), None).unwrap().max,
            None
        );
        assert_eq!(
            parse("usage_usec 5\n", Some("-1 100000\n"), None)
                .unwrap()
                .max,
            None
        );
    }
}
