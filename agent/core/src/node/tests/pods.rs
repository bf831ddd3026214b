//! CPU of pods and of the node.

use std::time::Duration;

use super::{POD, apply, node, path, seen};
use crate::id::CgroupId;
use crate::node::NodeState;
use crate::observation::{CpuStatRow, Fact, NodeCpuRow};
use crate::snapshot::PodCpuView;
use crate::time::Timestamp;

fn parent(path: &str) -> String {
    path.rsplit_once('/').unwrap().0.to_owned()
}

fn stat(node: &mut NodeState, at: u64, cgroup: u64, usage_us: u64) {
    let row = CpuStatRow {
        cgroup: CgroupId(cgroup),
        usage_us,
        ..CpuStatRow::default()
    };
    let fact = Fact::CpuStat {
        rows: vec![],
        pods: vec![row],
        node: Some(NodeCpuRow {
            cpus: 2,
            busy_us: 5,
            ..NodeCpuRow::default()
        }),
    };
    apply(node, at, fact);
}

fn pods(node: &NodeState) -> Vec<PodCpuView> {
    node.snapshot(Timestamp(100)).pods_cpu
}

#[test]
fn a_pod_is_the_directory_that_holds_its_containers() {
    let mut node = node();
    let pod = parent(&path(1));
    seen(&mut node, 1, 10, pod.clone());
    seen(&mut node, 1, 9, parent(&pod));
    stat(&mut node, 2, 10, 500);
    assert!(pods(&node).is_empty(), "no container says whose it is");
    seen(&mut node, 3, 11, path(1));
    seen(&mut node, 3, 12, path(2));
    stat(&mut node, 4, 10, 700);
    stat(&mut node, 5, 10, 600);
    stat(&mut node, 5, 99, 1);
    let views = pods(&node);
    assert_eq!(views.len(), 1);
    assert_eq!((views[0].usage_us, views[0].since), (700, Timestamp(4)));
    assert_eq!(views[0].subject.pod_uid.as_deref(), Some(POD));
    assert_eq!(views[0].subject.container_id, None);
    assert_eq!(node.snapshot(Timestamp(100)).node_cpu.unwrap().cpus, 2);
}

#[test]
fn what_holds_several_pods_is_none() {
    let mut node = node();
    let pod = parent(&path(1));
    let class = parent(&pod);
    seen(&mut node, 1, 9, class);
    seen(&mut node, 1, 11, path(1));
    seen(
        &mut node,
        1,
        12,
        path(2).replace("000000000001", "000000000002"),
    );
    stat(&mut node, 2, 9, 500);
    assert!(pods(&node).is_empty());
}

#[test]
fn a_pod_is_forgotten_with_its_last_container() {
    let mut node = node();
    seen(&mut node, 1, 10, parent(&path(1)));
    seen(&mut node, 1, 11, path(1));
    stat(&mut node, 2, 10, 500);
    let cgroup = CgroupId(11);
    apply(&mut node, 3, Fact::CgroupGone { cgroup });
    assert_eq!(pods(&node).len(), 1, "its last counts leave");
    node.exported(Timestamp(3).plus(Duration::from_secs(61)));
    assert!(pods(&node).is_empty());
    assert!(node.pods_cpu.is_empty());
}
