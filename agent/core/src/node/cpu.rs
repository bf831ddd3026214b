//! CPU figures, sorted to containers.

use std::collections::{BTreeMap, BTreeSet};

use crate::finding::Subject;
use crate::id::{CgroupId, PodUid};
use crate::node::NodeState;
use crate::observation::{CPU_WINDOW_NS, CpuStatRow, CpuWindowRow, NodeCpuRow};
use crate::snapshot::{ContainerView, PodCpuView};
use crate::time::Timestamp;

/// CPU of one pod, from its own cgroup.
#[derive(Clone, Debug)]
pub(super) struct PodCpu {
    cgroup: CgroupId,
    usage_us: u64,
    since: Timestamp,
}

impl NodeState {
    /// Figures from the kernel's own files.
    pub(super) fn cpu_figures(
        &mut self,
        rows: Vec<CpuStatRow>,
        pods: &[CpuStatRow],
        node: Option<NodeCpuRow>,
        at: Timestamp,
    ) {
        self.note_declared_cpu(at);
        rows.into_iter().for_each(|row| self.cpu_stat(row, at));
        pods.iter().for_each(|row| self.pod_cpu(row, at));
        if let Some(node) = node {
            self.node_cpu.read(at, node, &self.settings);
        }
    }

    fn cpu_stat(&mut self, row: CpuStatRow, at: Timestamp) {
        if let Some(container) = self.containers.get_mut(&row.cgroup) {
            container.cpu.read(at, row, &self.settings);
        }
    }

    /// Figures of the directory that holds the containers of a pod. One that holds those of several, or of none, is no
    /// pod's.
    fn pod_cpu(&mut self, row: &CpuStatRow, at: Timestamp) {
        let Some(pod) = self.pod_at(row.cgroup) else {
            return;
        };
        let cpu = self.pods_cpu.entry(pod).or_insert(PodCpu {
            since: at,
            cgroup: row.cgroup,
            usage_us: 0,
        });
        // A pod has one cgroup for all its life; of two readings the later has more.
        if cpu.cgroup == row.cgroup {
            cpu.usage_us = cpu.usage_us.max(row.usage_us);
        }
    }

    fn pod_at(&self, cgroup: CgroupId) -> Option<PodUid> {
        let inside = format!("{}/", self.cgroups.get(&cgroup)?.path);
        let mut pods = self
            .container_paths
            .range(inside.clone()..)
            .take_while(|(path, _)| path.starts_with(&inside))
            .filter_map(|(_, id)| Some(&self.containers.get(id)?.pod_uid));
        let pod = pods.next()?;
        pods.all(|other| other == pod).then(|| pod.clone())
    }

    /// Drops the figures of pods that no container is left of.
    pub(super) fn forget_pods(&mut self) {
        let left: BTreeSet<&PodUid> = self.containers.values().map(|one| &one.pod_uid).collect();
        self.pods_cpu.retain(|pod, _| left.contains(pod));
    }

    /// Pods with figures, named as their containers are.
    pub(super) fn pod_views(&self, containers: &[ContainerView]) -> Vec<PodCpuView> {
        let mut subjects: BTreeMap<&PodUid, Subject> = BTreeMap::new();
        for container in containers {
            subjects
                .entry(&container.pod_uid)
                .or_insert_with(|| Subject {
                    container: None,
                    container_id: None,
                    image: None,
                    ..container.subject.clone()
                });
        }
        let view = |(pod, subject)| {
            let cpu = self.pods_cpu.get(pod)?;
            Some(PodCpuView {
                subject,
                usage_us: cpu.usage_us,
                since: cpu.since,
            })
        };
        let mut views: Vec<PodCpuView> = subjects.into_iter().filter_map(view).collect();
        views.sort_by(|a, b| a.subject.cmp(&b.subject));
        views
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
        let judged_from: Vec<Timestamp> = self
            .containers
            .values()
            .map(|container| match container.is_judged {
                true => Timestamp::default(),
                false => self.judged_from(container),
            })
            .collect();
        let is_settled = self.origin.is_some();
        for ((id, container), judged_from) in self.containers.iter_mut().zip(judged_from) {
            if container.gone.is_some() {
                continue;
            }
            container.is_judged = is_settled && judged_from <= start;
            // A sum that lacks a part of the container is no measure of it.
            if unmeasured.contains(id) {
                continue;
            }
            let busy = sums.get(id).unwrap_or(&idle);
            for (index, busy_us) in (0_u64..).zip(busy) {
                let window = Timestamp(start.0.saturating_add(index * CPU_WINDOW_NS));
                if window >= container.first_seen {
                    let judged = window >= judged_from;
                    container
                        .cpu
                        .window(window, *busy_us, judged, &self.settings);
                }
            }
        }
    }
}
