//! What objects other than pods say.

use std::net::IpAddr;

use plumbline::sources::objects::Objects;
use serde_json::{Value, json};

#[test]
fn nodes_and_the_endpoints_of_the_api_server() {
    let mut objects = Objects::new(20);
    let slice = |name: &str, namespace: &str, service: &str| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
            "endpoints": [{"addresses": ["192.0.2.30"]}, {"addresses": ["192.0.2.31"]}],
            "ports": [{"name": "https", "port": 6443}],
        })
    };
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "kubernetes", "namespace": "default"},
        "subsets": [{"addresses": [{"ip": "192.0.2.30"}, {"ip": "2001:db8::30"}], "ports": [{"port": 6443}]}],
    });
    let node = |address: &str| {
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"},
            "spec": {"podCIDR": "10.244.0.0/24"},
            "status": {"addresses": [
                {"type": "Hostname", "address": "node-a"}, {"type": "InternalIP", "address": address},
            ]},
        })
    };
    for object in [
        slice("kubernetes", "default", "kubernetes"),
        slice("web-1", "default", "web"),
        slice("kubernetes", "shop", "kubernetes"),
        endpoints,
        node("192.0.2.10"),
        node("none"),
    ] {
        objects.add("dump", "", object);
    }
    let declared = objects.into_declared("test".into());
    let servers = declared.api_servers.iter().map(ToString::to_string);
    assert_eq!(
        servers.collect::<Vec<_>>(),
        ["192.0.2.30:6443", "192.0.2.31:6443", "[2001:db8::30]:6443"]
    );
    assert_eq!(declared.nodes.len(), 1);
    assert_eq!(
        declared.nodes[0].addresses,
        ["192.0.2.10".parse::<IpAddr>().unwrap()]
    );
    let problems: Vec<_> = declared
        .problems
        .iter()
        .map(|problem| problem.at.as_str())
        .collect();
    assert_eq!(problems, ["dump: status.addresses[1].address"]);
}

#[test]
fn whether_a_service_keeps_the_source() {
    for (policy, keeps) in [
        (json!("Local"), true),
        (json!("Cluster"), false),
        (Value::Null, false),
    ] {
        let mut objects = Objects::new(1);
        objects.add("test", "", json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"type": "NodePort", "externalTrafficPolicy": policy, "ports": [{"port": 80}]},
        }));
        assert_eq!(objects.services[0].keeps_source, keeps, "{policy}");
    }
}
