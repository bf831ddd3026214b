//! [`NodeState`]: the one writer. Observations go in by [`NodeState::apply`], a [`Snapshot`] comes out.

mod api_clients;
mod cgroups;
mod containers;
mod cpu;
mod flows;
mod joined;
mod listeners;
mod logs;
mod peers;
mod restarts;
mod verdicts;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::declared::Declared;
use crate::id::{CgroupId, PodUid};
use crate::node::api_clients::ApiClients;
use crate::node::containers::Container;
use crate::node::cpu::PodCpu;
use crate::node::joined::DeclaredIndex;
use crate::node::peers::PeerQueue;
use crate::node::restarts::Restarts;
use crate::node::verdicts::Verdicts;
use crate::observation::{Fact, MemoryEventsRow, Observation, ProbeStatus, Refused, SourceRow};
use crate::observed::flows::Flows;
use crate::observed::host::HostListeners;
use crate::observed::ledger::Ledger;
use crate::observed::logs::Logs;
use crate::observed::node_cpu::NodeCpu;
use crate::peers::PeerTable;
use crate::settings::{
    CGROUPS_MAX, CONTAINERS_MAX, CoreSettings, DECLARED_SOURCES_MAX, NodeIdentity,
    PEER_HISTORY_MAX, PEER_HOLDERS_MAX, PEER_WAITING_MAX,
};
use crate::snapshot::{ContainerView, Dropped, Occupancy, RefusedView, RuleHits, Snapshot};
use crate::time::{ClockAnchor, Timestamp};

/// How long a container whose cgroup is gone stays, so that its last counts leave (Hubble's rule for series).
const LINGER: Duration = Duration::from_secs(60);

/// A cgroup directory that the node is known to have.
#[derive(Clone, Debug)]
struct Cgroup {
    path: String,
    seen: Timestamp,
}

/// Everything known about the node.
#[derive(Clone, Debug)]
pub struct NodeState {
    identity: NodeIdentity,
    settings: CoreSettings,
    clock: ClockAnchor,
    /// The first reading of the clocks, of which zero points of counters are told: one that moved would be a reset.
    origin: Option<ClockAnchor>,
    cgroups: BTreeMap<CgroupId, Cgroup>,
    /// Path of a container's own cgroup -> its id, for cgroups nested in it.
    container_paths: BTreeMap<String, CgroupId>,
    containers: BTreeMap<CgroupId, Container>,
    flows: Flows,
    node_cpu: NodeCpu,
    /// As many as there are pods with containers.
    pods_cpu: BTreeMap<PodUid, PodCpu>,
    declared: Option<Arc<Declared>>,
    sources: Vec<SourceRow>,
    api_clients: ApiClients,
    index: DeclaredIndex,
    peers: PeerTable,
    unnamed: PeerQueue,
    verdicts: Verdicts,
    self_cgroup: Option<CgroupId>,
    host_listeners: HostListeners,
    /// Sockets of the host that no unit could be named for, in the last complete scan.
    host_unknown: u64,
    /// Of containers where the range is not the node's; at most as many as there are containers.
    dynamic_ports: BTreeMap<CgroupId, (u16, u16)>,
    probes: BTreeMap<String, ProbeStatus>,
    ledger: Ledger,
    restarts: Restarts,
    occupancy: BTreeMap<String, (u64, u64)>,
    logs: Logs,
    scans: u32,
}

impl NodeState {
    /// An empty node.
    #[must_use]
    pub fn new(identity: NodeIdentity, settings: CoreSettings) -> Self {
        let peers = PeerTable::new(identity.node.as_deref());
        Self {
            identity,
            settings,
            clock: ClockAnchor {
                monotonic: Timestamp(0),
                unix_ns: 0,
            },
            origin: None,
            cgroups: BTreeMap::new(),
            container_paths: BTreeMap::new(),
            containers: BTreeMap::new(),
            flows: Flows::default(),
            node_cpu: NodeCpu::default(),
            pods_cpu: BTreeMap::new(),
            declared: None,
            sources: Vec::new(),
            api_clients: ApiClients::default(),
            index: DeclaredIndex::default(),
            peers,
            unnamed: PeerQueue::default(),
            verdicts: Verdicts::default(),
            self_cgroup: None,
            host_listeners: HostListeners::default(),
            host_unknown: 0,
            dynamic_ports: BTreeMap::new(),
            probes: BTreeMap::new(),
            ledger: Ledger::default(),
            restarts: Restarts::default(),
            occupancy: BTreeMap::new(),
            logs: Logs::default(),
            scans: 0,
        }
    }

    /// Takes one observation in. Total: nothing that comes in can fail.
    pub fn apply(&mut self, observation: Observation) {
        let at = observation.at;
        self.ledger.deliver("observations", 1);
        match observation.fact {
            Fact::Clock { unix_ns } => self.clock(unix_ns, at),
            Fact::CgroupSeen(row) => self.cgroup_seen(row, at),
            Fact::CgroupGone { cgroup } => self.cgroup_gone(cgroup, at),
            Fact::CgroupTree { rows } => self.cgroup_tree(rows, at),
            Fact::Attached {
                cgroup,
                error,
                pre_existing,
            } => self.attached(cgroup, error, pre_existing),
            Fact::ListenerOpened(event) => self.listener(&event, at, true),
            Fact::ListenerClosed(event) => self.listener(&event, at, false),
            Fact::Listeners {
                scope,
                rows,
                errors,
                unreadable,
            } => {
                if errors > 0 {
                    self.count("listener_scan", "unreadable", u64::from(errors));
                }
                self.listeners_scanned(scope, rows, &unreadable, at);
            }
            Fact::DynamicPorts { rows } => self.dynamic_ports_read(&rows),
            Fact::Flows { rows, since } => self.flows_read(rows, since, at),
            Fact::NodeAddresses { addresses } => self.peers.interfaces(&addresses, at),
            Fact::MemoryEvents { rows } => self.memory_events(&rows),
            Fact::CpuStat { rows, pods, node } => self.cpu_figures(rows, &pods, node, at),
            Fact::CpuWindows {
                start,
                windows,
                lost,
                rows,
                unmeasured,
            } => {
                self.count("cpu_windows", "overwritten", lost.into());
                self.cpu_windows(start, windows, &rows, &unmeasured);
            }
            Fact::Declared(declared) => self.declared(declared, at),
            Fact::CandidatePolicies { policies } => {
                self.verdicts.candidates(policies, self.declared.as_deref());
            }
            Fact::DeclaredSources { rows } => self.sources(rows),
            Fact::Probe(status) => {
                self.probes.insert(status.probe.clone(), status);
            }
            Fact::Dropped {
                place,
                reason,
                count,
            } => self.ledger.dropped(place, reason, count),
            Fact::Delivered { place, count } => self.ledger.delivered(place, count),
            Fact::Refused(told) => self.refused(told, at),
            Fact::Occupancy {
                place,
                entries,
                capacity,
            } => {
                self.occupancy.insert(place, (entries, capacity));
            }
            Fact::Settings(settings) => {
                self.settings = settings;
                self.look_at_start_ups_anew();
            }
            Fact::Logs { rows, lost } => self.logs.read(rows, lost, &self.settings, at),
            Fact::SelfCgroup { cgroup } => self.self_cgroup = Some(cgroup),
        }
    }

    fn clock(&mut self, unix_ns: u64, at: Timestamp) {
        let anchor = ClockAnchor {
            monotonic: at,
            unix_ns,
        };
        self.clock = anchor;
        self.origin.get_or_insert(anchor);
        self.ledger.sample(at);
        self.name_flows(at);
    }

    fn attached(&mut self, cgroup: CgroupId, error: Option<String>, pre_existing: bool) {
        if let Some(container) = self.containers.get_mut(&cgroup) {
            container.attached = Some(error.map_or(Ok(()), Err));
            container.pre_existing = pre_existing;
            container.is_judged = false;
        }
    }

    fn look_at_start_ups_anew(&mut self) {
        for container in self.containers.values_mut() {
            container.is_judged = false;
        }
    }

    fn memory_events(&mut self, rows: &[MemoryEventsRow]) {
        for row in rows {
            if let Some(container) = self.containers.get_mut(&row.cgroup) {
                container.oom_kills = Some(row.oom_kills);
            }
        }
    }

    /// Says that a report as of `now` has been handed to export: peaks begin anew, and containers long gone are forgotten.
    pub fn exported(&mut self, now: Timestamp) {
        for container in self.containers.values_mut() {
            container.cpu.exported();
        }
        let old: Vec<CgroupId> = self
            .containers
            .iter()
            .filter(|(_, container)| container.gone.is_some_and(|gone| now.since(gone) >= LINGER))
            .map(|(id, _)| *id)
            .collect();
        for id in old {
            self.containers.remove(&id);
            self.flows.forget(id);
        }
        self.forget_pods();
    }

    /// The windows and rules in force.
    #[must_use]
    pub const fn settings(&self) -> &CoreSettings {
        &self.settings
    }

    /// What a probe said last.
    #[must_use]
    pub fn probe(&self, name: &str) -> Option<&ProbeStatus> {
        self.probes.get(name)
    }

    /// The node as of `now`.
    #[must_use]
    pub fn snapshot(&self, now: Timestamp) -> Snapshot {
        let ids = self.sorted_containers();
        let position: BTreeMap<CgroupId, usize> = ids
            .iter()
            .enumerate()
            .map(|(index, id)| (*id, index))
            .collect();
        let views: Vec<ContainerView> = ids.iter().map(|id| self.view(*id)).collect();
        Snapshot {
            now,
            wall: self.clock.unix(now),
            node: self.identity.clone(),
            settings: self.settings.clone(),
            origin: self.origin.unwrap_or(self.clock),
            declared: self.declared.clone(),
            sources: self.sources.clone(),
            api_clients: self.api_clients.view(),
            pods_cpu: self.pod_views(&views),
            node_cpu: self.node_cpu.view(),
            logs: self.log_views(now, &views),
            containers: views,
            host_listeners: self.host_listeners.views(),
            host_unknown: self.host_unknown,
            flows: self.flow_views(&position),
            policies: Arc::clone(self.verdicts.policies()),
            rule_hits: self.rule_hit_views(),
            scans: self.scans,
            probes: self.probes.values().cloned().collect(),
            dropped: self.dropped_views(),
            delivered: self.ledger.deliveries(),
            losses: self.ledger.losses(now),
            occupancy: self.occupancy_views(),
            transitions: Vec::new(),
        }
    }

    fn dropped_views(&self) -> Vec<Dropped> {
        let (refused, cut) = self.peers.lost();
        let own = [
            ("flows", "overflow", self.flows.overflowed()),
            ("log_containers", "full", self.logs.left_out()),
            ("peers", "full", refused),
            ("peer_history", "full", cut),
            ("peers_waiting", "full", self.unnamed.full()),
        ];
        let own = own.map(|(place, reason, count)| Dropped {
            place: place.into(),
            reason: reason.into(),
            count,
        });
        let mut drops = self.ledger.drops();
        drops.extend(own.into_iter().filter(|own| own.count > 0));
        drops.sort_by(|a, b| (&a.place, &a.reason).cmp(&(&b.place, &b.reason)));
        drops
    }

    fn occupancy_views(&self) -> Vec<Occupancy> {
        let mut places = self.occupancy.clone();
        places.insert(
            "containers".into(),
            (self.containers.len() as u64, CONTAINERS_MAX as u64),
        );
        places.insert(
            "cgroups".into(),
            (self.cgroups.len() as u64, CGROUPS_MAX as u64),
        );
        let series = (
            self.flows.named() as u64,
            crate::settings::FLOW_SERIES_MAX as u64,
        );
        places.insert("flow_series".into(), series);
        let (peers, former) = self.peers.occupancy();
        for (place, entries, capacity) in [
            ("log_containers", self.logs.len(), CONTAINERS_MAX),
            ("peers", peers, PEER_HOLDERS_MAX),
            ("peer_history", former, PEER_HISTORY_MAX),
            ("peers_waiting", self.unnamed.len(), PEER_WAITING_MAX),
        ] {
            places.insert(place.into(), (entries as u64, capacity as u64));
        }
        let view = |(place, (entries, capacity))| Occupancy {
            place,
            entries,
            capacity,
        };
        places.into_iter().map(view).collect()
    }

    fn rule_hit_views(&self) -> Vec<RuleHits> {
        let view = |(policy, direction, rule, connections)| RuleHits {
            policy,
            direction,
            rule,
            connections,
        };
        let present = self.containers.values().filter(|one| one.gone.is_none());
        let pods = present.map(|container| &container.pod_uid).collect();
        self.verdicts
            .rule_hits(&pods)
            .into_iter()
            .map(view)
            .collect()
    }

    fn count(&mut self, place: &str, reason: &str, more: u64) {
        self.ledger.drop(place, reason, more);
    }

    /// A container was refused something. What is told again is not news.
    fn refused(&mut self, told: Refused, at: Timestamp) {
        let Some(container) = self.containers.get_mut(&told.cgroup) else {
            return;
        };
        let known = container.refused.get_or_insert(RefusedView {
            flows: 0,
            listeners: 0,
            udp_flows: 0,
            udp_sockets: 0,
            connections: 0,
            last: at,
        });
        let mut more = false;
        for (known, told) in [
            (&mut known.flows, told.flows),
            (&mut known.listeners, told.listeners),
            (&mut known.udp_flows, told.udp_flows),
            (&mut known.udp_sockets, told.udp_sockets),
            (&mut known.connections, told.connections),
        ] {
            more |= told > *known;
            *known = told.max(*known);
        }
        if more {
            known.last = at;
        }
    }

    fn sources(&mut self, mut rows: Vec<SourceRow>) {
        rows.sort_by(|a, b| a.source.cmp(&b.source));
        let over = rows.len().saturating_sub(DECLARED_SOURCES_MAX);
        self.count("declared_sources", "full", over as u64);
        rows.truncate(DECLARED_SOURCES_MAX);
        self.sources = rows;
    }

    fn declared(&mut self, declared: Declared, at: Timestamp) {
        self.index = DeclaredIndex::new(&declared);
        self.peers.declared(&declared, at);
        self.verdicts
            .declared(self.declared.as_deref(), &declared, at);
        let own = declared.pods.iter().flat_map(|pod| {
            let uids = pod.uid.iter().chain(&pod.config_hash);
            let peer = self.peers.own_pod(pod);
            uids.filter_map(move |uid| Some((uid.clone(), Arc::clone(peer?))))
        });
        self.verdicts.note_pods(own, at);
        self.api_clients.declared(&declared);
        self.declared = Some(Arc::new(declared));
        self.look_at_start_ups_anew();
        self.note_restarts();
        self.forget_api_clients();
    }
}

#[cfg(test)]
mod tests;
