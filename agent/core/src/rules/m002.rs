//! M002, events lost. What, why and traps are in [`RULE`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::finding::{Condition, Coverage, Evidence, Judge, Memory, Rule, Severity, Subject};
use crate::settings::LOSS_WINDOW;
use crate::snapshot::{ContainerView, Loss, Snapshot};

/// M002.
pub static RULE: Rule = Rule {
    id: "M002",
    title: "Events lost",
    category: "monitoring",
    what: "A bounded map, ring or queue lost more than one event of a thousand over five minutes. One condition for \
           each place, with how many there were, what became of them and, where one container had used up its share, \
           which.",
    why: "What was lost may be what another rule would have spoken of.",
    severity: "medium; low when only containers that used up their own share were refused more, which leaves the others \
               unharmed",
    traps: &[
        "A share of little says little: nothing is said before the counters were watched for a minute, and about places \
         of which nobody knows how much came through.",
        "What is left to the scans by design is no loss.",
    ],
    remediation: "Find out what floods the place that is named, or give the agent more CPU.",
    needs: &[],
    memory: Memory::For(LOSS_WINDOW),
    judge: Judge::Node(conditions),
};

/// One event of so many may be lost.
const ONE_OF: u64 = 1_000;
/// Counters are watched for this long before anything is said.
const SPAN_MIN: Duration = Duration::from_secs(60);
/// Containers named in the evidence of one condition.
const NAMED_MAX: usize = 10;

/// Reasons for which events are lost, and not left to scans by design.
const REASONS: [&str; 4] = ["budget", "full", "overwritten", "stalled"];
/// Containers are refused more than their share, for the sake of the others.
const BUDGET: &str = "budget";

/// What became of what each place lost, and what to do about it.
const PLACES: [(&str, &str, &str); 6] = [
    (
        "ebpf.listener_events",
        "listeners that came or went; the next scan of sockets finds them",
        SLOW,
    ),
    (
        "ebpf.cgroup_events",
        "cgroups that came or went; the next walk of the tree finds them",
        SLOW,
    ),
    (
        "ebpf.flows_overflow",
        "changes of connections; they are not counted at all",
        "Report it: each container has an overflow entry, so that this cannot happen.",
    ),
    (
        "ebpf.flows_pending",
        "changes of connections; they are counted without their peer",
        SLOW,
    ),
    (
        "ebpf.flows",
        "changes of connections; they are counted without their peer",
        "Find out why so many different peers and ports are used: the table has room for 16,384.",
    ),
    (
        "observations",
        "observations; snapshots tell again what they told, other counts are lost",
        SLOW,
    ),
];
/// What was lost of any other place.
const OTHER: (&str, &str) = ("events", SLOW);
/// What helps when the agent is too slow.
const SLOW: &str =
    "Give the agent the CPU time that it needs: it did not take what the kernel told in time.";

/// Places that lost too much lately.
pub(super) fn conditions(snapshot: &Snapshot) -> Vec<Condition> {
    let mut places: BTreeMap<&str, Vec<&Loss>> = BTreeMap::new();
    let judged = snapshot
        .losses
        .iter()
        .filter(|loss| REASONS.contains(&loss.reason.as_str()) && loss.span >= SPAN_MIN);
    for loss in judged {
        places.entry(&loss.place).or_default().push(loss);
    }
    places
        .into_iter()
        .filter_map(|(place, losses)| condition(snapshot, place, &losses))
        .collect()
}

fn condition(snapshot: &Snapshot, place: &str, losses: &[&Loss]) -> Option<Condition> {
    let first = losses.first()?;
    let lost: u64 = losses.iter().map(|loss| loss.lost).sum();
    let all = lost.saturating_add(first.delivered);
    if lost.saturating_mul(ONE_OF) <= all {
        return None;
    }
    let (what, remedy) = PLACES
        .iter()
        .find(|(of, ..)| *of == place)
        .map_or(OTHER, |(_, what, remedy)| (what, remedy));
    let own_doing = losses.iter().all(|loss| loss.reason == BUDGET);
    let mut evidence = BTreeMap::from([
        ("place", Evidence::Text(place.to_owned())),
        ("lost", Evidence::Count(lost)),
        ("delivered", Evidence::Count(first.delivered)),
        ("seconds", Evidence::Count(first.span.as_secs())),
        (
            "reasons",
            Evidence::List(losses.iter().map(|loss| loss.reason.clone()).collect()),
        ),
    ]);
    if losses.iter().any(|loss| loss.reason == BUDGET) {
        evidence.insert("names", Evidence::List(refused(snapshot)));
    }
    let remedy = if own_doing {
        "Look at the named containers: each did more in a second than one container is given room for."
    } else {
        remedy
    };
    Some(Condition {
        rule: &RULE,
        severity: if own_doing {
            Severity::Low
        } else {
            Severity::Medium
        },
        subject: Subject::default(),
        key: place.to_owned(),
        declared: "at most 1 event of 1,000 is lost in 5 minutes".into(),
        observed: format!(
            "{place} lost {lost} of {all} in {} s: {what}",
            first.span.as_secs()
        ),
        evidence,
        coverage: Coverage::Partial(format!("{place} lost events")),
        remediation: remedy.into(),
        patch: None,
    })
}

/// Names of containers that were refused something within the window.
fn refused(snapshot: &Snapshot) -> Vec<String> {
    let lately = |container: &&ContainerView| {
        let last = container.refused.as_ref().map(|refused| refused.last);
        last.is_some_and(|last| snapshot.now.since(last) <= LOSS_WINDOW)
    };
    let names: BTreeSet<String> = snapshot
        .containers
        .iter()
        .filter(lately)
        .map(super::label)
        .collect();
    names.into_iter().take(NAMED_MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use expect_test::{Expect, expect};

    use crate::declared::ContainerKind;
    use crate::rules::testing::{NOW, container, declared, in_full, pod, said, snapshot, view};
    use crate::snapshot::{Loss, RefusedView, Snapshot};

    fn node(losses: &[(&str, &str, u64, u64)]) -> Snapshot {
        let pod = pod(vec![container("app", ContainerKind::Regular, &[8080])]);
        let mut node = snapshot(
            Some(declared(&pod, vec![])),
            vec![view(&pod, Some(0), vec![])],
        );
        let loss = |(place, reason, lost, delivered): &(&str, &str, u64, u64)| Loss {
            place: (*place).to_owned(),
            reason: (*reason).to_owned(),
            lost: *lost,
            delivered: *delivered,
            span: Duration::from_secs(300),
        };
        node.losses = losses.iter().map(loss).collect();
        node
    }

    fn check(snapshot: &Snapshot, expected: &Expect) {
        expected.assert_eq(&said(snapshot));
    }

    #[test]
    fn one_of_a_thousand_is_borne_and_more_is_not() {
        check(
            &node(&[("ebpf.cgroup_events", "full", 1, 999)]),
            &expect![[""]],
        );
        let lossy = node(&[("ebpf.cgroup_events", "full", 2, 1_997)]);
        expect![[r#"
            M002 medium node ebpf.cgroup_events
            declared: at most 1 event of 1,000 is lost in 5 minutes
            observed: ebpf.cgroup_events lost 2 of 1999 in 300 s: cgroups that came or went; the next walk of the tree finds them
            evidence: {"delivered":1997,"lost":2,"place":"ebpf.cgroup_events","reasons":["full"],"seconds":300}
            coverage: Partial("ebpf.cgroup_events lost events")
            remediation: Give the agent the CPU time that it needs: it did not take what the kernel told in time.
            no patch"#]].assert_eq(&in_full(&lossy));
    }

    #[test]
    fn reasons_of_one_place_are_one_finding() {
        check(
            &node(&[
                ("ebpf.flows", "budget", 1, 1_500),
                ("ebpf.flows", "full", 1, 1_500),
                ("ebpf.other", "full", 1, 0),
            ]),
            &expect![[r#"
                M002 medium node ebpf.flows
                M002 medium node ebpf.other"#]],
        );
    }

    #[test]
    fn a_container_that_used_up_its_share_is_named() {
        let mut noisy = node(&[("ebpf.listener_events", "budget", 900, 100)]);
        noisy.containers[0].refused = Some(RefusedView {
            flows: 0,
            listeners: 900,
            udp_flows: 0,
            udp_sockets: 0,
            connections: 0,
            last: NOW.minus(Duration::from_secs(5)),
        });
        expect![[r#"
            M002 low node ebpf.listener_events
            declared: at most 1 event of 1,000 is lost in 5 minutes
            observed: ebpf.listener_events lost 900 of 1000 in 300 s: listeners that came or went; the next scan of sockets finds them
            evidence: {"delivered":100,"lost":900,"names":["shop/web-1/app"],"place":"ebpf.listener_events","reasons":["budget"],"seconds":300}
            coverage: Partial("ebpf.listener_events lost events")
            remediation: Look at the named containers: each did more in a second than one container is given room for.
            no patch"#]].assert_eq(&in_full(&noisy));
    }

    #[test]
    fn what_is_left_to_scans_and_what_was_watched_too_shortly_says_nothing() {
        let mut young = node(&[("ebpf.flows", "full", 9, 0)]);
        young.losses[0].span = Duration::from_secs(59);
        check(&young, &expect![[""]]);
        check(&node(&[("ebpf.tcp", "unattributed", 9, 0)]), &expect![[""]]);
    }
}
