//! Flows, named and added up.

use crate::node::NodeState;
use crate::observation::{FlowRow, Role};
use crate::observed::flows::FlowKey;
use crate::time::Timestamp;

impl NodeState {
    pub(super) fn flow(&mut self, row: &FlowRow, at: Timestamp) {
        let Some(container) = self.containers.get_mut(&row.owner) else {
            return self.count("flows", "unattributed", 1);
        };
        if row.role == Role::Server && row.peer.is_some() {
            container.accepted(row.transport, row.server_port, row.counts.connections);
        }
        let key = match row.peer {
            Some(peer) => FlowKey {
                container: row.owner,
                transport: row.transport,
                role: row.role,
                peer: self.peers.name(peer),
                server_port: row.server_port,
                overflow: false,
            },
            None => FlowKey::overflow(row.owner, row.transport, row.role),
        };
        self.flows.add(key, &row.counts, at);
    }
}
