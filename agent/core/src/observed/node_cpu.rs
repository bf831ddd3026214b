//! CPU of the whole node: its readings over the mean window.

use std::collections::VecDeque;

use crate::observation::NodeCpuRow;
use crate::observed::cpu::share;
use crate::settings::{CPU_MEAN_WINDOW_MAX, CoreSettings};
use crate::snapshot::NodeCpuView;
use crate::time::Timestamp;

/// Readings kept at most; older ones fall out.
const READINGS_MAX: usize = 64;

/// CPU of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeCpu {
    readings: VecDeque<(Timestamp, NodeCpuRow)>,
}

impl NodeCpu {
    /// A new reading. One that is not newer than the last is ignored.
    pub fn read(&mut self, at: Timestamp, row: NodeCpuRow, settings: &CoreSettings) {
        if self.readings.back().is_some_and(|(last, _)| *last >= at) {
            return;
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

    /// What is known; `None` before the first reading.
    #[must_use]
    pub fn view(&self) -> Option<NodeCpuView> {
        let (now, last) = self.readings.back()?;
        let before = self.readings.len().checked_sub(2);
        let before = before.and_then(|before| self.readings.get(before));
        let (then, first) = self.readings.front()?;
        let span = now.since(*then);
        Some(NodeCpuView {
            cpus: last.cpus,
            busy_us: last.busy_us,
            steal_us: last.steal_us,
            usage_cores: before
                .and_then(|(at, row)| share(row.busy_us, last.busy_us, now.since(*at))),
            some: first
                .pressure_some_us
                .zip(last.pressure_some_us)
                .and_then(|(first, last)| share(first, last, span)),
            span,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{NodeCpu, NodeCpuRow};
    use crate::settings::CoreSettings;
    use crate::time::Timestamp;

    #[test]
    fn use_is_of_the_last_two_readings_and_pressure_of_the_mean_window() {
        let mut node = NodeCpu::default();
        assert_eq!(node.view(), None);
        let settings = CoreSettings::default();
        for second in (0..=200_u64).step_by(5) {
            let row = NodeCpuRow {
                cpus: 2,
                busy_us: second * second * 1_000,
                steal_us: 0,
                pressure_some_us: Some(second * 250_000),
            };
            node.read(Timestamp(second * 1_000_000_000), row, &settings);
            node.read(Timestamp(0), NodeCpuRow::default(), &settings);
        }
        let view = node.view().unwrap();
        assert_eq!(view.span, Duration::from_secs(60));
        assert_eq!(view.some, Some(0.25));
        let expected = (40.0 - 195.0 * 195.0 / 1_000.0) / 5.0;
        assert!((view.usage_cores.unwrap() - expected).abs() < 1e-9);
    }

    #[test]
    fn without_pressure_there_is_none() {
        let mut node = NodeCpu::default();
        for second in [1, 6] {
            let row = NodeCpuRow {
                cpus: 1,
                ..NodeCpuRow::default()
            };
            node.read(Timestamp(second), row, &CoreSettings::default());
        }
        assert_eq!(node.view().unwrap().some, None);
    }
}
