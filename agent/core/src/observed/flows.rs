//! Flow series of the node: connections grouped by container, transport, role, peer and server port.
//!
//! At most [`FLOW_SERIES_MAX`] series; what is new beyond that is added to one overflow series per container, transport and role, so that
//! no connection is lost from the sums and no pod from its own.

use std::collections::BTreeMap;

use crate::declared::Transport;
use crate::id::CgroupId;
use crate::observation::{FlowCounts, FlowRow, Role};
use crate::observed::verdicts::{Judged, Verdicts};
use crate::settings::FLOW_SERIES_MAX;
use crate::snapshot::Peer;
use crate::time::Timestamp;

/// What names a series.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowKey {
    /// The container's cgroup.
    pub container: CgroupId,
    /// TCP or UDP.
    pub transport: Transport,
    /// Which end it is.
    pub role: Role,
    /// The other end.
    pub peer: Peer,
    /// The server's port.
    pub server_port: u16,
    /// This is the container's overflow series.
    pub overflow: bool,
}

impl FlowKey {
    /// The series that takes what finds no place of its own.
    #[must_use]
    pub fn overflow(container: CgroupId, transport: Transport, role: Role) -> Self {
        Self {
            container,
            transport,
            role,
            peer: Peer::unresolved(),
            server_port: 0,
            overflow: true,
        }
    }
}

/// One series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// Counts since `since`.
    pub counts: FlowCounts,
    /// When the series began.
    pub since: Timestamp,
    /// What policies said of it.
    pub verdicts: Verdicts,
}

/// All series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flows {
    series: BTreeMap<FlowKey, Series>,
    /// Of them, those that are not overflow.
    named: usize,
    /// Rows that went into an overflow series here.
    overflowed: u64,
}

impl Flows {
    /// Adds a row to a series, or to the container's overflow series if there is no place for a new one.
    pub fn add(&mut self, key: FlowKey, row: &FlowRow, judged: &Judged, at: Timestamp) {
        let new = !key.overflow && !self.series.contains_key(&key);
        let key = if new && self.named >= FLOW_SERIES_MAX {
            self.overflowed += 1;
            FlowKey::overflow(key.container, key.transport, key.role)
        } else {
            self.named += usize::from(new);
            key
        };
        let series = self.series.entry(key).or_insert_with(|| Series {
            counts: FlowCounts::default(),
            since: at,
            verdicts: Verdicts::default(),
        });
        series.counts.add(&row.counts);
        series.verdicts.add(row, judged, at);
    }

    /// Forgets the series of a container.
    pub fn forget(&mut self, container: CgroupId) {
        self.series.retain(|key, _| key.container != container);
        self.named = self.series.keys().filter(|key| !key.overflow).count();
    }

    /// All series, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&FlowKey, &Series)> {
        self.series.iter()
    }

    /// Rows that found the table full, so far.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        self.overflowed
    }

    /// Series with a peer of their own; at most [`FLOW_SERIES_MAX`].
    #[must_use]
    pub fn named(&self) -> usize {
        self.named
    }
}

#[cfg(test)]
mod tests {
    use super::{FlowKey, Flows};
    use crate::declared::Transport;
    use crate::id::CgroupId;
    use crate::observation::{FlowCounts, FlowRow, Role};
    use crate::observed::verdicts::Judged;
    use crate::settings::FLOW_SERIES_MAX;
    use crate::snapshot::{Peer, PeerKind};
    use crate::time::Timestamp;

    fn key(container: u64, port: u16) -> FlowKey {
        let peer = Peer {
            kind: PeerKind::External,
            namespace: None,
            name: Some("private".into()),
        };
        FlowKey {
            container: CgroupId(container),
            transport: Transport::Tcp,
            role: Role::Client,
            peer,
            server_port: port,
            overflow: false,
        }
    }

    #[test]
    fn nothing_is_lost_from_the_sum_when_the_table_is_full() {
        let one = FlowRow {
            owner: CgroupId(1),
            transport: Transport::Tcp,
            role: Role::Client,
            peer: None,
            server_port: 1,
            counts: FlowCounts {
                connections: 1,
                sent_bytes: 10,
                ..FlowCounts::default()
            },
        };
        let judged = Judged::default();
        let mut flows = Flows::default();
        for round in 0..2 {
            for port in 0..3_000 {
                flows.add(key(1, port), &one, &judged, Timestamp(round));
            }
            flows.add(key(2, 1), &one, &judged, Timestamp(round));
        }
        let sum: u64 = flows
            .iter()
            .map(|(_, series)| series.counts.connections)
            .sum();
        assert_eq!(sum, 6_002);
        assert_eq!(flows.named(), FLOW_SERIES_MAX);
        assert_eq!(flows.overflowed(), 2 * (1_000 + 1));
        let kept = flows
            .iter()
            .filter(|(key, _)| key.container == CgroupId(2))
            .count();
        assert_eq!(
            kept, 1,
            "the other container has an overflow series of its own"
        );
        flows.forget(CgroupId(1));
        assert_eq!((flows.iter().count(), flows.named()), (1, 0));
    }
}
