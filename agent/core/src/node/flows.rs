//! Flows, added up by container, role, peer and server port.

use std::time::Duration;

use crate::node::NodeState;
use crate::node::peers::Waiting;
use crate::observation::{FlowRow, Role};
use crate::observed::flows::FlowKey;
use crate::observed::verdicts::Judged;
use crate::peers::Behind;
use crate::snapshot::Peer;
use crate::time::Timestamp;

/// What a row of a recording without that field covers: the readings before the last two, a second each, and one to spare.
const FLOW_ROW_SPAN: Duration = Duration::from_secs(3);

impl NodeState {
    /// Takes in what was counted from `since`, if that is known, until `at`.
    pub(super) fn flows_read(
        &mut self,
        rows: Vec<FlowRow>,
        since: Option<Timestamp>,
        at: Timestamp,
    ) {
        let since = since.unwrap_or_else(|| at.minus(FLOW_ROW_SPAN));
        let behind = self.peers.behind(at);
        rows.into_iter()
            .for_each(|row| self.flow(row, since, at, &behind));
    }

    /// Counts a row to its series, or keeps it until its peer has a name.
    fn flow(&mut self, row: FlowRow, since: Timestamp, at: Timestamp, behind: &Behind) {
        let Some(container) = self.containers.get_mut(&row.owner) else {
            return self.count("flows", "unattributed", 1);
        };
        let Some(peer) = row.peer else {
            self.note_api_use(&row, None);
            let key = FlowKey::overflow(row.owner, row.transport, row.role);
            return self.flows.add(key, &row, &Judged::default(), at);
        };
        if row.role == Role::Server {
            container.accepted(row.transport, row.server_port, row.counts.connections);
        }
        let waiting = Waiting {
            row,
            peer,
            since,
            at,
        };
        match self.decide(&waiting, at, behind) {
            Ok(name) => self.add_flow(&waiting, name),
            Err(unresolved) => {
                if let Some(waiting) = self.unnamed.push(waiting) {
                    self.add_flow(&waiting, unresolved);
                }
            }
        }
    }

    /// Counts a row to the series of a peer.
    pub(super) fn add_flow(&mut self, waiting: &Waiting, peer: Peer) {
        let row = &waiting.row;
        if !self.containers.contains_key(&row.owner) {
            return self.count("flows", "unattributed", 1);
        }
        let judged = self.judge(waiting, &peer);
        self.note_api_use(row, Some(&peer));
        let key = FlowKey {
            container: row.owner,
            transport: row.transport,
            role: row.role,
            peer,
            server_port: row.server_port,
            overflow: false,
        };
        self.flows.add(key, row, &judged, waiting.at);
    }
}
