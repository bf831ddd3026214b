use expect_test::{Expect, expect};

use crate::declared::{ContainerKind, DeclaredPod, TargetPort, Transport};
use crate::rules::testing::{
    container, declared, in_full, listener, pod, said, service, snapshot, view,
};
use crate::snapshot::{BindScope, ListenerView, Snapshot};

/// A hostNetwork pod whose container declares these ports, with these listeners.
fn agent(ports: &[u16], listeners: Vec<ListenerView>) -> Snapshot {
    let pod = DeclaredPod {
        host_network: true,
        ..pod(vec![container("agent", ContainerKind::Regular, ports)])
    };
    snapshot(
        Some(declared(&pod, vec![])),
        vec![view(&pod, Some(0), listeners)],
    )
}

fn check(snapshot: &Snapshot, expected: &Expect) {
    expected.assert_eq(&said(snapshot));
}

#[test]
fn an_undeclared_port_of_the_node_is_reported_with_all_there_is_to_say() {
    let node = ListenerView {
        scope: BindScope::Node,
        host_netns: Some(true),
        ..listener(9090, &["192.0.2.10"])
    };
    expect![[r#"
        P007 medium web/agent tcp/9090
        declared: the pod declares tcp/9100
        observed: tcp/9090 listens on an address of the node
        evidence: {"addresses":["192.0.2.10"],"bind_scope":"node","connections":3,"container":"agent","executable":"/usr/bin/server","exposure":"node","host_netns":"true","pid":42,"port":9090,"reach":["tcp/9090 listens on an address of the node","in the node's network: no NetworkPolicy applies"],"sockets":1,"transport":"tcp"}
        coverage: Full
        remediation: Declare containerPort 9090 on container agent, or bind to 127.0.0.1 or a node-internal address, or do without hostNetwork.
        # kubectl --namespace shop patch deployment/web --patch-file FILE
        spec:
          template:
            spec:
              containers:
                - name: "agent"
                  ports:
                    - containerPort: 9090
                      protocol: TCP
    "#]].assert_eq(&in_full(&agent(
        &[9100],
        vec![listener(9100, &["0.0.0.0"]), node],
    )));
}

#[test]
fn pods_with_a_network_of_their_own_are_not_this_rules() {
    let mut own = agent(&[9100], vec![listener(9090, &["0.0.0.0"])]);
    let pod = pod(vec![container("agent", ContainerKind::Regular, &[9100])]);
    own.containers[0].pod = Some(pod.into());
    check(&own, &expect!["P001 medium web/agent tcp/9090"]);
}

#[test]
fn trap_1_only_the_owner_of_the_socket_is_blamed() {
    let innocent = DeclaredPod {
        host_network: true,
        ..pod(vec![container("proxy", ContainerKind::Regular, &[1])])
    };
    let mut two = agent(&[9100], vec![listener(9090, &["0.0.0.0"])]);
    two.containers.push(view(&innocent, Some(0), vec![]));
    check(&two, &expect!["P007 medium web/agent tcp/9090"]);
}

#[test]
fn trap_1_node_ports_are_reserved_by_listening() {
    let pod = DeclaredPod {
        host_network: true,
        ..pod(vec![container("proxy", ContainerKind::Regular, &[10_256])])
    };
    let mut elsewhere = service(TargetPort::Number(80), Transport::Tcp, Some(30_080));
    elsewhere.namespace = "other".into();
    let listeners = vec![
        listener(30_080, &["0.0.0.0"]),
        listener(30_081, &["0.0.0.0"]),
    ];
    let snapshot = snapshot(
        Some(declared(&pod, vec![elsewhere])),
        vec![view(&pod, Some(0), listeners)],
    );
    check(&snapshot, &expect!["P007 medium web/proxy tcp/30081"]);
}

#[test]
fn declared_ports_host_ports_and_probes_are_declared() {
    let mut snapshot = agent(&[9100], vec![]);
    let mut pod = DeclaredPod::clone(snapshot.containers[0].pod.as_ref().unwrap());
    pod.containers[0].ports[0].host_port = Some(19_100);
    pod.containers[0].probe_ports = vec![9101];
    let listeners = [9100, 19_100, 9101, 9102].map(|port| listener(port, &["::"]));
    snapshot.containers = vec![view(&pod, Some(0), listeners.into())];
    check(&snapshot, &expect!["P007 medium web/agent tcp/9102"]);
}

#[test]
fn loopback_the_agent_itself_and_passed_sockets_are_silent() {
    check(
        &agent(&[9100], vec![listener(9090, &["127.0.0.1"])]),
        &expect![[""]],
    );
    let passed = ListenerView {
        held_by_owner: Some(false),
        ..listener(9090, &["0.0.0.0"])
    };
    check(
        &agent(&[9100], vec![passed]),
        &expect!["M001 low node coverage/partial/passed_socket"],
    );
    let mut own = agent(&[9100], vec![listener(9090, &["0.0.0.0"])]);
    own.containers[0].is_self = true;
    check(&own, &expect![[""]]);
}

#[test]
fn a_pod_that_declares_nothing_and_dynamic_ports_are_grouped() {
    let listeners = || {
        vec![
            listener(179, &["0.0.0.0"]),
            listener(40_000, &["::"]),
            listener(40_001, &["::"]),
        ]
    };
    check(
        &agent(&[], listeners()),
        &expect!["P007 medium web/agent none-declared"],
    );
    check(
        &agent(&[9100], listeners()),
        &expect![[r#"
        P007 medium web/agent dynamic
        P007 medium web/agent tcp/179"#]],
    );
}
