mod policies;
mod rollout;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Findings;
use crate::declared::{ContainerKind, Declared};
use crate::finding::{
    Condition, Coverage, Evidence, Finding, FindingState, Resolution, Severity, Subject,
};
use crate::node::NodeState;
use crate::observation::{Health, ProbeStatus};
use crate::rules::testing;
use crate::settings::{CoreSettings, FINDINGS_MAX, FINDINGS_PAST_MAX, Grace, NodeIdentity};
use crate::snapshot::Snapshot;
use crate::suppression::RuleSettings;
use crate::time::{Timestamp, UnixNanos};

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
        rule: &crate::rules::p001::RULE,
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
fn trap_20_replicas_are_one_finding() {
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

/// A node with one container of `shop/web`, watched for half an hour, `seconds` after the first moment.
fn node(seconds: u64) -> Snapshot {
    let pod = testing::pod(vec![testing::container(
        "app",
        ContainerKind::Regular,
        &[80],
    )]);
    let view = testing::view(&pod, Some(0), Vec::new());
    let mut snapshot = testing::snapshot(Some(testing::declared(&pod, Vec::new())), vec![view]);
    snapshot.now = snapshot.now.plus(Duration::from_secs(seconds));
    snapshot.wall.0 += seconds * 1_000_000_000;
    snapshot.settings.grace = Grace::Time(Duration::from_secs(30));
    snapshot
}

/// What P001 says about that container.
fn about_app(severity: Severity) -> Condition {
    Condition {
        subject: node(0).containers[0].subject.clone(),
        severity,
        ..condition("web-1", "tcp/9999")
    }
}

fn transitions(told: &[Finding]) -> Vec<&'static str> {
    told.iter()
        .map(|one| one.transition.unwrap().as_str())
        .collect()
}

fn resolution(told: &[Finding]) -> Option<Resolution> {
    told.iter().find_map(|one| one.resolution)
}

#[test]
fn one_that_comes_back_keeps_its_history_and_counts() {
    let mut findings = Findings::default();
    let first = findings.update(vec![about_app(Severity::Medium)], &node(0));
    assert_eq!(transitions(&first), ["opened"]);
    findings.update(vec![], &node(10));
    let ended = findings.update(vec![], &node(40));
    assert_eq!(resolution(&ended), Some(Resolution::Absent));
    let back = findings.update(vec![about_app(Severity::Medium)], &node(100));
    assert_eq!(transitions(&back), ["reopened"]);
    assert_eq!(back[0].reopened, 1);
    assert_eq!(back[0].first_seen, first[0].first_seen);
    assert_eq!(back[0].fingerprint, first[0].fingerprint);
    let counts: Vec<(&str, &str, u64)> = findings
        .transitions()
        .iter()
        .map(|of| (of.rule, of.state.as_str(), of.count))
        .collect();
    assert_eq!(counts, [("P001", "open", 2), ("P001", "resolved", 1)]);
}

#[test]
fn what_flaps_is_told_of_less_and_less() {
    // On for 5 s, off for 55 s, for four hours.
    let mut findings = Findings::default();
    let mut told = 0;
    for second in 0..4 * 3_600 {
        let on = second % 60 < 5;
        let conditions = if on {
            vec![about_app(Severity::Medium)]
        } else {
            vec![]
        };
        told += findings.update(conditions, &node(second)).len();
    }
    // It opens, resolves once after 30 s and is then open, since the next absence would have to last 60 s.
    assert_eq!(told, 3);
    // It does resolve in the end.
    assert_eq!(findings.update(vec![], &node(20_000)).len(), 1);
    // What comes back much later does not flap.
    findings.update(vec![about_app(Severity::Medium)], &node(40_000));
    findings.update(vec![], &node(40_001));
    assert_eq!(findings.update(vec![], &node(40_031)).len(), 1);
}

#[test]
fn severity_rises_at_once_and_falls_after_the_grace() {
    let mut findings = Findings::default();
    findings.update(vec![about_app(Severity::Medium)], &node(0));
    let worse = findings.update(vec![about_app(Severity::High)], &node(1));
    assert_eq!(transitions(&worse), ["severity"]);
    assert_eq!(worse[0].severity, Severity::High);
    for second in 2..60 {
        // Up and down each second is no news.
        let severity = if second % 2 == 0 {
            Severity::Medium
        } else {
            Severity::High
        };
        assert_eq!(
            findings.update(vec![about_app(severity)], &node(second)),
            []
        );
    }
    for second in 60..90 {
        assert_eq!(
            findings.update(vec![about_app(Severity::Low)], &node(second)),
            []
        );
    }
    let better = findings.update(vec![about_app(Severity::Low)], &node(90));
    assert_eq!(better[0].severity, Severity::Low);
}

#[test]
fn trap_20_absence_counts_only_where_it_would_have_been_seen() {
    type Change = fn(&mut Snapshot);
    let unseen: [(&str, Change); 6] = [
        ("the container crashed and will come back", |node| {
            node.containers[0].gone = true
        }),
        ("the container is as young as the grace", |node| {
            node.containers[0].first_seen = node.now.minus(Duration::from_secs(29));
        }),
        ("it is seen in part", |node| {
            node.containers[0].coverage = Coverage::Partial("passed_socket".into());
        }),
        ("it is not seen", |node| {
            node.containers[0].coverage = Coverage::Blind("gvisor".into())
        }),
        ("another replica is not seen", |node| {
            let mut other = node.containers[0].clone();
            other.coverage = Coverage::Blind("gvisor".into());
            node.containers.push(other);
        }),
        ("there is no declared side", |node| node.declared = None),
    ];
    for (why, change) in unseen {
        let mut findings = Findings::default();
        findings.update(vec![about_app(Severity::Medium)], &node(0));
        for second in [1, 40, 400] {
            let mut snapshot = node(second);
            change(&mut snapshot);
            assert_eq!(findings.update(vec![], &snapshot), [], "{why}");
        }
        assert_eq!(findings.open().len(), 1, "{why}");
        findings.update(vec![], &node(401));
        assert_eq!(
            findings.update(vec![], &node(431)).len(),
            1,
            "{why}: and no longer"
        );
    }
}

#[test]
fn trap_20_it_ends_with_its_owner() {
    type Change = fn(&mut Snapshot);
    let gone: [(&str, Change); 3] = [
        ("deleted", |node| {
            node.declared = Some(Arc::new(Declared::default()))
        }),
        ("finished", |node| {
            change_pod(node, |pod| pod.finished = true)
        }),
        ("an init container that is over", |node| {
            change_pod(node, |pod| pod.containers[0].kind = ContainerKind::Init);
        }),
    ];
    for (why, change) in gone {
        let mut findings = Findings::default();
        findings.update(vec![about_app(Severity::Medium)], &node(0));
        let mut told = Vec::new();
        for second in [1, 31] {
            let mut snapshot = node(second);
            snapshot.containers.clear();
            change(&mut snapshot);
            told = findings.update(vec![], &snapshot);
        }
        assert_eq!(resolution(&told), Some(Resolution::OwnerGone), "{why}");
    }
}

fn change_pod(node: &mut Snapshot, change: impl Fn(&mut crate::declared::DeclaredPod)) {
    let mut declared = (**node.declared.as_ref().unwrap()).clone();
    change(Arc::make_mut(&mut declared.pods[0]));
    node.declared = Some(Arc::new(declared));
}

#[test]
fn a_rule_that_is_turned_off_ends_its_findings() {
    let mut findings = Findings::default();
    findings.update(vec![about_app(Severity::Medium)], &node(0));
    let mut off = node(1);
    let rule = RuleSettings {
        enabled: false,
        severity: None,
    };
    Arc::make_mut(&mut off.settings.rulebook)
        .rules
        .insert("P001".into(), rule);
    assert_eq!(crate::rules::evaluate(&off), []);
    let told = findings.update(vec![], &off);
    assert_eq!(resolution(&told), Some(Resolution::RuleDisabled));
    let why = "turned off in the configuration".to_owned();
    assert!(crate::rules::unknown_rules(&off).contains(&("P001", why)));
}

#[test]
fn a_severity_of_the_configuration_is_the_findings() {
    let pod = testing::pod(vec![testing::container(
        "app",
        ContainerKind::Regular,
        &[80],
    )]);
    let view = testing::view(&pod, Some(0), vec![testing::listener(9_999, &["0.0.0.0"])]);
    let mut node = testing::snapshot(Some(testing::declared(&pod, Vec::new())), vec![view]);
    let rule = RuleSettings {
        enabled: true,
        severity: Some(Severity::High),
    };
    Arc::make_mut(&mut node.settings.rulebook)
        .rules
        .insert("P001".into(), rule);
    let found = Findings::default().update(crate::rules::evaluate(&node), &node);
    let port = found
        .iter()
        .find(|finding| finding.rule_id == "P001")
        .unwrap();
    assert_eq!(port.severity, Severity::High);
}

/// Through JSON, as the state file has it.
fn again(findings: &Findings, at: &Snapshot, unsure: &BTreeMap<String, Finding>) -> Findings {
    let remembered = findings.remember(at.now, at.wall, unsure);
    let text = serde_json::to_string(&remembered).unwrap();
    let mut restored = Findings::default();
    assert_eq!(restored.restore(serde_json::from_str(&text).unwrap()), 0);
    restored
}

/// The node after a restart of the agent, or of the node itself: the clock that never steps begins anew.
fn restarted(seconds: u64) -> Snapshot {
    let mut snapshot = node(seconds);
    let uptime = Duration::from_secs(60 + seconds);
    snapshot.now = Timestamp(0).plus(uptime);
    snapshot.origin.monotonic = Timestamp(0);
    snapshot.containers[0].first_seen = Timestamp(0);
    snapshot
}

#[test]
fn trap_24_a_restart_is_no_news() {
    let mut findings = Findings::default();
    let opened = findings.update(vec![about_app(Severity::Medium)], &node(0));
    let mut findings = again(&findings, &node(100), &BTreeMap::new());
    assert_eq!(findings.open()[0].first_seen, opened[0].first_seen);
    for second in 200..210 {
        let told = findings.update(vec![about_app(Severity::Medium)], &restarted(second));
        assert_eq!(told, [], "open before, open now");
    }
    let now = &findings.open()[0];
    assert_eq!(
        (now.first_seen, now.occurrences),
        (opened[0].first_seen, 11)
    );
    // The heartbeat goes by when it was told of before the restart.
    let late = findings.update(vec![about_app(Severity::Medium)], &restarted(21_600));
    assert_eq!(transitions(&late), ["heartbeat"]);
    assert_eq!(
        findings.update(vec![about_app(Severity::Medium)], &restarted(30_000)),
        []
    );
}

#[test]
fn what_ended_while_the_agent_was_away_is_resolved() {
    let mut findings = Findings::default();
    let opened = findings.update(vec![about_app(Severity::Medium)], &node(0));
    let mut findings = again(&findings, &node(0), &BTreeMap::new());
    assert_eq!(findings.update(vec![], &restarted(1)), []);
    let ended = findings.update(vec![], &restarted(31));
    assert_eq!(transitions(&ended), ["resolved"]);
    assert_eq!(ended[0].resource, opened[0].resource);
    assert_eq!(ended[0].observed, opened[0].observed);
    // And its history outlives a second restart.
    let mut findings = again(&findings, &restarted(40), &BTreeMap::new());
    let back = findings.update(vec![about_app(Severity::Medium)], &restarted(50));
    assert_eq!(transitions(&back), ["reopened"]);
    assert_eq!(back[0].first_seen, opened[0].first_seen);
}

#[test]
fn a_rule_that_must_watch_for_long_is_given_the_time_after_a_restart() {
    let week = Condition {
        rule: &crate::rules::c003::RULE,
        ..about_app(Severity::Info)
    };
    let mut findings = Findings::default();
    findings.update(vec![week.clone()], &node(0));
    let mut findings = again(&findings, &node(0), &BTreeMap::new());
    for second in [0, 100, 100_000, 500_000] {
        assert_eq!(
            findings.update(vec![], &restarted(second)),
            [],
            "no week yet"
        );
    }
    findings.update(vec![], &restarted(600_000));
    assert_eq!(findings.update(vec![], &restarted(600_030)).len(), 1);
}

#[test]
fn what_may_not_have_arrived_is_told_again() {
    let mut findings = Findings::default();
    let opened = findings.update(vec![about_app(Severity::Medium)], &node(0));
    let unsure = BTreeMap::from([(opened[0].fingerprint.clone(), opened[0].clone())]);
    let mut restored = again(&findings, &node(0), &unsure);
    let told = restored.update(vec![about_app(Severity::Medium)], &restarted(1));
    assert_eq!(transitions(&told), ["opened"]);
    // A resolution that may be lost is made once more.
    findings.update(vec![], &node(1));
    let ended = findings.update(vec![], &node(31));
    let unsure = BTreeMap::from([(ended[0].fingerprint.clone(), ended[0].clone())]);
    let mut restored = again(&findings, &node(31), &unsure);
    restored.update(vec![], &restarted(32));
    assert_eq!(
        transitions(&restored.update(vec![], &restarted(62))),
        ["resolved"]
    );
}

#[test]
fn what_is_remembered_is_bounded_and_of_this_version() {
    let mut findings = Findings::default();
    for n in 0..FINDINGS_PAST_MAX + 5 {
        let second = 100 * n as u64;
        findings.update(vec![condition("a", &format!("tcp/{n}"))], &at(second));
        findings.update(vec![], &at(second + 1));
        findings.update(vec![], &at(second + 31));
    }
    assert_eq!(findings.held(), (0, FINDINGS_PAST_MAX));
    assert_eq!(findings.forgotten(), 5);
    let mut remembered = findings.remember(Timestamp(0), UnixNanos(0), &BTreeMap::new());
    remembered.past[0].rule = "Z999".into();
    assert_eq!(Findings::default().restore(remembered), 1);
}
