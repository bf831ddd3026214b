use expect_test::expect;

use crate::declared::{
    ContainerKind, Declared, DeclaredNamespace, DeclaredPod, DeclaredPolicy, ForeignPolicies,
};
use crate::observation::Role;
use crate::rules::testing::{
    container, declared, flow, in_full, of_rule, peer, pod, snapshot, view,
};
use crate::snapshot::{FlowView, PeerKind, Snapshot};

fn app() -> DeclaredPod {
    pod(vec![container("app", ContainerKind::Regular, &[8080])])
}

fn with(all: Declared, pod: &DeclaredPod, flows: Vec<FlowView>) -> Snapshot {
    let mut snapshot = snapshot(Some(all), vec![view(pod, Some(0), vec![])]);
    snapshot.flows = flows;
    snapshot
}

fn said(all: Declared, flows: Vec<FlowView>) -> String {
    of_rule("F002", &with(all, &app(), flows))
}

fn bare() -> Declared {
    declared(&app(), vec![])
}

fn both() -> Vec<FlowView> {
    vec![flow(Role::Server), flow(Role::Client)]
}

#[test]
fn what_was_seen_makes_a_policy() {
    let mut cart = app();
    cart.name = "cart-1".into();
    cart.owner.name = "cart".into();
    cart.labels = [("app".to_owned(), "cart".to_owned())].into();
    let mut all = bare();
    all.pods.push(cart.into());
    expect![[r#"
        F002 low web/- ingress
        declared: no NetworkPolicy selects the pod for ingress
        observed: ingress connections with workload shop/cart
        evidence: {"direction":"ingress","peers":1}
        coverage: Full
        remediation: Add a NetworkPolicy for ingress. One made of what was seen is attached: check it against what was not.
        # kubectl apply -f FILE
        apiVersion: networking.k8s.io/v1
        kind: NetworkPolicy
        metadata:
          name: web-ingress
          namespace: shop
        spec:
          podSelector:
            matchLabels:
              app: "web"
          policyTypes: [Ingress]
          ingress:
            - ports:
                - protocol: TCP
                  port: 8080
              from:
                - namespaceSelector:
                    matchLabels:
                      kubernetes.io/metadata.name: "shop"
                  podSelector:
                    matchLabels:
                      app: "cart"
    "#]]
    .assert_eq(&in_full(&with(all, &app(), vec![flow(Role::Server)])));
}

#[test]
fn each_direction_is_its_own() {
    let policy = |ingress: bool, egress: bool| DeclaredPolicy {
        namespace: "shop".into(),
        name: "p".into(),
        ingress: ingress.then(Vec::new),
        egress: egress.then(Vec::new),
        ..DeclaredPolicy::default()
    };
    for (ingress, egress, expected) in [
        (
            false,
            false,
            "F002 low web/- egress\nF002 low web/- ingress",
        ),
        (true, false, "F002 low web/- egress"),
        (false, true, "F002 low web/- ingress"),
        (true, true, ""),
    ] {
        let all = Declared {
            policies: vec![policy(ingress, egress)],
            ..bare()
        };
        assert_eq!(said(all, both()), expected);
    }
}

#[test]
fn production_weighs_more() {
    let all = Declared {
        namespaces: vec![DeclaredNamespace {
            name: "shop".into(),
            labels: [("environment".to_owned(), "production".to_owned())].into(),
            ..DeclaredNamespace::default()
        }],
        ..bare()
    };
    assert_eq!(
        said(all, vec![flow(Role::Client)]),
        "F002 medium web/- egress"
    );
}

#[test]
fn traps_1_7_8_18() {
    assert_eq!(said(bare(), vec![]), "", "no flows");
    let unknown = Declared {
        policies_known: false,
        ..bare()
    };
    assert_eq!(said(unknown, both()), "", "a dump of pods alone");
    let foreign = Declared {
        foreign_policies: vec![ForeignPolicies {
            kind: "CiliumNetworkPolicy.cilium.io".into(),
            namespace: Some("shop".into()),
        }],
        ..bare()
    };
    assert_eq!(said(foreign, both()), "", "18");
    let of = |kind| FlowView {
        peer: peer(kind, None, None),
        ..flow(Role::Server)
    };
    assert_eq!(said(bare(), vec![of(PeerKind::Node)]), "", "8: probes");
    assert_eq!(
        said(bare(), vec![of(PeerKind::Loopback)]),
        "",
        "7: port-forward"
    );
    let failed = || {
        let mut flow = flow(Role::Client);
        flow.counts.connections = 0;
        flow
    };
    assert_eq!(said(bare(), vec![failed()]), "", "nothing passed");
    let host = DeclaredPod {
        host_network: true,
        ..app()
    };
    let on_host = with(declared(&host, vec![]), &host, both());
    assert_eq!(of_rule("F002", &on_host), "", "1");
}
