use std::time::Duration;

use expect_test::{Expect, expect};

use crate::declared::{ContainerKind, DeclaredContainer, DeclaredPod};
use crate::rules::testing::{
    NOW, container, declared, distribution, in_full, pod, said, snapshot, view,
};
use crate::settings::Grace;
use crate::snapshot::Snapshot;

fn without_request(kind: ContainerKind) -> DeclaredContainer {
    DeclaredContainer {
        cpu_request_millis: None,
        ..container("app", kind, &[])
    }
}

fn one(pod: &DeclaredPod) -> Snapshot {
    snapshot(
        Some(declared(pod, vec![])),
        vec![view(pod, Some(0), vec![])],
    )
}

fn check(snapshot: &Snapshot, expected: &Expect) {
    expected.assert_eq(&said(snapshot));
}

#[test]
fn a_container_without_a_request_is_reported_with_what_it_uses() {
    let mut app = one(&pod(vec![without_request(ContainerKind::Regular)]));
    // 95 windows of 0.1234 CPUs and five of two.
    let mut busy_us = vec![12_340; 95];
    busy_us.extend([200_000; 5]);
    app.containers[0].cpu.day = Some(distribution(busy_us));
    expect![[r#"
        C001 low web/app requests.cpu
        declared: no requests.cpu, neither for the container nor for its pod
        observed: uses 125m or less in 95 % of the windows of 100 ms
        evidence: {"mean_cores":0.21722999999999998,"p50_cores":0.125,"p95_cores":0.125,"p99_cores":2.0,"peak_cores":2.0,"span_seconds":10,"windows":100}
        coverage: Full
        remediation: Set requests.cpu; 130m would have covered 95 % of the last 10 s.
        # kubectl --namespace shop patch deployment/web --patch-file FILE
        spec:
          template:
            spec:
              containers:
                - name: "app"
                  resources:
                    requests:
                      cpu: 130m
    "#]]
    .assert_eq(&in_full(&app));
}

#[test]
fn without_enough_windows_no_value_is_made_up() {
    let mut app = one(&pod(vec![without_request(ContainerKind::Regular)]));
    expect![[r#"
        C001 low web/app requests.cpu
        declared: no requests.cpu, neither for the container nor for its pod
        observed: CPU use: not enough data yet
        evidence: {}
        coverage: Full
        remediation: Set requests.cpu to what the container usually needs. There is not enough data yet to propose a value.
        no patch"#]].assert_eq(&in_full(&app));
    app.containers[0].cpu.day = Some(distribution(vec![50_000; 99]));
    expect![[r#"
        C001 low web/app requests.cpu
        declared: no requests.cpu, neither for the container nor for its pod
        observed: CPU use: not enough data yet
        evidence: {}
        coverage: Full
        remediation: Set requests.cpu to what the container usually needs. There is not enough data yet to propose a value.
        no patch"#]].assert_eq(&in_full(&app));
}

#[test]
fn the_proposal_is_rounded_up_and_never_zero() {
    for (busy_us, cpu) in [
        (0, "cpu: 10m"),
        (1, "cpu: 10m"),
        (1_000, "cpu: 10m"),
        (1_001, "cpu: 20m"),
        (u32::MAX, "cpu: 42949680m"),
    ] {
        let mut app = one(&pod(vec![without_request(ContainerKind::Regular)]));
        app.containers[0].cpu.day = Some(distribution(vec![busy_us; 100]));
        let text = in_full(&app);
        assert!(text.contains(cpu), "{busy_us}: {text}");
    }
}

#[test]
fn trap_23_requests_come_in_many_forms() {
    let with = |request, limit| {
        let container = DeclaredContainer {
            cpu_request_millis: request,
            cpu_limit_millis: limit,
            ..without_request(ContainerKind::Regular)
        };
        one(&pod(vec![container]))
    };
    check(&with(Some(100), None), &expect![[""]]);
    check(&with(None, Some(100)), &expect![[""]]);
    check(
        &with(Some(0), None),
        &expect!["C001 low web/app requests.cpu"],
    );
    let of_pod = |request, limit| {
        let containers = vec![without_request(ContainerKind::Regular)];
        one(&DeclaredPod {
            cpu_request_millis: request,
            cpu_limit_millis: limit,
            ..pod(containers)
        })
    };
    check(&of_pod(Some(500), None), &expect![[""]]);
    check(&of_pod(None, Some(500)), &expect![[""]]);
}

#[test]
fn kinds_of_containers() {
    for (kind, expected) in [
        (ContainerKind::Regular, "C001 low web/app requests.cpu"),
        (ContainerKind::Sidecar, "C001 low web/app requests.cpu"),
        (ContainerKind::Init, "C001 low web/app requests.cpu"),
        (ContainerKind::Ephemeral, ""),
    ] {
        assert_eq!(
            said(&one(&pod(vec![without_request(kind)]))),
            expected,
            "{kind:?}"
        );
    }
}

#[test]
fn what_is_short_lived_ended_or_unknown_is_not_judged() {
    let app = || one(&pod(vec![without_request(ContainerKind::Init)]));
    let mut young = app();
    young.containers[0].first_seen = NOW.minus(Duration::from_secs(29));
    check(&young, &expect![[""]]);
    young.settings.grace = Grace::Scans(2);
    check(&young, &expect!["C001 low web/app requests.cpu"]);
    young.scans = 1;
    check(&young, &expect![[""]]);
    let mut gone = app();
    gone.containers[0].gone = true;
    check(&gone, &expect![[""]]);
    let mut own = app();
    own.containers[0].is_self = true;
    check(&own, &expect![[""]]);
    let mut unknown = app();
    unknown.containers[0].container_index = None;
    check(&unknown, &expect![[""]]);
    let mut undeclared = app();
    undeclared.declared = None;
    assert!(!said(&undeclared).contains("C001"));
}
