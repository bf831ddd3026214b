//! What NetworkPolicies, namespaces, endpoints and routes in files become, and what is refused.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use expect_test::{Expect, expect};
use plumbline::sources::objects::Objects;
use plumbline_core::declared::Declared;
use serde_json::{Value, json};

fn read(values: Vec<Value>) -> Declared {
    let mut objects = Objects::new(100);
    for value in values {
        objects.add("test", "", value);
    }
    objects.into_declared(String::new())
}

fn policy(spec: Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p", "namespace": "shop"}, "spec": spec})
}

fn admin(kind: &str, spec: Value) -> Value {
    json!({"apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": kind, "metadata": {"name": "a"}, "spec": spec})
}

/// The one policy, as it is recorded.
fn of(spec: Value) -> String {
    let declared = read(vec![policy(spec)]);
    assert_eq!(declared.problems, []);
    assert!(declared.policies_known);
    serde_json::to_string(&declared.policies[0]).unwrap()
}

fn check_refused(values: Vec<Value>, expected: Expect) {
    let declared = read(values);
    assert_eq!(declared.policies, []);
    assert_eq!(declared.admin_policies, []);
    // What a policy that cannot be read would have said is not known.
    assert!(!declared.foreign_policies.is_empty());
    let problems = declared.problems.iter();
    let problems: Vec<String> = problems
        .map(|one| format!("{} -- {}", one.at, one.message))
        .collect();
    expected.assert_eq(&problems.join("\n"));
}

#[test]
fn types_are_defaulted_as_the_api_server_does() {
    let rule = json!([{}]);
    for (spec, ingress, egress) in [
        (json!({}), true, false),
        (json!({"podSelector": {}, "ingress": []}), true, false),
        (json!({"podSelector": {}, "egress": rule}), true, true),
        // An empty list is no section.
        (json!({"podSelector": {}, "egress": []}), true, false),
        (
            json!({"podSelector": {}, "policyTypes": ["Egress"]}),
            false,
            true,
        ),
        (
            json!({"podSelector": {}, "policyTypes": ["Egress"], "ingress": rule}),
            false,
            true,
        ),
        (
            json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}),
            true,
            true,
        ),
        (
            json!({"podSelector": {}, "policyTypes": ["Ingress"], "egress": rule}),
            true,
            false,
        ),
    ] {
        let text = of(spec.clone());
        let found = (text.contains("\"ingress\""), text.contains("\"egress\""));
        assert_eq!(found, (ingress, egress), "{spec}");
    }
}

#[test]
fn every_field_of_a_rule() {
    let spec = json!({
        "podSelector": {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["a", "b"]}]},
        "ingress": [{
            "from": [
                {"podSelector": {}},
                {"namespaceSelector": {"matchExpressions": [{"key": "x", "operator": "Exists"}]}},
                {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "cart"}}},
                {"ipBlock": {"cidr": "10.1.2.3/8", "except": ["10.0.0.0/16"]}},
            ],
            "ports": [{}, {"port": 80}, {"protocol": "UDP", "port": "dns"}, {"protocol": "SCTP", "port": 1, "endPort": 65535}],
        }],
    });
    expect![[r#"{"namespace":"shop","name":"p","selector":{"labels":{"app":"web"},"expressions":[{"key":"tier","operator":"NotIn","values":["a","b"]}]},"ingress":[{"peers":[{"pods":{"pods":{}}},{"pods":{"namespaces":{"expressions":[{"key":"x","operator":"Exists"}]}}},{"pods":{"namespaces":{},"pods":{"labels":{"app":"cart"}}}},{"block":{"cidr":"10.0.0.0/8","except":["10.0.0.0/16"]}}],"ports":[{"transport":"tcp","ports":"all"},{"transport":"tcp","ports":{"range":[80,80]}},{"transport":"udp","ports":{"name":"dns"}},{"transport":"sctp","ports":{"range":[1,65535]}}]}]}"#]]
        .assert_eq(&of(spec));
}

#[test]
fn what_the_api_server_would_refuse_is_told_with_its_place() {
    let ingress = |rule: Value| policy(json!({"podSelector": {}, "ingress": [rule]}));
    let peer = |peer: Value| ingress(json!({"from": [peer]}));
    let port = |port: Value| ingress(json!({"ports": [port]}));
    let expression = |given: Value| policy(json!({"podSelector": {"matchExpressions": [given]}}));
    check_refused(
        vec![
            policy(json!({"podSelector": {}, "policyTypes": ["ingress"]})),
            peer(json!({})),
            peer(json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}})),
            peer(json!({"ipBlock": {"cidr": "10.0.0.0"}})),
            peer(json!({"ipBlock": {"cidr": "10.0.0.0/33"}})),
            peer(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}})),
            peer(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}})),
            port(json!({"port": 0})),
            port(json!({"port": 65536})),
            port(json!({"port": "80"})),
            port(json!({"port": 80, "endPort": 79})),
            port(json!({"port": "http", "endPort": 80})),
            port(json!({"endPort": 80})),
            port(json!({"protocol": "ICMP"})),
            expression(json!({"key": "a", "operator": "Is", "values": ["b"]})),
            expression(json!({"key": "a", "operator": "In"})),
            expression(json!({"key": "a", "operator": "Exists", "values": ["b"]})),
            policy(json!({"podSelector": {"matchLabels": {"a": 1}}})),
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {}}),
        ],
        expect![[r#"
            test: spec.policyTypes[0] -- "ingress" is neither Ingress nor Egress
            test: spec.ingress[0].from[0] -- one of podSelector, namespaceSelector and ipBlock must be given
            test: spec.ingress[0].from[0].ipBlock -- may not stand beside podSelector or namespaceSelector
            test: spec.ingress[0].from[0].ipBlock.cidr -- "10.0.0.0" is no block of addresses, such as 10.0.0.0/8 or fd00::/64
            test: spec.ingress[0].from[0].ipBlock.cidr -- "10.0.0.0/33" is no block of addresses, such as 10.0.0.0/8 or fd00::/64
            test: spec.ingress[0].from[0].ipBlock.except[0] -- 11.0.0.0/16 is no part of 10.0.0.0/8
            test: spec.ingress[0].from[0].ipBlock.except[0] -- 10.0.0.0/8 is no part of 10.0.0.0/8
            test: spec.ingress[0].ports[0].port -- 0 is not a port: 1 to 65535
            test: spec.ingress[0].ports[0].port -- 65536 is not a port: 1 to 65535
            test: spec.ingress[0].ports[0].port -- "80" is no name of a port
            test: spec.ingress[0].ports[0].endPort -- 79 is before 80
            test: spec.ingress[0].ports[0].endPort -- needs a port that is a number
            test: spec.ingress[0].ports[0].endPort -- needs a port that is a number
            test: spec.ingress[0].ports[0].protocol -- "ICMP" is none of TCP, UDP, SCTP
            test: spec.podSelector.matchExpressions[0].operator -- "Is" is none of In, NotIn, Exists, DoesNotExist
            test: spec.podSelector.matchExpressions[0].values -- In needs some
            test: spec.podSelector.matchExpressions[0].values -- Exists takes none
            test: spec.podSelector.matchLabels.a -- invalid type: integer `1`, expected a string
            test: metadata.name -- missing"#]],
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "objects as they are written")]
fn admin_policies() {
    let subject = json!({"namespaces": {"matchLabels": {"team": "a"}}});
    let rule = json!({"action": "Deny", "from": [{"pods": {"namespaceSelector": {}, "podSelector": {}}}], "ports": [{"portNumber": {"protocol": "TCP", "port": 80}}, {"portRange": {"start": 1, "end": 9}}]});
    let other = json!({"action": "Pass", "name": "names", "to": [{"domainNames": ["example.org"]}, {"networks": ["1.0.0.0/8"]}], "ports": [{"namedPort": "dns"}]});
    let declared = read(vec![
        admin(
            "AdminNetworkPolicy",
            json!({"priority": 5, "subject": subject, "ingress": [rule], "egress": [other]}),
        ),
        admin(
            "BaselineAdminNetworkPolicy",
            json!({"subject": {"pods": {"namespaceSelector": {}, "podSelector": {}}}}),
        ),
    ]);
    assert_eq!(declared.problems, []);
    expect![[r#"
        [
          {
            "name": "a",
            "priority": 5,
            "subject": {
              "namespaces": {
                "labels": {
                  "team": "a"
                }
              },
              "pods": {}
            },
            "ingress": [
              {
                "action": "Deny",
                "peers": [
                  {
                    "pods": {
                      "namespaces": {},
                      "pods": {}
                    }
                  }
                ],
                "ports": [
                  {
                    "transport": "tcp",
                    "ports": {
                      "range": [
                        80,
                        80
                      ]
                    }
                  },
                  {
                    "transport": "tcp",
                    "ports": {
                      "range": [
                        1,
                        9
                      ]
                    }
                  }
                ]
              }
            ],
            "egress": [
              {
                "name": "names",
                "action": "Pass",
                "peers": [
                  {
                    "other": "domainNames"
                  },
                  {
                    "networks": [
                      "1.0.0.0/8"
                    ]
                  }
                ],
                "ports": [
                  {
                    "transport": "tcp",
                    "ports": {
                      "name": "dns"
                    }
                  },
                  {
                    "transport": "udp",
                    "ports": {
                      "name": "dns"
                    }
                  },
                  {
                    "transport": "sctp",
                    "ports": {
                      "name": "dns"
                    }
                  }
                ]
              }
            ]
          },
          {
            "name": "a",
            "priority": null,
            "subject": {
              "namespaces": {},
              "pods": {}
            }
          }
        ]"#]]
    .assert_eq(&serde_json::to_string_pretty(&declared.admin_policies).unwrap());
    check_refused(
        vec![
            admin("AdminNetworkPolicy", json!({"subject": subject})),
            admin(
                "BaselineAdminNetworkPolicy",
                json!({"subject": subject, "ingress": [{"action": "Pass", "from": [{"namespaces": {}}]}]}),
            ),
            admin("AdminNetworkPolicy", json!({"priority": 1, "subject": {}})),
            admin(
                "AdminNetworkPolicy",
                json!({"priority": 1, "subject": subject, "ingress": [{"action": "Allow", "from": []}]}),
            ),
            admin(
                "AdminNetworkPolicy",
                json!({"priority": 1, "subject": subject, "ingress": [{"action": "Allow", "from": [{"networks": ["x"]}]}]}),
            ),
        ],
        expect![[r#"
            test: spec.priority -- an AdminNetworkPolicy has one, the baseline has none
            test: spec.ingress[0].action -- "Pass" is none of Allow, Deny and, but for the baseline, Pass
            test: spec.subject -- exactly one of namespaces and pods must be given
            test: spec.ingress[0] -- a rule needs a peer
            test: spec.ingress[0].from[0].networks[0] -- "x" is no block of addresses, such as 10.0.0.0/8 or fd00::/64"#]],
    );
}

#[test]
fn other_kinds_of_policies_are_noted_and_not_taken_for_none() {
    let of = |version: &str, kind: &str, namespace: &str| {
        let metadata = json!({"name": "x", "namespace": namespace});
        json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": {}})
    };
    let declared = read(vec![
        of("cilium.io/v2", "CiliumNetworkPolicy", "shop"),
        of("cilium.io/v2", "CiliumNetworkPolicy", "shop"),
        of("cilium.io/v2", "CiliumClusterwideNetworkPolicy", ""),
        of("cilium.io/v2", "CiliumEndpoint", "shop"),
        of("projectcalico.org/v3", "GlobalNetworkPolicy", ""),
        of(
            "policy.networking.k8s.io/v1alpha2",
            "ClusterNetworkPolicy",
            "",
        ),
    ]);
    let found = declared.foreign_policies.iter();
    let found: Vec<String> = found
        .map(|one| format!("{} {}", one.kind, one.namespace.as_deref().unwrap_or("-")))
        .collect();
    assert_eq!(
        found,
        [
            "CiliumClusterwideNetworkPolicy.cilium.io -",
            "CiliumNetworkPolicy.cilium.io shop",
            "ClusterNetworkPolicy.policy.networking.k8s.io -",
            "GlobalNetworkPolicy.projectcalico.org -",
        ]
    );
    assert!(!declared.policies_known, "nothing says that these are all");
    let empty =
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicyList", "items": []});
    assert!(
        read(vec![empty]).policies_known,
        "an empty list is an answer"
    );
}

#[test]
fn namespaces_bear_their_names() {
    let given = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "a"}}, "spec": {"finalizers": 1}});
    let declared = read(vec![given]);
    let labels = serde_json::to_string(&declared.namespaces[0].labels).unwrap();
    assert_eq!(
        labels,
        r#"{"kubernetes.io/metadata.name":"shop","team":"a"}"#
    );
}

#[test]
fn endpoints_services_and_routes() {
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-x", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": [{"addresses": ["10.0.0.2"]}, {"addresses": ["10.0.0.1"], "conditions": {"ready": false}}],
        "ports": [{"port": 8080, "protocol": "TCP"}],
    });
    let names = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "FQDN",
        "metadata": {"name": "far", "namespace": "shop", "labels": {"kubernetes.io/service-name": "far"}},
        "endpoints": [{"addresses": ["example.org"]}],
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"type": "LoadBalancer", "externalIPs": ["192.0.2.1"], "ports": [{"port": 80}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.9", "ports": "?"}, {"hostname": "x"}]}},
    });
    let backend = |name: &str, port: u16| json!({"backend": {"service": {"name": name, "port": {"number": port}}}});
    let ingress = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "front", "namespace": "shop"},
        "spec": {"defaultBackend": backend("other", 1)["backend"], "rules": [{"http": {"paths": [backend("web", 80), backend("web", 80)]}}]},
    });
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "r", "namespace": "shop"},
        "spec": {"rules": [{"backendRefs": [{"name": "web", "port": 80}, {"name": "b", "kind": "Bucket"}, {"name": "c", "namespace": "ops"}]}]},
    });
    let declared = read(vec![slice, names, service, ingress, route]);
    assert_eq!(declared.problems, []);
    let shown = [
        serde_json::to_string(&declared.endpoints).unwrap(),
        serde_json::to_string(&declared.services).unwrap(),
        serde_json::to_string(&declared.routes).unwrap(),
    ];
    expect![[r#"
        [{"namespace":"shop","name":"web-x","service":"web","addresses":["10.0.0.1","10.0.0.2"],"ports":[["tcp",8080]]}]
        [{"namespace":"shop","name":"web","selector":{},"cluster_ips":[],"external_ips":["192.0.2.1"],"load_balancer_ips":["203.0.113.9"],"service_type":"LoadBalancer","keeps_source":false,"ports":[{"port":80,"target":{"number":80},"node_port":null,"transport":"tcp"}]}]
        [{"kind":"HTTPRoute","namespace":"shop","name":"r","backends":[{"namespace":"ops","service":"c"},{"namespace":"shop","service":"web","port":80}]},{"kind":"Ingress","namespace":"shop","name":"front","backends":[{"namespace":"shop","service":"other","port":1},{"namespace":"shop","service":"web","port":80}]}]"#]].assert_eq(&shown.join("\n"));
}
