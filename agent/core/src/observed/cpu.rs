//! CPU of one container: the readings of its cgroup's files over the mean window, and a ring of 100 ms windows.

use std::collections::VecDeque;
use std::time::Duration;

use crate::observation::{CPU_WINDOW_NS, CpuStatRow};
use crate::observed::history::History;
use crate::settings::{CPU_MEAN_WINDOW_MAX, CoreSettings};
use crate::snapshot::{CpuRates, CpuView, WindowView};
use crate::time::Timestamp;

/// Windows kept at most; older ones fall out.
const WINDOWS_MAX: u64 = CPU_MEAN_WINDOW_MAX.as_secs() * 1_000_000_000 / CPU_WINDOW_NS;

/// Readings kept at most: one each 5 s for the longest mean window, and some more. Older ones fall out.
const READINGS_MAX: usize = 64;

/// CPU of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// In order of time; the first may be older than the mean window, so that they span it.
    readings: VecDeque<(Timestamp, CpuStatRow)>,
    /// Since when `cpu.max` and `cpu.weight` are as in the last reading.
    settings_since: Option<Timestamp>,
    /// Start and CPU time in microseconds of each window that was measured, in order.
    windows: VecDeque<(Timestamp, u32)>,
    history: History,
    /// Start of the last window that a report has told of: readings lag behind the clock.
    exported: Option<Timestamp>,
}

impl Cpu {
    /// A new reading of the cgroup's files. One that is not newer than the last is ignored.
    pub fn read(&mut self, at: Timestamp, row: CpuStatRow, settings: &CoreSettings) {
        let last = self.readings.back();
        if last.is_some_and(|(last, _)| *last >= at) {
            return;
        }
        if last.is_none_or(|(_, last)| (last.max, last.weight) != (row.max, row.weight)) {
            self.settings_since = Some(at);
        }
        self.readings.push_back((at, row));
        let oldest = at.minus(settings.cpu_mean_window.min(CPU_MEAN_WINDOW_MAX));
        while self.readings.len() > READINGS_MAX
            || self
                .readings
                .get(1)
                .is_some_and(|(second, _)| *second <= oldest)
        {
            self.readings.pop_front();
        }
    }

    /// CPU time of the window that starts at `start`. Windows come in order; one that does not is ignored. It is `judged`
    /// unless it lies in the start-up exclusion.
    pub fn window(
        &mut self,
        start: Timestamp,
        busy_us: u32,
        judged: bool,
        settings: &CoreSettings,
    ) {
        if self.windows.back().is_some_and(|(last, _)| *last >= start) {
            return;
        }
        self.history.add(start, busy_us, judged);
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
        let last = self.readings.back().map(|(_, row)| row);
        CpuView {
            usage_us: last.map(|row| row.usage_us),
            usage_cores: self.usage_cores(),
            periods: last.and_then(|row| row.periods.zip(row.throttled_periods)),
            throttled_us: last.and_then(|row| row.throttled_us),
            max: last.and_then(|row| row.max),
            weight: last.and_then(|row| row.weight),
            pressure: last.and_then(|row| row.pressure),
            settings_since: self.settings_since,
            rates: self.rates(judged_from),
            windows: self.window_view(judged_from),
            day: self.history.day(),
            week: self.history.week(),
            all: self.history.all(),
        }
    }

    /// CPU use between the last two readings. A counter that went back has no rate.
    fn usage_cores(&self) -> Option<f64> {
        let before = self.readings.len().checked_sub(2)?;
        let ((then, before), (now, last)) = (self.readings.get(before)?, self.readings.back()?);
        share(before.usage_us, last.usage_us, now.since(*then))
    }

    /// What happened between the oldest reading under the limit that is now in force and the last one.
    fn rates(&self, judged_from: Timestamp) -> Option<CpuRates> {
        let (now, last) = self.readings.back()?;
        let judged = self.readings.iter().rev();
        let (then, first) = judged
            .take_while(|(at, row)| *at >= judged_from && row.max == last.max)
            .last()?;
        let span = now.since(*then);
        let of = |value: fn(&CpuStatRow) -> Option<u64>| {
            value(first)
                .zip(value(last))
                .and_then(|(first, last)| share(first, last, span))
        };
        let grown = |value: fn(&CpuStatRow) -> Option<u64>| value(last)?.checked_sub(value(first)?);
        Some(CpuRates {
            span,
            usage_cores: share(first.usage_us, last.usage_us, span)?,
            periods: grown(|row| row.periods),
            throttled_periods: grown(|row| row.throttled_periods),
            throttled_us: grown(|row| row.throttled_us),
            bursts: grown(|row| row.bursts),
            some: of(|row| Some(row.pressure?.some_us)),
            full: of(|row| row.pressure?.full_us),
        })
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

/// Microseconds that were added in a span of time, as a share of it. `None` for a counter that went back, and without
/// time between.
pub(crate) fn share(first_us: u64, last_us: u64, span: Duration) -> Option<f64> {
    let added = Duration::from_micros(last_us.checked_sub(first_us)?);
    (!span.is_zero()).then(|| added.as_secs_f64() / span.as_secs_f64())
}

#[cfg(test)]
mod tests;
