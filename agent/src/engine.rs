//! The core with its clock ticks and its recording. A live node and a replay go through the same [`Engine::take`], so that
//! equal observations give equal output.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use plumbline_core::finding::Finding;
use plumbline_core::findings::{Findings, Remembered};
use plumbline_core::id::CgroupId;
use plumbline_core::node::NodeState;
use plumbline_core::observation::{CgroupRow, Fact, Observation};
use plumbline_core::report::{self, Report};
use plumbline_core::rules;
use plumbline_core::settings::{FINDINGS_MAX, FINDINGS_PAST_MAX, Grace};
use plumbline_core::snapshot::{Dropped, Occupancy, Snapshot};
use plumbline_core::time::Timestamp;

use crate::record::{Header, Recorder};

/// What no news has come of is evaluated this often: conditions grow old by themselves.
const QUIET: Duration = Duration::from_secs(5);
/// But at least this often within the grace of a condition, which must not end much later than asked for.
const PER_GRACE: u32 = 6;

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
    evaluated: Option<Timestamp>,
    /// The last tick, if nothing was evaluated at it.
    skipped: Option<Timestamp>,
    /// Since the last evaluation something came that is not told all the time.
    news: bool,
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
            evaluated: None,
            skipped: None,
            news: false,
        }
    }

    /// Takes one observation. A clock tick is also the moment at which rules are evaluated: at once after news, and every few
    /// seconds without.
    pub fn take(&mut self, observation: Observation) -> Option<Evaluation> {
        if let Some(recorder) = &mut self.recorder {
            recorder.write(&observation);
        }
        let tick = matches!(observation.fact, Fact::Clock { .. }).then_some(observation.at);
        self.news |= self.is_news(&observation.fact);
        self.state.apply(observation);
        let now = tick?;
        if self.is_due(now) {
            return Some(self.evaluate(now));
        }
        self.skipped = Some(now);
        None
    }

    /// Evaluates at the last tick, unless that was done.
    pub fn catch_up(&mut self) -> Option<Evaluation> {
        let now = self.skipped?;
        Some(self.evaluate(now))
    }

    /// Whether the fact is more than what is told every few seconds on a node where nothing happens.
    fn is_news(&self, fact: &Fact) -> bool {
        match fact {
            Fact::Clock { .. }
            | Fact::CpuStat { .. }
            | Fact::CpuWindows { .. }
            | Fact::MemoryEvents { .. }
            | Fact::Flows { .. }
            | Fact::DeclaredSources { .. }
            | Fact::Dropped { .. }
            | Fact::Delivered { .. }
            | Fact::Refused(_)
            | Fact::Occupancy { .. }
            | Fact::Logs { .. }
            | Fact::CgroupTree { .. }
            | Fact::DynamicPorts { .. }
            | Fact::NodeAddresses { .. }
            | Fact::SelfCgroup { .. } => false,
            Fact::Probe(status) => self.state.probe(&status.probe) != Some(status),
            Fact::Settings(_)
            | Fact::CgroupSeen(_)
            | Fact::CgroupGone { .. }
            | Fact::Attached { .. }
            | Fact::ListenerOpened(_)
            | Fact::ListenerClosed(_)
            | Fact::Listeners { .. }
            | Fact::Declared(_)
            | Fact::CandidatePolicies { .. } => true,
        }
    }

    fn is_due(&self, now: Timestamp) -> bool {
        let Some(last) = self.evaluated else {
            return true;
        };
        let quiet = match self.state.settings().grace {
            Grace::Time(grace) => QUIET.min(grace / PER_GRACE),
            Grace::Scans(_) => Duration::ZERO,
        };
        self.news || now.since(last) >= quiet || self.is_report_due(now)
    }

    fn is_report_due(&self, now: Timestamp) -> bool {
        let since = self.reported.map(|last| now.since(last));
        since.is_some_and(|since| since >= self.export_interval)
    }

    fn evaluate(&mut self, now: Timestamp) -> Evaluation {
        self.evaluated = Some(now);
        self.skipped = None;
        self.news = false;
        let mut snapshot = self.state.snapshot(now);
        let transitions = self.findings.update(rules::evaluate(&snapshot), &snapshot);
        self.tell_of_findings(&mut snapshot);
        let open = self.findings.open();
        let suppressed = self.findings.suppressed();
        let report = self.is_report_due(now).then(|| {
            self.reported = Some(now);
            self.state.exported(now);
            report::build(&snapshot, &self.all_findings())
        });
        self.reported.get_or_insert(now);
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

    /// The containers with UDP servers.
    #[must_use]
    pub fn udp_servers(&self) -> BTreeSet<CgroupId> {
        self.state.udp_servers()
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

#[cfg(test)]
mod tests {
    use plumbline_core::observation::{Health, ProbeStatus};
    use plumbline_core::settings::{CoreSettings, NodeIdentity};

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn engine(grace: Grace) -> Engine {
        let settings = CoreSettings {
            grace,
            ..CoreSettings::default()
        };
        let header = Header::new(NodeIdentity::default(), settings, Duration::from_secs(17));
        Engine::new(&header, None)
    }

    fn take(engine: &mut Engine, second: u64, fact: Fact) -> Option<Evaluation> {
        let at = Timestamp(second * SECOND);
        engine.take(Observation { at, fact })
    }

    fn tick(engine: &mut Engine, second: u64) -> Option<Evaluation> {
        let unix_ns = second * SECOND;
        take(engine, second, Fact::Clock { unix_ns })
    }

    fn evaluated(engine: &mut Engine, seconds: std::ops::Range<u64>) -> Vec<u64> {
        let mut seconds = Vec::from_iter(seconds);
        seconds.retain(|second| tick(engine, *second).is_some());
        seconds
    }

    #[test]
    fn without_news_every_fifth_second_is_evaluated_and_when_a_report_is_due() {
        let mut engine = engine(Grace::Time(Duration::from_secs(60)));
        assert_eq!(evaluated(&mut engine, 0..25), [0, 5, 10, 15, 17, 22]);
    }

    #[test]
    fn a_short_grace_and_one_in_scans_are_evaluated_each_second() {
        for grace in [Grace::Time(Duration::from_secs(1)), Grace::Scans(2)] {
            assert_eq!(evaluated(&mut engine(grace), 0..5), [0, 1, 2, 3, 4]);
        }
    }

    #[test]
    fn news_are_evaluated_at_the_next_tick_and_what_is_told_all_the_time_is_none() {
        let mut engine = engine(Grace::Time(Duration::from_secs(60)));
        let probe = |health| {
            Fact::Probe(ProbeStatus {
                probe: "tcp".into(),
                health,
                reason: None,
            })
        };
        assert_eq!(evaluated(&mut engine, 0..2), [0]);
        take(&mut engine, 1, probe(Health::Ok));
        assert_eq!(evaluated(&mut engine, 2..4), [2]);
        take(&mut engine, 3, probe(Health::Ok));
        assert!(evaluated(&mut engine, 4..6).is_empty());
        take(&mut engine, 5, probe(Health::Broken));
        assert_eq!(evaluated(&mut engine, 6..8), [6]);
        let cgroup = CgroupId(1);
        take(&mut engine, 7, Fact::CgroupGone { cgroup });
        assert_eq!(evaluated(&mut engine, 8..10), [8]);
    }

    #[test]
    fn a_tick_that_was_passed_over_is_caught_up_with_once() {
        let mut engine = engine(Grace::Time(Duration::from_secs(60)));
        assert_eq!(evaluated(&mut engine, 0..3), [0]);
        let evaluation = engine.catch_up().expect("two ticks were passed over");
        assert_eq!(evaluation.snapshot.now, Timestamp(2 * SECOND));
        assert!(engine.catch_up().is_none());
    }
}
