use crate::declared::{
    ContainerKind, DeclaredEndpoints, DeclaredPod, DeclaredService, TargetPort, Transport,
};
use crate::finding::Coverage;
use crate::rules::ports::{DeclaredBy, coverage, declared_by, services_of};
use crate::rules::testing::{
    container, declared, listener, pod, port_entry, service, snapshot, view,
};
use crate::snapshot::ListenerView;

/// What declares the port of the pod's first container, given these Services.
fn by(pod: &DeclaredPod, services: Vec<DeclaredService>, port: u16) -> DeclaredBy {
    of(pod, services, Transport::Tcp, port)
}

fn of(
    pod: &DeclaredPod,
    services: Vec<DeclaredService>,
    transport: Transport,
    port: u16,
) -> DeclaredBy {
    let snapshot = snapshot(
        Some(declared(pod, services)),
        vec![view(pod, Some(0), vec![])],
    );
    declared_by(&snapshot, &snapshot.containers[0], transport, port)
}

/// Container port 8080 with host port 18080, and a probe on 8081 in another container.
fn web() -> DeclaredPod {
    let mut app = container("app", ContainerKind::Regular, &[8080]);
    app.ports[0].host_port = Some(18_080);
    app.ports.push(port_entry(53, Transport::Udp));
    let mut other = container("other", ContainerKind::Sidecar, &[9100]);
    other.probe_ports = vec![8080, 8081];
    pod(vec![app, other])
}

#[test]
fn ports_are_declared_by_containers_probes_and_host_ports() {
    for (port, expected) in [
        (8080, DeclaredBy::ContainerPort),
        (9100, DeclaredBy::ContainerPort),
        (18_080, DeclaredBy::HostPort),
        (8081, DeclaredBy::Probe),
        (53, DeclaredBy::None),
        (80, DeclaredBy::None),
    ] {
        assert_eq!(by(&web(), vec![], port), expected, "{port}");
    }
}

#[test]
fn what_is_not_known_is_unknown() {
    let mut snapshot = snapshot(
        Some(declared(&web(), vec![])),
        vec![view(&web(), None, vec![])],
    );
    assert_eq!(
        declared_by(&snapshot, &snapshot.containers[0], Transport::Tcp, 8080),
        DeclaredBy::ContainerPort
    );
    snapshot.containers[0].pod = None;
    assert_eq!(
        declared_by(&snapshot, &snapshot.containers[0], Transport::Tcp, 8080),
        DeclaredBy::Unknown
    );
    snapshot.containers[0].pod = Some(web().into());
    snapshot.declared = None;
    assert_eq!(
        declared_by(&snapshot, &snapshot.containers[0], Transport::Tcp, 8080),
        DeclaredBy::Unknown
    );
}

#[test]
fn trap_15_services_declare_their_targets() {
    let target = |target, transport| service(target, transport, Some(30_080));
    let number = || target(TargetPort::Number(9000), Transport::Tcp);
    let with = |service| by(&web(), vec![service], 9000);
    assert_eq!(with(number()), DeclaredBy::Service);
    assert_eq!(
        by(&web(), vec![number()], 80),
        DeclaredBy::None,
        "the Service's own port is not the pod's"
    );
    assert_eq!(
        with(target(TargetPort::Name("http".into()), Transport::Tcp)),
        DeclaredBy::None
    );
    assert_eq!(
        with(target(TargetPort::Number(9000), Transport::Udp)),
        DeclaredBy::None
    );
    let changed = |change: fn(&mut DeclaredService)| {
        let mut service = number();
        change(&mut service);
        with(service)
    };
    assert_eq!(
        changed(|service| service.namespace = "other".into()),
        DeclaredBy::None
    );
    assert_eq!(
        changed(|service| service.selector.clear()),
        DeclaredBy::None
    );
    assert_eq!(
        changed(|service| service.service_type = "ExternalName".into()),
        DeclaredBy::None
    );
    let tier = |service: &mut DeclaredService| {
        service.selector.insert("tier".into(), "front".into());
    };
    assert_eq!(changed(tier), DeclaredBy::None);
}

/// A Service without a selector leads where somebody wrote; an ExternalName leads to a name, whatever is written.
#[test]
fn trap_16_endpoints_written_by_hand_declare_too() {
    let at = |address: &str, change: fn(&mut DeclaredService)| {
        let mut by_hand = service(TargetPort::Number(80), Transport::Tcp, None);
        by_hand.selector.clear();
        change(&mut by_hand);
        let pod = DeclaredPod {
            ips: vec!["10.0.0.9".parse().unwrap()],
            ..web()
        };
        let mut all = declared(&pod, vec![by_hand]);
        all.endpoints.push(DeclaredEndpoints {
            namespace: "shop".into(),
            name: "web-by-hand".into(),
            service: "web".into(),
            addresses: vec![address.parse().unwrap()],
            ports: vec![(Transport::Tcp, 9000)],
        });
        let wanted = (Transport::Tcp, 9000);
        let leads = services_of(&all, &pod, wanted).count() == 1;
        let container = view(&pod, Some(0), vec![]);
        let snapshot = snapshot(Some(all), vec![container]);
        let by = declared_by(&snapshot, &snapshot.containers[0], wanted.0, wanted.1);
        assert_eq!(leads, by == DeclaredBy::Service, "both go by the same");
        by
    };
    assert_eq!(at("10.0.0.9", |_| {}), DeclaredBy::Service);
    assert_eq!(at("10.0.0.8", |_| {}), DeclaredBy::None);
    let by_name = |service: &mut DeclaredService| service.service_type = "ExternalName".into();
    assert_eq!(at("10.0.0.9", by_name), DeclaredBy::None);
    let elsewhere = |service: &mut DeclaredService| service.namespace = "ops".into();
    assert_eq!(at("10.0.0.9", elsewhere), DeclaredBy::None);
}

#[test]
fn each_transport_has_ports_of_its_own() {
    let mut host = DeclaredPod {
        host_network: true,
        ..web()
    };
    host.containers[0].ports[1].host_port = Some(1_053);
    let services = || {
        vec![service(
            TargetPort::Number(9000),
            Transport::Udp,
            Some(30_053),
        )]
    };
    for (port, expected) in [
        (53, DeclaredBy::ContainerPort),
        (1_053, DeclaredBy::HostPort),
        (9000, DeclaredBy::Service),
        (30_053, DeclaredBy::Service),
    ] {
        assert_eq!(of(&host, services(), Transport::Udp, port), expected);
        assert_eq!(by(&host, services(), port), DeclaredBy::None, "tcp/{port}");
    }
    for port in [8080, 9100, 18_080, 8081] {
        let udp = of(&host, services(), Transport::Udp, port);
        assert_eq!(udp, DeclaredBy::None, "udp/{port}: TCP, or a probe");
    }
}

#[test]
fn node_ports_are_declared_for_host_network_only() {
    let node_port = || {
        vec![service(
            TargetPort::Number(80),
            Transport::Tcp,
            Some(30_080),
        )]
    };
    assert_eq!(by(&web(), node_port(), 30_080), DeclaredBy::None);
    let host = DeclaredPod {
        host_network: true,
        ..web()
    };
    assert_eq!(by(&host, node_port(), 30_080), DeclaredBy::Service);
    assert_eq!(by(&host, node_port(), 30_081), DeclaredBy::None);
}

#[test]
fn listeners_may_lower_the_coverage() {
    let mut view = view(&web(), Some(0), vec![listener(8080, &["::"])]);
    assert_eq!(coverage(&view), Coverage::Full);
    view.coverage = Coverage::PreExisting;
    assert_eq!(coverage(&view), Coverage::PreExisting);
    view.listeners_overflow = [(Transport::Udp, 1)].into();
    assert_eq!(
        coverage(&view),
        Coverage::Partial("too_many_listeners".into())
    );
    view.listeners.push(ListenerView {
        held_by_owner: Some(false),
        ..listener(1, &["::"])
    });
    assert_eq!(coverage(&view), Coverage::Partial("passed_socket".into()));
    view.coverage = Coverage::Blind("not attached".into());
    assert_eq!(coverage(&view), Coverage::Blind("not attached".into()));
}
