//! Trap 20 from what is seen to what is told: pods that crash, end, are replaced, or are scaled to none.

use std::sync::Arc;
use std::time::Duration;

use crate::declared::{ContainerKind, Declared, DeclaredPod};
use crate::finding::{Finding, Resolution, Transition};
use crate::findings::Findings;
use crate::id::PodUid;
use crate::rules::evaluate;
use crate::rules::testing::{NOW, container, declared, listener, pod, snapshot, view};
use crate::snapshot::{ContainerView, Snapshot};

fn replica(name: &str) -> DeclaredPod {
    DeclaredPod {
        name: name.into(),
        uid: Some(PodUid::new(format!("{name}-9a3c-4d0c-8c5e-1f2d3c4b5a69"))),
        ..pod(vec![container("app", ContainerKind::Regular, &[80])])
    }
}

/// With the port that nobody declares, or as the next version has it.
fn running(pod: &DeclaredPod, wrong: bool) -> ContainerView {
    let ports = if wrong { &[80, 9_999][..] } else { &[80] };
    let listeners = ports.iter().map(|port| listener(*port, &["0.0.0.0"]));
    let mut view = view(pod, Some(0), listeners.collect());
    view.container_id = crate::id::ContainerId::new(format!("{}-id", pod.name));
    view
}

fn node(seconds: u64, pods: &[&DeclaredPod], containers: Vec<ContainerView>) -> Snapshot {
    let all = Declared {
        pods: pods.iter().map(|pod| Arc::new((*pod).clone())).collect(),
        ..declared(&replica("any"), vec![])
    };
    let mut node = snapshot(Some(all), containers);
    node.now = NOW.plus(Duration::from_secs(seconds));
    node
}

/// What is told of P001 at this moment and a minute later.
fn told(findings: &mut Findings, node: &Snapshot) -> Vec<Finding> {
    let mut told = Vec::new();
    for seconds in [0, 60] {
        let mut node = node.clone();
        node.now = node.now.plus(Duration::from_secs(seconds));
        told.extend(findings.update(evaluate(&node), &node));
    }
    told.retain(|finding| finding.rule_id == "P001");
    told
}

#[test]
fn trap_20_a_rollout_ends_it_when_the_last_old_pod_is_gone() {
    let (old, new) = (replica("web-1"), replica("web-2"));
    let mut findings = Findings::default();
    let before = node(0, &[&old], vec![running(&old, true)]);
    let opened = told(&mut findings, &before);
    assert_eq!(opened[0].transition, Some(Transition::Opened));
    // The surge: both run, and one of them is as it was.
    let both = vec![running(&old, true), running(&new, false)];
    let surge = node(100, &[&old, &new], both);
    assert_eq!(told(&mut findings, &surge), []);
    // Terminating: still declared and still there.
    let both = vec![running(&old, true), running(&new, false)];
    let terminating = node(200, &[&old, &new], both);
    assert_eq!(told(&mut findings, &terminating), []);
    let after = node(300, &[&new], vec![running(&new, false)]);
    let ended = told(&mut findings, &after);
    assert_eq!(ended[0].transition, Some(Transition::Resolved));
    assert_eq!(ended[0].resolution, Some(Resolution::Absent));
}

#[test]
fn trap_20_a_crash_ends_nothing_and_scaling_to_none_does() {
    let web = replica("web-1");
    let mut findings = Findings::default();
    told(&mut findings, &node(0, &[&web], vec![running(&web, true)]));
    let mut crashed = running(&web, true);
    crashed.gone = true;
    for (seconds, containers) in [(100, vec![crashed]), (200, vec![])] {
        let waiting = node(seconds, &[&web], containers);
        assert_eq!(told(&mut findings, &waiting), [], "CrashLoopBackOff");
    }
    // It comes back as it was: the same finding.
    let back = node(300, &[&web], vec![running(&web, true)]);
    assert_eq!(told(&mut findings, &back), []);
    let none = node(400, &[], vec![]);
    let ended = told(&mut findings, &none);
    assert_eq!(ended[0].resolution, Some(Resolution::OwnerGone));
}
