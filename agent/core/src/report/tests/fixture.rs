//! Two containers with everything that can be measured.

use std::sync::Arc;
use std::time::Duration;

use crate::declared::{ContainerKind, DeclaredContainer, DeclaredNode, Transport};
use crate::finding::{Coverage, Subject};
use crate::observation::{CpuMax, CpuPressure, FlowCounts, Role, SourceRow};
use crate::observed::verdicts::Verdicts;
use crate::policy::{Direction, Verdict};
use crate::rules::testing::{NOW, container, declared, listener, pod, snapshot, view, windows};
use crate::sketch::Sketch;
use crate::snapshot::{
    CpuView, Delivered, Dropped, FlowView, NodeCpuView, Occupancy, Peer, PeerKind, PodCpuView,
    RuleHits, Snapshot,
};

pub(super) fn flow(container: usize, role: Role, name: &str, port: u16) -> FlowView {
    FlowView {
        container,
        transport: Transport::Tcp,
        role,
        peer: Peer {
            kind: PeerKind::Workload,
            namespace: Some("shop".into()),
            name: Some(name.into()),
        },
        server_port: port,
        counts: FlowCounts {
            connections: 7,
            failures: if role == Role::Client { 3 } else { 0 },
            timeouts: u64::from(role == Role::Client),
            sent_bytes: 100,
            received_bytes: 200,
            ..FlowCounts::default()
        },
        verdicts: Verdicts {
            connections: [7, 0, 0, 0],
            last: Verdict::Allow,
            ..Verdicts::default()
        },
        since: NOW.minus(Duration::from_secs(60)),
        overflow: false,
    }
}

fn overflow(container: usize) -> FlowView {
    let peer = Peer {
        kind: PeerKind::Unresolved,
        namespace: None,
        name: None,
    };
    FlowView {
        peer,
        server_port: 0,
        overflow: true,
        ..flow(container, Role::Client, "", 0)
    }
}

/// The same of UDP, with its datagrams.
fn datagrams(flow: FlowView) -> FlowView {
    FlowView {
        transport: Transport::Udp,
        counts: FlowCounts {
            connections: 2,
            sent_packets: 3,
            sent_bytes: 30,
            received_packets: 4,
            received_bytes: 40,
            ..FlowCounts::default()
        },
        verdicts: Verdicts {
            connections: [1, 0, 1, 0],
            last: Verdict::None,
            ..Verdicts::default()
        },
        ..flow
    }
}

fn cpu() -> CpuView {
    let mut all = Sketch::default();
    for busy_us in [0, 49_000, 52_000] {
        all.add(busy_us);
    }
    CpuView {
        usage_us: Some(90_000_000),
        usage_cores: Some(0.25),
        periods: Some((600, 120)),
        throttled_us: Some(1_500_000),
        max: Some(CpuMax {
            quota_us: Some(50_000),
            period_us: 100_000,
            burst_us: 0,
        }),
        weight: Some(39),
        pressure: Some(CpuPressure {
            some_us: 2_000_000,
            full_us: Some(500_000),
        }),
        windows: Some(windows(vec![49_000, 1_000])),
        all: Some(Arc::new(all)),
        ..CpuView::default()
    }
}

/// CPU of the node and of a pod, and what the node may give.
fn of_node(node: &mut Snapshot) {
    node.sources = vec![SourceRow {
        source: "pods".into(),
        as_of: NOW.minus(Duration::from_secs(3)),
        error: None,
    }];
    node.node_cpu = Some(NodeCpuView {
        cpus: 2,
        busy_us: 7_000_000,
        steal_us: 100_000,
        usage_cores: Some(1.5),
        some: Some(0.25),
        span: Duration::from_secs(60),
    });
    node.pods_cpu = vec![PodCpuView {
        subject: Subject {
            container: None,
            container_id: None,
            image: None,
            ..node.containers[0].subject.clone()
        },
        usage_us: 190_000_000,
        since: NOW.minus(Duration::from_secs(120)),
    }];
    let mut declared = node.declared.as_deref().cloned().unwrap();
    declared.nodes = vec![DeclaredNode {
        name: "node-1".into(),
        cpu_allocatable_millis: Some(1_930),
        ..DeclaredNode::default()
    }];
    node.declared = Some(Arc::new(declared));
}

/// Two containers with everything that can be measured.
pub(super) fn node() -> Snapshot {
    let app = DeclaredContainer {
        cpu_limit_millis: Some(500),
        restart_count: Some(4),
        cpu_limit_current_millis: Some(400),
        cpu_request_current_millis: Some(90),
        ..container("app", ContainerKind::Regular, &[8080])
    };
    let pod = pod(vec![
        app.clone(),
        DeclaredContainer {
            name: "side".into(),
            ..app
        },
    ]);
    let listeners = vec![
        listener(8080, &["0.0.0.0", "::"]),
        listener(9999, &["10.0.0.9"]),
    ];
    let mut node = snapshot(
        Some(declared(&pod, vec![])),
        vec![
            view(&pod, Some(0), listeners.clone()),
            view(&pod, Some(1), listeners),
        ],
    );
    for container in &mut node.containers {
        (container.oom_kills, container.restarts) = (Some(2), Some(1));
        container.listeners_overflow = [(Transport::Tcp, 5)].into();
        container.cpu = cpu();
    }
    node.containers[1].coverage = Coverage::Blind("not attached: EPERM".into());
    of_node(&mut node);
    node.flows = vec![
        flow(0, Role::Client, "db", 5432),
        flow(0, Role::Server, "front", 8080),
        datagrams(flow(0, Role::Client, "dns", 53)),
        datagrams(overflow(0)),
        overflow(0),
        overflow(1),
    ];
    node.rule_hits = vec![RuleHits {
        policy: "shop/web".into(),
        direction: Direction::Ingress,
        rule: 0,
        connections: 7,
    }];
    node.probes.retain(|status| status.probe == "tcp");
    node.delivered = vec![Delivered {
        place: "flows".into(),
        count: 40,
    }];
    node.dropped = vec![Dropped {
        place: "flows".into(),
        reason: "full".into(),
        count: 3,
    }];
    node.occupancy = vec![Occupancy {
        place: "flows".into(),
        entries: 10,
        capacity: 2_000,
    }];
    node
}
