//! Tells states once and when they change, and everything again after a while, so that a lost fact heals.

use std::collections::BTreeMap;

use plumbline_core::id::CgroupId;
use plumbline_core::observation::{Fact, ProbeStatus, Refused};

use crate::clock;
use crate::sources::Sink;

/// Tells the places of this source from those of others.
const PREFIX: &str = "ebpf.";

/// What was told last about each state.
#[derive(Debug)]
pub(super) struct Reporter {
    sink: Sink,
    told: BTreeMap<String, Fact>,
}

impl Reporter {
    pub(super) const fn new(sink: Sink) -> Self {
        Self {
            sink,
            told: BTreeMap::new(),
        }
    }

    /// How a probe is.
    pub(super) fn probe(&mut self, status: &ProbeStatus) {
        self.tell(
            format!("probe {}", status.probe),
            Fact::Probe(status.clone()),
        );
    }

    /// How much one thing has lost in all.
    pub(super) fn dropped(&mut self, place: &str, reason: &str, count: u64) {
        let fact = Fact::Dropped {
            place: format!("{PREFIX}{place}"),
            reason: reason.to_owned(),
            count,
        };
        self.tell(format!("dropped {place} {reason}"), fact);
    }

    /// How much of one thing arrived in all.
    pub(super) fn delivered(&mut self, place: &str, count: u64) {
        let fact = Fact::Delivered {
            place: format!("{PREFIX}{place}"),
            count,
        };
        self.tell(format!("delivered {place}"), fact);
    }

    /// How often a container was refused something because it had used up its share.
    pub(super) fn refused(&mut self, cgroup: CgroupId, flows: u64, listeners: u64) {
        let refused = Refused {
            cgroup,
            flows,
            listeners,
            ..Refused::default()
        };
        self.tell(format!("refused tcp {}", cgroup.0), Fact::Refused(refused));
    }

    /// The same of UDP.
    pub(super) fn refused_udp(&mut self, cgroup: CgroupId, flows: u64, sockets: u64) {
        let refused = Refused {
            cgroup,
            udp_flows: flows,
            udp_sockets: sockets,
            ..Refused::default()
        };
        self.tell(format!("refused udp {}", cgroup.0), Fact::Refused(refused));
    }

    /// The same of connections that could not be followed.
    pub(super) fn refused_connections(&mut self, cgroup: CgroupId, connections: u64) {
        let refused = Refused {
            cgroup,
            connections,
            ..Refused::default()
        };
        let key = format!("refused connections {}", cgroup.0);
        self.tell(key, Fact::Refused(refused));
    }

    /// How full one thing is.
    pub(super) fn occupancy(&mut self, place: &str, (entries, capacity): (u64, u64)) {
        let fact = Fact::Occupancy {
            place: format!("{PREFIX}{place}"),
            entries,
            capacity,
        };
        self.tell(format!("occupancy {place}"), fact);
    }

    /// Everything is told again, the next time it comes up.
    pub(super) fn forget(&mut self) {
        self.told.clear();
    }

    fn tell(&mut self, key: String, fact: Fact) {
        if self.told.get(&key) != Some(&fact) && self.sink.send(clock::monotonic(), fact.clone()) {
            self.told.insert(key, fact);
        }
    }
}

#[cfg(test)]
mod tests {
    use plumbline_core::observation::Fact;

    use super::Reporter;
    use crate::sources::Sink;

    #[test]
    fn a_state_is_told_when_it_changes_and_after_forgetting() {
        let (sink, mut facts) = Sink::new();
        let mut reporter = Reporter::new(sink);
        for count in [0, 0, 3, 3] {
            reporter.dropped("events", "full", count);
        }
        reporter.forget();
        reporter.dropped("events", "full", 3);
        let mut counts = Vec::new();
        while let Ok(observation) = facts.try_recv() {
            if let Fact::Dropped { count, .. } = observation.fact {
                counts.push(count);
            }
        }
        assert_eq!(counts, [0, 3, 3]);
    }
}
