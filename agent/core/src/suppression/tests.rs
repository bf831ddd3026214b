//! Only the operator hides, for a reason, until a date.

mod spoofs;

use std::sync::Arc;

use super::{ANNOTATION_PREFIX, AnnotationGrant, Rulebook, Suppression};
use crate::declared::{ContainerKind, DeclaredPod};
use crate::finding::{Finding, FindingState, Transition};
use crate::findings::Findings;
use crate::rules::{evaluate, testing};
use crate::snapshot::Snapshot;
use crate::time::UnixNanos;

/// `2026-06-01`.
const TODAY: &str = "2026-06-01";
const LATER: &str = "2026-07-01T00:00:00Z";

/// A pod that listens on an undeclared port, and what it says of itself.
fn node(rulebook: Rulebook, spoof: impl Fn(&mut DeclaredPod)) -> Snapshot {
    let mut pod = testing::pod(vec![testing::container(
        "app",
        ContainerKind::Regular,
        &[80],
    )]);
    spoof(&mut pod);
    let view = testing::view(&pod, Some(0), vec![testing::listener(9_999, &["0.0.0.0"])]);
    let mut snapshot = testing::snapshot(Some(testing::declared(&pod, Vec::new())), vec![view]);
    snapshot.wall = UnixNanos::parse(TODAY).unwrap();
    snapshot.settings.rulebook = Arc::new(rulebook);
    snapshot
}

fn port(snapshot: &Snapshot) -> Finding {
    let told = Findings::default().update(evaluate(snapshot), snapshot);
    told.into_iter()
        .find(|finding| finding.rule_id == "P001")
        .unwrap()
}

fn annotated(text: &str) -> impl Fn(&mut DeclaredPod) + use<> {
    let text = text.to_owned();
    move |pod| {
        pod.suppress.insert("P001".into(), text.clone());
    }
}

fn grant(namespace: &str, rules: &[&str]) -> Rulebook {
    Rulebook {
        annotations: vec![AnnotationGrant {
            namespace: namespace.into(),
            rules: rules.iter().map(|rule| (*rule).to_owned()).collect(),
        }],
        ..Rulebook::default()
    }
}

type Change = fn(&mut Suppression, &str);

#[test]
fn where_it_is_granted_an_annotation_needs_an_end_and_a_reason() {
    for (text, why) in [
        (format!("{LATER} debug port, INC-42"), None),
        ("2026-07-01\tdebug port".to_owned(), None),
        (LATER.to_owned(), Some("it has no reason")),
        ("debug port".to_owned(), Some("its end is no date")),
        (
            "2026-06-01 today is over".to_owned(),
            Some("it ended at 2026-06-01T00:00:00.000Z"),
        ),
        (
            "2026-02-30 no such day".to_owned(),
            Some("its end is no date"),
        ),
        (String::new(), Some("it has no end (`until`)")),
    ] {
        let found = port(&node(grant("shop", &["P001"]), annotated(&text)));
        let hidden = found.state == FindingState::Suppressed;
        assert_eq!(hidden, why.is_none(), "{text:?}: {found:?}");
        if let Some(why) = why {
            assert_eq!(
                found.suppression_ignored,
                [format!("{ANNOTATION_PREFIX}P001: {why}")]
            );
        }
    }
}

#[test]
fn all_replicas_must_ask() {
    let rulebook = grant("shop", &["P001"]);
    let mut snapshot = node(rulebook, annotated(&format!("{LATER} debug port")));
    let quiet = snapshot.containers[0].clone();
    let mut other = quiet.clone();
    other.subject.pod = Some("web-2".into());
    snapshot.containers.push(other);
    let found = port(&snapshot);
    assert_eq!(
        found.evidence["replicas"],
        crate::finding::Evidence::Count(2)
    );
    assert_eq!(
        found.state,
        FindingState::Open,
        "one replica does not speak for the other"
    );
}

fn suppression() -> Suppression {
    Suppression {
        rule: Some("P001".into()),
        until: Some(LATER.into()),
        reason: Some("INC-42".into()),
        ..Suppression::default()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what fields of a suppression are")]
fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn with(suppression: Suppression) -> Rulebook {
    Rulebook {
        suppressions: vec![suppression],
        ..Rulebook::default()
    }
}

#[test]
fn the_configuration_hides_what_fits_for_a_reason_until_a_date() {
    let fingerprint = port(&node(Rulebook::default(), |_| {})).fingerprint;
    let cases: [(Change, bool); 16] = [
        (|_, _| {}, true),
        (|of, _| of.namespace = some("shop"), true),
        (|of, _| of.namespace = some("ops"), false),
        (|of, _| of.workload = some("Deployment/web"), true),
        (|of, _| of.workload = some("Deployment/other"), false),
        (|of, _| of.workload = some("web"), false),
        (|of, _| of.container = some("app"), true),
        (|of, _| of.container = some("sidecar"), false),
        (|of, _| of.rule = some("C001"), false),
        (
            |of, one| (of.rule, of.fingerprint) = (None, some(one)),
            true,
        ),
        (|of, _| (of.rule, of.fingerprint) = (None, some("0")), false),
        (
            |of, _| (of.rule, of.namespace) = (None, some("shop")),
            false,
        ),
        (|of, _| of.until = None, false),
        (|of, _| of.until = some("soon"), false),
        (|of, _| of.reason = None, false),
        (|of, _| of.reason = some("  "), false),
    ];
    for (change, hides) in cases {
        let mut suppression = suppression();
        change(&mut suppression, &fingerprint);
        let found = port(&node(with(suppression.clone()), |_| {}));
        let hidden = found.state == FindingState::Suppressed;
        assert_eq!(hidden, hides, "{suppression:?}");
        assert_eq!(hidden, found.suppression.is_some());
    }
    let ended = Suppression {
        until: Some(TODAY.into()),
        ..suppression()
    };
    let found = port(&node(with(ended), |_| {}));
    let told = "suppressions[0]: it ended at 2026-06-01T00:00:00.000Z";
    assert_eq!(found.suppression_ignored, [told]);
}

#[test]
fn a_hidden_finding_is_counted_and_told_of_each_day_and_comes_back() {
    let snapshot = |hours: u64| {
        let mut snapshot = node(with(suppression()), |_| {});
        let nanos = hours * 3_600_000_000_000;
        snapshot.now.0 += nanos;
        snapshot.wall.0 += nanos;
        snapshot
    };
    let mut findings = Findings::default();
    let mut told = Vec::new();
    for hours in 0..=31 * 24 {
        let now = snapshot(hours);
        let news = findings.update(evaluate(&now), &now);
        told.extend(
            news.into_iter()
                .map(|one| (hours, one.transition.unwrap(), one.state)),
        );
    }
    let days: Vec<u64> = told
        .iter()
        .filter(|(_, transition, _)| *transition == Transition::Heartbeat)
        .map(|(hours, ..)| hours / 24)
        .collect();
    // Hidden for 30 days; then open, with a heartbeat every six hours.
    assert_eq!(days, (1..30).chain([30, 30, 30, 31]).collect::<Vec<_>>());
    assert_eq!(told[0].1, Transition::Suppressed);
    let back = (30 * 24, Transition::Unsuppressed, FindingState::Open);
    assert!(told.contains(&back), "{told:?}");
    assert_eq!(findings.suppressed(), []);
    assert_eq!(findings.open().len(), 1);
    // One that is hidden and ends is resolved like any other.
    let mut findings = Findings::default();
    let now = snapshot(0);
    findings.update(evaluate(&now), &now);
    assert_eq!(findings.suppressed().len(), 1);
    let report = crate::report::build(&now, &findings.suppressed());
    let gauge = report.resources[0].points.iter();
    let hidden = gauge.filter(|point| point.metric.name == "plumbline.findings.suppressed");
    assert_eq!(hidden.count(), 1);
    findings.update(Vec::new(), &snapshot(1));
    assert_eq!(findings.update(Vec::new(), &snapshot(2)).len(), 1);
}
