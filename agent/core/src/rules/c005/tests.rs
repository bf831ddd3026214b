use expect_test::{Expect, expect};

use crate::declared::{ContainerKind, DeclaredContainer, DeclaredPod, WorkloadRef};
use crate::id::PodUid;
use crate::rules::testing::{
    container, cpu_max, declared, distribution, in_full, node_cpu, pod, rates, said, snapshot, view,
};
use crate::snapshot::Snapshot;

/// `web/app` without a limit uses 1.5 CPUs, and `db/db` waits though it uses less than it requested.
fn node() -> Snapshot {
    of(&pod(vec![container("app", ContainerKind::Regular, &[])]))
}

fn of(noisy: &DeclaredPod) -> Snapshot {
    let quiet = DeclaredPod {
        name: "db-0".into(),
        uid: Some(PodUid::new("11111111-9a3c-4d0c-8c5e-1f2d3c4b5a69")),
        owner: WorkloadRef {
            kind: "StatefulSet".into(),
            name: "db".into(),
        },
        ..pod(vec![container("db", ContainerKind::Regular, &[])])
    };
    let mut victim = view(&quiet, Some(0), vec![]);
    victim.cpu.rates = Some(rates(0.05, 0.3));
    let mut loud = view(noisy, Some(0), vec![]);
    loud.cpu.rates = Some(rates(1.5, 0.4));
    let mut node = snapshot(Some(declared(noisy, vec![])), vec![loud, victim]);
    node.node_cpu = Some(node_cpu(0.6));
    node
}

fn check(snapshot: &Snapshot, expected: &Expect) {
    expected.assert_eq(&said(snapshot));
}

#[test]
fn who_takes_what_others_requested_is_reported() {
    let mut node = node();
    node.containers[0].cpu.day = Some(distribution(
        [vec![150_000; 995], vec![190_000; 5]].concat(),
    ));
    // Its own use over its request is C002's matter, which does not change this one.
    let text = said(&node);
    assert_eq!(
        text,
        "C002 medium web/app requests.cpu\nC005 low web/app limits.cpu"
    );
    node.containers[0].cpu.rates = Some(rates(1.5, 0.0));
    expect![[r#"
        C005 low web/app limits.cpu
        declared: no limits.cpu; requests.cpu is 100m
        observed: uses 1.50 CPUs while 1 container below its request waits up to 30 % of the time
        evidence: {"mean_cores":1.5019999999999998,"neighbour_names":["shop/db-0/db"],"neighbour_wait_share":0.3,"neighbours":1,"node_wait_share":0.6,"p50_cores":1.543,"p95_cores":1.543,"p99_cores":1.543,"peak_cores":1.9,"request_cores":0.1,"span_seconds":100,"usage_cores":1.5,"windows":1000}
        coverage: Full
        remediation: Raise requests.cpu to 1550m, which would have covered 95 % of the last 100 s, or set limits.cpu; 1900m would have throttled 0.0 % of the periods.
        # kubectl --namespace shop patch deployment/web --patch-file FILE
        spec:
          template:
            spec:
              containers:
                - name: "app"
                  resources:
                    requests:
                      cpu: 1550m
    "#]].assert_eq(&in_full(&node));
}

#[test]
fn without_a_history_there_is_no_proposal() {
    expect![[r#"
        C005 low web/app limits.cpu
        declared: no limits.cpu; requests.cpu is 100m
        observed: uses 1.50 CPUs while 1 container below its request waits up to 30 % of the time
        evidence: {"neighbour_names":["shop/db-0/db"],"neighbour_wait_share":0.3,"neighbours":1,"node_wait_share":0.6,"request_cores":0.1,"usage_cores":1.5}
        coverage: Full
        remediation: Raise requests.cpu to what the container usually needs, or set limits.cpu.
        no patch"#]].assert_eq(&in_full(&node()));
}

#[test]
fn a_limit_of_any_kind_is_one() {
    let limited = DeclaredContainer {
        cpu_limit_millis: Some(2_000),
        ..container("app", ContainerKind::Regular, &[])
    };
    check(&of(&pod(vec![limited])), &expect![[""]]);
    let shared = DeclaredPod {
        cpu_limit_millis: Some(2_000),
        ..pod(vec![container("app", ContainerKind::Regular, &[])])
    };
    check(&of(&shared), &expect![[""]]);
    let mut in_force = node();
    in_force.containers[0].cpu.max = Some(cpu_max(Some(200_000)));
    check(&in_force, &expect![[""]]);
    in_force.containers[0].cpu.max = Some(cpu_max(None));
    check(&in_force, &expect!["C005 low web/app limits.cpu"]);
}

#[test]
fn use_near_the_request_is_no_noise() {
    let mut node = node();
    node.containers[0].cpu.rates = Some(rates(0.19, 0.4));
    check(&node, &expect![[""]]);
    node.containers[0].cpu.rates = Some(rates(0.21, 0.4));
    check(&node, &expect!["C005 low web/app limits.cpu"]);
}

#[test]
fn somebody_with_a_claim_must_wait() {
    let silent = |change: fn(&mut Snapshot)| {
        let mut node = node();
        change(&mut node);
        assert!(!said(&node).contains("C005"), "{}", said(&node));
    };
    silent(|node| node.containers[1].cpu.rates = Some(rates(0.05, 0.05)));
    silent(|node| node.containers[1].cpu.rates = Some(rates(0.11, 0.3)));
    silent(|node| node.containers[1].cpu.rates = None);
    silent(|node| node.containers[1].is_self = true);
    silent(|node| node.containers[1].pod_uid = node.containers[0].pod_uid.clone());
    // Its own limit stops it.
    silent(|node| node.containers[1].cpu.max = Some(cpu_max(Some(10_000))));
    silent(|node| node.node_cpu = Some(node_cpu(0.05)));
    silent(|node| node.node_cpu = None);
    silent(|node| node.declared = None);
}
