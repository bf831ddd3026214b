//! For each rule about pods, a node on which it speaks: what tries to silence rules is tried on every one of them.

use std::time::Duration;

use super::{
    NOW, cluster, container, cpu_max, declared, denied, distribution, flow, listener, logs,
    node_cpu, peer, pod, rates, service, snapshot, view, windows,
};
use crate::declared::{ContainerKind, Declared, DeclaredPod, TargetPort, Transport};
use crate::id::{ContainerId, PodUid};
use crate::observation::Role;
use crate::snapshot::{
    BindScope, CpuRates, FlowView, ListenerView, LogLost, LogView, PeerKind, Snapshot,
};
use crate::time::Timestamp;

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// How a rule is made to speak.
pub(crate) struct Raised {
    /// Its id.
    pub(crate) rule: &'static str,
    /// What the pod declares, where the common one is not enough.
    pub(crate) pod: fn(&mut DeclaredPod),
    /// What is declared besides the pod.
    pub(crate) declare: fn(&mut Declared, &DeclaredPod),
    /// What is observed.
    pub(crate) observe: fn(&mut Snapshot),
}

const PLAIN: Raised = Raised {
    rule: "",
    pod: |_| {},
    declare: |_, _| {},
    observe: |_| {},
};

impl Raised {
    /// The node on which it speaks of a pod that was changed like this.
    pub(crate) fn node(&self, change: impl Fn(&mut DeclaredPod)) -> Snapshot {
        let app = container("app", ContainerKind::Regular, &[8080]);
        let mut pod = pod(vec![app]);
        (self.pod)(&mut pod);
        change(&mut pod);
        let mut all = declared(&pod, vec![]);
        (self.declare)(&mut all, &pod);
        let mut node = snapshot(Some(all), vec![view(&pod, Some(0), vec![])]);
        (self.observe)(&mut node);
        node
    }
}

/// All rules that judge pods.
pub(crate) fn all() -> Vec<Raised> {
    [ports(), flows(), cpu(), others()]
        .into_iter()
        .flatten()
        .collect()
}

fn listens(node: &mut Snapshot, listener: ListenerView) {
    node.containers[0].listeners.push(listener);
}

fn ports() -> Vec<Raised> {
    vec![
        Raised {
            rule: "P001",
            observe: |node| listens(node, listener(9_999, &["0.0.0.0"])),
            ..PLAIN
        },
        Raised {
            rule: "P004",
            observe: |node| listens(node, listener(6_060, &["0.0.0.0"])),
            ..PLAIN
        },
        Raised {
            rule: "P005",
            observe: |node| {
                let first_seen = Timestamp(0);
                listens(
                    node,
                    ListenerView {
                        first_seen,
                        ..listener(8_080, &["0.0.0.0"])
                    },
                );
                let peer = peer(PeerKind::Loopback, None, None);
                node.flows = vec![FlowView {
                    peer,
                    ..flow(Role::Server)
                }];
                node.origin.monotonic = Timestamp(0);
                node.now = Timestamp(0).plus(7 * DAY);
            },
            ..PLAIN
        },
        Raised {
            rule: "P007",
            pod: |pod| pod.host_network = true,
            observe: |node| {
                let of_node = ListenerView {
                    scope: BindScope::Node,
                    host_netns: Some(true),
                    ..listener(9_090, &["192.0.2.10"])
                };
                listens(node, of_node);
            },
            ..PLAIN
        },
        Raised {
            rule: "P009",
            declare: |all, pod| {
                let mut of = service(TargetPort::Number(8_080), Transport::Tcp, Some(30_080));
                of.namespace.clone_from(&pod.namespace);
                all.services.push(of);
            },
            observe: |node| listens(node, listener(8_080, &["0.0.0.0"])),
            ..PLAIN
        },
    ]
}

fn flows() -> Vec<Raised> {
    vec![
        Raised {
            rule: "F001",
            observe: |node| {
                let mut passed = flow(Role::Server);
                passed.verdicts.passed = denied(10, 20);
                node.flows = vec![passed];
            },
            ..PLAIN
        },
        Raised {
            rule: "F002",
            observe: |node| node.flows = vec![flow(Role::Client)],
            ..PLAIN
        },
        Raised {
            rule: "F006",
            observe: |node| {
                let mut blocked = flow(Role::Client);
                blocked.counts.failures = 3;
                blocked.verdicts.blocked = denied(3, 0);
                node.flows = vec![blocked];
            },
            ..PLAIN
        },
        Raised {
            rule: "F007",
            observe: |node| {
                node.flows = vec![FlowView {
                    peer: peer(PeerKind::External, None, Some("metadata")),
                    server_port: 80,
                    ..flow(Role::Client)
                }];
            },
            ..PLAIN
        },
    ]
}

fn cpu() -> Vec<Raised> {
    vec![
        Raised {
            rule: "C001",
            pod: |pod| pod.containers[0].cpu_request_millis = None,
            ..PLAIN
        },
        Raised {
            rule: "C002",
            observe: |node| {
                node.node_cpu = Some(node_cpu(0.6));
                let cpu = &mut node.containers[0].cpu;
                cpu.day = Some(distribution([vec![1_000; 20], vec![50_000; 980]].concat()));
                cpu.rates = Some(rates(0.45, 0.2));
            },
            ..PLAIN
        },
        Raised {
            rule: "C003",
            pod: |pod| pod.containers[0].cpu_request_millis = Some(1_000),
            observe: too_large,
            ..PLAIN
        },
        Raised {
            rule: "C004",
            observe: throttled,
            ..PLAIN
        },
        Raised {
            rule: "C005",
            observe: |node| {
                let mut victim = node.containers[0].clone();
                victim.pod_uid = PodUid::new("11111111-9a3c-4d0c-8c5e-1f2d3c4b5a69");
                victim.subject.pod = Some("db-0".into());
                victim.cpu.rates = Some(rates(0.05, 0.3));
                node.containers[0].cpu.rates = Some(rates(1.5, 0.4));
                node.containers.push(victim);
                node.node_cpu = Some(node_cpu(0.6));
            },
            ..PLAIN
        },
        Raised {
            rule: "C006",
            pod: |pod| pod.containers[0].cpu_limit_millis = Some(500),
            observe: |node| {
                let cpu = &mut node.containers[0].cpu;
                cpu.max = Some(cpu_max(Some(40_000)));
                cpu.weight = Some(1);
                cpu.settings_since = Some(NOW.minus(Duration::from_secs(600)));
            },
            ..PLAIN
        },
        Raised {
            rule: "C007",
            pod: |pod| pod.containers[0].cpu_limit_millis = Some(500),
            observe: |node| {
                let busy = |index| if index % 5 == 0 { 49_000 } else { 1_000 };
                let cpu = &mut node.containers[0].cpu;
                cpu.windows = Some(windows((0..600).map(busy).collect()));
                cpu.max = Some(cpu_max(Some(50_000)));
            },
            ..PLAIN
        },
    ]
}

fn too_large(node: &mut Snapshot) {
    let mut week = distribution(vec![10_000; 1_000]);
    let windows = (7 * DAY).as_millis() / 100;
    let sketch = std::sync::Arc::make_mut(&mut week.sketch);
    // By doubling: a week has six million windows.
    while u128::from(sketch.count()) < windows {
        let again = sketch.clone();
        sketch.merge(&again);
    }
    node.now = NOW.plus(7 * DAY);
    week.since = NOW;
    week.until = node.now;
    node.containers[0].cpu.week = Some(week);
}

fn throttled(node: &mut Snapshot) {
    listens(node, listener(8_080, &["0.0.0.0"]));
    let cpu = &mut node.containers[0].cpu;
    cpu.max = Some(cpu_max(Some(50_000)));
    cpu.rates = Some(CpuRates {
        periods: Some(600),
        throttled_periods: Some(300),
        throttled_us: Some(18_000_000),
        ..rates(0.35, 0.31)
    });
}

fn others() -> Vec<Raised> {
    vec![
        Raised {
            rule: "I001",
            pod: |pod| pod.containers[0].image = "r.io/app:1".into(),
            ..PLAIN
        },
        Raised {
            rule: "I003",
            observe: |node| node.settings.rules.trusted_registries = vec!["q.io".into()],
            ..PLAIN
        },
        Raised {
            rule: "I004",
            pod: |pod| {
                let app = &mut pod.containers[0];
                app.image = "r.io/app:1@sha256:aa".into();
                app.image_id = Some("r.io/app@sha256:bb".into());
                app.runtime = Some("containerd".into());
                app.container_id = Some(ContainerId::new(format!("{:064x}", 0)));
            },
            ..PLAIN
        },
        Raised {
            rule: "S001",
            pod: |pod| pod.containers[0].api_token = Some(true),
            declare: |all, _| *all = cluster(std::mem::take(all)),
            observe: |node| {
                node.containers[0].first_seen = Timestamp(0);
                node.now = NOW.plus(DAY);
            },
        },
        Raised {
            rule: "L001",
            observe: |node| {
                logged(node, |view| {
                    view.lost = vec![LogLost {
                        reason: "rotated".into(),
                        bytes: 1_000_000,
                        ..LogLost::default()
                    }];
                });
            },
            ..PLAIN
        },
        Raised {
            rule: "L002",
            observe: |node| logged(node, |view| view.slowest_minute = Some(31 << 20)),
            ..PLAIN
        },
        Raised {
            rule: "L003",
            observe: |node| {
                logged(node, |view| {
                    view.lag_bytes = 45 << 20;
                    view.is_behind = true;
                });
            },
            ..PLAIN
        },
    ]
}

fn logged(node: &mut Snapshot, change: impl Fn(&mut LogView)) {
    let subject = node.containers[0].subject.clone();
    let mut view = LogView { subject, ..logs() };
    change(&mut view);
    node.logs = vec![view];
}
