//! The spoof matrix of the threat model (T6): whatever a pod's author writes, every rule goes on to speak of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{LATER, TODAY, annotated, grant, node, port};
use crate::declared::{ContainerKind, DeclaredPod};
use crate::finding::{Finding, FindingState, Transition};
use crate::findings::Findings;
use crate::rules::testing::{self, raised};
use crate::rules::{self, evaluate};
use crate::suppression::{ANNOTATION_PREFIX, Rulebook};
use crate::time::UnixNanos;

/// What is written, and that in the hope of silencing a rule.
type Spoof = fn(&mut DeclaredPod, &str);

/// What a pod's author may write, in the hope of being left alone.
const SPOOFS: [(&str, Spoof); 26] = [
    ("a right annotation", |pod, rule| {
        asks(pod, rule, "2026-07-01 let me be");
    }),
    ("of all rules", |pod, rule| {
        for of in [rule, &rule.to_lowercase(), "*", ""] {
            asks(pod, of, "2026-07-01 no");
        }
    }),
    ("no end", |pod, rule| asks(pod, rule, "because I say so")),
    ("an end that is none", |pod, rule| {
        asks(pod, rule, "never because I say so");
    }),
    ("ended", |pod, rule| {
        asks(pod, rule, "2026-05-31 it was fine then");
    }),
    ("no reason", |pod, rule| asks(pod, rule, "2026-07-01")),
    ("blanks", |pod, rule| asks(pod, rule, "   ")),
    ("a configuration", |pod, rule| {
        asks(pod, rule, "2026-07-01 x\nannotations: [{namespace: shop}]");
    }),
    ("control characters", |pod, rule| {
        asks(pod, rule, "2026-07-01 \u{1b}[2J\0");
    }),
    ("a megabyte", |pod, rule| {
        asks(pod, rule, &"x".repeat(1 << 20))
    }),
    ("a label", |pod, rule| {
        labels(pod, &format!("plumbline/suppress.{rule}"), "2026-07-01 x");
    }),
    ("a label of others", |pod, _| {
        labels(pod, "fluentbit.io/exclude", "true");
    }),
    ("the agent's label", |pod, _| {
        labels(pod, "app.kubernetes.io/name", "plumbline");
    }),
    ("a mesh's label", |pod, _| {
        labels(pod, "istio.io/dataplane-mode", "ambient");
    }),
    ("a mesh's container", |pod, _| {
        let proxy = testing::container("linkerd-proxy", ContainerKind::Sidecar, &[4_143]);
        pod.containers.push(proxy);
    }),
    ("a production's label", |pod, _| {
        labels(pod, "environment", "development");
    }),
    ("the agent's name", |pod, _| pod.name = "plumbline".into()),
    ("the agent's owner", |pod, _| {
        pod.owner.name = "plumbline".into();
    }),
    ("the agent's namespace", |pod, _| {
        pod.namespace = "plumbline".into();
    }),
    ("the cluster's namespace", |pod, _| {
        pod.namespace = "kube-system".into();
    }),
    ("no namespace", |pod, _| pod.namespace = String::new()),
    ("a name like a rule", |pod, rule| {
        pod.containers[0].name = rule.into();
    }),
    ("a sidecar's name", |pod, _| {
        pod.containers[0].name = "istio-proxy".into();
    }),
    ("a runtime that hides sockets", |pod, _| {
        pod.runtime_class = Some("kata".into());
    }),
    ("the agent's image", |pod, _| {
        pod.containers[0].image = "plumbline".into();
    }),
    ("a finished phase", |pod, _| pod.finished = true),
];

/// Where what is written changes what is declared, so that there is nothing to find.
const HONEST: [(&str, &str); 1] = [
    // An image without a digest promises none that could differ. I001 speaks instead.
    ("I004", "the agent's image"),
];

fn asks(pod: &mut DeclaredPod, rule: &str, text: &str) {
    pod.suppress.insert(rule.into(), text.into());
}

fn labels(pod: &mut DeclaredPod, name: &str, value: &str) {
    pod.labels.insert(name.into(), value.into());
}

/// What the operator may have granted without granting this.
fn rulebooks(rule: &str) -> Vec<(&'static str, Rulebook)> {
    let others: Vec<&str> = rules::ALL.iter().map(|one| one.id).collect();
    let others: Vec<&str> = others.into_iter().filter(|one| *one != rule).collect();
    let longer = format!("{rule}1");
    let near = [others.as_slice(), &[&longer, &rule[..3]]].concat();
    vec![
        ("nothing granted", Rulebook::default()),
        ("another namespace granted", grant("ops", &[rule])),
        ("other rules granted", grant("shop", &near)),
        ("a part of the name granted", grant("sho", &[rule])),
        ("a pattern is no name", grant("*", &["*", rule])),
        ("an empty grant", grant("", &[])),
    ]
}

/// What is found by the rule where its pod was changed like this.
fn found(row: &raised::Raised, rulebook: &Rulebook, spoof: Spoof) -> Option<Finding> {
    let mut snapshot = row.node(|pod| spoof(pod, row.rule));
    snapshot.wall = UnixNanos::parse(TODAY).unwrap();
    snapshot.settings.rulebook = Arc::new(rulebook.clone());
    let told = Findings::default().update(evaluate(&snapshot), &snapshot);
    told.into_iter().find(|finding| finding.rule_id == row.rule)
}

#[test]
fn a_pod_cannot_silence_any_rule() {
    let mut honest = BTreeSet::new();
    for row in raised::all() {
        for (granted, rulebook) in rulebooks(row.rule) {
            for (what, spoof) in SPOOFS {
                let case = format!("{}: {granted}: {what}", row.rule);
                let Some(found) = found(&row, &rulebook, spoof) else {
                    assert!(HONEST.contains(&(row.rule, what)), "silent: {case}");
                    honest.insert((row.rule, what));
                    continue;
                };
                assert_eq!(found.state, FindingState::Open, "{case}");
                assert_eq!(found.transition, Some(Transition::Opened), "{case}");
                assert_eq!(found.suppression, None, "{case}");
            }
        }
    }
    assert_eq!(honest, HONEST.into());
}

#[test]
fn every_rule_about_pods_is_tried() {
    let tried: BTreeSet<&str> = raised::all().iter().map(|row| row.rule).collect();
    let of_pods = |id: &&str| !id.starts_with('M') && *id != "P008";
    let rules: BTreeSet<&str> = rules::ALL
        .iter()
        .map(|rule| rule.id)
        .filter(of_pods)
        .collect();
    assert_eq!(tried, rules);
}

#[test]
fn what_asked_is_told_with_the_finding() {
    let asking = annotated(&format!("{LATER} let me be"));
    let found = port(&node(Rulebook::default(), asking));
    let told = format!(
        "{ANNOTATION_PREFIX}P001: annotations of this namespace are not heard for this rule"
    );
    assert_eq!(found.suppression_ignored, [told]);
}

#[test]
fn trap_22_no_rule_judges_the_agent() {
    for row in raised::all()
        .iter()
        .filter(|row| !row.rule.starts_with('L'))
    {
        let mut own = row.node(|_| {});
        let said = |snapshot: &_| testing::of_rule(row.rule, snapshot);
        assert_ne!(said(&own), "", "{}", row.rule);
        own.containers[0].is_self = true;
        assert_eq!(said(&own), "", "{}", row.rule);
    }
}
