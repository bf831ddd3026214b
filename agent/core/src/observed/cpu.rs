//! CPU of one container: the last two readings of `cpu.stat`, and a ring of 100 ms windows.

use std::collections::VecDeque;
use std::time::Duration;

use crate::observation::{CPU_WINDOW_NS, CpuStatRow};
use crate::settings::{CPU_MEAN_WINDOW_MAX, CoreSettings};
use crate::snapshot::{CpuView, WindowView};
use crate::time::Timestamp;

/// Windows kept at most; older ones fall out.
const WINDOWS_MAX: u64 = CPU_MEAN_WINDOW_MAX.as_secs() * 1_000_000_000 / CPU_WINDOW_NS;

/// CPU of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    last: Option<(Timestamp, CpuStatRow)>,
    before: Option<(Timestamp, CpuStatRow)>,
    /// Start and CPU time in microseconds of each window that was measured, in order.
    windows: VecDeque<(Timestamp, u32)>,
    /// Start of the last window that a report has told of: readings lag behind the clock.
    exported: Option<Timestamp>,
}

impl Cpu {
    /// A new reading of the cgroup's files.
    pub fn read(&mut self, at: Timestamp, row: CpuStatRow) {
        if self.last.as_ref().is_none_or(|(last, _)| *last < at) {
            self.before = self.last.replace((at, row));
        }
    }

    /// CPU time of the window that starts at `start`. Windows come in order; one that does not is ignored.
    pub fn window(&mut self, start: Timestamp, busy_us: u32, settings: &CoreSettings) {
        if self.windows.back().is_some_and(|(last, _)| *last >= start) {
            return;
        }
        let keep = settings.cpu_mean_window.min(CPU_MEAN_WINDOW_MAX);
        let oldest = Timestamp(start.0 + CPU_WINDOW_NS).minus(keep);
        while self
            .windows
            .front()
            .is_some_and(|(first, _)| *first < oldest)
            || self.windows.len() as u64 >= WINDOWS_MAX
        {
            self.windows.pop_front();
        }
        self.windows.push_back((start, busy_us));
    }

    /// A report tells of all that is known: the next peak is of later windows.
    pub fn exported(&mut self) {
        self.exported = self
            .windows
            .back()
            .map(|(start, _)| *start)
            .or(self.exported);
    }

    /// What is known, with windows from `judged_from` on.
    #[must_use]
    pub fn view(&self, judged_from: Timestamp) -> CpuView {
        let last = self.last.as_ref().map(|(_, row)| row);
        CpuView {
            usage_us: last.map(|row| row.usage_us),
            usage_cores: self.usage_cores(),
            periods: last.and_then(|row| row.periods.zip(row.throttled_periods)),
            throttled_us: last.and_then(|row| row.throttled_us),
            max: last.and_then(|row| row.max),
            windows: self.window_view(judged_from),
        }
    }

    fn usage_cores(&self) -> Option<f64> {
        let ((then, before), (now, last)) = (self.before.as_ref()?, self.last.as_ref()?);
        let used = Duration::from_micros(last.usage_us.checked_sub(before.usage_us)?);
        let wall = now.since(*then);
        (!wall.is_zero()).then(|| used.as_secs_f64() / wall.as_secs_f64())
    }

    fn window_view(&self, judged_from: Timestamp) -> Option<WindowView> {
        let judged = || {
            self.windows
                .iter()
                .filter(|(start, _)| *start >= judged_from)
        };
        let (first, last) = (judged().next()?.0, judged().next_back()?.0);
        let peak_us = self
            .windows
            .iter()
            .filter(|(start, _)| self.exported.is_none_or(|exported| *start > exported))
            .map(|(_, us)| *us)
            .max();
        Some(WindowView {
            busy_us: judged().map(|(_, us)| *us).collect(),
            span: Timestamp(last.0 + CPU_WINDOW_NS).since(first),
            peak_cores: peak_us.map(|us| f64::from(us) / 100_000.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{CPU_WINDOW_NS, Cpu, CpuStatRow, Timestamp};
    use crate::settings::CoreSettings;

    #[test]
    fn use_is_the_difference_of_two_readings() {
        let mut cpu = Cpu::default();
        cpu.read(
            Timestamp(1_000_000_000),
            CpuStatRow {
                usage_us: 100,
                ..CpuStatRow::default()
            },
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
        );
        cpu.read(
            Timestamp(2),
            CpuStatRow {
                usage_us: 50,
                ..CpuStatRow::default()
            },
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
                &settings,
            );
        }
        cpu.window(Timestamp(0), 99, &settings);
        let view = cpu.view(Timestamp(0)).windows.unwrap();
        assert_eq!(view.busy_us, (15..25).collect::<Vec<_>>());
        assert_eq!(view.span, Duration::from_secs(1));
        assert_eq!(view.peak_cores, Some(24.0 / 100_000.0));
        cpu.exported();
        let late = cpu.view(Timestamp(22 * CPU_WINDOW_NS)).windows.unwrap();
        assert_eq!(late.busy_us, [22, 23, 24]);
        assert_eq!(late.peak_cores, None, "every window has been told of");
        // Read after the report, though it began before it.
        cpu.window(Timestamp(25 * CPU_WINDOW_NS), 7, &settings);
        let next = cpu.view(Timestamp(0)).windows.unwrap();
        assert_eq!(next.peak_cores, Some(7.0 / 100_000.0));
    }
}
