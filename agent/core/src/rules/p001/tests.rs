mod udp;

use std::time::Duration;

use expect_test::{Expect, expect};

use crate::declared::{ContainerKind, Declared, DeclaredPod, Transport};
use crate::finding::Coverage;
use crate::rules::testing::{
    NOW, container, declared, in_full, listener, pod, port_entry, said, snapshot, view,
};
use crate::settings::Grace;
use crate::snapshot::{BindScope, ListenerView, Snapshot};

/// A pod with one container `app` that declares 8080, and these listeners in it.
fn app(listeners: Vec<ListenerView>) -> Snapshot {
    one(
        &pod(vec![container("app", ContainerKind::Regular, &[8080])]),
        listeners,
    )
}

/// The pod's first container with these listeners.
fn one(pod: &DeclaredPod, listeners: Vec<ListenerView>) -> Snapshot {
    snapshot(
        Some(declared(pod, vec![])),
        vec![view(pod, Some(0), listeners)],
    )
}

fn check(snapshot: &Snapshot, expected: &Expect) {
    expected.assert_eq(&said(snapshot));
}

#[test]
fn an_undeclared_port_is_reported_with_all_there_is_to_say() {
    expect![[r#"
        P001 medium web/app tcp/9999
        declared: the pod declares tcp/8080
        observed: tcp/9999 listens on any address
        evidence: {"addresses":["0.0.0.0"],"bind_scope":"any","connections":3,"container":"app","executable":"/usr/bin/server","exposure":"cluster","host_netns":"false","pid":42,"port":9999,"reach":["tcp/9999 listens on any address","no NetworkPolicy selects the pod for ingress"],"sockets":1,"transport":"tcp"}
        coverage: Full
        remediation: Declare containerPort 9999 on container app, or bind to 127.0.0.1, or disable the endpoint.
        # kubectl --namespace shop patch deployment/web --patch-file FILE
        spec:
          template:
            spec:
              containers:
                - name: "app"
                  ports:
                    - containerPort: 9999
                      protocol: TCP
    "#]].assert_eq(&in_full(&app(vec![
        listener(8080, &["0.0.0.0"]),
        listener(9999, &["0.0.0.0"]),
    ])));
}

#[test]
fn trap_1_host_network_is_not_this_rules() {
    let pod = DeclaredPod {
        host_network: true,
        ..pod(vec![container("app", ContainerKind::Regular, &[8080])])
    };
    check(
        &one(&pod, vec![listener(9999, &["0.0.0.0"])]),
        &expect!["P007 medium web/app tcp/9999"],
    );
}

#[test]
fn trap_2_dynamic_ports_are_one_condition() {
    let ports = [32_767, 32_768, 40_000, 60_999, 61_000];
    check(
        &app(ports.map(|port| listener(port, &["::"])).into()),
        &expect![[r#"
            P001 medium web/app dynamic
            P001 medium web/app tcp/32767
            P001 medium web/app tcp/61000"#]],
    );
    expect![[r#"
        P001 medium web/app dynamic
        declared: the pod declares tcp/8080
        observed: tcp/33001 (dynamic) listens on an address of the pod
        evidence: {"addresses":["10.0.0.9"],"bind_scope":"pod","connections":3,"container":"app","executable":"/usr/bin/server","exposure":"cluster","host_netns":"false","pid":42,"ports":["33001"],"reach":["tcp/33001 listens on an address of the pod","no NetworkPolicy selects the pod for ingress"],"sockets":1,"transport":"tcp"}
        coverage: Full
        remediation: The ports are from the range that the kernel gives out by itself. Configure fixed ports and declare them on container app, or bind to 127.0.0.1, or disable the endpoint.
        no patch"#]].assert_eq(&in_full(&app(vec![
        listener(33_001, &["10.0.0.9"]),
        listener(33_000, &["127.0.0.1"]),
    ])));
}

#[test]
fn a_declared_port_of_the_dynamic_range_is_declared() {
    let pod = pod(vec![container("app", ContainerKind::Regular, &[40_000])]);
    check(&one(&pod, vec![listener(40_000, &["::"])]), &expect![[""]]);
}

#[test]
fn trap_3_loopback_is_no_exposure() {
    check(
        &app(vec![
            listener(9999, &["127.0.0.1", "::1"]),
            listener(9998, &["127.8.0.1"]),
        ]),
        &expect![[""]],
    );
    check(
        &app(vec![listener(9999, &["127.0.0.1", "10.0.0.9"])]),
        &expect!["P001 medium web/app tcp/9999"],
    );
}

#[test]
fn trap_4_sidecars_are_known_by_their_container_not_by_the_port() {
    let ports = [15_001, 15_006, 15_020, 15_021, 9_999];
    let listeners = || ports.map(|port| listener(port, &["0.0.0.0"])).to_vec();
    let pod = pod(vec![
        container("app", ContainerKind::Regular, &[8080]),
        container("istio-proxy", ContainerKind::Sidecar, &[15_090]),
    ]);
    let of = |index| {
        let view = view(&pod, Some(index), listeners());
        snapshot(Some(declared(&pod, vec![])), vec![view])
    };
    check(&of(1), &expect!["P001 medium web/istio-proxy tcp/9999"]);
    let told = said(&of(0));
    assert_eq!(told.lines().count(), ports.len(), "{told}");
}

#[test]
fn trap_5_native_sidecars_declare_and_ephemeral_containers_cannot() {
    let pod = pod(vec![
        container("app", ContainerKind::Regular, &[8080]),
        container("proxy", ContainerKind::Sidecar, &[15_090]),
        container("debugger", ContainerKind::Ephemeral, &[]),
    ]);
    let listeners = || {
        vec![
            listener(15_090, &["0.0.0.0"]),
            listener(15_021, &["0.0.0.0"]),
            listener(40_000, &["::"]),
        ]
    };
    let of = |index| {
        snapshot(
            Some(declared(&pod, vec![])),
            vec![view(&pod, Some(index), listeners())],
        )
    };
    check(
        &of(1),
        &expect![[r#"
        P001 medium web/proxy dynamic
        P001 medium web/proxy tcp/15021"#]],
    );
    check(&of(2), &expect!["P001 info web/debugger debug-listener"]);
    expect![[r#"
        P001 info web/debugger debug-listener
        declared: the pod declares tcp/8080, tcp/15090
        observed: tcp/15021, tcp/40000 (debug listener) listen on any address
        evidence: {"addresses":["0.0.0.0","::"],"bind_scope":"any","connections":6,"container":"debugger","dual_stack":"unknown","executable":"/usr/bin/server","exposure":"cluster","host_netns":"false","pid":42,"ports":["15021","40000"],"reach":["tcp/40000 listens on any address","no NetworkPolicy selects the pod for ingress"],"sockets":2,"transport":"tcp"}
        coverage: Full
        remediation: An ephemeral container cannot declare ports. If the debugging is over, delete the pod: ephemeral containers stay until then.
        no patch"#]].assert_eq(&in_full(&of(2)));
}

#[test]
fn trap_5_init_containers_end_within_the_grace() {
    let pod = pod(vec![container("prepare", ContainerKind::Init, &[8080])]);
    let young = ListenerView {
        first_seen: NOW.minus(Duration::from_secs(29)),
        scans: 1,
        ..listener(9999, &["::"])
    };
    check(&one(&pod, vec![young.clone()]), &expect![[""]]);
    let old = ListenerView {
        first_seen: NOW.minus(Duration::from_secs(30)),
        ..young
    };
    check(
        &one(&pod, vec![old]),
        &expect!["P001 medium web/prepare tcp/9999"],
    );
}

#[test]
fn the_grace_counts_scans_where_it_is_told_to() {
    let scans = |scans| {
        let mut snapshot = app(vec![ListenerView {
            scans,
            ..listener(9999, &["::"])
        }]);
        snapshot.settings.grace = Grace::Scans(2);
        snapshot
    };
    check(&scans(1), &expect![[""]]);
    check(&scans(2), &expect!["P001 medium web/app tcp/9999"]);
}

#[test]
fn trap_6_any_container_of_the_pod_declares_for_all() {
    let pod = pod(vec![
        container("app", ContainerKind::Regular, &[8080]),
        container("metrics", ContainerKind::Regular, &[9100]),
    ]);
    check(
        &one(
            &pod,
            vec![listener(9100, &["0.0.0.0"]), listener(9101, &["0.0.0.0"])],
        ),
        &expect!["P001 medium web/app tcp/9101"],
    );
}

#[test]
fn trap_7_port_forward_dials_and_does_not_listen() {
    // The runtime dials the pod's loopback from a host cgroup: all there is in the pod is a connection to a loopback
    // listener, however many there are.
    let forwarded = ListenerView {
        connections: 1_000,
        ..listener(9999, &["127.0.0.1"])
    };
    check(&app(vec![forwarded]), &expect![[""]]);
}

#[test]
fn trap_8_probe_ports_are_declared() {
    let mut app = container("app", ContainerKind::Regular, &[8080]);
    app.probe_ports = vec![8081];
    let pod = pod(vec![app, container("other", ContainerKind::Regular, &[])]);
    let listeners = || vec![listener(8081, &["0.0.0.0"]), listener(8082, &["0.0.0.0"])];
    check(
        &one(&pod, listeners()),
        &expect!["P001 medium web/app tcp/8082"],
    );
    let other = snapshot(
        Some(declared(&pod, vec![])),
        vec![view(&pod, Some(1), listeners())],
    );
    check(&other, &expect!["P001 medium web/other tcp/8082"]);
}

#[test]
fn trap_10_and_11_sockets_and_families_of_a_port_are_one_condition() {
    let many = ListenerView {
        sockets: 64,
        ..listener(9999, &["0.0.0.0", "10.0.0.9", "::"])
    };
    check(&app(vec![many]), &expect!["P001 medium web/app tcp/9999"]);
}

#[test]
fn trap_11_a_passed_socket_is_not_blamed_on_its_creator() {
    let passed = ListenerView {
        held_by_owner: Some(false),
        ..listener(9999, &["0.0.0.0"])
    };
    check(
        &app(vec![passed]),
        &expect!["M001 low node coverage/partial/passed_socket"],
    );
    let unscanned = ListenerView {
        held_by_owner: None,
        host_netns: None,
        holders: vec![],
        ..listener(9999, &["::"])
    };
    expect![[r#"
        P001 medium web/app tcp/9999
        declared: the pod declares tcp/8080
        observed: tcp/9999 listens on any address
        evidence: {"addresses":["::"],"bind_scope":"any","connections":3,"container":"app","dual_stack":"unknown","exposure":"cluster","port":9999,"reach":["tcp/9999 listens on any address","no NetworkPolicy selects the pod for ingress"],"sockets":1,"transport":"tcp"}
        coverage: Full
        remediation: Declare containerPort 9999 on container app, or bind to 127.0.0.1, or disable the endpoint.
        # kubectl --namespace shop patch deployment/web --patch-file FILE
        spec:
          template:
            spec:
              containers:
                - name: "app"
                  ports:
                    - containerPort: 9999
                      protocol: TCP
    "#]].assert_eq(&in_full(&app(vec![unscanned])));
}

#[test]
fn trap_13_static_pods_have_an_owner_too() {
    // NodeState found the pod by its config hash; here it only matters that a pod of its own can be named and patched.
    let mut pod = pod(vec![container("etcd", ContainerKind::Regular, &[2379])]);
    pod.owner = crate::declared::WorkloadRef {
        kind: "Pod".into(),
        name: "etcd-node-1".into(),
    };
    expect![[r#"
        P001 medium etcd-node-1/etcd tcp/2381
        declared: the pod declares tcp/2379
        observed: tcp/2381 listens on an address of the pod
        evidence: {"addresses":["10.0.0.9"],"bind_scope":"pod","connections":3,"container":"etcd","executable":"/usr/bin/server","exposure":"cluster","host_netns":"false","pid":42,"port":2381,"reach":["tcp/2381 listens on an address of the pod","no NetworkPolicy selects the pod for ingress"],"sockets":1,"transport":"tcp"}
        coverage: Full
        remediation: Declare containerPort 2381 on container etcd, or bind to 127.0.0.1, or disable the endpoint.
        # Merge into the manifest of Pod etcd-node-1 and create its pods anew: those that run cannot be changed.
        spec:
          containers:
            - name: "etcd"
              ports:
                - containerPort: 2381
                  protocol: TCP
    "#]].assert_eq(&in_full(&one(&pod, vec![listener(2381, &["10.0.0.9"])])));
}

#[test]
fn trap_14_a_pod_that_declares_nothing_is_one_condition_a_container() {
    let pod = pod(vec![
        container("app", ContainerKind::Regular, &[]),
        container("side", ContainerKind::Regular, &[]),
    ]);
    let listeners = vec![
        listener(9998, &["0.0.0.0"]),
        listener(9999, &["10.0.0.9"]),
        listener(40_000, &["::"]),
    ];
    let both = snapshot(
        Some(declared(&pod, vec![])),
        vec![
            view(&pod, Some(0), listeners.clone()),
            view(&pod, Some(1), vec![listener(1, &["::"])]),
        ],
    );
    check(
        &both,
        &expect![[r#"
        P001 medium web/app none-declared
        P001 medium web/side none-declared"#]],
    );
    let mut allowed = both.clone();
    allowed.settings.rules.undeclared_namespaces = vec!["shop".into()];
    check(&allowed, &expect![[""]]);
    allowed.settings.rules.undeclared_namespaces = vec!["ops".into()];
    assert_eq!(said(&allowed), said(&both));
    expect![[r#"
        P001 medium web/app none-declared
        declared: the pod declares no port
        observed: tcp/9998, tcp/9999, tcp/40000 listen on any address
        evidence: {"addresses":["0.0.0.0","10.0.0.9","::"],"bind_scope":"any","connections":9,"container":"app","dual_stack":"unknown","executable":"/usr/bin/server","exposure":"cluster","host_netns":"false","pid":42,"ports":["9998","9999","40000"],"reach":["tcp/40000 listens on any address","no NetworkPolicy selects the pod for ingress"],"sockets":3,"transport":"tcp"}
        coverage: Full
        remediation: Declare containerPort 9998, 9999, 40000 on container app, or bind to 127.0.0.1, or disable the endpoint.
        # kubectl --namespace shop patch deployment/web --patch-file FILE
        spec:
          template:
            spec:
              containers:
                - name: "app"
                  ports:
                    - containerPort: 9998
                      protocol: TCP
                    - containerPort: 9999
                      protocol: TCP
                    - containerPort: 40000
                      protocol: TCP
    "#]].assert_eq(&in_full(&one(&pod, listeners)));
}

#[test]
fn trap_22_the_agent_does_not_report_itself() {
    let mut own = app(vec![listener(9999, &["0.0.0.0"])]);
    own.containers[0].is_self = true;
    check(&own, &expect![[""]]);
}

#[test]
fn a_port_declared_for_udp_only_is_not_declared_for_tcp() {
    let mut pod = pod(vec![container("dns", ContainerKind::Regular, &[])]);
    pod.containers[0].ports.push(port_entry(53, Transport::Udp));
    expect![[r#"
        P001 medium web/dns tcp/53
        declared: the pod declares udp/53
        observed: tcp/53 listens on any address
        evidence: {"addresses":["0.0.0.0"],"bind_scope":"any","connections":3,"container":"dns","executable":"/usr/bin/server","exposure":"cluster","host_netns":"false","pid":42,"port":53,"reach":["tcp/53 listens on any address","no NetworkPolicy selects the pod for ingress"],"sockets":1,"transport":"tcp"}
        coverage: Full
        remediation: Declare containerPort 53 on container dns, or bind to 127.0.0.1, or disable the endpoint. The port is there with another protocol too: add the TCP entry by hand, a strategic merge would replace the other.
        no patch"#]].assert_eq(&in_full(&one(&pod, vec![listener(53, &["0.0.0.0"])])));
}

#[test]
fn what_is_not_known_is_not_judged() {
    let listeners = || vec![listener(9999, &["0.0.0.0"])];
    let mut no_declared = app(listeners());
    no_declared.declared = None;
    assert!(!said(&no_declared).contains("P001"));
    let mut no_pod = app(listeners());
    no_pod.containers[0].pod = None;
    assert!(!said(&no_pod).contains("P001"));
    let mut gone = app(listeners());
    gone.containers[0].gone = true;
    check(&gone, &expect![[""]]);
}

#[test]
fn a_container_that_is_not_declared_has_its_pods_ports() {
    let pod = pod(vec![container("app", ContainerKind::Regular, &[8080])]);
    let listeners = vec![listener(8080, &["0.0.0.0"]), listener(9999, &["0.0.0.0"])];
    let unknown = snapshot(
        Some(declared(&pod, vec![])),
        vec![view(&pod, None, listeners)],
    );
    expect![[r#"
        P001 medium web/- tcp/9999
        declared: the pod declares tcp/8080
        observed: tcp/9999 listens on any address
        evidence: {"addresses":["0.0.0.0"],"bind_scope":"any","connections":3,"executable":"/usr/bin/server","exposure":"cluster","host_netns":"false","pid":42,"port":9999,"reach":["tcp/9999 listens on any address","no NetworkPolicy selects the pod for ingress"],"sockets":1,"transport":"tcp"}
        coverage: Full
        remediation: Declare containerPort 9999, or bind to 127.0.0.1, or disable the endpoint.
        no patch"#]].assert_eq(&in_full(&unknown));
}

#[test]
fn coverage_says_what_may_be_missing() {
    let mut partly = app(vec![listener(9999, &["0.0.0.0"])]);
    partly.containers[0].coverage = Coverage::PreExisting;
    assert_eq!(
        crate::rules::evaluate(&partly)[0].coverage,
        Coverage::PreExisting
    );
    partly.containers[0].listeners_overflow = [(Transport::Tcp, 1)].into();
    let coverage = crate::rules::evaluate(&partly).pop().unwrap().coverage;
    assert_eq!(coverage, Coverage::Partial("too_many_listeners".into()));
}

#[test]
fn the_process_of_the_containers_own_cgroup_is_named() {
    let mut snapshot = app(vec![listener(9999, &["0.0.0.0"])]);
    let own = snapshot.containers[0].cgroup;
    let mut other = snapshot.containers[0].listeners[0].holders[0].clone();
    (other.pid, other.cgroup, other.executable) =
        (7, crate::id::CgroupId(1), Some("/other".into()));
    snapshot.containers[0].listeners[0].holders.insert(0, other);
    assert_eq!(own, snapshot.containers[0].listeners[0].holders[1].cgroup);
    let evidence = serde_json::to_value(&crate::rules::evaluate(&snapshot)[0].evidence).unwrap();
    assert_eq!(
        (&evidence["pid"], &evidence["executable"]),
        (&42.into(), &"/usr/bin/server".into())
    );
}

#[test]
fn a_flood_of_ports_is_named_in_part_and_counted_in_full() {
    let ports: Vec<u16> = (1..=64).collect();
    let declares = pod(vec![container("app", ContainerKind::Regular, &ports)]);
    let condition = &crate::rules::evaluate(&one(&declares, vec![listener(9999, &["::"])]))[0];
    assert!(
        condition.declared.ends_with("tcp/16, 48 more"),
        "{}",
        condition.declared
    );
    let silent = pod(vec![container("app", ContainerKind::Regular, &[])]);
    let all = ports.iter().map(|port| listener(*port, &["::"])).collect();
    let condition = &crate::rules::evaluate(&one(&silent, all))[0];
    assert!(
        condition
            .remediation
            .starts_with("Declare containerPort 1, 2,"),
        "{}",
        condition.remediation
    );
    assert_eq!(
        condition
            .patch
            .as_ref()
            .unwrap()
            .matches("containerPort")
            .count(),
        64
    );
}

#[test]
fn a_wide_scope_is_needed_for_a_condition() {
    let mut unreachable = app(vec![listener(9999, &["10.0.0.9"])]);
    unreachable.containers[0].listeners[0].scope = BindScope::Loopback;
    check(&unreachable, &expect![[""]]);
    let nothing = Declared::default();
    let mut empty = app(vec![]);
    empty.declared = Some(nothing.into());
    check(&empty, &expect![[""]]);
}
