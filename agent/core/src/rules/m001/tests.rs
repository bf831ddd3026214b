use std::time::Duration;

use expect_test::{Expect, expect};

use crate::declared::{ContainerKind, Transport};
use crate::finding::Coverage;
use crate::observation::Health;
use crate::rules::testing::{
    NOW, container, declared, in_full, listener, pod, said, snapshot, status, view,
};
use crate::snapshot::{ListenerView, Snapshot};

/// A node where all is seen and nothing is wrong, with so many containers.
fn node(containers: usize) -> Snapshot {
    let pod = pod(vec![container("app", ContainerKind::Regular, &[8080])]);
    snapshot(
        Some(declared(&pod, vec![])),
        vec![view(&pod, Some(0), vec![]); containers],
    )
}

fn check(snapshot: &Snapshot, expected: &Expect) {
    expected.assert_eq(&said(snapshot));
}

fn set(snapshot: &mut Snapshot, probe: &str, health: Health, reason: &str) {
    snapshot.probes.retain(|status| status.probe != probe);
    snapshot.probes.push(status(probe, health, Some(reason)));
}

#[test]
fn a_node_that_is_wholly_seen_has_no_blind_spot() {
    check(&node(3), &expect![[""]]);
    let mut seen = node(2);
    seen.containers[0].coverage = Coverage::PreExisting;
    check(&seen, &expect![[""]]);
}

#[test]
fn a_probe_that_no_rule_needs_may_be_absent_but_not_broken() {
    for health in [Health::Unsupported, Health::Off] {
        let mut seen = node(1);
        set(&mut seen, "connections", health, "missing CAP_SYS_ADMIN");
        check(&seen, &expect![[""]]);
    }
    let mut seen = node(1);
    set(&mut seen, "connections", Health::Broken, "its thread ended");
    assert!(said(&seen).contains("M001"));
}

#[test]
fn no_declared_side_is_one_condition_that_names_the_silent_rules() {
    let mut blind = node(1);
    blind.declared = None;
    set(
        &mut blind,
        "declared",
        Health::Off,
        "no --declared was given",
    );
    expect![[r#"
        M001 info node declared
        declared: a declared side to compare with
        observed: none, so C001, C002, C003, C005, C006, F001, F002, F006, F007, I001, I003, I004, P001, P004, P005, P007, P009, S001 say nothing: declared is off: no --declared was given
        evidence: {"reason":"declared is off: no --declared was given","rules":["C001","C002","C003","C005","C006","F001","F002","F006","F007","I001","I003","I004","P001","P004","P005","P007","P009","S001"]}
        coverage: Blind("declared is off: no --declared was given")
        remediation: Give --declared a file or directory of manifests, or let the agent watch the API server.
        no patch"#]].assert_eq(&in_full(&blind));
    set(
        &mut blind,
        "declared",
        Health::Broken,
        "the API server refuses: 403",
    );
    check(&blind, &expect!["M001 low node declared"]);
}

#[test]
fn a_declared_side_that_became_stale_is_its_probes_matter() {
    let mut stale = node(1);
    set(&mut stale, "declared", Health::Broken, "the watch broke");
    check(&stale, &expect!["M001 low node probe/declared"]);
}

#[test]
fn the_start_of_the_agent_is_no_blind_spot() {
    let mut start = node(1);
    start.declared = None;
    start.probes.clear();
    start.scans = 1;
    start.containers[0].first_seen = NOW.minus(Duration::from_secs(1));
    start.containers[0].coverage = Coverage::Blind("the tcp probe has not started".into());
    check(&start, &expect![[""]]);
    start.scans = 2;
    check(&start, &expect!["M001 low node declared"]);
}

#[test]
fn each_probe_that_does_not_measure_is_one_condition() {
    let mut blind = node(1);
    set(
        &mut blind,
        "cpu_windows",
        Health::Unsupported,
        "no CAP_PERFMON",
    );
    set(&mut blind, "tcp", Health::Broken, "the canary was not seen");
    set(&mut blind, "listeners", Health::Off, "turned off");
    check(
        &blind,
        &expect![[r#"
        M001 low node probe/cpu_windows
        M001 info node probe/listeners
        M001 low node probe/tcp"#]],
    );
    let mut one = node(1);
    set(
        &mut one,
        "cpu_windows",
        Health::Unsupported,
        "no CAP_PERFMON",
    );
    expect![[r#"
        M001 low node probe/cpu_windows
        declared: probe cpu_windows measures
        observed: cpu_windows is unsupported: no CAP_PERFMON
        evidence: {"reason":"no CAP_PERFMON","rules":["C002","C003","C007"]}
        coverage: Blind("cpu_windows is unsupported: no CAP_PERFMON")
        remediation: Give the agent what the reason names, or run it on a kernel that has it.
        no patch"#]]
    .assert_eq(&in_full(&one));
}

#[test]
fn containers_are_grouped_by_reason() {
    let mut blind = node(4);
    for index in [0, 1] {
        blind.containers[index].coverage = Coverage::Blind("not attached: EPERM".into());
    }
    blind.containers[2].coverage = Coverage::Partial("not attached yet".into());
    check(
        &blind,
        &expect![[r#"
        M001 low node coverage/blind/not attached: EPERM
        M001 low node coverage/partial/not attached yet"#]],
    );
    blind.containers.pop();
    blind.containers.pop();
    expect![[r#"
        M001 low node coverage/blind/not attached: EPERM
        declared: every container's network activity is seen
        observed: 2 containers are seen not at all: not attached: EPERM
        evidence: {"containers":2,"names":["shop/web-1/app"],"reason":"not attached: EPERM"}
        coverage: Blind("not attached: EPERM")
        remediation: Remove the cause that the reason names; `plumbline status` shows the probes.
        no patch"#]]
    .assert_eq(&in_full(&blind));
}

#[test]
fn a_probe_that_is_off_for_all_is_said_once() {
    let mut blind = node(2);
    set(&mut blind, "tcp", Health::Unsupported, "no CAP_BPF");
    for container in &mut blind.containers {
        container.coverage = Coverage::Blind("tcp: no CAP_BPF".into());
    }
    check(&blind, &expect!["M001 low node probe/tcp"]);
}

#[test]
fn passed_sockets_and_floods_are_partial() {
    let mut partial = node(2);
    partial.containers[0].listeners = vec![ListenerView {
        held_by_owner: Some(false),
        ..listener(9999, &["0.0.0.0"])
    }];
    partial.containers[1].listeners_overflow = [(Transport::Tcp, 100)].into();
    check(
        &partial,
        &expect![[r#"
        M001 low node coverage/partial/passed_socket
        M001 low node coverage/partial/too_many_listeners"#]],
    );
}

#[test]
fn pods_that_are_not_declared_are_named() {
    let mut stranger = node(2);
    stranger.containers[0].pod = None;
    stranger.containers[0].container_index = None;
    stranger.containers[0].subject = crate::finding::Subject::default();
    expect![[r#"
        M001 info node coverage/undeclared-pod
        declared: every pod of the node
        observed: 1 container is running whose pod is not declared: C001, C002, C003, C005, C006, F001, F002, F006, F007, I001, I003, I004, P001, P004, P005, P007, P009, S001 say nothing about them
        evidence: {"containers":1,"names":["0f2b6b6e-9a3c-4d0c-8c5e-1f2d3c4b5a69/0000000000000000000000000000000000000000000000000000000000000000"]}
        coverage: Blind("not in the declared side")
        remediation: Renew the declared side, so that it has every pod of the node.
        no patch"#]].assert_eq(&in_full(&stranger));
    stranger.containers[0].gone = true;
    check(&stranger, &expect![[""]]);
}
