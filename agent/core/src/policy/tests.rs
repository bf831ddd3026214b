//! The clauses of the NetworkPolicy API's documentation, one table each.

mod admin;
mod rules;
mod service;

use std::net::IpAddr;

use super::{End, Endpoint, Flow, Policies};
use crate::declared::{
    Declared, DeclaredNamespace, DeclaredPolicy, ForeignPolicies, LabelExpression, LabelOperator,
    LabelSelector, NamedPort, PeerPod, PolicyPeer, PolicyPort, PolicyPorts, PolicyRule, Transport,
};

/// `app=web,tier=front`.
fn labels(text: &str) -> std::collections::BTreeMap<String, String> {
    let pairs = text.split(',').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap();
            (key.to_owned(), value.to_owned())
        })
        .collect()
}

fn equal(text: &str) -> LabelSelector {
    LabelSelector {
        labels: labels(text),
        expressions: Vec::new(),
    }
}

fn expression(key: &str, operator: LabelOperator, values: &[&str]) -> LabelSelector {
    LabelSelector {
        expressions: vec![LabelExpression {
            key: key.into(),
            operator,
            values: values.iter().map(|value| (*value).into()).collect(),
        }],
        ..LabelSelector::default()
    }
}

/// `namespace/name`, its address ending in the number.
fn pod(name: &str, text: &str, last: u8) -> PeerPod {
    let (namespace, name) = name.split_once('/').unwrap();
    PeerPod {
        namespace: namespace.into(),
        name: name.into(),
        labels: labels(text),
        ips: vec![IpAddr::from([10, 0, 0, last])],
        ports: vec![NamedPort {
            name: "http".into(),
            port: 8080,
            transport: Transport::Tcp,
        }],
        ..PeerPod::default()
    }
}

fn web() -> PeerPod {
    pod("shop/web", "app=web", 1)
}

fn cart() -> PeerPod {
    pod("shop/cart", "app=cart", 2)
}

fn probe() -> PeerPod {
    pod("ops/probe", "app=cart", 3)
}

/// In a namespace without an object.
fn stray() -> PeerPod {
    pod("lost/stray", "app=cart", 4)
}

fn peers(peers: Vec<PolicyPeer>) -> PolicyRule {
    PolicyRule {
        peers,
        ports: Vec::new(),
    }
}

fn of_pods(namespaces: Option<LabelSelector>, pods: Option<LabelSelector>) -> PolicyPeer {
    PolicyPeer::Pods { namespaces, pods }
}

fn block(cidr: &str, except: &[&str]) -> PolicyPeer {
    PolicyPeer::Block {
        cidr: cidr.parse().unwrap(),
        except: except.iter().map(|block| block.parse().unwrap()).collect(),
    }
}

fn ports(transport: Transport, ports: PolicyPorts) -> PolicyRule {
    PolicyRule {
        peers: Vec::new(),
        ports: vec![PolicyPort { transport, ports }],
    }
}

/// A policy of `shop` for `app=web`.
fn policy(
    name: &str,
    ingress: Option<Vec<PolicyRule>>,
    egress: Option<Vec<PolicyRule>>,
) -> DeclaredPolicy {
    DeclaredPolicy {
        namespace: "shop".into(),
        name: name.into(),
        selector: equal("app=web"),
        ingress,
        egress,
    }
}

fn declared(policies: Vec<DeclaredPolicy>) -> Declared {
    let namespace = |name: &str, text: &str| DeclaredNamespace {
        name: name.into(),
        labels: labels(&format!("kubernetes.io/metadata.name={name},{text}")),
        ..DeclaredNamespace::default()
    };
    Declared {
        namespaces: vec![namespace("ops", "team=ops"), namespace("shop", "team=shop")],
        policies_known: true,
        policies,
        ..Declared::default()
    }
}

/// What comes of a flow from one end to another; both by what `end` understands.
fn judged(declared: &Declared, from: &str, to: &str, transport: Transport, port: u16) -> String {
    let policies = Policies::new(declared);
    let pods = [web(), cart(), probe(), stray()].map(|pod| policies.endpoint(&pod));
    let host = policies.endpoint(&PeerPod {
        host_network: true,
        ..cart()
    });
    let flow = Flow {
        from: end(&pods, &host, from),
        to: end(&pods, &host, to),
        transport,
        port,
    };
    let judgement = policies.judge(&flow);
    judgement.verdict.as_str().into()
}

fn end<'a>(pods: &'a [Endpoint; 4], host: &'a Endpoint, word: &str) -> End<'a> {
    match word {
        "web" => End::Pod(&pods[0]),
        "cart" => End::Pod(&pods[1]),
        "probe" => End::Pod(&pods[2]),
        "stray" => End::Pod(&pods[3]),
        "host-pod" => End::Pod(host),
        "own-node" | "other-node" => End::Node {
            own: word == "own-node",
            address: IpAddr::from([192, 168, 0, 1]),
        },
        "?" => End::Unknown,
        address => End::Outside(address.parse().unwrap()),
    }
}

fn tcp(declared: &Declared, from: &str, to: &str) -> String {
    judged(declared, from, to, Transport::Tcp, 8080)
}

#[test]
fn without_policies_nothing_decides() {
    let none = declared(vec![]);
    for (from, to) in [
        ("cart", "web"),
        ("web", "1.2.3.4"),
        ("1.2.3.4", "web"),
        ("own-node", "web"),
    ] {
        assert_eq!(tcp(&none, from, to), "none", "{from} {to}");
    }
    assert_eq!(
        tcp(&none, "web", "?"),
        "unknown",
        "of an end that is not known"
    );
    let untold = Declared::default();
    assert_eq!(
        tcp(&untold, "cart", "web"),
        "unknown",
        "a dump of pods alone"
    );
}

#[test]
fn a_selected_pod_is_isolated_in_the_directions_of_the_policy_only() {
    let deny_in = declared(vec![policy("a", Some(vec![]), None)]);
    let deny_out = declared(vec![policy("a", None, Some(vec![]))]);
    for (case, from, to, expected) in [
        (&deny_in, "cart", "web", "deny"),
        (&deny_in, "web", "cart", "none"),
        (&deny_in, "cart", "probe", "none"),
        (&deny_in, "1.2.3.4", "web", "deny"),
        (&deny_out, "web", "cart", "deny"),
        (&deny_out, "cart", "web", "none"),
        (&deny_out, "web", "1.2.3.4", "deny"),
        // Nothing that could be learned of them would change it.
        (&deny_out, "web", "?", "deny"),
        (&deny_out, "web", "other-node", "deny"),
    ] {
        assert_eq!(tcp(case, from, to), expected, "{from} {to}");
    }
}

#[test]
fn policies_add_up_in_any_order() {
    let from_cart = || peers(vec![of_pods(None, Some(equal("app=cart")))]);
    let deny = || policy("deny", Some(vec![]), None);
    let allow = || policy("allow", Some(vec![from_cart()]), None);
    for policies in [vec![deny(), allow()], vec![allow(), deny()]] {
        let both = declared(policies);
        assert_eq!(tcp(&both, "cart", "web"), "allow");
        assert_eq!(tcp(&both, "probe", "web"), "deny");
    }
}

#[test]
fn both_ends_must_let_a_flow_through() {
    let of_cart = |egress| DeclaredPolicy {
        selector: equal("app=cart"),
        ..policy("cart", None, Some(egress))
    };
    let all = || PolicyRule::default();
    for (egress, ingress, expected) in [
        (vec![all()], vec![all()], "allow"),
        (vec![all()], vec![], "deny"),
        (vec![], vec![all()], "deny"),
    ] {
        let both = declared(vec![of_cart(egress), policy("web", Some(ingress), None)]);
        assert_eq!(tcp(&both, "cart", "web"), expected);
        // A reply belongs to its connection: only who dialed is asked, so the other way is another flow.
        assert_eq!(tcp(&both, "web", "cart"), "none");
    }
}

#[test]
fn selectors_select() {
    use LabelOperator::{DoesNotExist, Exists, In, NotIn};
    for (selector, expected) in [
        (LabelSelector::default(), true),
        (equal("app=web"), true),
        (equal("app=web,tier=x"), false),
        (equal("app=other"), false),
        (expression("app", In, &["x", "web"]), true),
        (expression("app", In, &["x"]), false),
        (expression("none", In, &["x"]), false),
        (expression("app", NotIn, &["web"]), false),
        (expression("app", NotIn, &["x"]), true),
        (expression("none", NotIn, &["x"]), true),
        (expression("app", Exists, &[]), true),
        (expression("none", Exists, &[]), false),
        (expression("app", DoesNotExist, &[]), false),
        (expression("none", DoesNotExist, &[]), true),
    ] {
        let deny = DeclaredPolicy {
            selector: selector.clone(),
            ..policy("deny", Some(vec![]), None)
        };
        let found = tcp(&declared(vec![deny]), "probe", "web");
        assert_eq!(found == "deny", expected, "{selector:?}");
    }
}

#[test]
fn peers_are_pods_of_namespaces() {
    let any = LabelSelector::default;
    let team = |team: &str| Some(equal(&format!("team={team}")));
    let app = |app: &str| Some(equal(&format!("app={app}")));
    let named = |name: &str| Some(equal(&format!("kubernetes.io/metadata.name={name}")));
    for (peer, cart, probe, stray) in [
        // Alone: pods of the policy's own namespace.
        (of_pods(None, Some(any())), "allow", "deny", "deny"),
        (of_pods(None, app("cart")), "allow", "deny", "deny"),
        (of_pods(None, app("other")), "deny", "deny", "deny"),
        // Alone: all pods of the namespaces.
        (of_pods(Some(any()), None), "allow", "allow", "allow"),
        (of_pods(team("ops"), None), "deny", "allow", "unknown"),
        (of_pods(named("lost"), None), "deny", "deny", "allow"),
        (of_pods(named("ops"), None), "deny", "allow", "deny"),
        // Both in one entry: both must hold.
        (
            of_pods(team("ops"), app("cart")),
            "deny",
            "allow",
            "unknown",
        ),
        (of_pods(team("ops"), app("other")), "deny", "deny", "deny"),
        (of_pods(Some(any()), app("cart")), "allow", "allow", "allow"),
    ] {
        let only = declared(vec![policy(
            "p",
            Some(vec![peers(vec![peer.clone()])]),
            None,
        )]);
        let found = ["cart", "probe", "stray"].map(|from| tcp(&only, from, "web"));
        assert_eq!(found, [cart, probe, stray], "{peer:?}");
        assert_eq!(tcp(&only, "1.2.3.4", "web"), "deny", "no pod: {peer:?}");
    }
    // In two entries: one of them must hold.
    let either = vec![of_pods(team("ops"), None), of_pods(None, app("cart"))];
    let either = declared(vec![policy("p", Some(vec![peers(either)]), None)]);
    assert_eq!(
        ["cart", "probe"].map(|from| tcp(&either, from, "web")),
        ["allow", "allow"]
    );
}

#[test]
fn blocks_are_for_what_is_outside() {
    for (peer, address, expected) in [
        (block("1.2.0.0/16", &[]), "1.2.3.4", "allow"),
        (block("1.2.0.0/16", &[]), "1.3.0.1", "deny"),
        (block("1.2.0.0/16", &["1.2.3.0/24"]), "1.2.3.4", "deny"),
        (block("1.2.0.0/16", &["1.2.3.0/24"]), "1.2.4.4", "allow"),
        (block("0.0.0.0/0", &[]), "2001:db8::1", "deny"),
        (block("::/0", &[]), "2001:db8::1", "allow"),
        (block("0.0.0.0/0", &["10.0.0.0/8"]), "cart", "deny"),
        // Whether a block holds a pod's address is the CNI's choice.
        (block("0.0.0.0/0", &[]), "cart", "unknown"),
        (block("192.168.0.0/16", &[]), "other-node", "allow"),
        (block("1.2.0.0/16", &[]), "other-node", "deny"),
    ] {
        let rule = || Some(vec![peers(vec![peer.clone()])]);
        let both = declared(vec![policy("p", rule(), rule())]);
        assert_eq!(
            tcp(&both, address, "web"),
            expected,
            "from {address} {peer:?}"
        );
        assert_eq!(
            tcp(&both, "web", address),
            expected,
            "to {address} {peer:?}"
        );
    }
}

#[test]
fn ports_are_of_the_pod_that_is_dialed() {
    use Transport::{Sctp, Tcp, Udp};
    let name = |name: &str| PolicyPorts::Name(name.into());
    for (rule, transport, port, expected) in [
        (ports(Tcp, PolicyPorts::All), Tcp, 1, "allow"),
        (ports(Tcp, PolicyPorts::All), Udp, 1, "deny"),
        (ports(Sctp, PolicyPorts::All), Sctp, 1, "allow"),
        (ports(Tcp, PolicyPorts::Range(80, 80)), Tcp, 80, "allow"),
        (ports(Tcp, PolicyPorts::Range(80, 80)), Tcp, 81, "deny"),
        (ports(Tcp, PolicyPorts::Range(80, 80)), Sctp, 80, "deny"),
        (ports(Udp, PolicyPorts::Range(80, 90)), Udp, 79, "deny"),
        (ports(Udp, PolicyPorts::Range(80, 90)), Udp, 80, "allow"),
        (ports(Udp, PolicyPorts::Range(80, 90)), Udp, 90, "allow"),
        (ports(Udp, PolicyPorts::Range(80, 90)), Udp, 91, "deny"),
        (ports(Tcp, name("http")), Tcp, 8080, "allow"),
        (ports(Tcp, name("http")), Tcp, 80, "deny"),
        (ports(Tcp, name("other")), Tcp, 8080, "deny"),
        // The name is of a TCP port.
        (ports(Udp, name("http")), Udp, 8080, "deny"),
        (PolicyRule::default(), Sctp, 7, "allow"),
    ] {
        let both = declared(vec![policy(
            "p",
            Some(vec![rule.clone()]),
            Some(vec![rule.clone()]),
        )]);
        for (from, to) in [("cart", "web"), ("web", "cart")] {
            assert_eq!(
                judged(&both, from, to, transport, port),
                expected,
                "{from} {rule:?}"
            );
        }
    }
    let named = declared(vec![policy(
        "p",
        None,
        Some(vec![ports(Tcp, name("http"))]),
    )]);
    assert_eq!(tcp(&named, "web", "1.2.3.4"), "deny", "a name is a pod's");
    assert_eq!(tcp(&named, "web", "?"), "unknown");
    // Ports and peers of one rule must both match; those of another rule do not help.
    let split = vec![
        PolicyRule {
            peers: vec![of_pods(None, Some(equal("app=other")))],
            ..ports(Tcp, PolicyPorts::All)
        },
        PolicyRule {
            peers: vec![of_pods(None, Some(equal("app=cart")))],
            ..ports(Udp, PolicyPorts::All)
        },
    ];
    assert_eq!(
        tcp(
            &declared(vec![policy("p", Some(split), None)]),
            "cart",
            "web"
        ),
        "deny"
    );
}

#[test]
fn what_always_passes() {
    let deny = declared(vec![policy("p", Some(vec![]), Some(vec![]))]);
    for (from, to, expected) in [
        // A pod cannot block itself.
        ("web", "web", "allow"),
        // The node of a pod reaches it; the other way round, and other nodes, are judged.
        ("own-node", "web", "allow"),
        ("web", "own-node", "deny"),
        ("other-node", "web", "deny"),
    ] {
        assert_eq!(tcp(&deny, from, to), expected, "{from} {to}");
    }
    let from_pods = vec![peers(vec![of_pods(None, Some(LabelSelector::default()))])];
    let some = declared(vec![policy("p", Some(from_pods), None)]);
    // It may be a pod in that node's network, which some CNIs know.
    assert_eq!(tcp(&some, "other-node", "web"), "unknown");
    assert_eq!(tcp(&some, "?", "web"), "unknown");
}

#[test]
fn pods_in_the_network_of_their_node_are_not_judged() {
    let all = DeclaredPolicy {
        selector: LabelSelector::default(),
        ..policy("p", Some(vec![]), Some(vec![]))
    };
    let host = declared(vec![all]);
    assert_eq!(tcp(&host, "1.2.3.4", "host-pod"), "unknown");
    assert_eq!(tcp(&host, "host-pod", "1.2.3.4"), "unknown");
    let unselected = declared(vec![policy("p", Some(vec![]), None)]);
    assert_eq!(tcp(&unselected, "host-pod", "1.2.3.4"), "none");
    let from_cart = vec![peers(vec![of_pods(None, Some(equal("app=cart")))])];
    let from_cart = declared(vec![policy("p", Some(from_cart), None)]);
    assert_eq!(tcp(&from_cart, "host-pod", "web"), "unknown", "as a peer");
}

#[test]
fn kinds_that_are_not_understood_leave_it_open() {
    let foreign = |namespace: Option<&str>| Declared {
        foreign_policies: vec![ForeignPolicies {
            kind: "CiliumNetworkPolicy.cilium.io".into(),
            namespace: namespace.map(Into::into),
        }],
        ..declared(vec![policy("p", Some(vec![]), None)])
    };
    assert_eq!(tcp(&foreign(Some("shop")), "1.2.3.4", "web"), "unknown");
    assert_eq!(tcp(&foreign(Some("ops")), "1.2.3.4", "web"), "deny");
    assert_eq!(tcp(&foreign(None), "1.2.3.4", "probe"), "unknown");
}
