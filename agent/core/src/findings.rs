//! The life of a finding: opened by a condition, kept while it holds, resolved when it has been absent for the grace.

use std::collections::BTreeMap;

use crate::finding::{Condition, Evidence, Finding, FindingState};
use crate::settings::{FINDINGS_MAX, Grace};
use crate::snapshot::Snapshot;
use crate::time::Timestamp;

/// One open finding.
#[derive(Clone, Debug)]
struct Open {
    finding: Finding,
    /// When, and at which complete scan, the condition was first found absent.
    absent: Option<(Timestamp, u32)>,
}

/// Findings that are open, by fingerprint. At most [`FINDINGS_MAX`]; further ones are counted and open once there is room.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    open: BTreeMap<String, Open>,
    dropped: u64,
}

impl Findings {
    /// Takes in what the rules say now. Returns what changed: findings opened, made worse or better, and resolved.
    pub fn update(&mut self, conditions: Vec<Condition>, snapshot: &Snapshot) -> Vec<Finding> {
        let mut transitions = Vec::new();
        let now = merged(conditions, snapshot);
        for (fingerprint, (condition, replicas)) in &now {
            transitions.extend(self.seen(fingerprint, condition, *replicas, snapshot));
        }
        // Without a declared side nothing can be compared: what was open stays so, on what was known then.
        if snapshot.declared.is_some() {
            self.resolve_absent(&now, snapshot, &mut transitions);
        }
        transitions.sort_by(order);
        transitions
    }

    /// Open findings, worst first, then by rule, subject and fingerprint.
    #[must_use]
    pub fn open(&self) -> Vec<Finding> {
        let mut findings: Vec<Finding> = self
            .open
            .values()
            .map(|open| open.finding.clone())
            .collect();
        findings.sort_by(order);
        findings
    }

    /// Conditions that found no place.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn seen(
        &mut self,
        fingerprint: &str,
        new: &Condition,
        replicas: u64,
        snapshot: &Snapshot,
    ) -> Option<Finding> {
        if let Some(open) = self.open.get_mut(fingerprint) {
            let worse_or_better = open.finding.severity != new.severity;
            let (first_seen, occurrences) = (open.finding.first_seen, open.finding.occurrences + 1);
            open.finding = Finding {
                first_seen,
                occurrences,
                ..finding(fingerprint, new, replicas, snapshot)
            };
            open.absent = None;
            return worse_or_better.then(|| open.finding.clone());
        }
        if self.open.len() >= FINDINGS_MAX {
            self.dropped += 1;
            return None;
        }
        let opened = finding(fingerprint, new, replicas, snapshot);
        self.open.insert(
            fingerprint.to_owned(),
            Open {
                finding: opened.clone(),
                absent: None,
            },
        );
        Some(opened)
    }

    fn resolve_absent(
        &mut self,
        now: &BTreeMap<String, (Condition, u64)>,
        snapshot: &Snapshot,
        transitions: &mut Vec<Finding>,
    ) {
        self.open.retain(|fingerprint, open| {
            if now.contains_key(fingerprint) {
                return true;
            }
            let (since, scan) = *open.absent.get_or_insert((snapshot.now, snapshot.scans));
            let over = match snapshot.settings.grace {
                Grace::Time(grace) => snapshot.now.since(since) >= grace,
                Grace::Scans(scans) => snapshot.scans.saturating_sub(scan) >= scans,
            };
            if over {
                transitions.push(Finding {
                    state: FindingState::Resolved,
                    ..open.finding.clone()
                });
            }
            !over
        });
    }
}

/// Conditions by fingerprint. Replicas of one workload share theirs: the worst one stands for all.
fn merged(conditions: Vec<Condition>, snapshot: &Snapshot) -> BTreeMap<String, (Condition, u64)> {
    let mut merged: BTreeMap<String, (Condition, u64)> = BTreeMap::new();
    for condition in conditions {
        let fingerprint = condition.fingerprint(&snapshot.node);
        match merged.get_mut(&fingerprint) {
            None => {
                merged.insert(fingerprint, (condition, 1));
            }
            Some((known, replicas)) => {
                *replicas += 1;
                let rank = |of: &Condition| (std::cmp::Reverse(of.severity), of.subject.clone());
                if rank(&condition) < rank(known) {
                    *known = condition;
                }
            }
        }
    }
    merged
}

fn finding(
    fingerprint: &str,
    condition: &Condition,
    replicas: u64,
    snapshot: &Snapshot,
) -> Finding {
    let mut evidence = condition.evidence.clone();
    if replicas > 1 {
        evidence.insert("replicas", Evidence::Count(replicas));
    }
    Finding {
        rule_id: condition.rule.id,
        title: condition.rule.title,
        severity: condition.severity,
        state: FindingState::Open,
        fingerprint: fingerprint.to_owned(),
        first_seen: snapshot.wall,
        last_seen: snapshot.wall,
        occurrences: 1,
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
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use super::Findings;
    use crate::declared::Declared;
    use crate::finding::{Condition, Coverage, Evidence, FindingState, Rule, Severity, Subject};
    use crate::node::NodeState;
    use crate::settings::{CoreSettings, FINDINGS_MAX, Grace, NodeIdentity};
    use crate::snapshot::Snapshot;
    use crate::time::Timestamp;

    static RULE: Rule = Rule {
        id: "P001",
        title: "test",
        category: "ports",
    };

    fn at(seconds: u64) -> Snapshot {
        let settings = CoreSettings {
            grace: Grace::Time(Duration::from_secs(30)),
            ..CoreSettings::default()
        };
        let node = NodeState::new(NodeIdentity::default(), settings);
        let mut snapshot = node.snapshot(Timestamp(seconds * 1_000_000_000));
        snapshot.declared = Some(Arc::new(Declared::default()));
        snapshot
    }

    fn condition(pod: &str, key: &str) -> Condition {
        Condition {
            rule: &RULE,
            severity: Severity::Medium,
            subject: Subject {
                namespace: Some("shop".into()),
                pod: Some(pod.into()),
                ..Subject::default()
            },
            key: key.into(),
            declared: String::new(),
            observed: String::new(),
            evidence: BTreeMap::new(),
            coverage: Coverage::Full,
            remediation: String::new(),
            patch: None,
        }
    }

    #[test]
    fn a_finding_opens_once_and_resolves_after_the_grace() {
        let mut findings = Findings::default();
        assert_eq!(
            findings.update(vec![condition("a", "tcp/1")], &at(0)).len(),
            1
        );
        assert_eq!(
            findings.update(vec![condition("a", "tcp/1")], &at(1)).len(),
            0
        );
        assert_eq!(findings.open()[0].occurrences, 2);
        assert_eq!(findings.update(vec![], &at(2)).len(), 0);
        assert_eq!(
            findings.update(vec![], &at(31)).len(),
            0,
            "absent for 29 s only"
        );
        let resolved = findings.update(vec![], &at(32));
        assert_eq!(resolved[0].state, FindingState::Resolved);
        assert_eq!(findings.open(), []);
    }

    #[test]
    fn flapping_within_the_grace_is_one_finding() {
        let mut findings = Findings::default();
        findings.update(vec![condition("a", "tcp/1")], &at(0));
        for second in 1..100 {
            let conditions = if second % 20 == 0 {
                vec![condition("a", "tcp/1")]
            } else {
                vec![]
            };
            assert_eq!(findings.update(conditions, &at(second)), []);
        }
    }

    #[test]
    fn replicas_are_one_finding() {
        let mut findings = Findings::default();
        let opened = findings.update(
            vec![condition("b", "tcp/1"), condition("a", "tcp/1")],
            &at(0),
        );
        assert_eq!(opened.len(), 1);
        assert_eq!(opened[0].resource.pod.as_deref(), Some("a"));
        assert_eq!(opened[0].evidence["replicas"], Evidence::Count(2));
    }

    #[test]
    fn nothing_resolves_while_there_is_no_declared_side() {
        let mut findings = Findings::default();
        findings.update(vec![condition("a", "tcp/1")], &at(0));
        for second in [1, 100] {
            let unknown = Snapshot {
                declared: None,
                ..at(second)
            };
            assert_eq!(findings.update(vec![], &unknown), []);
        }
        assert_eq!(findings.open().len(), 1);
    }

    #[test]
    fn open_findings_are_bounded() {
        let mut findings = Findings::default();
        let conditions = (0..FINDINGS_MAX + 5)
            .map(|n| condition("a", &format!("tcp/{n}")))
            .collect();
        assert_eq!(findings.update(conditions, &at(0)).len(), FINDINGS_MAX);
        assert_eq!(findings.dropped(), 5);
    }
}
