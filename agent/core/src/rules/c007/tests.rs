use std::time::Duration;

use expect_test::{Expect, expect};

use crate::declared::{ContainerKind, DeclaredContainer};
use crate::finding::{Coverage, Subject};
use crate::observation::CpuMax;
use crate::rules::evaluate;
use crate::rules::testing::{container, declared, in_full, pod, said, snapshot, view, windows};
use crate::snapshot::Snapshot;

/// A minute of windows, of which every `every`th is `peak_us` and the rest 1 ms.
fn minute(every: usize, peak_us: u32) -> Vec<u32> {
    (0..600)
        .map(|index| if index % every == 0 { peak_us } else { 1_000 })
        .collect()
}

/// A container that declares a limit of half a CPU, with this `cpu.max` and these windows.
fn app(max: Option<CpuMax>, busy_us: Vec<u32>) -> Snapshot {
    let container = DeclaredContainer {
        cpu_limit_millis: Some(500),
        ..container("app", ContainerKind::Regular, &[8080])
    };
    let pod = pod(vec![container]);
    let mut app = snapshot(
        Some(declared(&pod, vec![])),
        vec![view(&pod, Some(0), vec![])],
    );
    app.containers[0].cpu.windows = Some(windows(busy_us));
    app.containers[0].cpu.max = max;
    app
}

fn quota(quota_us: u64, burst_us: u64) -> Option<CpuMax> {
    Some(CpuMax {
        quota_us: Some(quota_us),
        period_us: 100_000,
        burst_us,
    })
}

fn check(snapshot: &Snapshot, expected: &Expect) {
    expected.assert_eq(&said(snapshot));
}

#[test]
fn bursts_at_the_limit_in_force_are_reported_with_all_there_is_to_say() {
    let mut app = app(quota(50_000, 0), minute(5, 49_000));
    app.containers[0].cpu.periods = Some((600, 120));
    expect![[r#"
        C007 info web/app limits.cpu
        declared: limit of 0.50 CPUs (in force)
        observed: peak of 0.49 CPUs in 100 ms, mean of 0.11; 120 of 600 windows reach the limit
        evidence: {"limit_cores":0.5,"mean_cores":0.106,"peak_cores":0.49,"periods":600,"share_over_limit":0.2,"throttled_periods":120,"windows":600,"windows_over_limit":120}
        coverage: Full
        remediation: Smooth the work (fewer threads at once, such as GOMAXPROCS at the limit), or raise limits.cpu in steps: it cuts the peak off, so the true peak cannot be seen.
        no patch"#]].assert_eq(&in_full(&app));
}

#[test]
fn where_no_limit_is_enforced_the_peak_is_a_proposal() {
    expect![[r#"
        C007 info web/app limits.cpu
        declared: limit of 0.50 CPUs (declared; cpu.max was not read)
        observed: peak of 1.70 CPUs in 100 ms, mean of 0.09; 30 of 600 windows reach the limit
        evidence: {"limit_cores":0.5,"mean_cores":0.0945,"peak_cores":1.7,"share_over_limit":0.05,"windows":600,"windows_over_limit":30}
        coverage: Full
        remediation: Smooth the work (fewer threads at once, such as GOMAXPROCS at the limit), or raise limits.cpu to the peak (1800m).
        # kubectl --namespace shop patch deployment/web --patch-file FILE
        spec:
          template:
            spec:
              containers:
                - name: "app"
                  resources:
                    limits:
                      cpu: 1800m
    "#]].assert_eq(&in_full(&app(None, minute(20, 170_000))));
}

#[test]
fn a_mean_that_shows_it_hides_nothing() {
    // Every second window full and the others idle: exactly half of the limit.
    let half = [50_000, 0].repeat(300);
    check(&app(quota(50_000, 0), half.clone()), &expect![[""]]);
    let less = half.into_iter().map(|us| if us == 0 { 0 } else { us - 1 });
    check(
        &app(quota(50_000, 0), less.collect()),
        &expect!["C007 info web/app limits.cpu"],
    );
    check(
        &app(quota(50_000, 0), minute(3, 50_000)),
        &expect!["C007 info web/app limits.cpu"],
    );
}

#[test]
fn windows_below_the_limit_are_no_bursts() {
    check(&app(quota(50_000, 0), minute(5, 47_499)), &expect![[""]]);
    check(
        &app(quota(50_000, 0), minute(5, 47_500)),
        &expect!["C007 info web/app limits.cpu"],
    );
    check(
        &app(quota(50_000, 0), minute(600, 47_500)),
        &expect!["C007 info web/app limits.cpu"],
    );
}

#[test]
fn trap_23_the_limit_in_force_counts_not_the_declared_one() {
    let unlimited = Some(CpuMax {
        quota_us: None,
        period_us: 100_000,
        burst_us: 0,
    });
    check(&app(unlimited, minute(5, 100_000)), &expect![[""]]);
    // Resized to one CPU in place.
    check(&app(quota(100_000, 0), minute(5, 60_000)), &expect![[""]]);
    check(
        &app(
            Some(CpuMax {
                quota_us: Some(1),
                period_us: 0,
                burst_us: 0,
            }),
            minute(5, 60_000),
        ),
        &expect![[""]],
    );
    check(&app(quota(0, 0), minute(5, 60_000)), &expect![[""]]);
}

#[test]
fn trap_23_what_was_saved_up_may_be_spent() {
    check(
        &app(quota(50_000, 30_000), minute(5, 60_000)),
        &expect![[""]],
    );
    check(
        &app(quota(50_000, 30_000), minute(5, 76_000)),
        &expect!["C007 info web/app limits.cpu"],
    );
    // A period of 10 ms: half a CPU, and 30 ms more at most in a window of 100 ms.
    let short = Some(CpuMax {
        quota_us: Some(5_000),
        period_us: 10_000,
        burst_us: 30_000,
    });
    check(&app(short, minute(5, 60_000)), &expect![[""]]);
    check(
        &app(short, minute(5, 76_000)),
        &expect!["C007 info web/app limits.cpu"],
    );
}

#[test]
fn what_was_not_measured_is_not_judged() {
    let bursts = || minute(5, 50_000);
    let mut nothing = app(quota(50_000, 0), bursts());
    nothing.containers[0].cpu.windows = None;
    check(&nothing, &expect![[""]]);
    let mut no_limit = app(None, bursts());
    no_limit.containers[0].container_index = None;
    check(&no_limit, &expect![[""]]);
    check(&app(quota(50_000, 0), vec![]), &expect![[""]]);
    check(
        &app(quota(50_000, 0), bursts()[..579].to_vec()),
        &expect![[""]],
    );
    check(
        &app(quota(50_000, 0), bursts()[..580].to_vec()),
        &expect!["C007 info web/app limits.cpu"],
    );
    let mut gaps = app(quota(50_000, 0), bursts()[..299].to_vec());
    gaps.containers[0].cpu.windows.as_mut().unwrap().span = Duration::from_secs(60);
    check(&gaps, &expect![[""]]);
}

#[test]
fn windows_that_were_lost_make_it_partial() {
    let mut gaps = app(quota(50_000, 0), minute(5, 50_000)[..500].to_vec());
    gaps.containers[0].cpu.windows.as_mut().unwrap().span = Duration::from_secs(60);
    assert_eq!(
        evaluate(&gaps)[0].coverage,
        Coverage::Partial("windows_lost".into())
    );
}

#[test]
fn a_short_check_has_a_short_mean_window() {
    let mut short = app(quota(50_000, 0), minute(5, 50_000)[..15].to_vec());
    short.settings.cpu_mean_window = Duration::from_secs(3);
    check(&short, &expect!["C007 info web/app limits.cpu"]);
    short.settings.cpu_mean_window = Duration::from_secs(4);
    check(&short, &expect![[""]]);
}

#[test]
fn it_works_without_a_declared_side() {
    let mut app = app(quota(50_000, 0), minute(5, 50_000));
    app.declared = None;
    let view = &mut app.containers[0];
    (view.pod, view.container_index) = (None, None);
    view.subject = Subject {
        pod_uid: view.subject.pod_uid.clone(),
        ..Subject::default()
    };
    let key = format!("limits.cpu/{}", view.container_id);
    assert!(
        evaluate(&app)
            .iter()
            .any(|condition| condition.rule.id == "C007" && condition.key == key)
    );
}
