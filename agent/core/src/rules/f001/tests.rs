//! When a verdict is `deny` is tested where it is made: `node/tests/verdicts.rs`.

use expect_test::expect;

use crate::declared::ContainerKind;
use crate::observation::Role;
use crate::rules::testing::{
    container, declared, denied, flow, in_full, of_rule, pod, snapshot, view,
};
use crate::snapshot::{FlowView, Snapshot};

fn with(flow: FlowView) -> Snapshot {
    let pod = pod(vec![container("app", ContainerKind::Regular, &[8080])]);
    let container = view(&pod, Some(0), vec![]);
    let mut all = declared(&pod, vec![]);
    all.policies_known = false;
    let mut snapshot = snapshot(Some(all), vec![container]);
    snapshot.flows = vec![flow];
    snapshot
}

#[test]
fn a_passed_flow_is_told_with_its_verdict() {
    let mut flow = flow(Role::Server);
    flow.verdicts.passed = denied(10, 20);
    expect![[r#"
        F001 high web/app ingress workload shop/cart tcp/8080
        declared: selected by shop/p, and no rule of them matches
        observed: 10 connections passed from workload shop/cart on tcp/8080
        evidence: {"connections":10,"direction":"ingress","peer":"workload shop/cart","port":8080,"transport":"tcp","verdict":"selected by shop/p, and no rule of them matches"}
        coverage: Full
        remediation: The CNI does not enforce this policy: check that it supports NetworkPolicy and the fields used, and that its agent runs on this node.
        no patch"#]]
    .assert_eq(&in_full(&with(flow)));
}

#[test]
fn only_what_is_denied_and_recent() {
    let said = |count, ago, overflow| {
        let mut flow = flow(Role::Client);
        flow.verdicts.passed = denied(count, ago);
        flow.overflow = overflow;
        of_rule("F001", &with(flow))
    };
    let told = "F001 high web/app egress workload shop/cart tcp/8080";
    assert_eq!(said(1, 0, false), told);
    assert_eq!(said(1, 599, false), told);
    assert_eq!(said(1, 600, false), "");
    assert_eq!(said(0, 0, false), "");
    assert_eq!(said(1, 0, true), "", "peers that were counted together");
}
