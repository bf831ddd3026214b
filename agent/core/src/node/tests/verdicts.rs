//! What policies say of flows, by who the peer was at the time.

mod traps;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{POD, apply, container_id, node, path, seen};
use crate::declared::{
    Declared, DeclaredContainer, DeclaredEndpoints, DeclaredNode, DeclaredPod, DeclaredPolicy,
    DeclaredService, LabelSelector, PeerPod, PolicyPeer, PolicyRule, ServicePort, TargetPort,
    Transport, WorkloadRef,
};
use crate::id::{CgroupId, ContainerId, PodUid};
use crate::node::NodeState;
use crate::observation::{Fact, FlowCounts, FlowRow, Role, SourceRow};
use crate::observed::verdicts::Verdicts;
use crate::policy::Verdict;
use crate::snapshot::Snapshot;
use crate::time::Timestamp;

const SECOND: u64 = 1_000_000_000;
/// Long after everything that was told.
const LATE: u64 = 100 * SECOND;

fn labels(app: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("app".to_owned(), app.to_owned())])
}

fn equal(app: &str) -> LabelSelector {
    LabelSelector {
        labels: labels(app),
        ..LabelSelector::default()
    }
}

fn owner(name: &str) -> WorkloadRef {
    WorkloadRef {
        kind: "Deployment".into(),
        name: name.into(),
    }
}

/// The pod of the container under test, `app=web` at 10.0.0.1.
fn web() -> DeclaredPod {
    DeclaredPod {
        namespace: "shop".into(),
        name: "web-1".into(),
        uid: Some(PodUid::new(POD)),
        labels: labels("web"),
        owner: owner("web"),
        ips: vec![IpAddr::from([10, 0, 0, 1])],
        containers: vec![DeclaredContainer {
            container_id: Some(ContainerId::new(container_id(1))),
            ..DeclaredContainer::default()
        }],
        ..DeclaredPod::default()
    }
}

/// A pod of another node.
fn other(app: &str, last: u8) -> Arc<PeerPod> {
    Arc::new(PeerPod {
        namespace: "shop".into(),
        name: format!("{app}-{last}"),
        labels: labels(app),
        owner: owner(app),
        ips: vec![IpAddr::from([10, 0, 0, last])],
        ..PeerPod::default()
    })
}

/// `app=web` takes connections from `app=cart` only, and sends to those only.
fn only_cart() -> DeclaredPolicy {
    let rule = PolicyRule {
        peers: vec![PolicyPeer::Pods {
            namespaces: None,
            pods: Some(equal("cart")),
        }],
        ports: vec![],
    };
    DeclaredPolicy {
        namespace: "shop".into(),
        name: "p".into(),
        selector: equal("web"),
        ingress: Some(vec![rule.clone()]),
        egress: Some(vec![rule]),
    }
}

fn world() -> Declared {
    Declared {
        pods: vec![Arc::new(web())],
        peer_pods: vec![other("cart", 2), other("thief", 3)],
        policies_known: true,
        policies: vec![only_cart()],
        ..Declared::default()
    }
}

fn started(declared: Declared) -> NodeState {
    begin(node(), declared)
}

fn begin(mut node: NodeState, declared: Declared) -> NodeState {
    let addresses = vec![IpAddr::from([192, 0, 2, 10])];
    apply(&mut node, 1, Fact::NodeAddresses { addresses });
    seen(&mut node, 1, 10, path(1));
    apply(&mut node, 2, Fact::Declared(declared));
    node
}

fn flow(node: &mut NodeState, at: u64, role: Role, peer: &str, counts: FlowCounts) {
    flow_to(node, at, role, (peer, 8080), counts);
}

fn flow_to(
    node: &mut NodeState,
    at: u64,
    role: Role,
    (peer, server_port): (&str, u16),
    counts: FlowCounts,
) {
    let row = FlowRow {
        owner: CgroupId(10),
        transport: Transport::Tcp,
        role,
        peer: Some(peer.parse().unwrap()),
        server_port,
        counts,
    };
    let since = Some(Timestamp(at - SECOND));
    apply(
        node,
        at,
        Fact::Flows {
            rows: vec![row],
            since,
        },
    );
    apply(node, at + 20 * SECOND, Fact::Clock { unix_ns: at });
}

fn one() -> FlowCounts {
    FlowCounts {
        connections: 1,
        ..FlowCounts::default()
    }
}

/// The verdicts of the only series.
fn verdicts(node: &NodeState) -> Verdicts {
    let Snapshot { flows, .. } = node.snapshot(Timestamp(LATE));
    assert_eq!(flows.len(), 1, "{flows:?}");
    flows[0].verdicts.clone()
}

/// What is said of one connection long after everything was told.
fn said(declared: Declared, role: Role, peer: &str) -> Verdict {
    let mut node = started(declared);
    flow(&mut node, LATE, role, peer, one());
    verdicts(&node).last
}

#[test]
fn peers_are_judged_by_their_labels() {
    for role in [Role::Client, Role::Server] {
        assert_eq!(said(world(), role, "10.0.0.2"), Verdict::Allow);
        assert_eq!(said(world(), role, "10.0.0.3"), Verdict::Deny);
        assert_eq!(said(world(), role, "203.0.113.9"), Verdict::Deny, "outside");
        assert_eq!(said(world(), role, "127.0.0.1"), Verdict::None, "loopback");
    }
    let mut passed = started(world());
    flow(&mut passed, LATE, Role::Server, "10.0.0.3", one());
    let verdicts = verdicts(&passed);
    assert_eq!(verdicts.connections, [0, 1, 0, 0]);
    assert_eq!(verdicts.passed.count, 1);
    let why = "ingress to tcp/8080: selected by shop/p, and no rule of them matches";
    assert_eq!(verdicts.passed.why.as_deref(), Some(why));
}

#[test]
fn a_peer_that_is_not_known_is_never_denied() {
    // Trap 19, and `--peers node`: pods of other nodes have no name.
    for role in [Role::Client, Role::Server] {
        assert_eq!(said(world(), role, "10.0.0.99"), Verdict::Unknown);
    }
    let mut deny = world();
    deny.policies[0].egress = Some(vec![]);
    assert_eq!(said(deny, Role::Client, "10.0.0.99"), Verdict::Unknown);
}

#[test]
fn the_own_node_reaches_its_pods() {
    assert_eq!(said(world(), Role::Server, "192.0.2.10"), Verdict::Allow);
}

#[test]
fn other_nodes_are_never_denied_as_clients() {
    let mut declared = world();
    declared.nodes.push(DeclaredNode {
        name: "node-b".into(),
        addresses: vec![IpAddr::from([192, 0, 2, 99])],
        ..DeclaredNode::default()
    });
    declared.policies[0].ingress = Some(vec![]);
    assert_eq!(
        said(declared.clone(), Role::Server, "192.0.2.99"),
        Verdict::Unknown
    );
    declared.policies[0].egress = Some(vec![]);
    assert_eq!(
        said(declared, Role::Client, "192.0.2.99"),
        Verdict::Deny,
        "as servers they are"
    );
}

#[test]
fn what_is_stale_denies_nothing() {
    for (as_of, expected) in [(LATE - SECOND, Verdict::Deny), (0, Verdict::Unknown)] {
        let mut node = started(world());
        let row = SourceRow {
            source: "networkpolicies".into(),
            as_of: Timestamp(as_of),
            error: None,
        };
        apply(&mut node, 3, Fact::DeclaredSources { rows: vec![row] });
        flow(&mut node, 2 * LATE, Role::Server, "10.0.0.3", one());
        assert_eq!(verdicts(&node).last, expected);
    }
}

/// With a Service at 10.96.0.1 whose endpoints these are.
fn with_service(endpoints: &[u8]) -> Declared {
    let mut declared = world();
    declared.services.push(DeclaredService {
        namespace: "shop".into(),
        name: "svc".into(),
        cluster_ips: vec![IpAddr::from([10, 96, 0, 1])],
        load_balancer_ips: vec![IpAddr::from([203, 0, 113, 50])],
        service_type: "LoadBalancer".into(),
        ports: vec![ServicePort {
            port: 8080,
            target: TargetPort::Number(80),
            node_port: None,
            transport: Transport::Tcp,
        }],
        ..DeclaredService::default()
    });
    if !endpoints.is_empty() {
        let address = |last: &u8| IpAddr::from([10, 0, 0, *last]);
        declared.endpoints.push(DeclaredEndpoints {
            namespace: "shop".into(),
            name: "svc-1".into(),
            service: "svc".into(),
            addresses: endpoints.iter().map(address).collect(),
            ports: vec![(Transport::Tcp, 80)],
        });
    }
    declared
}

#[test]
fn failures_that_policies_deny_are_counted() {
    let failed = FlowCounts {
        failures: 4,
        ..FlowCounts::default()
    };
    for (peer, expected) in [("10.0.0.3", 4), ("10.0.0.2", 0)] {
        let mut node = started(world());
        flow(&mut node, LATE, Role::Client, peer, failed);
        let verdicts = verdicts(&node);
        assert_eq!(
            (verdicts.blocked.count, verdicts.passed.count),
            (expected, 0)
        );
    }
}

#[test]
fn candidates_change_no_verdict() {
    let mut open = world();
    open.policies.clear();
    let mut node = started(open);
    let policies = vec![only_cart()];
    apply(&mut node, 3, Fact::CandidatePolicies { policies });
    flow(&mut node, LATE, Role::Server, "10.0.0.3", one());
    let verdicts = verdicts(&node);
    assert_eq!(verdicts.last, Verdict::None);
    assert_eq!((verdicts.candidate.count, verdicts.passed.count), (1, 0));
}

#[test]
fn rules_tell_how_often_they_matched_and_that_they_never_did() {
    let hits = |node: &NodeState| -> Vec<(String, u64)> {
        let all = node.snapshot(Timestamp(LATE)).rule_hits;
        let named = |hits: &crate::snapshot::RuleHits| {
            let way = hits.direction.as_str();
            (
                format!("{} {way}[{}]", hits.policy, hits.rule),
                hits.connections,
            )
        };
        all.iter().map(named).collect()
    };
    let mut node = started(world());
    flow(&mut node, LATE, Role::Server, "10.0.0.2", one());
    flow(&mut node, LATE, Role::Server, "10.0.0.3", one());
    let told = |count| {
        vec![
            ("shop/p ingress[0]".to_owned(), count),
            ("shop/p egress[0]".to_owned(), 0),
        ]
    };
    assert_eq!(hits(&node), told(1));
    // Other policies come, and the counts stay.
    let mut more = world();
    more.policies.push(DeclaredPolicy {
        namespace: "elsewhere".into(),
        ..only_cart()
    });
    apply(&mut node, LATE + SECOND, Fact::Declared(more));
    flow(
        &mut node,
        LATE + 2 * SECOND,
        Role::Server,
        "10.0.0.2",
        one(),
    );
    assert_eq!(hits(&node), told(2));
}
