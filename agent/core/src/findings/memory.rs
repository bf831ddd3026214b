//! What of the findings outlives the agent: open and hidden ones, and the history of those that were resolved.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Findings, Open, Past, Told};
use crate::finding::{Coverage, Evidence, Finding, FindingState, Severity, Subject};
use crate::rules;
use crate::settings::{FINDINGS_MAX, FINDINGS_PAST_MAX};
use crate::time::{Timestamp, UnixNanos};

/// Everything that is remembered. Its shape is that of the state file: a change that old files do not survive raises the
/// file's version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Remembered {
    /// Open and hidden findings.
    pub open: Vec<OpenRecord>,
    /// Resolved ones.
    pub past: Vec<PastRecord>,
}

/// An open or hidden finding. Times are nanoseconds since 1970.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in `Finding`")]
pub struct OpenRecord {
    pub fingerprint: String,
    pub rule: String,
    pub severity: Severity,
    pub state: FindingState,
    pub first_seen: u64,
    pub last_seen: u64,
    pub occurrences: u64,
    pub reopened: u64,
    pub flaps: u32,
    /// When it was last told of; absent when nobody knows whether that arrived.
    pub told: Option<u64>,
    pub resource: Subject,
    pub declared: String,
    pub observed: String,
    pub evidence: BTreeMap<String, Evidence>,
    pub coverage: Coverage,
    pub remediation: String,
    pub patch: Option<String>,
}

/// A resolved finding. Times are nanoseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in `Finding`")]
pub struct PastRecord {
    pub fingerprint: String,
    pub rule: String,
    pub first_seen: u64,
    pub resolved: u64,
    pub occurrences: u64,
    pub reopened: u64,
    pub flaps: u32,
}

impl Findings {
    /// What is to be remembered as of a moment. `unsure` are findings of which nobody knows whether what was last told of
    /// them arrived: those that are open will be told of again, and those that were resolved, given here as they were, are
    /// remembered as open, so that they are resolved again.
    #[must_use]
    pub fn remember(
        &self,
        now: Timestamp,
        wall: UnixNanos,
        unsure: &BTreeMap<String, Finding>,
    ) -> Remembered {
        let mut open: Vec<OpenRecord> = self
            .open
            .values()
            .map(|open| {
                let told = match open.told {
                    _ if unsure.contains_key(&open.finding.fingerprint) => None,
                    Told::At(at) => Some(wall.0.saturating_sub(now.0.saturating_sub(at.0))),
                    Told::Before(at) => Some(at.0),
                    Told::Unsure => None,
                };
                record(&open.finding, open.flaps, told)
            })
            .collect();
        let mut past = Vec::new();
        for (fingerprint, one) in &self.past {
            match unsure.get(fingerprint) {
                Some(finding) if finding.state == FindingState::Resolved => {
                    open.push(record(finding, one.flaps, Some(one.resolved.0)));
                }
                _ => past.push(one.record(fingerprint)),
            }
        }
        open.sort_by(|a, b| a.fingerprint.cmp(&b.fingerprint));
        Remembered { open, past }
    }

    /// Takes in what an earlier run remembered. What this version has no rule for, or no room, is left out; returns how many.
    pub fn restore(&mut self, remembered: Remembered) -> u64 {
        let mut left_out = 0;
        for record in remembered.past {
            match rules::find(&record.rule) {
                Some(rule) if self.past.len() < FINDINGS_PAST_MAX => {
                    let past = Past {
                        rule: rule.id,
                        first_seen: UnixNanos(record.first_seen),
                        resolved: UnixNanos(record.resolved),
                        occurrences: record.occurrences,
                        reopened: record.reopened,
                        flaps: record.flaps,
                    };
                    self.past.insert(record.fingerprint, past);
                }
                _ => left_out += 1,
            }
        }
        let mut known = BTreeSet::new();
        for record in remembered.open {
            known.insert(record.fingerprint.clone());
            match restored(record) {
                Some(open) if self.open.len() < FINDINGS_MAX => {
                    self.open.insert(open.finding.fingerprint.clone(), open);
                }
                _ => left_out += 1,
            }
        }
        self.past
            .retain(|fingerprint, _| !known.contains(fingerprint));
        left_out
    }
}

impl Past {
    fn record(&self, fingerprint: &str) -> PastRecord {
        PastRecord {
            fingerprint: fingerprint.to_owned(),
            rule: self.rule.to_owned(),
            first_seen: self.first_seen.0,
            resolved: self.resolved.0,
            occurrences: self.occurrences,
            reopened: self.reopened,
            flaps: self.flaps,
        }
    }
}

fn record(finding: &Finding, flaps: u32, told: Option<u64>) -> OpenRecord {
    let evidence = finding.evidence.iter();
    OpenRecord {
        fingerprint: finding.fingerprint.clone(),
        rule: finding.rule_id.to_owned(),
        severity: finding.severity,
        state: match finding.state {
            FindingState::Suppressed => FindingState::Suppressed,
            FindingState::Open | FindingState::Resolved => FindingState::Open,
        },
        first_seen: finding.first_seen.0,
        last_seen: finding.last_seen.0,
        occurrences: finding.occurrences,
        reopened: finding.reopened,
        flaps,
        told,
        resource: finding.resource.clone(),
        declared: finding.declared.clone(),
        observed: finding.observed.clone(),
        evidence: evidence
            .map(|(name, value)| (name.to_string(), value.clone()))
            .collect(),
        coverage: finding.coverage.clone(),
        remediation: finding.remediation.clone(),
        patch: finding.patch.clone(),
    }
}

/// `None` for a rule of another version.
fn restored(record: OpenRecord) -> Option<Open> {
    let rule = rules::find(&record.rule)?;
    let evidence = record.evidence.into_iter();
    let finding = Finding {
        rule_id: rule.id,
        title: rule.title,
        severity: record.severity,
        state: record.state,
        fingerprint: record.fingerprint,
        first_seen: UnixNanos(record.first_seen),
        last_seen: UnixNanos(record.last_seen),
        occurrences: record.occurrences,
        reopened: record.reopened,
        transition: None,
        suppression: None,
        suppression_ignored: Vec::new(),
        resolution: None,
        resource: record.resource,
        declared: record.declared,
        observed: record.observed,
        evidence: evidence
            .map(|(name, value)| (Cow::Owned(name), value))
            .collect(),
        coverage: record.coverage,
        remediation: record.remediation,
        patch: record.patch,
        doc_url: rule.doc_url(),
        category: rule.category,
    };
    Some(Open {
        finding,
        told: record
            .told
            .map_or(Told::Unsure, |at| Told::Before(UnixNanos(at))),
        milder: None,
        absent: None,
        flaps: record.flaps,
        restored: true,
    })
}
