//! The life of a finding: opened by a condition, kept while it holds, resolved when it has been absent for the grace.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::finding::{Condition, Coverage, Evidence, Finding, FindingState};
use crate::rules;
use crate::settings::{FINDINGS_MAX, Grace};
use crate::snapshot::Snapshot;
use crate::time::Timestamp;

/// An open finding is told of again this often, so that a receiver that lost it learns of it.
pub const HEARTBEAT: Duration = Duration::from_secs(6 * 3_600);

/// One open finding.
#[derive(Clone, Debug)]
struct Open {
    finding: Finding,
    /// When it was last among the transitions.
    told: Timestamp,
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
        self.resolve_absent(&now, snapshot, &mut transitions);
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
            let due =
                open.finding.severity != new.severity || snapshot.now.since(open.told) >= HEARTBEAT;
            if due {
                open.told = snapshot.now;
            }
            let (first_seen, occurrences) = (open.finding.first_seen, open.finding.occurrences + 1);
            open.finding = Finding {
                first_seen,
                occurrences,
                ..finding(fingerprint, new, replicas, snapshot)
            };
            open.absent = None;
            return due.then(|| open.finding.clone());
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
                told: snapshot.now,
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
        let blind = Blind::new(snapshot);
        self.open.retain(|fingerprint, open| {
            if now.contains_key(fingerprint) {
                return true;
            }
            if !blind.is_known(&open.finding) {
                open.absent = None;
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

/// What this snapshot cannot tell of: the absence of a condition there says nothing.
struct Blind {
    rules: BTreeSet<&'static str>,
    /// Ids of containers that are seen in part or not at all.
    containers: BTreeSet<String>,
}

impl Blind {
    fn new(snapshot: &Snapshot) -> Self {
        let unseen = snapshot
            .containers
            .iter()
            .filter(|container| !container.gone);
        let unseen = unseen.filter(|container| {
            matches!(
                container.coverage,
                Coverage::Partial(_) | Coverage::Blind(_)
            )
        });
        Self {
            rules: rules::unknown_rules(snapshot)
                .into_iter()
                .map(|(rule, _)| rule)
                .collect(),
            containers: unseen
                .map(|container| container.container_id.to_string())
                .collect(),
        }
    }

    /// Whether the condition of a finding would be seen if it still held.
    fn is_known(&self, finding: &Finding) -> bool {
        let container = finding.resource.container_id.as_ref();
        let unseen =
            finding.category == "ports" && container.is_some_and(|id| self.containers.contains(id));
        !unseen && !self.rules.contains(finding.rule_id)
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
    use crate::observation::{Health, ProbeStatus};
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
        let probe = |probe: &str| ProbeStatus {
            probe: probe.into(),
            health: Health::Ok,
            reason: None,
        };
        snapshot.probes = vec![probe("listeners"), probe("tcp")];
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
    fn nothing_resolves_while_the_probe_is_broken() {
        let mut findings = Findings::default();
        findings.update(vec![condition("a", "tcp/1")], &at(0));
        for second in [1, 100] {
            let mut broken = at(second);
            for probe in &mut broken.probes {
                probe.health = Health::Broken;
            }
            assert_eq!(findings.update(vec![], &broken), []);
        }
        assert_eq!(findings.update(vec![], &at(101)), [], "absent from now on");
        assert_eq!(findings.update(vec![], &at(131)).len(), 1);
    }

    #[test]
    fn an_open_finding_is_told_of_again() {
        let mut findings = Findings::default();
        let told: Vec<usize> = [0, 1, 21_599, 21_600, 21_601, 43_200]
            .map(|second| {
                findings
                    .update(vec![condition("a", "tcp/1")], &at(second))
                    .len()
            })
            .into();
        assert_eq!(told, [1, 0, 0, 1, 0, 1]);
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
