use std::time::Duration;

use crate::declared::{ContainerKind, DeclaredPod, TargetPort, Transport};
use crate::finding::Coverage;
use crate::observation::Role;
use crate::rules::testing::{
    container, declared, flow, listener, of_rule, peer, pod, service, snapshot, view,
};
use crate::snapshot::{FlowView, PeerKind, Snapshot};
use crate::time::Timestamp;

const DAY: u64 = 24 * 3_600;

fn from(kind: PeerKind) -> FlowView {
    FlowView {
        peer: peer(kind, None, None),
        ..flow(Role::Server)
    }
}

/// After this many days, with these connections to 8080.
fn after(days: u64, flows: Vec<FlowView>) -> Snapshot {
    let pod = pod(vec![container("app", ContainerKind::Regular, &[8080])]);
    let mut listener = listener(8080, &["0.0.0.0"]);
    listener.first_seen = Timestamp(0);
    let mut snapshot = snapshot(
        Some(declared(&pod, vec![])),
        vec![view(&pod, Some(0), vec![listener])],
    );
    snapshot.flows = flows;
    snapshot.origin.monotonic = Timestamp(0);
    snapshot.now = Timestamp(0).plus(Duration::from_secs(days * DAY));
    snapshot
}

fn said(snapshot: &Snapshot) -> String {
    of_rule("P005", snapshot)
}

#[test]
fn a_week_of_local_use() {
    let local = || vec![from(PeerKind::Loopback)];
    assert_eq!(said(&after(7, local())), "P005 low web/app tcp/8080");
    assert_eq!(said(&after(6, local())), "");
    assert_eq!(said(&after(7, vec![])), "", "unused is another matter");
    for other in [
        PeerKind::Workload,
        PeerKind::Node,
        PeerKind::External,
        PeerKind::Unresolved,
    ] {
        let both = vec![from(PeerKind::Loopback), from(other)];
        assert_eq!(said(&after(8, both)), "", "{other:?}");
    }
    let elsewhere = FlowView {
        server_port: 9090,
        ..from(PeerKind::Workload)
    };
    let both = vec![from(PeerKind::Loopback), elsewhere];
    assert_eq!(said(&after(8, both)), "P005 low web/app tcp/8080");
}

#[test]
fn traps() {
    let local = || after(8, vec![from(PeerKind::Loopback)]);
    let mut bound = local();
    bound.containers[0].listeners = vec![listener(8080, &["127.0.0.1"])];
    assert_eq!(said(&bound), "", "it is bound to loopback");
    let mut cut = local();
    cut.flows.push(FlowView {
        overflow: true,
        server_port: 0,
        ..from(PeerKind::Unresolved)
    });
    assert_eq!(said(&cut), "", "not all peers are known");
    let mut unseen = local();
    unseen.containers[0].coverage = Coverage::Partial("not attached yet".into());
    assert_eq!(said(&unseen), "", "not seen in full");
    let mut restarted = local();
    restarted.origin.monotonic = restarted.now.minus(Duration::from_secs(DAY));
    assert_eq!(said(&restarted), "", "24: the agent began yesterday");
    let mut led_to = local();
    let pod: DeclaredPod = (**led_to.containers[0].pod.as_ref().unwrap()).clone();
    let mut probed = pod.clone();
    probed.containers[0].ports.clear();
    probed.containers[0].probe_ports = vec![8080];
    led_to.containers[0].pod = Some(probed.into());
    assert_eq!(said(&led_to), "", "8: a probe");
    let mut other = pod;
    other.containers[0].ports.clear();
    let by_service = service(TargetPort::Number(8080), Transport::Tcp, None);
    led_to.declared = Some(declared(&other, vec![by_service]).into());
    led_to.containers[0].pod = Some(other.into());
    assert_eq!(said(&led_to), "", "a Service");
}
