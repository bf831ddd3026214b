use crate::declared::ContainerKind;
use crate::observation::Role;
use crate::rules::testing::{container, declared, denied, flow, of_rule, pod, snapshot, view};
use crate::snapshot::{FlowView, Snapshot};

fn said(flow: FlowView) -> String {
    let pod = pod(vec![container("app", ContainerKind::Regular, &[8080])]);
    let container = view(&pod, Some(0), vec![]);
    let mut snapshot: Snapshot = snapshot(Some(declared(&pod, vec![])), vec![container]);
    snapshot.flows = vec![flow];
    of_rule("F006", &snapshot)
}

#[test]
fn repeated_attempts_that_policies_deny() {
    let of = |role, count, ago| {
        let mut flow = flow(role);
        flow.counts.failures = count;
        flow.verdicts.blocked = denied(count, ago);
        said(flow)
    };
    let told = "F006 medium web/app blocked egress workload shop/cart tcp/8080";
    assert_eq!(of(Role::Client, 3, 0), told);
    assert_eq!(of(Role::Client, 2, 0), "", "by chance");
    assert_eq!(of(Role::Client, 3, 600), "", "long ago");
    assert_eq!(of(Role::Server, 3, 0), "", "only a client fails to connect");
}

#[test]
fn failures_alone_are_no_proof() {
    let mut failing = flow(Role::Client);
    failing.counts.failures = 1_000;
    assert_eq!(said(failing), "");
}

#[test]
fn candidates_are_only_told_of() {
    let mut passing = flow(Role::Server);
    passing.verdicts.candidate = denied(1, 5);
    assert_eq!(
        said(passing),
        "F006 info web/app candidate ingress workload shop/cart tcp/8080"
    );
}
