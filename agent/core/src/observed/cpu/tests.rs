use std::time::Duration;

use super::{CPU_WINDOW_NS, Cpu, CpuStatRow, READINGS_MAX, Timestamp};
use crate::observation::{CpuMax, CpuPressure};
use crate::settings::CoreSettings;
use crate::snapshot::CpuRates;

#[test]
fn use_is_the_difference_of_two_readings() {
    let mut cpu = Cpu::default();
    cpu.read(
        Timestamp(1_000_000_000),
        CpuStatRow {
            usage_us: 100,
            ..CpuStatRow::default()
        },
        &CoreSettings::default(),
    );
    assert_eq!(
        cpu.view(Timestamp(0)).usage_cores,
        None,
        "one reading has no rate"
    );
    cpu.read(
        Timestamp(3_000_000_000),
        CpuStatRow {
            usage_us: 1_000_100,
            ..CpuStatRow::default()
        },
        &CoreSettings::default(),
    );
    let view = cpu.view(Timestamp(0));
    assert_eq!(
        (view.usage_us, view.usage_cores),
        (Some(1_000_100), Some(0.5))
    );
    assert_eq!(
        view.periods, None,
        "what the kernel does not have is absent"
    );
    assert_eq!(view.windows, None);
}

#[test]
fn a_counter_that_went_back_has_no_rate() {
    let mut cpu = Cpu::default();
    cpu.read(
        Timestamp(1),
        CpuStatRow {
            usage_us: 100,
            ..CpuStatRow::default()
        },
        &CoreSettings::default(),
    );
    cpu.read(
        Timestamp(2),
        CpuStatRow {
            usage_us: 50,
            ..CpuStatRow::default()
        },
        &CoreSettings::default(),
    );
    assert_eq!(cpu.view(Timestamp(0)).usage_cores, None);
}

#[test]
fn windows_are_bounded_and_start_after_the_exclusion() {
    let settings = CoreSettings {
        cpu_mean_window: Duration::from_secs(1),
        ..CoreSettings::default()
    };
    let mut cpu = Cpu::default();
    for index in 0..25_u32 {
        cpu.window(
            Timestamp(u64::from(index) * CPU_WINDOW_NS),
            index,
            true,
            &settings,
        );
    }
    cpu.window(Timestamp(0), 99, true, &settings);
    let view = cpu.view(Timestamp(0)).windows.unwrap();
    assert_eq!(view.busy_us, (15..25).collect::<Vec<_>>());
    assert_eq!(view.span, Duration::from_secs(1));
    assert_eq!(view.peak_cores, Some(24.0 / 100_000.0));
    cpu.exported();
    let late = cpu.view(Timestamp(22 * CPU_WINDOW_NS)).windows.unwrap();
    assert_eq!(late.busy_us, [22, 23, 24]);
    assert_eq!(late.peak_cores, None, "every window has been told of");
    // Read after the report, though it began before it.
    cpu.window(Timestamp(25 * CPU_WINDOW_NS), 7, true, &settings);
    let next = cpu.view(Timestamp(0)).windows.unwrap();
    assert_eq!(next.peak_cores, Some(7.0 / 100_000.0));
}

/// A reading each 5 s of a group that uses half a CPU, is throttled in half of its periods, and waits a fifth of the time.
fn reading(second: u64, quota_us: u64) -> CpuStatRow {
    CpuStatRow {
        usage_us: second * 500_000,
        periods: Some(second * 10),
        throttled_periods: Some(second * 5),
        throttled_us: Some(second * 100_000),
        max: Some(CpuMax {
            quota_us: Some(quota_us),
            period_us: 100_000,
            burst_us: 0,
        }),
        pressure: Some(CpuPressure {
            some_us: second * 200_000,
            full_us: None,
        }),
        ..CpuStatRow::default()
    }
}

fn seconds(seconds: u64) -> Timestamp {
    Timestamp(seconds * 1_000_000_000)
}

#[test]
fn rates_are_of_the_mean_window() {
    let mut cpu = Cpu::default();
    for second in (0..=300).step_by(5) {
        cpu.read(
            seconds(second),
            reading(second, 50_000),
            &CoreSettings::default(),
        );
    }
    let expected = CpuRates {
        span: Duration::from_secs(60),
        usage_cores: 0.5,
        periods: Some(600),
        throttled_periods: Some(300),
        throttled_us: Some(6_000_000),
        bursts: None,
        some: Some(0.2),
        full: None,
    };
    assert_eq!(cpu.view(Timestamp(0)).rates, Some(expected));
    let late = cpu.view(seconds(281)).rates.unwrap();
    assert_eq!(
        late.span,
        Duration::from_secs(15),
        "after the start-up exclusion"
    );
    assert_eq!(cpu.view(seconds(300)).rates, None, "one reading");
    assert_eq!(cpu.view(seconds(301)).rates, None, "no reading");
}

#[test]
fn rates_begin_with_the_limit_that_is_in_force() {
    let mut cpu = Cpu::default();
    for second in (0..=60).step_by(5) {
        let quota = if second < 40 { 50_000 } else { 80_000 };
        cpu.read(
            seconds(second),
            reading(second, quota),
            &CoreSettings::default(),
        );
    }
    let view = cpu.view(Timestamp(0));
    assert_eq!(view.rates.unwrap().span, Duration::from_secs(20));
    assert_eq!(view.settings_since, Some(seconds(40)));
}

#[test]
fn readings_are_bounded() {
    let settings = CoreSettings {
        cpu_mean_window: Duration::from_secs(3_600),
        ..CoreSettings::default()
    };
    let mut cpu = Cpu::default();
    for second in 0..1_000 {
        cpu.read(seconds(second), reading(second, 50_000), &settings);
    }
    assert_eq!(cpu.readings.len(), READINGS_MAX);
}
