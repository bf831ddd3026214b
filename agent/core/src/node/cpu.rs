//! CPU figures, sorted to containers.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::CgroupId;
use crate::node::NodeState;
use crate::observation::{CPU_WINDOW_NS, CpuStatRow, CpuWindowRow};
use crate::time::Timestamp;

impl NodeState {
    pub(super) fn cpu_stat(&mut self, row: CpuStatRow, at: Timestamp) {
        if let Some(container) = self.containers.get_mut(&row.cgroup) {
            container.cpu.read(at, row);
        }
    }

    pub(super) fn cpu_windows(
        &mut self,
        start: Timestamp,
        windows: u16,
        rows: &[CpuWindowRow],
        unmeasured: &[CgroupId],
    ) {
        let unmeasured: BTreeSet<CgroupId> = unmeasured
            .iter()
            .filter_map(|cgroup| self.container_above(*cgroup))
            .collect();
        let mut sums: BTreeMap<CgroupId, Vec<u32>> = BTreeMap::new();
        for row in rows {
            let Some(id) = self.container_above(row.cgroup) else {
                continue;
            };
            let sum = sums
                .entry(id)
                .or_insert_with(|| vec![0; usize::from(windows)]);
            for (sum, busy_us) in sum.iter_mut().zip(&row.busy_us) {
                *sum = sum.saturating_add(*busy_us);
            }
        }
        let idle = vec![0; usize::from(windows)];
        for (id, container) in self
            .containers
            .iter_mut()
            .filter(|(_, container)| container.gone.is_none())
        {
            // A sum that lacks a part of the container is no measure of it.
            if unmeasured.contains(id) {
                continue;
            }
            let busy = sums.get(id).unwrap_or(&idle);
            for (index, busy_us) in (0_u64..).zip(busy) {
                let window = Timestamp(start.0.saturating_add(index * CPU_WINDOW_NS));
                if window >= container.first_seen {
                    container.cpu.window(window, *busy_us, &self.settings);
                }
            }
        }
    }
}
