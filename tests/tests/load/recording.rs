//! What the agent recorded of a run: every fact that its sources told.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::path::Path;

use plumbline_core::id::CgroupId;
use plumbline_core::observation::{Fact, FlowCounts, Observation, Role};
use plumbline_tests::pods::Container;
use plumbline_tests::traffic::{Counts, Tally};

/// All facts of a run.
pub(crate) struct Recording(pub(crate) Vec<Observation>);

/// What a flow is counted by.
type Flow = (Role, Option<IpAddr>, u16);

impl Recording {
    pub(crate) fn read(path: &Path) -> Self {
        let lines = BufReader::new(File::open(path).unwrap()).lines();
        let observations = lines
            .skip(1)
            .map(|line| serde_json::from_str(&line.unwrap()).unwrap());
        Self(observations.collect())
    }

    /// Counts of a container by flow, summed over the run.
    pub(crate) fn flows(&self, owner: &Container) -> BTreeMap<Flow, FlowCounts> {
        let id = CgroupId(owner.cgroup_id());
        let mut flows: BTreeMap<_, FlowCounts> = BTreeMap::new();
        for observation in &self.0 {
            if let Fact::Flows { rows } = &observation.fact {
                for row in rows.iter().filter(|row| row.owner == id) {
                    flows
                        .entry((row.role, row.peer, row.server_port))
                        .or_default()
                        .add(&row.counts);
                }
            }
        }
        flows
    }

    /// Cgroups to which anything is credited.
    pub(crate) fn owners(&self) -> Vec<CgroupId> {
        let rows = self
            .0
            .iter()
            .filter_map(|observation| match &observation.fact {
                Fact::Flows { rows } => Some(rows),
                _ => None,
            });
        let mut owners: Vec<CgroupId> = rows.flatten().map(|row| row.owner).collect();
        owners.sort_unstable();
        owners.dedup();
        owners
    }

    /// All of a container's connections of one role, whatever became of their peers.
    pub(crate) fn total(&self, owner: &Container, role: Role) -> Counts {
        let mut total = FlowCounts::default();
        for ((of, ..), counts) in self.flows(owner) {
            if of == role {
                total.add(&counts);
            }
        }
        assert_eq!(total.connections, total.closed, "{role:?}: all are closed");
        counts(&total)
    }

    /// Holds each flow of a container against what its process counted: equal to the last byte, and nothing else.
    pub(crate) fn assert_exact(&self, owner: &Container, tally: &Tally) {
        let wanted: BTreeMap<Flow, Counts> = tally
            .by_key()
            .into_iter()
            .map(|(key, counts)| {
                let role = if key.client {
                    Role::Client
                } else {
                    Role::Server
                };
                ((role, Some(key.peer), key.server_port), counts)
            })
            .collect();
        let told: BTreeMap<Flow, Counts> = self
            .flows(owner)
            .iter()
            .map(|(flow, told)| (*flow, counts(told)))
            .collect();
        assert_eq!(
            told,
            wanted,
            "{}: told (left), counted (right)",
            owner.name()
        );
    }

    /// The last count of each loss that is not zero, by place and reason.
    pub(crate) fn dropped(&self) -> BTreeMap<(String, String), u64> {
        let mut dropped = BTreeMap::new();
        for observation in &self.0 {
            if let Fact::Dropped {
                place,
                reason,
                count,
            } = &observation.fact
            {
                dropped.insert((place.clone(), reason.clone()), *count);
            }
        }
        dropped.retain(|_, count| *count > 0);
        dropped
    }
}

fn counts(flow: &FlowCounts) -> Counts {
    Counts {
        connections: flow.closed,
        failures: flow.failures,
        sent_bytes: flow.sent_bytes,
        received_bytes: flow.received_bytes,
    }
}
