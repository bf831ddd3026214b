//! One container as [`super::NodeState`] keeps it, and how it becomes a view.

use std::collections::BTreeMap;

use crate::declared::{DeclaredContainer, DeclaredPod, Transport};
use crate::finding::{Coverage, Subject};
use crate::id::{CgroupId, ContainerId, PodUid};
use crate::node::NodeState;
use crate::observation::{CgroupRow, Health};
use crate::observed::cpu::Cpu;
use crate::observed::listeners::{Listeners, ROWS_MAX};
use crate::snapshot::{ContainerView, FlowView, RefusedView};
use crate::time::Timestamp;

/// One container.
#[derive(Clone, Debug)]
pub(super) struct Container {
    pub(super) pod_uid: PodUid,
    pub(super) container_id: ContainerId,
    pub(super) first_seen: Timestamp,
    pub(super) pre_existing: bool,
    pub(super) gone: Option<Timestamp>,
    /// `None` until the kernel side has tried.
    pub(super) attached: Option<Result<(), String>>,
    pub(super) listeners: Listeners,
    /// The last scan of the node could not read all of its processes.
    pub(super) unreadable: bool,
    /// Connections accepted per port; at most [`ROWS_MAX`] ports of each transport.
    accepted: BTreeMap<(Transport, u16), u64>,
    pub(super) refused: Option<RefusedView>,
    pub(super) oom_kills: Option<u64>,
    pub(super) cpu: Cpu,
    /// Its start-up was over at the last look, and nothing was told since that could say otherwise.
    pub(super) is_judged: bool,
    /// What is declared of its CPU, and since when.
    declared_cpu: Option<(DeclaredCpu, Timestamp)>,
}

/// Limit and request in thousandths of a CPU: by the spec, and by the status.
type DeclaredCpu = [Option<u64>; 4];

impl Container {
    pub(super) fn new(pod_uid: PodUid, container_id: ContainerId, first_seen: Timestamp) -> Self {
        Self {
            pod_uid,
            container_id,
            first_seen,
            pre_existing: false,
            gone: None,
            attached: None,
            listeners: Listeners::default(),
            unreadable: false,
            accepted: BTreeMap::new(),
            refused: None,
            oom_kills: None,
            cpu: Cpu::default(),
            is_judged: false,
            declared_cpu: None,
        }
    }

    /// Counts accepted connections. A port that finds no place is not counted here; its flow series is.
    pub(super) fn accepted(&mut self, transport: Transport, port: u16, connections: u64) {
        let key = (transport, port);
        let of_transport = (transport, 0)..=(transport, u16::MAX);
        if self.accepted.contains_key(&key) || self.accepted.range(of_transport).count() < ROWS_MAX
        {
            *self.accepted.entry(key).or_default() += connections;
        }
    }
}

impl NodeState {
    /// Container cgroups in the order of the snapshot.
    pub(super) fn sorted_containers(&self) -> Vec<CgroupId> {
        let mut keyed: Vec<_> = self
            .containers
            .iter()
            .map(|(id, container)| {
                let (pod, index) = self.index.find(&container.pod_uid, &container.container_id);
                let name = pod.map(|pod| (pod.namespace.clone(), pod.name.clone()));
                let of_pod = pod
                    .zip(index)
                    .and_then(|(pod, index)| pod.containers.get(index));
                let container_name = of_pod.map(|declared| declared.name.clone());
                (
                    (
                        name,
                        container.pod_uid.clone(),
                        container_name,
                        container.container_id.clone(),
                    ),
                    *id,
                )
            })
            .collect();
        keyed.sort();
        keyed.into_iter().map(|(_, id)| id).collect()
    }

    /// What is known about one container. `id` must be one of [`Self::sorted_containers`].
    pub(super) fn view(&self, id: CgroupId) -> ContainerView {
        let container = &self.containers[&id];
        let (pod, container_index) = self.index.find(&container.pod_uid, &container.container_id);
        let pod = pod.cloned();
        let declared = pod
            .as_ref()
            .zip(container_index)
            .and_then(|(pod, index)| pod.containers.get(index));
        let started = self.started(container, declared);
        let judged_from = self.judged_from(container);
        let host_network = pod.as_ref().is_some_and(|pod| pod.host_network);
        let dynamic_ports = self.dynamic_ports(id);
        let (listeners, listeners_overflow) =
            container
                .listeners
                .views(host_network, dynamic_ports, &container.accepted);
        let subject = Subject {
            namespace: pod.as_ref().map(|pod| pod.namespace.clone()),
            owner: pod.as_ref().map(|pod| pod.owner.clone()),
            pod: pod.as_ref().map(|pod| pod.name.clone()),
            pod_uid: Some(container.pod_uid.to_string()),
            container: declared.map(|declared| declared.name.clone()),
            container_id: Some(container.container_id.to_string()),
            image: declared
                .map(|declared| declared.image.clone())
                .filter(|image| !image.is_empty()),
        };
        let coverage = self.coverage(container, pod.as_deref());
        let restarts = declared.and_then(|declared| {
            self.restarts
                .of(&container.pod_uid, &declared.name, &container.container_id)
        });
        ContainerView {
            cgroup: id,
            pod_uid: container.pod_uid.clone(),
            container_id: container.container_id.clone(),
            subject,
            container_index,
            pod,
            first_seen: container.first_seen,
            started,
            declared_cpu_since: container.declared_cpu.map(|(_, since)| since),
            gone: container.gone.is_some(),
            is_self: self
                .self_cgroup
                .is_some_and(|own| self.container_above(own) == Some(id)),
            coverage,
            dynamic_ports,
            listeners,
            listeners_overflow,
            refused: container.refused.clone(),
            oom_kills: container.oom_kills,
            restarts,
            cpu: container.cpu.view(judged_from),
        }
    }

    /// Notes which containers' CPU declaration has changed.
    pub(super) fn note_declared_cpu(&mut self, at: Timestamp) {
        for container in self.containers.values_mut() {
            let (pod, index) = self.index.find(&container.pod_uid, &container.container_id);
            let declared = pod.zip(index).and_then(|(pod, index)| {
                let declared = pod.containers.get(index)?;
                Some([
                    declared.cpu_limit_millis,
                    declared.cpu_request_millis,
                    declared.cpu_limit_current_millis,
                    declared.cpu_request_current_millis,
                ])
            });
            container.declared_cpu = match (declared, container.declared_cpu) {
                (Some(now), Some((before, since))) if now == before => Some((before, since)),
                (Some(now), _) => Some((now, at)),
                (None, _) => None,
            };
        }
    }

    /// When a container started, as far as known.
    fn started(
        &self,
        container: &Container,
        declared: Option<&DeclaredContainer>,
    ) -> Option<Timestamp> {
        let started = declared
            .and_then(|declared| declared.started_unix_ns)
            .map(|unix_ns| {
                let clock = self.origin.unwrap_or(self.clock);
                let before = clock.unix_ns.saturating_sub(unix_ns);
                Timestamp(clock.monotonic.0.saturating_sub(before))
            });
        started.or((!container.pre_existing).then_some(container.first_seen))
    }

    /// From when on a container's CPU use is judged: after its start-up.
    pub(super) fn judged_from(&self, container: &Container) -> Timestamp {
        let (pod, index) = self.index.find(&container.pod_uid, &container.container_id);
        let declared = pod
            .zip(index)
            .and_then(|(pod, index)| pod.containers.get(index));
        self.started(container, declared)
            .unwrap_or(container.first_seen)
            .plus(self.settings.cpu_startup_exclusion)
    }

    /// How much of a container's network activity is seen.
    fn coverage(&self, container: &Container, pod: Option<&DeclaredPod>) -> Coverage {
        let named = &self.settings.rules.sandbox_runtime_classes;
        if let Some(class) = pod.and_then(|pod| pod.sandbox(named)) {
            return Coverage::Blind(format!("runtime class {class}: a kernel of its own"));
        }
        let Some(probe) = self.probes.get("tcp") else {
            return Coverage::Blind("the tcp probe has not started".into());
        };
        match (probe.health, &container.attached) {
            (Health::Unsupported | Health::Off, _) => {
                Coverage::Blind(format!("tcp: {}", probe.reason.as_deref().unwrap_or("off")))
            }
            (Health::Ok | Health::Broken, Some(Err(error))) => {
                Coverage::Blind(format!("not attached: {error}"))
            }
            (Health::Ok | Health::Broken, None) => Coverage::Partial("not attached yet".into()),
            (Health::Ok | Health::Broken, Some(Ok(()))) if container.unreadable => {
                Coverage::Partial("unreadable_processes".into())
            }
            (Health::Ok | Health::Broken, Some(Ok(()))) if container.pre_existing => {
                Coverage::PreExisting
            }
            (Health::Ok | Health::Broken, Some(Ok(()))) => Coverage::Full,
        }
    }

    /// Flow series in the order of their containers.
    pub(super) fn flow_views(&self, position: &BTreeMap<CgroupId, usize>) -> Vec<FlowView> {
        let mut views: Vec<FlowView> = self
            .flows
            .iter()
            .filter_map(|(key, series)| {
                Some(FlowView {
                    container: *position.get(&key.container)?,
                    transport: key.transport,
                    role: key.role,
                    peer: key.peer.clone(),
                    server_port: key.server_port,
                    counts: series.counts,
                    verdicts: series.verdicts.clone(),
                    since: series.since,
                    overflow: key.overflow,
                })
            })
            .collect();
        // Within a container the table's own order stands: the sort is stable.
        views.sort_by_key(|view| view.container);
        views
    }

    /// Where a container's cgroup is; `None` if it is not known or gone.
    #[must_use]
    pub fn container_row(&self, id: CgroupId) -> Option<CgroupRow> {
        self.containers
            .get(&id)
            .filter(|container| container.gone.is_none())?;
        let path = self.cgroups.get(&id)?.path.clone();
        Some(CgroupRow { cgroup: id, path })
    }

    /// The cgroups of all containers that are there.
    #[must_use]
    pub fn container_rows(&self) -> Vec<CgroupRow> {
        self.containers
            .keys()
            .filter_map(|id| self.container_row(*id))
            .collect()
    }
}
