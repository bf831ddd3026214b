//! Containers and their declarations.

use std::sync::Arc;

use super::{POD, apply, container_id, node, only, path, seen};
use crate::declared::{Declared, DeclaredContainer, DeclaredPod, WorkloadRef};
use crate::finding::Coverage;
use crate::id::{CgroupId, ContainerId, PodUid};
use crate::observation::{Fact, Health, ProbeStatus};
use crate::time::Timestamp;

fn declared(pod: DeclaredPod) -> Fact {
    Fact::Declared(Declared {
        source: "test".into(),
        pods: vec![Arc::new(pod)],
        ..Declared::default()
    })
}

fn pod() -> DeclaredPod {
    let container = DeclaredContainer {
        name: "web".into(),
        container_id: Some(ContainerId::new(container_id(1))),
        started_unix_ns: Some(5_000_000_000),
        ..DeclaredContainer::default()
    };
    DeclaredPod {
        namespace: "shop".into(),
        name: "web-1".into(),
        uid: Some(PodUid::new(POD)),
        owner: WorkloadRef {
            kind: "Deployment".into(),
            name: "web".into(),
        },
        containers: vec![container],
        ..DeclaredPod::default()
    }
}

#[test]
fn the_declaration_is_found_by_container_id_then_by_pod() {
    let mut node = node();
    seen(&mut node, 1, 10, path(1));
    seen(&mut node, 1, 20, path(2));
    apply(&mut node, 2, declared(pod()));
    let snapshot = node.snapshot(Timestamp(5));
    let names: Vec<_> = snapshot
        .containers
        .iter()
        .map(|container| container.subject.container.as_deref())
        .collect();
    assert_eq!(
        names,
        [None, Some("web")],
        "an undeclared container id still has its pod"
    );
    assert!(
        snapshot
            .containers
            .iter()
            .all(|container| container.subject.pod.as_deref() == Some("web-1"))
    );
}

#[test]
fn trap_13_a_static_pod_is_found_by_the_hash_of_its_configuration() {
    let hash = "d4e5f6a7b8c90123d4e5f6a7b8c90123";
    let mut node = node();
    let path = format!("/kubepods/burstable/pod{hash}/{}", container_id(9));
    seen(&mut node, 1, 10, path);
    let mirror = DeclaredPod {
        config_hash: Some(PodUid::new(hash)),
        ..pod()
    };
    apply(&mut node, 2, declared(mirror));
    assert_eq!(
        only(&node.snapshot(Timestamp(5))).subject.pod.as_deref(),
        Some("web-1")
    );
}

#[test]
fn the_declared_start_becomes_monotonic_time() {
    let mut node = node();
    apply(
        &mut node,
        8_000_000_000,
        Fact::Clock {
            unix_ns: 6_000_000_000,
        },
    );
    seen(&mut node, 8_000_000_000, 10, path(1));
    apply(&mut node, 8_000_000_001, declared(pod()));
    let snapshot = node.snapshot(Timestamp(9_000_000_000));
    assert_eq!(only(&snapshot).started, Some(Timestamp(7_000_000_000)));
    assert_eq!(snapshot.wall.0, 7_000_000_000);
}

/// The pod with another container of the same name.
fn pod_after_restart(container: u64) -> DeclaredPod {
    let mut pod = pod();
    pod.containers[0].container_id = Some(ContainerId::new(container_id(container)));
    pod
}

#[test]
fn a_container_that_takes_the_place_of_another_is_a_restart() {
    let mut node = node();
    let restarts = |node: &crate::node::NodeState| {
        let snapshot = node.snapshot(Timestamp(50));
        let of = |container: &crate::snapshot::ContainerView| container.restarts;
        snapshot.containers.iter().map(of).collect::<Vec<_>>()
    };
    seen(&mut node, 1, 10, path(1));
    assert_eq!(restarts(&node), [None], "its name is not known yet");
    apply(&mut node, 2, declared(pod()));
    assert_eq!(restarts(&node), [Some(0)]);
    // The next one is there before the declared side names it.
    seen(&mut node, 3, 20, path(2));
    apply(
        &mut node,
        4,
        Fact::CgroupGone {
            cgroup: crate::id::CgroupId(10),
        },
    );
    assert_eq!(restarts(&node), [None, Some(0)]);
    for at in [5, 6] {
        apply(&mut node, at, declared(pod_after_restart(2)));
        assert_eq!(restarts(&node), [None, Some(1)], "once");
    }
    // The third one comes when the declared side knows it already; a late word of the second is no restart.
    apply(&mut node, 7, declared(pod_after_restart(3)));
    seen(&mut node, 8, 30, path(3));
    apply(&mut node, 9, declared(pod_after_restart(2)));
    apply(&mut node, 10, declared(pod_after_restart(3)));
    assert_eq!(restarts(&node), [None, None, Some(2)]);
}

#[test]
fn kills_are_those_of_the_cgroup_and_unknown_without_the_controller() {
    let mut node = node();
    seen(&mut node, 1, 10, path(1));
    assert_eq!(only(&node.snapshot(Timestamp(2))).oom_kills, None);
    let row = crate::observation::MemoryEventsRow {
        cgroup: crate::id::CgroupId(10),
        oom_kills: 3,
    };
    apply(&mut node, 3, Fact::MemoryEvents { rows: vec![row] });
    assert_eq!(only(&node.snapshot(Timestamp(4))).oom_kills, Some(3));
}

#[test]
fn trap_21_a_pod_with_a_kernel_of_its_own_is_blind_never_clean() {
    let coverage = |class: Option<&str>| {
        let mut node = node();
        seen(&mut node, 1, 10, path(1));
        let mut pod = pod();
        pod.runtime_class = class.map(str::to_owned);
        apply(&mut node, 2, declared(pod));
        let ok = ProbeStatus {
            probe: "tcp".into(),
            health: Health::Ok,
            reason: None,
        };
        apply(&mut node, 3, Fact::Probe(ok));
        let attached = Fact::Attached {
            cgroup: CgroupId(10),
            error: None,
            pre_existing: false,
        };
        apply(&mut node, 3, attached);
        only(&node.snapshot(Timestamp(5))).coverage.clone()
    };
    assert_eq!(coverage(None), Coverage::Full);
    assert_eq!(coverage(Some("nvidia")), Coverage::Full);
    let blind = Coverage::Blind("runtime class Kata-QEMU: a kernel of its own".into());
    assert_eq!(coverage(Some("Kata-QEMU")), blind);
}
