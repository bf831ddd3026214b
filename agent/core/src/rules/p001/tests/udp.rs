use expect_test::expect;

use super::{app, check, one};
use crate::declared::{ContainerKind, Transport};
use crate::rules::testing::{container, in_full, listener, pod, port_entry};
use crate::snapshot::ListenerView;

/// The same port of UDP.
fn udp(port: u16, addresses: &[&str]) -> ListenerView {
    ListenerView {
        transport: Transport::Udp,
        ..listener(port, addresses)
    }
}

#[test]
fn a_udp_server_is_told_by_its_transport() {
    let mut container = container("app", ContainerKind::Regular, &[8080]);
    container.ports.push(port_entry(53, Transport::Udp));
    let pod = pod(vec![container]);
    let view = one(
        &pod,
        vec![
            listener(8080, &["::"]),
            udp(53, &["::"]),
            udp(8125, &["127.0.0.1"]),
            udp(9999, &["0.0.0.0"]),
        ],
    );
    expect![[r#"
        P001 medium web/app udp/9999
        declared: the pod declares tcp/8080, udp/53
        observed: udp/9999 listens on any address
        evidence: {"addresses":["0.0.0.0"],"bind_scope":"any","connections":3,"container":"app","executable":"/usr/bin/server","exposure":"cluster","host_netns":"false","pid":42,"port":9999,"reach":["udp/9999 listens on any address","no NetworkPolicy selects the pod for ingress"],"sockets":1,"transport":"udp"}
        coverage: Full
        remediation: Declare containerPort 9999 with protocol UDP on container app, or bind to 127.0.0.1, or disable the endpoint.
        # kubectl --namespace shop patch deployment/web --patch-file FILE
        spec:
          template:
            spec:
              containers:
                - name: "app"
                  ports:
                    - containerPort: 9999
                      protocol: UDP
    "#]].assert_eq(&in_full(&view));
}

#[test]
fn the_same_port_of_two_transports_is_two_conditions_without_patches() {
    let snapshot = app(vec![
        listener(53, &["::"]),
        udp(53, &["::"]),
        udp(8080, &["::"]),
    ]);
    check(
        &snapshot,
        &expect![[r#"
        P001 medium web/app tcp/53
        P001 medium web/app udp/53
        P001 medium web/app udp/8080"#]],
    );
    let patches = crate::rules::evaluate(&snapshot);
    let patches: Vec<_> = patches.iter().map(|condition| &condition.patch).collect();
    assert_eq!(
        patches,
        [&None, &None, &None],
        "they would replace each other"
    );
}

#[test]
fn dynamic_ports_are_one_condition_a_transport() {
    let snapshot = app(vec![
        listener(40_000, &["::"]),
        udp(40_000, &["::"]),
        udp(40_001, &["::"]),
    ]);
    check(
        &snapshot,
        &expect![[r#"
        P001 medium web/app dynamic
        P001 medium web/app dynamic/udp"#]],
    );
}

#[test]
fn where_nothing_is_declared_both_transports_are_one_condition() {
    let pod = pod(vec![container("app", ContainerKind::Regular, &[])]);
    let snapshot = one(&pod, vec![listener(80, &["::"]), udp(53, &["::"])]);
    expect![[r#"
        P001 medium web/app none-declared
        declared: the pod declares no port
        observed: tcp/80, udp/53 listen on any address
        evidence: {"addresses":["::"],"bind_scope":"any","connections":6,"container":"app","dual_stack":"unknown","executable":"/usr/bin/server","exposure":"cluster","host_netns":"false","pid":42,"ports":["tcp/80","udp/53"],"reach":["udp/53 listens on any address","no NetworkPolicy selects the pod for ingress"],"sockets":2}
        coverage: Full
        remediation: Declare containerPort tcp/80, udp/53 on container app, or bind to 127.0.0.1, or disable the endpoint.
        # kubectl --namespace shop patch deployment/web --patch-file FILE
        spec:
          template:
            spec:
              containers:
                - name: "app"
                  ports:
                    - containerPort: 80
                      protocol: TCP
                    - containerPort: 53
                      protocol: UDP
    "#]].assert_eq(&in_full(&snapshot));
}
