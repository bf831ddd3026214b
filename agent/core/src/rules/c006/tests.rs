use std::time::Duration;

use expect_test::{Expect, expect};

use crate::declared::{ContainerKind, DeclaredContainer, DeclaredPod};
use crate::observation::CpuMax;
use crate::rules::testing::{
    NOW, container, cpu_max, declared, in_full, pod, said, snapshot, view,
};
use crate::settings::Grace;
use crate::snapshot::Snapshot;

fn spec(request: Option<u64>, limit: Option<u64>) -> DeclaredContainer {
    DeclaredContainer {
        cpu_request_millis: request,
        cpu_limit_millis: limit,
        ..container("app", ContainerKind::Regular, &[])
    }
}

/// A container with this declaration, limit and weight; another one of the node has a quota.
fn app(declared: DeclaredContainer, max: CpuMax, weight: u64) -> Snapshot {
    of(
        &pod(vec![
            declared,
            container("side", ContainerKind::Sidecar, &[]),
        ]),
        max,
        weight,
    )
}

fn of(pod: &DeclaredPod, max: CpuMax, weight: u64) -> Snapshot {
    let mut app = snapshot(
        Some(declared(pod, vec![])),
        vec![view(pod, Some(0), vec![]), view(pod, None, vec![])],
    );
    let long_ago = Some(NOW.minus(Duration::from_secs(600)));
    app.containers[0].cpu.max = Some(max);
    app.containers[0].cpu.weight = Some(weight);
    app.containers[0].cpu.settings_since = long_ago;
    app.containers[1].cpu.max = Some(cpu_max(Some(20_000)));
    app
}

fn check(snapshot: &Snapshot, expected: &Expect) {
    expected.assert_eq(&said(snapshot));
}

#[test]
fn a_cgroup_that_somebody_wrote_is_reported() {
    let app = app(spec(Some(250), Some(500)), cpu_max(Some(40_000)), 1);
    expect![[r#"
        C006 medium web/app cgroup
        declared: limits.cpu 500m, requests.cpu 250m
        observed: cpu.max and cpu.weight of the cgroup: a limit of 0.40 CPUs, a weight of 1
        evidence: {"differs":"cpu.max and cpu.weight","limit_cores":0.4,"limit_declared_cores":0.5,"request_declared_cores":0.25,"weight":1,"weight_linear":10,"weight_quadratic":35}
        coverage: Full
        remediation: Check the kubelet's CPU manager and the runtime, and who else writes to the cgroup; creating the pod anew sets it right.
        no patch"#]].assert_eq(&in_full(&app));
}

#[test]
fn trap_23_a_resize_that_waits_is_told_from_a_fault() {
    let resized = DeclaredContainer {
        cpu_request_current_millis: Some(250),
        cpu_limit_current_millis: Some(500),
        cpu_allocated_millis: Some(250),
        ..spec(Some(500), Some(1_000))
    };
    expect![[r#"
        C006 low web/app cgroup
        declared: limits.cpu 1000m, requests.cpu 500m; by its status 500m and 250m
        observed: cpu.max and cpu.weight of the cgroup: a limit of 0.50 CPUs, a weight of 10
        evidence: {"differs":"cpu.max and cpu.weight","limit_cores":0.5,"limit_declared_cores":1.0,"limit_status_cores":0.5,"request_allocated_cores":0.25,"request_declared_cores":0.5,"request_status_cores":0.25,"weight":10,"weight_linear":20,"weight_quadratic":59}
        coverage: Full
        remediation: A resize waits: see the pod's conditions PodResizePending and PodResizeInProgress; make room on the node, or create the pod anew.
        no patch"#]].assert_eq(&in_full(&app(resized, cpu_max(Some(50_000)), 10)));
}

#[test]
fn settings_that_fit() {
    let quota = |us| cpu_max(Some(us));
    let other_period = CpuMax {
        quota_us: Some(5_000),
        period_us: 10_000,
        burst_us: 0,
    };
    for (name, request, limit, max, weight) in [
        ("linear", Some(250), Some(500), quota(50_000), 10),
        ("quadratic", Some(250), Some(500), quota(50_000), 35),
        (
            "rounded by systemd",
            Some(250),
            Some(505),
            quota(51_000),
            10,
        ),
        ("another period", Some(250), Some(500), other_period, 10),
        ("the least quota", Some(1), Some(1), quota(1_000), 1),
        ("nothing", None, None, cpu_max(None), 1),
        ("no limit", Some(1_000), None, cpu_max(None), 39),
        (
            "exclusive CPUs",
            Some(2_000),
            Some(2_000),
            cpu_max(None),
            79,
        ),
        (
            "CPUs with a quota",
            Some(2_000),
            Some(2_000),
            quota(200_000),
            79,
        ),
        ("a request of zero", Some(0), None, cpu_max(None), 1),
    ] {
        let app = app(spec(request, limit), max, weight);
        assert!(!said(&app).contains("C006"), "{name}: {}", said(&app));
    }
}

#[test]
fn settings_that_do_not() {
    let quota = |us| cpu_max(Some(us));
    for (name, request, limit, max, weight) in [
        ("less", Some(250), Some(500), quota(49_000), 10),
        ("more", Some(250), Some(500), quota(52_000), 10),
        ("none", Some(250), Some(500), cpu_max(None), 10),
        ("a limit of nowhere", Some(250), None, quota(50_000), 10),
        ("weight", Some(250), Some(500), quota(50_000), 100),
        ("idle", Some(250), Some(500), quota(50_000), 0),
        ("weight of nowhere", None, None, cpu_max(None), 100),
    ] {
        let app = app(spec(request, limit), max, weight);
        assert!(said(&app).contains("C006 medium"), "{name}: {}", said(&app));
    }
}

#[test]
fn a_node_without_quotas_is_no_deviation() {
    let mut app = app(spec(Some(250), Some(500)), cpu_max(None), 10);
    app.containers[1].cpu.max = Some(cpu_max(None));
    check(&app, &expect![[""]]);
}

#[test]
fn trap_23_pod_level_resources() {
    let shared = DeclaredPod {
        cpu_request_millis: Some(500),
        cpu_limit_millis: Some(1_000),
        ..pod(vec![spec(None, None)])
    };
    check(&of(&shared, cpu_max(None), 20), &expect![[""]]);
    check(&of(&shared, cpu_max(Some(100_000)), 20), &expect![[""]]);
    check(
        &of(&shared, cpu_max(Some(70_000)), 20),
        &expect!["C006 medium web/app cgroup"],
    );
}

#[test]
fn trap_23_changes_are_given_time() {
    let just_now = Some(NOW.minus(Duration::from_secs(89)));
    let fault = || app(spec(Some(250), Some(500)), cpu_max(Some(40_000)), 10);
    let mut cgroup = fault();
    cgroup.containers[0].cpu.settings_since = just_now;
    check(&cgroup, &expect![[""]]);
    cgroup.settings.grace = Grace::Scans(2);
    check(&cgroup, &expect!["C006 medium web/app cgroup"]);
    let mut spec = fault();
    spec.containers[0].declared_cpu_since = just_now;
    check(&spec, &expect![[""]]);
    spec.containers[0].declared_cpu_since = None;
    check(&spec, &expect![[""]]);
}

#[test]
fn what_is_not_known_is_not_judged() {
    let mut app = app(spec(Some(250), Some(500)), cpu_max(Some(40_000)), 1);
    app.containers[0].cpu.max = None;
    app.containers[0].cpu.weight = None;
    check(&app, &expect![[""]]);
    app.containers[0].cpu.max = Some(cpu_max(Some(40_000)));
    app.declared = None;
    assert!(!said(&app).contains("C006"));
}
