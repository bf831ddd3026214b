//! What is watched of the rest of the cluster: policies and what they select by, endpoints, routes, pods of other nodes.

use std::fs;
use std::time::Duration;

use plumbline::sources::kube::{Pacing, Peers};
use plumbline::sources::manifests::load;
use plumbline_core::declared::{Declared, ForeignPolicies, PeerPod};
use plumbline_core::observation::Health;
use serde_json::{Value, json};

use crate::double::Api;
use crate::watching::{QUICK, Watching};
use crate::{RESOURCES, api_server_slice, own_node, pod, put_dump};

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": name, "kubernetes.io/metadata.name": name}}})
}

fn policy(name: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "shop"}}}]}]},
    })
}

fn admin_policy() -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": "AdminNetworkPolicy", "metadata": {"name": "a"},
        "spec": {"priority": 7, "subject": {"namespaces": {}}, "ingress": [{"action": "Deny", "from": [{"namespaces": {"matchLabels": {"a": "b"}}}]}]},
    })
}

/// One of everything.
fn everything() -> Value {
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-x2x9p", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": [{"addresses": ["10.244.1.5"], "conditions": {"ready": true}}], "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"selector": {"app": "web"}, "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ports": [{"port": 80, "targetPort": 8080}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}},
    });
    let ingress = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "shop", "namespace": "shop"},
        "spec": {"rules": [{"http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}}]},
    });
    let items = [
        pod("a", 80),
        service,
        own_node(),
        namespace("shop"),
        namespace("default"),
        policy("p"),
        slice,
        api_server_slice(),
        ingress,
        admin_policy(),
    ];
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// The two sources give the same of the same objects, whichever way the server lists them.
#[test]
fn everything_gives_what_a_file_of_it_gives() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("all.json");
    fs::write(&file, everything().to_string()).unwrap();
    let expected = load(&file).unwrap();
    assert_eq!(expected.problems, []);
    let counts = [
        expected.namespaces.len(),
        expected.policies.len(),
        expected.admin_policies.len(),
        expected.endpoints.len(),
        expected.routes.len(),
        expected.api_servers.len(),
    ];
    assert_eq!(counts, [2, 1, 1, 1, 1, 2]);
    for minor in [30, 34] {
        let api = Api::start();
        api.set_minor(minor);
        put_dump(&api, &everything());
        let mut watch = Watching::start(&api);
        let source = format!("api:{}", api.url());
        let expected = Declared {
            source,
            ..expected.clone()
        };
        watch.until("all of it", |watch| {
            watch.declared.as_ref() == Some(&expected)
        });
        // And through events.
        api.delete("networkpolicies", "shop", "p");
        api.put("networkpolicies", policy("p"));
        api.put("namespaces", namespace("later"));
        watch.until("the event", |watch| {
            watch
                .declared
                .as_ref()
                .is_some_and(|told| told.namespaces.len() == 3 && told.policies.len() == 1)
        });
    }
    assert_eq!(RESOURCES.len(), 8);
}

#[test]
fn pods_of_other_nodes_are_peers_and_nothing_more() {
    let api = Api::start();
    api.put("pods", pod("own", 80));
    let mut other = pod("other", 80);
    other["spec"]["nodeName"] = json!("node-b");
    other["spec"]["containers"][0]["ports"][0]["name"] = json!("http");
    other["status"] =
        json!({"phase": "Running", "podIP": "10.244.2.9", "podIPs": [{"ip": "10.244.2.9"}]});
    api.put("pods", other.clone());
    let mut watch = Watching::with(&api, Peers::Cluster, QUICK, None);
    watch.until("the peer", |watch| {
        watch
            .declared
            .as_ref()
            .is_some_and(|declared| declared.peer_pods.len() == 1)
    });
    assert_eq!(watch.names(), ["own"]);
    // The same pod, read from a file and trimmed.
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("pod.json");
    fs::write(&file, other.to_string()).unwrap();
    let expected = PeerPod::from(&*load(&file).unwrap().pods[0]);
    assert_eq!(*watch.declared.as_ref().unwrap().peer_pods[0], expected);
    // What a peer's status says besides is no news.
    let told = watch.told;
    other["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}]);
    api.put("pods", other);
    api.put("namespaces", namespace("marker"));
    watch.until("the marker", |watch| {
        watch
            .declared
            .as_ref()
            .is_some_and(|declared| declared.namespaces.len() == 1)
    });
    assert_eq!(watch.told, told + 1);
    api.delete("pods", "shop", "other");
    watch.until("no peer", |watch| {
        watch
            .declared
            .as_ref()
            .is_some_and(|declared| declared.peer_pods.is_empty())
    });
}

fn foreign(watch: &Watching) -> Vec<(String, Option<String>)> {
    let all = watch
        .declared
        .iter()
        .flat_map(|declared| &declared.foreign_policies);
    all.map(|ForeignPolicies { kind, namespace }| (kind.clone(), namespace.clone()))
        .collect()
}

#[test]
fn policies_of_others_are_known_to_be_there_or_not_or_else_nothing_is_judged() {
    let api = Api::start();
    api.put("pods", pod("a", 80));
    let forbidden = ["list ciliumnetworkpolicies.cilium.io"];
    api.refuse(&forbidden, 403);
    api.put(
        "networkpolicies.crd.projectcalico.org",
        json!({"metadata": {"name": "x", "namespace": "shop"}, "spec": {"any": 7}}),
    );
    let pacing = Pacing {
        optional: Duration::from_millis(300),
        absent_max: Duration::from_millis(200),
        ..QUICK
    };
    let mut watch = Watching::with(&api, Peers::Node, pacing, None);
    let calico = (
        "NetworkPolicy.crd.projectcalico.org".to_owned(),
        Some("shop".to_owned()),
    );
    let cilium = |namespace: Option<&str>| {
        (
            "CiliumNetworkPolicy.cilium.io".to_owned(),
            namespace.map(str::to_owned),
        )
    };
    watch.until("both", |watch| {
        foreign(watch) == [cilium(None), calico.clone()]
    });
    watch.until("told", |watch| {
        watch
            .probes
            .contains_key("policies.ciliumnetworkpolicies.cilium.io")
    });
    assert_eq!(
        watch.probes["policies.ciliumnetworkpolicies.cilium.io"].health,
        Health::Broken
    );
    // Not installed: nothing to say, and nothing to fear.
    api.refuse(&[], 0);
    watch.until("calico alone", |watch| foreign(watch) == [calico.clone()]);
    assert!(
        watch.probes.keys().all(|probe| !probe.contains("antrea")),
        "{:?}",
        watch.probes
    );
    // Installed later, and used.
    api.put(
        "ciliumnetworkpolicies.cilium.io",
        json!({"metadata": {"name": "y", "namespace": "pay"}}),
    );
    watch.until("cilium too", |watch| {
        foreign(watch) == [cilium(Some("pay")), calico.clone()]
    });
}

#[test]
fn without_policies_nothing_is_known_of_policies() {
    let api = Api::start();
    api.put("pods", pod("a", 80));
    api.refuse(&["list networkpolicies"], 403);
    let mut watch = Watching::start(&api);
    watch.until_reason("policies.networkpolicies", "may not list networkpolicies");
    watch.until_health(Health::Ok);
    assert!(!watch.declared.as_ref().unwrap().policies_known);
    api.refuse(&[], 0);
    watch.until("an answer", |watch| {
        watch
            .declared
            .as_ref()
            .is_some_and(|declared| declared.policies_known)
    });
}
