//! The core with its clock ticks and its recording. A live node and a replay go through the same [`Engine::take`], so that
//! equal observations give equal output.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use plumbline_core::finding::Finding;
use plumbline_core::findings::{Findings, Remembered};
use plumbline_core::id::CgroupId;
use plumbline_core::node::NodeState;
use plumbline_core::observation::{CgroupRow, Fact, Observation};
use plumbline_core::report::{self, Report};
use plumbline_core::rules;
use plumbline_core::settings::{FINDINGS_MAX, FINDINGS_PAST_MAX};
use plumbline_core::snapshot::{Dropped, Occupancy, Snapshot};
use plumbline_core::time::Timestamp;

use crate::record::{Header, Recorder};

/// What came of one clock tick.
#[derive(Debug)]
pub struct Evaluation {
    /// The node as of the tick.
    pub snapshot: Arc<Snapshot>,
    /// Findings that opened, changed or resolved.
    pub transitions: Vec<Finding>,
    /// Every open finding.
    pub open: Vec<Finding>,
    /// Every hidden finding.
    pub suppressed: Vec<Finding>,
    /// The report, when one is due.
    pub report: Option<Report>,
}

/// The core and its recording.
#[derive(Debug)]
pub struct Engine {
    state: NodeState,
    findings: Findings,
    recorder: Option<Recorder>,
    export_interval: Duration,
    reported: Option<Timestamp>,
}

impl Engine {
    /// An engine that knows nothing yet. The recorder, if any, has the same header.
    #[must_use]
    pub fn new(header: &Header, recorder: Option<Recorder>) -> Self {
        Self {
            state: NodeState::new(header.node.clone(), header.settings.clone()),
            findings: Findings::default(),
            recorder,
            export_interval: header.export_interval,
            reported: None,
        }
    }

    /// Takes one observation. A clock tick is also the moment at which rules are evaluated.
    pub fn take(&mut self, observation: Observation) -> Option<Evaluation> {
        if let Some(recorder) = &mut self.recorder {
            recorder.write(&observation);
        }
        let tick = matches!(observation.fact, Fact::Clock { .. }).then_some(observation.at);
        self.state.apply(observation);
        tick.map(|now| self.evaluate(now))
    }

    fn evaluate(&mut self, now: Timestamp) -> Evaluation {
        let mut snapshot = self.state.snapshot(now);
        let transitions = self.findings.update(rules::evaluate(&snapshot), &snapshot);
        self.tell_of_findings(&mut snapshot);
        let open = self.findings.open();
        let suppressed = self.findings.suppressed();
        let due = now.since(*self.reported.get_or_insert(now)) >= self.export_interval;
        let report = due.then(|| {
            self.reported = Some(now);
            self.state.exported(now);
            report::build(&snapshot, &self.all_findings())
        });
        Evaluation {
            snapshot: Arc::new(snapshot),
            transitions,
            open,
            suppressed,
            report,
        }
    }

    fn all_findings(&self) -> Vec<Finding> {
        let mut all = self.findings.open();
        all.extend(self.findings.suppressed());
        all
    }

    /// What the life of findings adds to a snapshot: the rules have judged the rest of it.
    fn tell_of_findings(&self, snapshot: &mut Snapshot) {
        snapshot.transitions = self.findings.transitions();
        let (open, past) = self.findings.held();
        for (place, entries, capacity, lost) in [
            ("findings", open, FINDINGS_MAX, self.findings.dropped()),
            (
                "findings_past",
                past,
                FINDINGS_PAST_MAX,
                self.findings.forgotten(),
            ),
        ] {
            snapshot.occupancy.push(Occupancy {
                place: place.into(),
                entries: entries as u64,
                capacity: capacity as u64,
            });
            if lost > 0 {
                snapshot.dropped.push(Dropped {
                    place: place.into(),
                    reason: "full".into(),
                    count: lost,
                });
            }
        }
    }

    /// Takes in what an earlier run of the agent remembered. A replay does not: it begins with what was recorded. Returns
    /// how many findings found no place or have no rule in this version.
    pub fn restore(&mut self, remembered: Remembered) -> u64 {
        self.findings.restore(remembered)
    }

    /// What the next run is to remember; see [`Findings::remember`].
    #[must_use]
    pub fn remember(&self, snapshot: &Snapshot, unsure: &BTreeMap<String, Finding>) -> Remembered {
        self.findings.remember(snapshot.now, snapshot.wall, unsure)
    }

    /// A report as of `now`, due or not: the last one before the agent ends, and the one that ends a replay. Flows that still
    /// wait for the name of their peer are counted without one.
    #[must_use]
    pub fn last_report(&mut self, now: Timestamp) -> Report {
        self.state.settle();
        let mut snapshot = self.state.snapshot(now);
        self.tell_of_findings(&mut snapshot);
        report::build(&snapshot, &self.all_findings())
    }

    /// Where a container's cgroup is; `None` if it is not known or gone.
    #[must_use]
    pub fn container(&self, cgroup: CgroupId) -> Option<CgroupRow> {
        self.state.container_row(cgroup)
    }

    /// The ports that the kernel gives out by itself in a container.
    #[must_use]
    pub fn dynamic_ports(&self, container: CgroupId) -> (u16, u16) {
        self.state.dynamic_ports(container)
    }

    /// The containers in which they are not those of the node.
    #[must_use]
    pub const fn other_dynamic_ports(&self) -> &BTreeMap<CgroupId, (u16, u16)> {
        self.state.other_dynamic_ports()
    }

    /// The cgroups of all containers that are there.
    #[must_use]
    pub fn containers(&self) -> Vec<CgroupRow> {
        self.state.container_rows()
    }

    /// Observations that could not be recorded.
    #[must_use]
    pub fn unrecorded(&self) -> u64 {
        self.recorder.as_ref().map_or(0, Recorder::lost)
    }

    /// Writes what of the recording is still in memory.
    pub fn flush(&mut self) {
        if let Some(recorder) = &mut self.recorder {
            recorder.flush();
        }
    }
}
