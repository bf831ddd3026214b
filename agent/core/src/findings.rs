//! The life of a finding: opened by a condition, kept or hidden while it holds, resolved when it has been absent for the
//! grace with everything watched that would have shown it, and told of at each of these steps.
//!
//! One that comes back is the same finding: it keeps when it was first seen and counts how often it was reopened.
//! Conditions that come and go are damped: each time that one comes back within [`FLAP`], its absence must last twice as
//! long. A severity that rises is told at once, one that falls after the grace.

mod absence;
mod memory;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

pub use memory::{OpenRecord, PastRecord, Remembered};

use crate::finding::{
    Condition, Evidence, Finding, FindingState, Resolution, Severity, Transition,
};
use crate::settings::{FINDINGS_MAX, FINDINGS_PAST_MAX, Grace, SUPPRESSED_HEARTBEAT};
use crate::snapshot::{Snapshot, TransitionCount};
use crate::suppression::{Hider, Hiding};
use crate::time::{Timestamp, UnixNanos};
use absence::{Absence, Watched};

/// One that comes back within this after it was resolved, flaps.
pub const FLAP: Duration = Duration::from_secs(3_600);
/// How often the grace of one that flaps is doubled, at most: 30 s become 64 min.
const DOUBLINGS_MAX: u32 = 7;

/// One finding whose condition holds, or held until lately.
#[derive(Clone, Debug)]
struct Open {
    finding: Finding,
    /// When it was last told of.
    told: Told,
    /// Since when its condition has been less severe than the finding.
    milder: Option<Since>,
    /// Since when its condition has been absent.
    absent: Option<Since>,
    /// How often it came back shortly after it was resolved.
    flaps: u32,
    /// It comes from an earlier run of the agent, and was not seen in this one.
    restored: bool,
}

/// A moment, and how many complete scans there had been.
type Since = (Timestamp, u32);

/// When a finding was last told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// In this run of the agent.
    At(Timestamp),
    /// In an earlier run.
    Before(UnixNanos),
    /// In an earlier run, and nobody knows whether it arrived.
    Unsure,
}

/// One that was resolved.
#[derive(Clone, Debug)]
struct Past {
    rule: &'static str,
    first_seen: UnixNanos,
    resolved: UnixNanos,
    occurrences: u64,
    reopened: u64,
    flaps: u32,
}

/// A condition as it is now: the worst of all replicas, how many there are, and what hides them together.
struct Seen {
    condition: Condition,
    replicas: u64,
    hiding: Hiding,
}

/// Findings that are open or hidden, by fingerprint, and those that were. At most [`FINDINGS_MAX`] and
/// [`FINDINGS_PAST_MAX`]; further ones are counted, and open once there is room.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    open: BTreeMap<String, Open>,
    past: BTreeMap<String, Past>,
    dropped: u64,
    forgotten: u64,
    counts: BTreeMap<(&'static str, FindingState), u64>,
}

impl Findings {
    /// Takes in what the rules say now. Returns what is to be told: findings opened, hidden, made worse or better, resolved,
    /// and those that are told of again.
    pub fn update(&mut self, conditions: Vec<Condition>, snapshot: &Snapshot) -> Vec<Finding> {
        let mut transitions = Vec::new();
        let now = merged(conditions, snapshot);
        for (fingerprint, seen) in &now {
            let told = match self.open.get_mut(fingerprint) {
                Some(open) => open.seen(seen, snapshot),
                None => self.opened(fingerprint, seen, snapshot),
            };
            transitions.extend(told);
        }
        self.resolve_absent(&now, snapshot, &mut transitions);
        for told in &transitions {
            if told.transition != Some(Transition::Heartbeat) {
                *self.counts.entry((told.rule_id, told.state)).or_default() += 1;
            }
        }
        transitions.sort_by(order);
        transitions
    }

    /// Open findings, worst first, then by rule, subject and fingerprint.
    #[must_use]
    pub fn open(&self) -> Vec<Finding> {
        self.in_state(FindingState::Open)
    }

    /// Hidden findings, in the same order.
    #[must_use]
    pub fn suppressed(&self) -> Vec<Finding> {
        self.in_state(FindingState::Suppressed)
    }

    fn in_state(&self, state: FindingState) -> Vec<Finding> {
        let all = self.open.values().map(|open| &open.finding);
        let mut findings: Vec<Finding> = all.filter(|one| one.state == state).cloned().collect();
        findings.sort_by(order);
        findings
    }

    /// Conditions that found no place.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Resolved findings whose history found no place any more.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// How many findings are open or hidden, and how many resolved ones are remembered.
    #[must_use]
    pub fn held(&self) -> (usize, usize) {
        (self.open.len(), self.past.len())
    }

    /// How often findings of each rule came into each state, sorted. Heartbeats are none.
    #[must_use]
    pub fn transitions(&self) -> Vec<TransitionCount> {
        let count = |(&(rule, state), &count): (&(&'static str, FindingState), &u64)| {
            TransitionCount { rule, state, count }
        };
        self.counts.iter().map(count).collect()
    }

    fn opened(&mut self, fingerprint: &str, seen: &Seen, snapshot: &Snapshot) -> Option<Finding> {
        if self.open.len() >= FINDINGS_MAX {
            self.dropped += 1;
            return None;
        }
        let past = self.past.remove(fingerprint);
        let mut finding = finding(fingerprint, seen, snapshot);
        let mut flaps = 0;
        if let Some(past) = &past {
            finding.first_seen = past.first_seen;
            finding.occurrences += past.occurrences;
            finding.reopened = past.reopened + 1;
            let away = Duration::from_nanos(snapshot.wall.0.saturating_sub(past.resolved.0));
            flaps = if away < FLAP { past.flaps + 1 } else { 0 };
        }
        let open = Open {
            finding: finding.clone(),
            told: Told::At(snapshot.now),
            milder: None,
            absent: None,
            flaps,
            restored: false,
        };
        self.open.insert(fingerprint.to_owned(), open);
        finding.transition = Some(match (finding.state, past) {
            (FindingState::Suppressed, _) => Transition::Suppressed,
            (_, Some(_)) => Transition::Reopened,
            (_, None) => Transition::Opened,
        });
        Some(finding)
    }

    fn resolve_absent(
        &mut self,
        now: &BTreeMap<String, Seen>,
        snapshot: &Snapshot,
        transitions: &mut Vec<Finding>,
    ) {
        let absent = self.open.iter().filter(|(one, _)| !now.contains_key(*one));
        let absent: Vec<String> = absent.map(|(one, _)| one.clone()).collect();
        if absent.is_empty() {
            return;
        }
        let watched = Watched::new(snapshot);
        for fingerprint in absent {
            let Some(open) = self.open.get_mut(&fingerprint) else {
                continue;
            };
            let Some(resolution) = open.absent(&watched, snapshot) else {
                continue;
            };
            transitions.push(Finding {
                state: FindingState::Resolved,
                transition: Some(Transition::Resolved),
                resolution: Some(resolution),
                suppression: None,
                ..open.finding.clone()
            });
            let past = Past {
                rule: open.finding.rule_id,
                first_seen: open.finding.first_seen,
                resolved: snapshot.wall,
                occurrences: open.finding.occurrences,
                reopened: open.finding.reopened,
                flaps: open.flaps,
            };
            self.open.remove(&fingerprint);
            self.remember_past(fingerprint, past);
        }
    }

    fn remember_past(&mut self, fingerprint: String, past: Past) {
        if self.past.len() >= FINDINGS_PAST_MAX
            && let Some(oldest) = self
                .past
                .iter()
                .min_by_key(|(_, past)| past.resolved)
                .map(|(fingerprint, _)| fingerprint.clone())
        {
            self.past.remove(&oldest);
            self.forgotten += 1;
        }
        self.past.insert(fingerprint, past);
    }
}

impl Open {
    /// Its condition holds. What is to be told, if anything.
    fn seen(&mut self, seen: &Seen, snapshot: &Snapshot) -> Option<Finding> {
        let (state, severity) = (self.finding.state, self.finding.severity);
        let was = &self.finding;
        let mut now = Finding {
            first_seen: was.first_seen,
            occurrences: was.occurrences.saturating_add(1),
            reopened: was.reopened,
            ..finding(&was.fingerprint, seen, snapshot)
        };
        now.severity = self.severity(now.severity, snapshot);
        self.absent = None;
        self.restored = false;
        let transition = match (state, now.state) {
            _ if self.told == Told::Unsure => Some(Transition::Opened),
            (FindingState::Open, FindingState::Suppressed) => Some(Transition::Suppressed),
            (FindingState::Suppressed, FindingState::Open) => Some(Transition::Unsuppressed),
            _ if severity != now.severity => Some(Transition::Severity),
            _ => self
                .is_due(now.state, snapshot)
                .then_some(Transition::Heartbeat),
        };
        self.finding = now;
        transition?;
        self.told = Told::At(snapshot.now);
        Some(Finding {
            transition,
            ..self.finding.clone()
        })
    }

    /// Worse at once; better when it has been so for the grace.
    fn severity(&mut self, condition: Severity, snapshot: &Snapshot) -> Severity {
        if condition >= self.finding.severity {
            self.milder = None;
            return condition;
        }
        let since = *self.milder.get_or_insert((snapshot.now, snapshot.scans));
        if is_over(since, 0, snapshot) {
            self.milder = None;
            return condition;
        }
        self.finding.severity
    }

    fn is_due(&self, state: FindingState, snapshot: &Snapshot) -> bool {
        let every = match state {
            FindingState::Open | FindingState::Resolved => snapshot.settings.heartbeat,
            FindingState::Suppressed => SUPPRESSED_HEARTBEAT,
        };
        match self.told {
            Told::At(at) => snapshot.now.since(at) >= every,
            Told::Before(at) => Duration::from_nanos(snapshot.wall.0.saturating_sub(at.0)) >= every,
            Told::Unsure => true,
        }
    }

    /// Its condition does not hold. Why it has ended, once it has.
    fn absent(&mut self, watched: &Watched<'_>, snapshot: &Snapshot) -> Option<Resolution> {
        let resolution = match watched.absence(&self.finding, self.restored) {
            Absence::RuleDisabled => return Some(Resolution::RuleDisabled),
            Absence::Unknown => {
                self.absent = None;
                return None;
            }
            Absence::Seen => Resolution::Absent,
            Absence::OwnerGone => Resolution::OwnerGone,
        };
        let since = *self.absent.get_or_insert((snapshot.now, snapshot.scans));
        is_over(since, self.flaps, snapshot).then_some(resolution)
    }
}

/// Whether the grace has passed since then, doubled so many times.
fn is_over((since, scan): Since, doublings: u32, snapshot: &Snapshot) -> bool {
    let times = 1_u32 << doublings.min(DOUBLINGS_MAX);
    match snapshot.settings.grace {
        Grace::Time(grace) => snapshot.now.since(since) >= grace.saturating_mul(times),
        Grace::Scans(scans) => snapshot.scans.saturating_sub(scan) >= scans.saturating_mul(times),
    }
}

/// Conditions by fingerprint. Replicas of one workload share theirs: the worst one stands for all.
fn merged(conditions: Vec<Condition>, snapshot: &Snapshot) -> BTreeMap<String, Seen> {
    let hider = Hider::new(snapshot);
    let mut merged: BTreeMap<String, Seen> = BTreeMap::new();
    for condition in conditions {
        let fingerprint = condition.fingerprint(&snapshot.node);
        let hiding = hider.judge(&condition, &fingerprint);
        match merged.get_mut(&fingerprint) {
            None => {
                let seen = Seen {
                    condition,
                    replicas: 1,
                    hiding,
                };
                merged.insert(fingerprint, seen);
            }
            Some(known) => {
                known.replicas += 1;
                known.hiding = std::mem::take(&mut known.hiding).and(hiding);
                let rank = |of: &Condition| (std::cmp::Reverse(of.severity), of.subject.clone());
                if rank(&condition) < rank(&known.condition) {
                    known.condition = condition;
                }
            }
        }
    }
    merged
}

fn finding(fingerprint: &str, seen: &Seen, snapshot: &Snapshot) -> Finding {
    let condition = &seen.condition;
    let evidence = condition.evidence.iter();
    let mut evidence: BTreeMap<Cow<'static, str>, Evidence> = evidence
        .map(|(name, value)| (Cow::Borrowed(*name), value.clone()))
        .collect();
    if seen.replicas > 1 {
        evidence.insert("replicas".into(), Evidence::Count(seen.replicas));
    }
    Finding {
        rule_id: condition.rule.id,
        title: condition.rule.title,
        severity: condition.severity,
        state: if seen.hiding.by.is_some() {
            FindingState::Suppressed
        } else {
            FindingState::Open
        },
        fingerprint: fingerprint.to_owned(),
        first_seen: snapshot.wall,
        last_seen: snapshot.wall,
        occurrences: 1,
        reopened: 0,
        transition: None,
        suppression: seen.hiding.by.clone(),
        suppression_ignored: seen.hiding.ignored.iter().cloned().collect(),
        resolution: None,
        resource: condition.subject.clone(),
        declared: condition.declared.clone(),
        observed: condition.observed.clone(),
        evidence,
        coverage: condition.coverage.clone(),
        remediation: condition.remediation.clone(),
        patch: condition.patch.clone(),
        doc_url: condition.rule.doc_url(),
        category: condition.rule.category,
    }
}

fn order(a: &Finding, b: &Finding) -> std::cmp::Ordering {
    let key = |of: &Finding| (std::cmp::Reverse(of.severity), of.rule_id, of.state);
    key(a)
        .cmp(&key(b))
        .then_with(|| a.resource.cmp(&b.resource))
        .then_with(|| a.fingerprint.cmp(&b.fingerprint))
}

#[cfg(test)]
mod tests;
