use crate::declared::{
    ContainerKind, Declared, DeclaredPod, DeclaredPolicy, DeclaredService, ForeignPolicies,
    PolicyRule, TargetPort, Transport,
};
use crate::rules::testing::{container, declared, listener, of_rule, pod, service, snapshot, view};
use crate::snapshot::{ListenerView, Snapshot};

fn app() -> DeclaredPod {
    pod(vec![container("app", ContainerKind::Regular, &[8080])])
}

fn node_port() -> DeclaredService {
    service(TargetPort::Number(8080), Transport::Tcp, Some(30_080))
}

fn world(pod: &DeclaredPod, services: Vec<DeclaredService>, listener: ListenerView) -> Snapshot {
    with(declared(pod, services), pod, listener)
}

fn with(all: Declared, pod: &DeclaredPod, listener: ListenerView) -> Snapshot {
    snapshot(Some(all), vec![view(pod, Some(0), vec![listener])])
}

fn said(snapshot: &Snapshot) -> String {
    of_rule("P009", snapshot)
}

#[test]
fn open_to_the_world_without_a_policy() {
    let on_any = || listener(8080, &["0.0.0.0"]);
    assert_eq!(
        said(&world(&app(), vec![node_port()], on_any())),
        "P009 medium web/app tcp/8080"
    );
    let inner = service(TargetPort::Number(8080), Transport::Tcp, None);
    assert_eq!(
        said(&world(&app(), vec![inner], on_any())),
        "",
        "inside only"
    );
    let policy = |ingress| DeclaredPolicy {
        namespace: "shop".into(),
        name: "p".into(),
        ingress,
        ..DeclaredPolicy::default()
    };
    for (ingress, expected) in [
        (Some(vec![]), ""),
        (Some(vec![PolicyRule::default()]), ""),
        (None, "P009 medium web/app tcp/8080"),
    ] {
        let all = Declared {
            policies: vec![policy(ingress)],
            ..declared(&app(), vec![node_port()])
        };
        assert_eq!(said(&with(all, &app(), on_any())), expected);
    }
}

#[test]
fn traps() {
    let on_any = || listener(8080, &["0.0.0.0"]);
    let lonely = listener(8080, &["127.0.0.1"]);
    assert_eq!(said(&world(&app(), vec![node_port()], lonely)), "", "3");
    let host = DeclaredPod {
        host_network: true,
        ..app()
    };
    assert_eq!(said(&world(&host, vec![node_port()], on_any())), "", "1");
    let unknown = Declared {
        policies_known: false,
        ..declared(&app(), vec![node_port()])
    };
    assert_eq!(
        said(&with(unknown, &app(), on_any())),
        "",
        "a dump of pods alone"
    );
    let foreign = Declared {
        foreign_policies: vec![ForeignPolicies {
            kind: "CiliumNetworkPolicy.cilium.io".into(),
            namespace: None,
        }],
        ..declared(&app(), vec![node_port()])
    };
    assert_eq!(said(&with(foreign, &app(), on_any())), "", "18");
    let mut named = app();
    named.containers[0].ports[0].name = Some("http".into());
    let by_name = service(
        TargetPort::Name("http".into()),
        Transport::Tcp,
        Some(30_080),
    );
    assert_eq!(
        said(&world(&named, vec![by_name.clone()], on_any())),
        "P009 medium web/app tcp/8080",
        "15: the pod's own"
    );
    named.containers[0].ports[0].name = Some("other".into());
    assert_eq!(
        said(&world(&named, vec![by_name], on_any())),
        "",
        "15: another pod's"
    );
    let elsewhere = DeclaredService {
        service_type: "ExternalName".into(),
        ..node_port()
    };
    assert_eq!(said(&world(&app(), vec![elsewhere], on_any())), "", "16");
}
