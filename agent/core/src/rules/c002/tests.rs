use std::time::Duration;

use expect_test::{Expect, expect};

use crate::declared::{ContainerKind, DeclaredContainer, DeclaredPod};
use crate::rules::testing::{
    container, cpu_max, declared, distribution, in_full, node_cpu, pod, rates, said, snapshot, view,
};
use crate::snapshot::Snapshot;

/// A container that requests 100m, uses half a CPU in most windows, and waits for a fifth of the time on a busy node.
fn app() -> Snapshot {
    of(&pod(vec![container("app", ContainerKind::Regular, &[])]))
}

fn of(pod: &DeclaredPod) -> Snapshot {
    let mut app = snapshot(
        Some(declared(pod, vec![])),
        vec![view(pod, Some(0), vec![])],
    );
    app.node_cpu = Some(node_cpu(0.6));
    app.containers[0].cpu.day = Some(distribution([vec![1_000; 20], vec![50_000; 980]].concat()));
    app.containers[0].cpu.rates = Some(rates(0.45, 0.2));
    app
}

fn check(snapshot: &Snapshot, expected: &Expect) {
    expected.assert_eq(&said(snapshot));
}

#[test]
fn who_uses_more_than_requested_and_waits_is_reported() {
    expect![[r#"
        C002 medium web/app requests.cpu
        declared: requests.cpu is 100m
        observed: uses up to 500m in 95 % of the windows of 100 ms, and waits for a CPU 20 % of the time
        evidence: {"mean_cores":0.4902,"node_wait_share":0.6,"p50_cores":0.5,"p95_cores":0.5,"p99_cores":0.5,"peak_cores":0.5,"request_cores":0.1,"span_seconds":100,"usage_cores":0.45,"wait_share":0.2,"windows":1000}
        coverage: Full
        remediation: Raise requests.cpu to at least 500m, which would have covered 95 % of the last 100 s.
        # kubectl --namespace shop patch deployment/web --patch-file FILE
        spec:
          template:
            spec:
              containers:
                - name: "app"
                  resources:
                    requests:
                      cpu: 500m
    "#]].assert_eq(&in_full(&app()));
}

#[test]
fn use_within_the_request_is_well() {
    let mut app = app();
    app.containers[0].cpu.day = Some(distribution(vec![9_900; 1_000]));
    check(&app, &expect![[""]]);
    // To its bucket it may be more than the request, or not: no finding.
    app.containers[0].cpu.day = Some(distribution(vec![10_010; 1_000]));
    check(&app, &expect![[""]]);
}

#[test]
fn without_contention_nobody_is_harmed() {
    let mut idle_node = app();
    idle_node.node_cpu = Some(node_cpu(0.09));
    check(&idle_node, &expect![[""]]);
    let mut own_threads = app();
    own_threads.containers[0].cpu.rates = Some(rates(0.45, 0.09));
    check(&own_threads, &expect![[""]]);
}

#[test]
fn waiting_for_the_own_limit_is_not_contention() {
    let mut app = app();
    app.containers[0].cpu.max = Some(cpu_max(Some(50_000)));
    check(&app, &expect![[""]]);
    let mut of = rates(0.45, 0.2);
    of.throttled_us = Some(6_600_000);
    app.containers[0].cpu.rates = Some(of.clone());
    check(&app, &expect![[""]]);
    of.throttled_us = Some(600_000);
    app.containers[0].cpu.rates = Some(of);
    check(&app, &expect!["C002 medium web/app requests.cpu"]);
    app.containers[0].cpu.max = Some(cpu_max(None));
    check(&app, &expect!["C002 medium web/app requests.cpu"]);
}

/// The quota of a pod stops its containers and stands in the pod's own cgroup, which is not theirs.
#[test]
fn waiting_for_the_limit_of_the_pod_is_not_contention() {
    let mut pod = pod(vec![container("app", ContainerKind::Regular, &[])]);
    pod.cpu_limit_millis = Some(500);
    let mut app = of(&pod);
    app.containers[0].cpu.max = Some(cpu_max(None));
    check(&app, &expect![[""]]);
}

#[test]
fn what_is_not_known_is_not_judged() {
    let silent = |change: fn(&mut Snapshot)| {
        let mut app = app();
        change(&mut app);
        assert!(!said(&app).contains("C002"), "{}", said(&app));
    };
    silent(|app| app.declared = None);
    silent(|app| app.node_cpu = None);
    silent(|app| app.node_cpu.as_mut().unwrap().some = None);
    silent(|app| app.node_cpu.as_mut().unwrap().span = Duration::from_secs(20));
    silent(|app| app.containers[0].cpu.rates = None);
    silent(|app| app.containers[0].cpu.rates.as_mut().unwrap().throttled_us = Some(0));
    silent(|app| app.containers[0].cpu.rates.as_mut().unwrap().some = None);
    silent(|app| app.containers[0].cpu.rates.as_mut().unwrap().span = Duration::from_secs(20));
    silent(|app| app.containers[0].cpu.day = None);
    silent(|app| app.containers[0].cpu.day = Some(distribution(vec![50_000; 99])));
    silent(|app| app.containers[0].is_self = true);
    silent(|app| app.containers[0].gone = true);
}

#[test]
fn no_request_of_its_own_is_another_matter() {
    let bare = DeclaredContainer {
        cpu_request_millis: None,
        ..container("app", ContainerKind::Regular, &[])
    };
    check(
        &of(&pod(vec![bare.clone()])),
        &expect!["C001 low web/app requests.cpu"],
    );
    let shared = DeclaredPod {
        cpu_request_millis: Some(100),
        ..pod(vec![bare])
    };
    check(&of(&shared), &expect![[""]]);
}

#[test]
fn a_request_that_equals_the_limit_cannot_be_raised_alone() {
    let with = |limit| DeclaredContainer {
        cpu_limit_millis: Some(limit),
        ..container("app", ContainerKind::Regular, &[])
    };
    check(&of(&pod(vec![with(100)])), &expect![[""]]);
    check(
        &of(&pod(vec![with(110)])),
        &expect!["C002 medium web/app requests.cpu"],
    );
}
