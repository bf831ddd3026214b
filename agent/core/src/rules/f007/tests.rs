use crate::declared::{
    ContainerKind, Declared, DeclaredPod, DeclaredPolicy, PolicyPeer, PolicyRule, Transport,
};
use crate::observation::Role;
use crate::rules::testing::{container, declared, flow, of_rule, peer, pod, snapshot, view};
use crate::snapshot::{FlowView, PeerKind, Snapshot};

fn app() -> DeclaredPod {
    pod(vec![container("app", ContainerKind::Regular, &[8080])])
}

fn access() -> FlowView {
    FlowView {
        peer: peer(PeerKind::External, None, Some("metadata")),
        server_port: 80,
        ..flow(Role::Client)
    }
}

fn with(pod: &DeclaredPod, policies: Vec<DeclaredPolicy>, flow: FlowView) -> Snapshot {
    let all = Declared {
        policies,
        ..declared(pod, vec![])
    };
    let mut snapshot = snapshot(Some(all), vec![view(pod, Some(0), vec![])]);
    snapshot.flows = vec![flow];
    snapshot
}

fn said(flow: FlowView) -> String {
    of_rule("F007", &with(&app(), vec![], flow))
}

#[test]
fn a_connection_to_the_metadata_service() {
    assert_eq!(said(access()), "F007 high web/app metadata");
    let other = FlowView {
        peer: peer(PeerKind::External, None, Some("private")),
        ..access()
    };
    assert_eq!(said(other), "");
    let served = FlowView {
        role: Role::Server,
        ..access()
    };
    assert_eq!(said(served), "");
}

#[test]
fn traps() {
    let mut blocked = access();
    blocked.counts.connections = 0;
    blocked.counts.failures = 9;
    assert_eq!(said(blocked), "", "blocked, as it should be");
    let dns = FlowView {
        server_port: 53,
        ..access()
    };
    assert_eq!(said(dns), "", "DNS of some clouds");
    let udp = FlowView {
        transport: Transport::Udp,
        ..access()
    };
    assert_eq!(said(udp), "", "UDP");
    let host = DeclaredPod {
        host_network: true,
        ..app()
    };
    assert_eq!(of_rule("F007", &with(&host, vec![], access())), "", "1");
    let mut listed = with(&app(), vec![], access());
    listed.settings.rules.metadata_namespaces = vec!["shop".into()];
    assert_eq!(of_rule("F007", &listed), "", "the operator allows it");
    for (block, expected) in [
        ("169.254.169.254/32", ""),
        ("0.0.0.0/0", "F007 high web/app metadata"),
        ("10.0.0.0/8", "F007 high web/app metadata"),
    ] {
        let policy = DeclaredPolicy {
            namespace: "shop".into(),
            name: "p".into(),
            egress: Some(vec![PolicyRule {
                peers: vec![PolicyPeer::Block {
                    cidr: block.parse().unwrap(),
                    except: vec![],
                }],
                ports: vec![],
            }]),
            ..DeclaredPolicy::default()
        };
        let found = of_rule("F007", &with(&app(), vec![policy], access()));
        assert_eq!(found, expected, "{block}");
    }
}
