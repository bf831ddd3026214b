//! Containers and their declarations.

use std::sync::Arc;

use super::{POD, apply, container_id, node, only, path, seen};
use crate::declared::{Declared, DeclaredContainer, DeclaredPod, WorkloadRef};
use crate::id::{ContainerId, PodUid};
use crate::observation::Fact;
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
fn a_static_pod_is_found_by_the_hash_of_its_configuration() {
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
