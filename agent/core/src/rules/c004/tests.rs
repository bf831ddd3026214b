use std::time::Duration;

use expect_test::{Expect, expect};

use crate::declared::{ContainerKind, WorkloadRef};
use crate::finding::Coverage;
use crate::rules::testing::{
    container, cpu_max, declared, in_full, listener, pod, said, snapshot, view, windows,
};
use crate::snapshot::{CpuRates, Snapshot};

/// A server that is limited to half a CPU and was stopped in half of a minute's periods, for 60 ms each.
fn app() -> Snapshot {
    let pod = pod(vec![container("app", ContainerKind::Regular, &[8080])]);
    let listeners = vec![listener(8080, &["0.0.0.0"])];
    let mut app = snapshot(
        Some(declared(&pod, vec![])),
        vec![view(&pod, Some(0), listeners)],
    );
    app.containers[0].cpu.max = Some(cpu_max(Some(50_000)));
    app.containers[0].cpu.rates = Some(CpuRates {
        span: Duration::from_secs(60),
        usage_cores: 0.35,
        periods: Some(600),
        throttled_periods: Some(300),
        throttled_us: Some(18_000_000),
        some: Some(0.31),
        ..CpuRates::default()
    });
    app
}

fn with(change: impl FnOnce(&mut CpuRates)) -> Snapshot {
    let mut app = app();
    change(app.containers[0].cpu.rates.as_mut().unwrap());
    app
}

fn check(snapshot: &Snapshot, expected: &Expect) {
    expected.assert_eq(&said(snapshot));
}

#[test]
fn a_server_that_is_stopped_is_reported() {
    let mut app = app();
    app.containers[0].cpu.windows = Some(windows(vec![50_000; 100]));
    app.containers[0].cpu.rates.as_mut().unwrap().bursts = Some(4);
    expect![[r#"
        C004 medium web/app limits.cpu
        declared: limit of 0.50 CPUs (in force)
        observed: stopped in 300 of 600 periods, for 60 ms each (summed over CPUs), at a mean of 0.35 CPUs; tasks waited 31 % of the time
        evidence: {"burst_periods":4,"limit_cores":0.5,"peak_cores":0.5,"periods":600,"span_seconds":60,"stall_us":60000,"throttled_periods":300,"throttled_share_of_time":0.3,"usage_cores":0.35,"wait_share":0.31}
        coverage: Full
        remediation: Use fewer threads at once (such as GOMAXPROCS at the limit), or raise limits.cpu in steps, or remove it: it cuts use off, so what is wanted cannot be seen.
        no patch"#]].assert_eq(&in_full(&app));
}

#[test]
fn many_short_stops_are_no_harm() {
    // Every period is throttled, for half a millisecond.
    let app = with(|rates| {
        rates.throttled_periods = Some(600);
        rates.throttled_us = Some(300_000);
    });
    check(&app, &expect![[""]]);
}

#[test]
fn few_long_stops_are() {
    // A tenth of the periods, for 51 ms each, is just above 5 % of the time.
    let of = |periods, each| {
        with(move |rates| {
            rates.throttled_periods = Some(periods);
            rates.throttled_us = Some(periods * each);
            rates.span = Duration::from_secs(120);
        })
    };
    check(&of(60, 51_000), &expect!["C004 medium web/app limits.cpu"]);
    check(&of(60, 50_000), &expect![[""]]);
    check(&of(59, 51_000), &expect![[""]]);
}

#[test]
fn what_nobody_waited_for_is_no_harm() {
    // Throttled time is summed over CPUs; waiting is not.
    check(&with(|rates| rates.some = Some(0.04)), &expect![[""]]);
    check(
        &with(|rates| rates.some = None),
        &expect!["C004 low web/app limits.cpu"],
    );
}

#[test]
fn background_work_is_low() {
    let mut silent = app();
    silent.containers[0].listeners.clear();
    check(&silent, &expect!["C004 low web/app limits.cpu"]);
    silent.containers[0].coverage = Coverage::Partial("not attached yet".into());
    check(
        &silent,
        &expect![[r#"
            C004 medium web/app limits.cpu
            M001 low node coverage/partial/not attached yet"#]],
    );
    let mut job = app();
    job.containers[0].subject.owner = Some(WorkloadRef {
        kind: "Job".into(),
        name: "web".into(),
    });
    check(&job, &expect!["C004 low web/app limits.cpu"]);
}

#[test]
fn without_a_limit_or_figures_there_is_nothing_to_say() {
    let mut none = app();
    none.containers[0].cpu.max = Some(cpu_max(None));
    check(&none, &expect![[""]]);
    none.containers[0].cpu.max = None;
    check(&none, &expect![[""]]);
    check(&with(|rates| rates.throttled_us = None), &expect![[""]]);
    check(&with(|rates| rates.periods = None), &expect![[""]]);
    check(
        &with(|rates| rates.span = Duration::from_secs(57)),
        &expect![[""]],
    );
    let mut idle = app();
    idle.containers[0].cpu.rates = None;
    check(&idle, &expect![[""]]);
}

#[test]
fn no_declared_side_is_needed() {
    let mut app = app();
    app.declared = None;
    assert!(said(&app).contains("C004 medium"));
}
