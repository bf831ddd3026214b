//! Pods of this node: when they have processes, and whether their addresses are known.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::declared::DeclaredPod;
use crate::id::{ContainerId, PodUid};
use crate::peers::history::Holder;
use crate::peers::{PeerTable, holder_of};
use crate::settings::{CONTAINERS_MAX, PEER_LAG_MAX};
use crate::time::Timestamp;

/// How long a life that is over is remembered beyond its declaration.
const OVER_KEPT: Duration = Duration::from_secs(60);

/// Lives remembered, those over among them. When full, those over are forgotten.
const LIVES_MAX: usize = 4 * CONTAINERS_MAX;

/// Pods without a known address. Further ones are not told apart: see [`Lives::untracked`].
const UNADDRESSED_MAX: usize = CONTAINERS_MAX;

/// The time in which a pod has containers without a gap.
#[derive(Clone, Debug)]
pub(super) struct Life {
    /// When its first container was seen.
    pub(super) since: Timestamp,
    /// Its containers that are there. None: the life is over.
    containers: BTreeSet<ContainerId>,
    /// When the last of them went.
    over: Timestamp,
    /// The pod had no life before: its address cannot be that of a former sandbox.
    first: bool,
    /// What it holds.
    held: Vec<IpAddr>,
    holder: Option<Holder>,
}

impl Life {
    /// Whether what the declared side says of the pod's address is about this life.
    pub(super) fn is_addressed_by(&self, pod: &DeclaredPod) -> bool {
        let known = |id: &ContainerId| self.containers.contains(id);
        let mut ids = pod
            .containers
            .iter()
            .filter_map(|container| container.container_id.as_ref());
        !self.containers.is_empty()
            && (pod.host_network || !pod.ips.is_empty())
            && (self.first || pod.host_network || ids.any(known))
    }
}

/// Pods without a known address: whatever was seen from then on may be theirs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    /// Since when there has been one that is so new that its address will still come.
    pub young: Option<Timestamp>,
    /// When such pods began and ended, sorted: then an address may have passed from or to one of them.
    changes: Vec<Timestamp>,
    /// Up to here some of them found no place.
    untracked: Option<Timestamp>,
}

impl Behind {
    /// Whether an address may have changed hands in the span without anybody being told.
    pub(crate) fn may_hide_a_change(&self, since: Timestamp, until: Timestamp) -> bool {
        let first = self.changes.partition_point(|change| *change < since);
        let within = self
            .changes
            .get(first)
            .is_some_and(|change| *change <= until);
        within || self.untracked.is_some_and(|untracked| since <= untracked)
    }
}

/// All lives.
#[derive(Clone, Debug, Default)]
pub(super) struct Lives {
    lives: BTreeMap<PodUid, Life>,
    /// Lives whose address is not known, by pod and beginning, and when they ended.
    unaddressed: BTreeMap<(PodUid, Timestamp), Option<Timestamp>>,
    /// The last time at which a pod without a known address found no place.
    untracked: Option<Timestamp>,
}

impl Lives {
    pub(super) fn get(&self, uid: &PodUid) -> Option<&Life> {
        self.lives.get(uid)
    }

    /// Forgets pods that are neither there nor declared any more. They may come back for a while.
    pub(super) fn forget(&mut self, now: Timestamp, declared: impl Fn(&PodUid) -> bool) {
        self.lives.retain(|uid, life| {
            !life.containers.is_empty() || now.since(life.over) < OVER_KEPT || declared(uid)
        });
    }

    /// Holders that are there and not declared, as they name themselves.
    pub(super) fn alive_without(&self, declared: impl Fn(&PodUid) -> bool) -> BTreeSet<Holder> {
        let undeclared = self.lives.iter().filter(|(uid, _)| !declared(uid));
        undeclared
            .filter(|(_, life)| !life.containers.is_empty())
            .filter_map(|(_, life)| life.holder.clone())
            .collect()
    }

    pub(super) fn behind(&self, now: Timestamp) -> Behind {
        let since = self.unaddressed.keys().map(|(_, since)| *since);
        let young = since
            .clone()
            .filter(|since| now.since(*since) < PEER_LAG_MAX);
        let over = self.unaddressed.values().filter_map(|over| *over);
        let young = young.min();
        let mut changes: Vec<Timestamp> = since.chain(over).collect();
        changes.sort_unstable();
        Behind {
            young,
            changes,
            untracked: self.untracked,
        }
    }

    /// A container of the pod is there.
    fn appeared(&mut self, uid: &PodUid, container: &ContainerId, at: Timestamp) {
        if !self.lives.contains_key(uid) && self.lives.len() >= LIVES_MAX {
            self.lives.retain(|_, life| !life.containers.is_empty());
            self.untracked = Some(at);
        }
        let new = Life {
            since: at,
            containers: BTreeSet::new(),
            over: at,
            first: true,
            held: Vec::new(),
            holder: None,
        };
        let life = match self.lives.get_mut(uid) {
            Some(life) if life.containers.is_empty() => {
                *life = Life {
                    first: false,
                    ..new
                };
                life
            }
            Some(life) => life,
            None => self.lives.entry(uid.clone()).or_insert(new),
        };
        let began = life.containers.is_empty();
        life.containers.insert(container.clone());
        if began {
            self.unaddressed(uid, at);
        }
    }

    fn unaddressed(&mut self, uid: &PodUid, since: Timestamp) {
        self.unaddressed
            .retain(|_, over| over.is_none_or(|over| since.since(over) < OVER_KEPT));
        if self.unaddressed.len() < UNADDRESSED_MAX {
            self.unaddressed.insert((uid.clone(), since), None);
        } else {
            self.untracked = Some(since);
        }
    }

    /// A container of the pod is gone. Returns what the pod held, if it was the last.
    fn gone(
        &mut self,
        uid: &PodUid,
        container: &ContainerId,
        at: Timestamp,
    ) -> Option<(Holder, Vec<IpAddr>)> {
        let life = self.lives.get_mut(uid)?;
        if !life.containers.remove(container) || !life.containers.is_empty() {
            return None;
        }
        life.over = at;
        if let Some(over) = self.unaddressed.get_mut(&(uid.clone(), life.since)) {
            *over = Some(at);
        }
        let held = std::mem::take(&mut life.held);
        life.holder.take().map(|holder| (holder, held))
    }
}

impl PeerTable {
    /// A container of a pod of this node is there.
    pub fn container_appeared(&mut self, uid: &PodUid, container: &ContainerId, at: Timestamp) {
        self.lives.appeared(uid, container, at);
        if let Some(pod) = self.pods.get(uid).cloned() {
            self.address(uid, &pod, at);
        }
    }

    /// A container of a pod of this node is gone; with the last one the pod's address is free for others.
    pub fn container_gone(&mut self, uid: &PodUid, container: &ContainerId, at: Timestamp) {
        if let Some((holder, held)) = self.lives.gone(uid, container, at) {
            self.history.close_of(at, &held, &holder);
        }
    }

    /// Notes which lives the declared side has told the addresses of.
    pub(super) fn address_lives(&mut self, at: Timestamp) {
        let alive = self.lives.lives.iter();
        let declared: Vec<(PodUid, Arc<DeclaredPod>)> = alive
            .filter_map(|(uid, _)| Some((uid.clone(), Arc::clone(self.pods.get(uid)?))))
            .collect();
        for (uid, pod) in declared {
            self.address(&uid, &pod, at);
        }
    }

    /// Takes what the declared side says of a pod's address, if it is about its present life.
    fn address(&mut self, uid: &PodUid, pod: &Arc<DeclaredPod>, at: Timestamp) {
        let name = self.pod_name(pod);
        let Some(life) = self.lives.lives.get_mut(uid) else {
            return;
        };
        if !life.is_addressed_by(pod) {
            return;
        }
        let holder = holder_of(pod);
        life.held = pod.ips.iter().map(IpAddr::to_canonical).collect();
        life.holder = Some(holder.clone());
        let (since, held) = (life.since, life.held.clone());
        self.lives.unaddressed.remove(&(uid.clone(), since));
        for address in held {
            self.history.open(address, &holder, &name, since, at);
        }
    }
}
