use std::collections::BTreeMap;
use std::time::Duration;

use expect_test::expect;

use crate::declared::{ContainerKind, Declared, DeclaredContainer};
use crate::finding::Coverage;
use crate::observation::{Health, SourceRow};
use crate::rules::testing::{
    NOW, cluster, container, declared, in_full, pod, said, snapshot, status, view,
};
use crate::rules::unknown_rules;
use crate::snapshot::{ApiUse, RefusedView, Snapshot};
use crate::time::Timestamp;

const DAY: Duration = Duration::from_secs(24 * 3_600);

fn holder(name: &str, kind: ContainerKind) -> DeclaredContainer {
    DeclaredContainer {
        api_token: Some(true),
        ..container(name, kind, &[])
    }
}

/// A pod of these containers, seen in full for a day and never with the API server.
fn node(containers: Vec<DeclaredContainer>) -> Snapshot {
    let pod = pod(containers);
    let running = pod.containers.iter().enumerate();
    let running = running.filter(|(_, container)| container.kind != ContainerKind::Init);
    let mut views: Vec<_> = running
        .map(|(index, _)| view(&pod, Some(index), vec![]))
        .collect();
    for view in &mut views {
        view.first_seen = Timestamp(0);
    }
    let mut node = snapshot(Some(cluster(declared(&pod, vec![]))), views);
    // An hour after boot is no day.
    node.now = NOW.plus(DAY);
    node
}

fn one() -> Snapshot {
    node(vec![holder("app", ContainerKind::Regular)])
}

fn is_said(snapshot: &Snapshot) -> bool {
    said(snapshot).contains("S001")
}

#[test]
fn a_token_that_is_never_used() {
    expect![[r#"
        S001 low web/- token
        declared: a service account token for the API server in app
        observed: no connection of the pod to the API server in 24 h
        evidence: {"containers":["app"],"window_hours":24}
        coverage: Full
        remediation: Set automountServiceAccountToken: false, unless the pod needs the token less than once a day, or shows it to somebody else, such as Vault.
        # kubectl --namespace shop patch deployment/web --patch-file FILE
        spec:
          template:
            spec:
              automountServiceAccountToken: false
    "#]].assert_eq(&in_full(&one()));
}

#[test]
fn a_pod_that_talks_or_may_have_is_left_alone() {
    for seen in [ApiUse::Talks, ApiUse::Unsure] {
        let mut node = one();
        let uid = node.containers[0].pod_uid.clone();
        node.api_clients = Some(BTreeMap::from([(uid, seen)]));
        assert!(!is_said(&node), "{seen:?}");
    }
    let mut node = one();
    node.api_clients = None;
    assert!(!is_said(&node), "not all could be remembered");
}

#[test]
fn without_a_token_there_is_nothing_to_say() {
    for token in [None, Some(false)] {
        let plain = DeclaredContainer {
            api_token: token,
            ..holder("app", ContainerKind::Regular)
        };
        assert!(!is_said(&node(vec![plain])));
    }
}

#[test]
fn one_user_in_the_pod_is_enough_and_the_pod_is_named_once() {
    let containers = || {
        vec![
            holder("proxy", ContainerKind::Sidecar),
            holder("app", ContainerKind::Regular),
            container("web", ContainerKind::Regular, &[]),
        ]
    };
    let said = said(&node(containers()));
    assert_eq!(said.matches("S001").count(), 1, "{said}");
    // What an init container did stays known after its end.
    let mut with_init = containers();
    with_init.insert(0, holder("init", ContainerKind::Init));
    let mut node = node(with_init);
    assert!(is_said(&node));
    let uid = node.containers[0].pod_uid.clone();
    node.api_clients = Some(BTreeMap::from([(uid, ApiUse::Talks)]));
    assert!(!is_said(&node));
}

#[test]
fn a_short_window_proves_nothing() {
    let mut node = node(vec![
        holder("app", ContainerKind::Regular),
        holder("b", ContainerKind::Regular),
    ]);
    node.containers[1].first_seen = node.now.minus(DAY - Duration::from_secs(1));
    assert!(!is_said(&node));
    node.containers[1].first_seen = node.now.minus(DAY);
    assert!(is_said(&node));
}

#[test]
fn what_was_not_seen_in_full_is_unknown() {
    let change: [fn(&mut Snapshot); 7] = [
        |node| node.containers[0].coverage = Coverage::PreExisting,
        |node| node.containers[0].coverage = Coverage::Partial("x".into()),
        |node| node.containers[0].coverage = Coverage::Blind("x".into()),
        |node| {
            node.containers[0].refused = Some(RefusedView {
                flows: 1,
                listeners: 0,
                udp_flows: 0,
                udp_sockets: 0,
                connections: 0,
                last: NOW,
            });
        },
        |node| node.containers[0].gone = true,
        |node| node.containers[0].is_self = true,
        |node| node.containers[0].pod = None,
    ];
    for (number, change) in change.into_iter().enumerate() {
        let mut node = one();
        change(&mut node);
        assert!(!is_said(&node), "{number}");
    }
}

#[test]
fn a_container_older_than_the_agent_is_judged_where_open_connections_are_read() {
    let judged = |health, containers| {
        let mut node = node(containers);
        node.containers
            .iter_mut()
            .for_each(|view| view.coverage = Coverage::PreExisting);
        node.probes.push(status("connections", health, None));
        is_said(&node)
    };
    assert!(judged(
        Health::Ok,
        vec![holder("app", ContainerKind::Regular)]
    ));
    assert!(!judged(
        Health::Unsupported,
        vec![holder("app", ContainerKind::Regular)]
    ));
    // Its init containers ended before the agent came.
    let init = vec![
        holder("init", ContainerKind::Init),
        holder("app", ContainerKind::Regular),
    ];
    assert!(!judged(Health::Ok, init));
}

#[test]
fn pods_of_the_host_network_reach_it_by_loopback() {
    let mut pod = pod(vec![holder("app", ContainerKind::Regular)]);
    pod.host_network = true;
    let mut node = snapshot(
        Some(cluster(declared(&pod, vec![]))),
        vec![view(&pod, Some(0), vec![])],
    );
    node.now = NOW.plus(DAY);
    assert!(!is_said(&node));
}

#[test]
fn it_is_unknown_where_the_api_server_is() {
    let why = |snapshot: &Snapshot| {
        let unknown = unknown_rules(snapshot)
            .into_iter()
            .find(|(rule, _)| *rule == "S001");
        assert!(!is_said(snapshot));
        unknown.unwrap().1
    };
    let mut off = one();
    off.probes.push(status(
        "peers.endpointslices",
        Health::Off,
        Some("--peers off"),
    ));
    assert_eq!(why(&off), "peers.endpointslices is off: --peers off");
    let mut node = one();
    let mut declared = Declared::clone(node.declared.as_ref().unwrap());
    declared.api_servers.clear();
    node.declared = Some(declared.into());
    assert!(why(&node).starts_with("the declared side does not tell where the API server is"));
    let mut node = one();
    node.probes.retain(|status| status.probe != "tcp");
    assert_eq!(why(&node), "tcp has not reported yet");
    let mut node = one();
    node.sources = vec![SourceRow {
        source: "endpointslices".into(),
        as_of: NOW,
        error: None,
    }];
    assert!(why(&node).contains("stale"));
}
