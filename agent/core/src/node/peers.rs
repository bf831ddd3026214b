//! Flows that wait for the name of their peer, and how they get it.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use crate::node::NodeState;
use crate::observation::{FlowRow, Health, Role};
use crate::peers::{Answer, Behind, Question, masqueraded};
use crate::rules::ports;
use crate::settings::{PEER_GIVEN_UP_MAX, PEER_LAG_MAX, PEER_WAITING_MAX};
use crate::snapshot::{Peer, PeerKind};
use crate::time::Timestamp;

/// An address that was waited for in vain is not waited for again so soon.
const GIVEN_UP: Duration = Duration::from_secs(60);

/// A row and the time that it is about.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) row: FlowRow,
    pub(super) peer: IpAddr,
    pub(super) since: Timestamp,
    pub(super) at: Timestamp,
}

/// Rows without a name yet, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub(super) struct PeerQueue {
    rows: VecDeque<Waiting>,
    /// Addresses that were waited for in vain, and when that ended.
    given_up: BTreeMap<IpAddr, Timestamp>,
    /// Rows that found the queue full.
    full: u64,
}

impl PeerQueue {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn full(&self) -> u64 {
        self.full
    }

    /// Keeps a row; gives it back when there is no place.
    pub(super) fn push(&mut self, waiting: Waiting) -> Option<Waiting> {
        if self.rows.len() >= PEER_WAITING_MAX {
            self.full += 1;
            return Some(waiting);
        }
        self.rows.push_back(waiting);
        None
    }

    fn give_up(&mut self, peer: IpAddr, now: Timestamp) {
        if self.given_up.len() >= PEER_GIVEN_UP_MAX {
            self.given_up.clear();
        }
        self.given_up.insert(peer, now);
    }

    fn has_given_up(&self, peer: IpAddr, now: Timestamp) -> bool {
        let when = self.given_up.get(&peer);
        when.is_some_and(|when| now.since(*when) < GIVEN_UP)
    }
}

impl NodeState {
    /// Names what can be named by now, or has waited long enough.
    pub(super) fn name_flows(&mut self, now: Timestamp) {
        let behind = self.peers.behind(now);
        for waiting in std::mem::take(&mut self.unnamed.rows) {
            match self.decide(&waiting, now, &behind) {
                Ok(name) => {
                    if name.kind == PeerKind::Unresolved {
                        self.unnamed.give_up(waiting.peer, now);
                    }
                    self.add_flow(&waiting, name);
                }
                Err(_) => self.unnamed.rows.push_back(waiting),
            }
        }
    }

    /// Ends all waiting: what has no name now is counted without one. For the last report.
    pub fn settle(&mut self) {
        for waiting in std::mem::take(&mut self.unnamed.rows) {
            let end = waiting.at.plus(2 * PEER_LAG_MAX);
            let name = self.decide(&waiting, end, &self.peers.behind(end));
            self.add_flow(&waiting, name.unwrap_or_else(|unresolved| unresolved));
        }
    }

    /// The name of a row's peer; what it is called without one while a better name may still come.
    pub(super) fn decide(
        &self,
        waiting: &Waiting,
        now: Timestamp,
        behind: &Behind,
    ) -> Result<Peer, Peer> {
        let Waiting {
            row,
            peer,
            since,
            at,
        } = waiting;
        let answer = self.peers.look_up(&Question {
            address: *peer,
            role: row.role,
            server_port: row.server_port,
            since: *since,
            until: *at,
        });
        let wait = self.may_be_declared() && behind.young.is_some_and(|young| young <= *at);
        match answer {
            Answer::Certain(name) => Ok(self.unless_masqueraded(row, name)),
            Answer::Held { .. } if wait => Err(Peer::unresolved()),
            // It may have been a pod's that was never told, before or after.
            Answer::Held { partly: true, .. } if behind.may_hide_a_change(*since, *at) => {
                Ok(Peer::unresolved())
            }
            Answer::Held { peer, .. } => Ok(self.unless_masqueraded(row, peer)),
            Answer::Several(name) => Ok(name),
            Answer::Nobody(name) if wait => Err(name),
            Answer::Nobody(name) => {
                let patient = self.may_be_declared()
                    && now.since(*at) < PEER_LAG_MAX
                    && !self.unnamed.has_given_up(*peer, now);
                if patient { Err(name) } else { Ok(name) }
            }
        }
    }

    /// Whether there is a declared side, or one to come.
    fn may_be_declared(&self) -> bool {
        let probe = self.probes.get("declared");
        self.declared.is_some() || probe.is_some_and(|status| status.health != Health::Off)
    }

    /// A server sees what comes through a node port from a node's address, whoever sent it.
    fn unless_masqueraded(&self, row: &FlowRow, name: Peer) -> Peer {
        let node = name.kind == PeerKind::Node && row.role == Role::Server;
        if node && self.is_behind_node_port(row) {
            masqueraded()
        } else {
            name
        }
    }

    fn is_behind_node_port(&self, row: &FlowRow) -> bool {
        let container = self.containers.get(&row.owner);
        let (Some(container), Some(declared)) = (container, &self.declared) else {
            return false;
        };
        let (pod, _) = self.index.find(&container.pod_uid, &container.container_id);
        let port = (row.transport, row.server_port);
        pod.is_some_and(|pod| ports::is_behind_node_port(declared, pod, port))
    }
}
