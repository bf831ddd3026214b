use std::time::Duration;

use expect_test::{Expect, expect};

use crate::declared::{ContainerKind, DeclaredContainer};
use crate::rules::testing::{
    NOW, container, cpu_max, declared, distribution, in_full, pod, said, snapshot, view,
};
use crate::snapshot::{Distribution, Snapshot};

const DAY: Duration = Duration::from_secs(86_400);

/// These windows, as if they were all of a span of time.
fn over(span: Duration, busy_us: u32) -> Distribution {
    let mut all = distribution(vec![busy_us; 1_000]);
    let windows = span.as_millis() / 100;
    let sketch = std::sync::Arc::make_mut(&mut all.sketch);
    // By doubling: a week has six million windows.
    while u128::from(sketch.count()) < windows {
        let again = sketch.clone();
        sketch.merge(&again);
    }
    all.since = NOW.minus(span);
    all
}

/// A container that requests a CPU and uses a tenth of one for seven days.
fn app() -> Snapshot {
    with(1_000, None)
}

fn with(request: u64, limit: Option<u64>) -> Snapshot {
    let app = DeclaredContainer {
        cpu_request_millis: Some(request),
        cpu_limit_millis: limit,
        ..container("app", ContainerKind::Regular, &[])
    };
    let pod = pod(vec![app]);
    let mut app = snapshot(
        Some(declared(&pod, vec![])),
        vec![view(&pod, Some(0), vec![])],
    );
    app.now = NOW.plus(7 * DAY);
    let mut week = over(7 * DAY, 10_000);
    week.since = NOW;
    week.until = app.now;
    app.containers[0].cpu.week = Some(week);
    app
}

fn check(snapshot: &Snapshot, expected: &Expect) {
    expected.assert_eq(&said(snapshot));
}

#[test]
fn a_week_far_below_the_request_is_reported() {
    expect![[r#"
        C003 info web/app requests.cpu
        declared: requests.cpu is 1000m
        observed: uses 100m or less in 99 % of the windows of the last 7 days
        evidence: {"mean_cores":0.1,"p50_cores":0.1,"p95_cores":0.1,"p99_cores":0.1,"peak_cores":0.1,"request_cores":1.0,"span_seconds":604800,"waste_cores":0.9,"windows":8192000}
        coverage: Full
        remediation: Lower requests.cpu to 100m, unless an autoscaler sizes the workload by its use of the request.
        # kubectl --namespace shop patch deployment/web --patch-file FILE
        spec:
          template:
            spec:
              containers:
                - name: "app"
                  resources:
                    requests:
                      cpu: 100m
    "#]].assert_eq(&in_full(&app()));
}

#[test]
fn a_request_that_is_used_or_small_stands() {
    check(&with(300, None), &expect![[""]]);
    check(&with(190, None), &expect![[""]]);
    check(&with(400, None), &expect!["C003 info web/app requests.cpu"]);
}

#[test]
fn a_week_that_is_not_full_says_nothing() {
    let mut short = app();
    short.containers[0].cpu.week.as_mut().unwrap().until = NOW.plus(6 * DAY - DAY / 24);
    check(&short, &expect![[""]]);
    let mut gaps = app();
    gaps.containers[0].cpu.week = Some(Distribution {
        since: NOW,
        until: NOW.plus(7 * DAY),
        ..over(2 * DAY, 10_000)
    });
    check(&gaps, &expect![[""]]);
    let mut unknown = app();
    unknown.containers[0].cpu.week = None;
    check(&unknown, &expect![[""]]);
    let mut undeclared = app();
    undeclared.declared = None;
    assert!(!said(&undeclared).contains("C003"));
}

#[test]
fn trap_23_exclusive_cpus_are_meant() {
    let mut exclusive = with(2_000, Some(2_000));
    check(&exclusive, &expect![[""]]);
    exclusive.containers[0].cpu.max = Some(cpu_max(None));
    check(&exclusive, &expect![[""]]);
    exclusive.containers[0].cpu.max = Some(cpu_max(Some(200_000)));
    check(&exclusive, &expect!["C003 info web/app requests.cpu"]);
    assert!(
        in_full(&exclusive).ends_with("no patch"),
        "its class of service would change"
    );
}
