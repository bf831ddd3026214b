//! The watch of the API server against a server on loopback that does what the test says: what a real one of today would
//! send, and what goes wrong on the way. (`tests/tests/kube_watch.rs` has a real one.)
#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod double;
mod faults;
mod fleet;
mod hostile;
mod load;
mod network;
#[path = "../common/pki.rs"]
#[expect(dead_code, reason = "the tests of the export use the rest")]
mod pki;
mod watching;

use std::fs;
use std::path::Path;

use plumbline::sources::Sink;
use plumbline::sources::kube::{KubeSettings, Pacing, Peers, run};
use plumbline::sources::manifests::load;
use plumbline_core::declared::Declared;
use plumbline_core::observation::Health;
use serde_json::{Value, json};

use double::Api;
use watching::Watching;

fn pod(name: &str, port: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop", "uid": name},
        "spec": {"nodeName": "node-a", "containers": [{"name": "c", "ports": [{"containerPort": port}]}]},
    })
}

/// Kinds and the resources in which they are.
const RESOURCES: [(&str, &str); 8] = [
    ("Pod", "pods"),
    ("Service", "services"),
    ("Node", "nodes"),
    ("Namespace", "namespaces"),
    ("NetworkPolicy", "networkpolicies"),
    ("EndpointSlice", "endpointslices"),
    ("Ingress", "ingresses"),
    (
        "AdminNetworkPolicy",
        "adminnetworkpolicies.policy.networking.k8s.io",
    ),
];

/// Of a dump, everything of these kinds, as the server would have it.
fn put_dump(api: &Api, dump: &Value) {
    for item in dump["items"].as_array().unwrap() {
        for (kind, resource) in RESOURCES {
            if item["kind"] == kind {
                api.put(resource, item.clone());
            }
        }
    }
}

fn dump() -> (std::path::PathBuf, Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/declared/dump.json");
    let dump = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    (path, dump)
}

#[test]
fn objects_of_today_give_what_a_dump_of_them_gives() {
    for minor in [30, 34] {
        let (path, dump) = dump();
        let api = Api::over_tls();
        api.set_minor(minor);
        put_dump(&api, &dump);
        let mut watch = Watching::of_node(&api, "Node-A");
        watch.until_health(Health::Ok);
        let expected = Declared {
            source: format!("api:{}", api.url()),
            // A dump without policies says nothing of policies; the server says that there are none.
            policies_known: true,
            ..load(&path).unwrap()
        };
        // Pods and Services first; what policies need comes when it comes.
        watch.until("what the dump gives", |watch| {
            watch.declared.as_ref() == Some(&expected)
        });
        let (lists, streams) = if minor == 34 { (0, 1) } else { (1, 0) };
        assert_eq!(
            api.count(
                "list",
                "/pods?fieldSelector=spec.nodeName%3DNode-A&resourceVersion=0"
            ),
            lists
        );
        assert_eq!(
            api.count(
                "watch",
                "/pods?fieldSelector=spec.nodeName%3DNode-A&watch=true&allowWatchBookmarks=true"
            ),
            1
        );
        assert_eq!(api.count("watch", "/pods?"), 1);
        assert_eq!(
            api.count("watch", "sendInitialEvents=true") > 0,
            streams == 1
        );
    }
}

#[test]
fn a_server_that_does_not_send_lists_as_watches_after_all_is_asked_for_lists() {
    let api = Api::start();
    api.set_minor(33);
    api.put("pods", pod("a", 80));
    api.refuse(&["watch pods", "watch services"], 422);
    let mut watch = Watching::start(&api);
    watch.until("the lists", |_| {
        api.count("list", "/pods?") == 1 && api.count("list", "/services?") == 1
    });
    watch.until_names(&["a"]);
    api.refuse(&[], 0);
    watch.until_health(Health::Ok);
    assert_eq!(api.count("list", "/pods?"), 1);
}

#[test]
fn a_pod_that_makes_no_sense_costs_only_itself() {
    let api = Api::start();
    api.put("pods", pod("a", 80));
    api.put("pods", pod("b", 80));
    let mut watch = Watching::start(&api);
    watch.until_names(&["a", "b"]);
    api.put("pods", pod("a", 70_000));
    watch.until_names(&["b"]);
    let problem = watch.declared.as_ref().unwrap().problems[0].clone();
    assert_eq!(
        problem.at,
        "pods shop/a: spec.containers[0].ports[0].containerPort"
    );
    api.put("pods", pod("a", 90));
    watch.until_names(&["a", "b"]);
    let declared = watch.declared.as_ref().unwrap();
    assert_eq!((declared.problems.len(), declared.problems_total), (0, 1));
    api.delete("pods", "shop", "b");
    watch.until_names(&["a"]);
}

#[test]
fn a_missing_right_is_named_and_mends_itself() {
    let api = Api::start();
    api.put("pods", pod("a", 80));
    api.refuse(&["list services"], 403);
    let mut watch = Watching::start(&api);
    watch.until_reason("declared", "may not list services: bind the ClusterRole");
    assert_eq!(watch.declared, None, "pods alone are half of it");
    api.refuse(&["watch services"], 404);
    watch.until_reason(
        "declared",
        "cannot watch services: not served here (404 not you)",
    );
    watch.until_names(&["a"]);
    api.refuse(&[], 0);
    watch.until_health(Health::Ok);
}

fn own_node() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"},
        "status": {"addresses": [
            {"type": "InternalIP", "address": "192.0.2.10"}, {"type": "Hostname", "address": "node-a"},
            {"type": "ExternalIP", "address": "2001:db8::10"},
        ]},
    })
}

fn api_server_slice() -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "endpoints": [{"addresses": ["192.0.2.30"]}, {"addresses": ["192.0.2.31"]}],
        "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
    })
}

#[test]
fn what_is_not_served_costs_only_itself_and_is_said_once() {
    let api = Api::start();
    api.put("pods", pod("a", 80));
    api.put("nodes", own_node());
    api.refuse(&["list endpointslices"], 404);
    let mut watch = Watching::start(&api);
    watch.until_health(Health::Ok);
    watch.until("the node", |watch| {
        watch
            .declared
            .as_ref()
            .is_some_and(|declared| !declared.nodes.is_empty())
    });
    let nodes = watch.declared.as_ref().unwrap().nodes.clone();
    let addresses: Vec<String> = nodes[0].addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["192.0.2.10", "2001:db8::10"]);
    watch.until("what is not served", |watch| {
        let slices = watch.probes.get("peers.endpointslices");
        slices.is_some_and(|slices| slices.health == Health::Unsupported)
    });
    assert!(
        watch
            .reason("peers.endpointslices")
            .contains("not served here")
    );
    watch.until("asked again", |_| api.count("list", "endpointslices") > 5);
    assert_eq!(
        watch.as_of("endpointslices"),
        None,
        "what was never known has no age"
    );
    assert_eq!(watch.probes["peers.nodes"].health, Health::Ok);
    api.put("endpointslices", api_server_slice());
    api.refuse(&[], 0);
    watch.until("the endpoints", |watch| {
        let servers = watch
            .declared
            .iter()
            .flat_map(|declared| &declared.api_servers);
        servers.map(ToString::to_string).collect::<Vec<_>>()
            == ["192.0.2.30:6443", "192.0.2.31:6443"]
    });
    watch.until("the probe", |watch| {
        watch.probes["peers.endpointslices"].health == Health::Ok
    });
    assert_eq!(
        api.count("list", "/api/v1/nodes?"),
        api.count(
            "list",
            "/api/v1/nodes?fieldSelector=metadata.name%3Dnode-a&"
        )
    );
}

#[test]
fn with_peers_off_nothing_of_the_cluster_but_services_is_asked_for() {
    let api = Api::start();
    api.put("pods", pod("a", 80));
    let mut watch = Watching::with(&api, Peers::Off, watching::QUICK, None);
    watch.until_health(Health::Ok);
    assert_eq!(watch.probes["peers.endpointslices"].health, Health::Off);
    watch.until("all watches", |_| {
        ["pods", "services", "nodes"]
            .iter()
            .all(|resource| api.open(resource) == 1)
    });
    let asked = api.asked();
    let known = [
        "/version",
        "/api/v1/pods?fieldSelector=spec.nodeName%3D",
        "/api/v1/services?",
        "/api/v1/nodes?fieldSelector=metadata.name%3D",
    ];
    assert!(
        asked
            .iter()
            .all(|asked| known.iter().any(|known| asked.target.starts_with(known))),
        "{asked:#?}"
    );
}

#[tokio::test(flavor = "current_thread")]
async fn a_configuration_that_cannot_be_used_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let absent = scratch.path().join("absent");
    for (kubeconfig, node, expected) in [
        (Some(absent.clone()), "node-a", "absent"),
        (
            Some(absent.clone()),
            "",
            "\"\" is no name of a node: set NODE_NAME",
        ),
        (Some(absent), "a,metadata.name=b", "is no name of a node"),
        (None, "node-a", "no kubeconfig, and not in a cluster"),
    ] {
        let settings = KubeSettings {
            kubeconfig,
            node_name: node.to_owned(),
            peers: Peers::Node,
            pacing: Pacing::default(),
        };
        let error = run(settings, Sink::new().0, std::future::pending())
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
}
