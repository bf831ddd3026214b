//! What Kubernetes objects in files become.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use expect_test::{Expect, expect, expect_file};
use plumbline::sources::manifests::{Manifests, load};
use plumbline::sources::objects::Objects;
use plumbline_core::declared::{Declared, DeclaredPod};
use proptest::prelude::*;
use serde_json::{Value, json};

#[path = "declared/cluster.rs"]
mod cluster;
#[path = "declared/fuzz.rs"]
mod fuzz;
#[path = "declared/kinds.rs"]
mod kinds;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/declared")
        .join(name)
}

fn check(mut declared: Declared, expected: impl FnOnce(&str)) {
    declared.source = declared.source.replace(env!("CARGO_MANIFEST_DIR"), "AGENT");
    let mut text = serde_json::to_string_pretty(&declared).unwrap();
    text.push('\n');
    expected(&text);
}

#[test]
fn a_dump_of_kubectl() {
    check(load(&fixture("dump.json")).unwrap(), |text| {
        expect_file!["declared/dump.expected.json"].assert_eq(text)
    });
}

#[test]
fn a_directory_of_manifests_that_were_never_applied() {
    check(load(&fixture("directory")).unwrap(), |text| {
        expect_file!["declared/directory.expected.json"].assert_eq(text)
    });
    let ignored = Manifests::open(&fixture("directory")).unwrap().ignored();
    assert_eq!(
        ignored.into_iter().collect::<Vec<_>>(),
        [("ConfigMap".to_owned(), 1), ("Service".to_owned(), 1)]
    );
}

#[test]
fn what_makes_no_sense_is_told_with_its_place_and_costs_only_itself() {
    let declared = load(&fixture("malformed.json")).unwrap();
    let pods = declared.pods.iter().map(|pod| pod.name.as_str());
    assert_eq!(pods.collect::<Vec<_>>(), ["good", "nested"]);
    assert_eq!(
        declared
            .services
            .iter()
            .map(|service| service.name.as_str())
            .collect::<Vec<_>>(),
        ["last"]
    );
    assert_eq!(
        u64::try_from(declared.problems.len()).unwrap(),
        declared.problems_total
    );
    let problems = declared
        .problems
        .iter()
        .map(|problem| format!("{} -- {}\n", problem.at, problem.message));
    expect_file!["declared/malformed.expected.txt"].assert_eq(&problems.collect::<String>());
}

/// The one pod that a manifest declares.
fn pod(value: Value) -> Arc<DeclaredPod> {
    let mut objects = Objects::new(10);
    objects.add("test", "", value);
    assert_eq!(objects.problems, []);
    assert_eq!(objects.pods.len(), 1);
    objects.pods.remove(0)
}

fn owner(metadata: &Value, spec: &Value) -> String {
    let pod = pod(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}));
    format!("{} {}", pod.owner.kind, pod.owner.name)
}

/// `Kind name`, beside a reference that controls nothing.
fn controlled_by(controller: &str) -> Value {
    let (kind, name) = controller.split_once(' ').unwrap_or_default();
    let other = json!({"apiVersion": "v1", "kind": "Thing", "name": "other", "uid": "1"});
    let controller =
        json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": "2", "controller": true});
    if kind.is_empty() {
        json!([other])
    } else {
        json!([other, controller])
    }
}

#[test]
fn owners_are_what_outlives_the_pod() {
    for (name, hash, controller, node, expected) in [
        ("alone", None, "", "", "Pod alone"),
        ("w-5d-x", Some("5d"), "ReplicaSet w-5d", "", "Deployment w"),
        ("w-5d-x", None, "ReplicaSet w-5d", "", "ReplicaSet w-5d"),
        ("w-5d-x", Some(""), "ReplicaSet w-", "", "ReplicaSet w-"),
        ("x", Some("5d"), "ReplicaSet -5d", "", "ReplicaSet -5d"),
        ("db-0", None, "StatefulSet db", "", "StatefulSet db"),
        ("r-29420160-x", None, "Job r-29420160", "", "CronJob r"),
        ("r-20261122-x", None, "Job r-20261122", "", "Job r-20261122"),
        ("once-x", None, "Job once", "", "Job once"),
        ("etcd-node-a", None, "Node Node-A", "Node-A", "Pod etcd"),
        ("etcd-node-a", None, "Node node-a", "", "Pod etcd"),
        ("etcd", None, "Node node-a", "node-a", "Pod etcd"),
        ("x-1", None, "Workflow x", "", "Workflow x"),
    ] {
        let labels = hash.map_or(json!({}), |hash| json!({"pod-template-hash": hash}));
        let references = controlled_by(controller);
        let metadata = json!({"name": name, "labels": labels, "ownerReferences": references});
        assert_eq!(
            owner(&metadata, &json!({"nodeName": node})),
            expected,
            "{name} {controller}"
        );
    }
    let mirror = json!({"name": "etcd-n", "annotations": {"kubernetes.io/config.mirror": "0"}});
    assert_eq!(owner(&mirror, &json!({"nodeName": "n"})), "Pod etcd");
}

#[test]
fn probes_declare_their_ports() {
    let ports =
        json!([{"name": "http", "containerPort": 8080}, {"name": "8443", "containerPort": 9}]);
    for (field, probe, expected) in [
        ("livenessProbe", json!({"httpGet": {"port": 1}}), vec![1]),
        (
            "readinessProbe",
            json!({"httpGet": {"port": "http"}}),
            vec![8080],
        ),
        (
            "startupProbe",
            json!({"tcpSocket": {"port": "8081"}}),
            vec![8081],
        ),
        (
            "startupProbe",
            json!({"tcpSocket": {"port": "8443"}}),
            vec![9],
        ),
        (
            "startupProbe",
            json!({"tcpSocket": {"port": "absent"}}),
            vec![],
        ),
        ("startupProbe", json!({"tcpSocket": {"port": "0"}}), vec![]),
        (
            "livenessProbe",
            json!({"grpc": {"port": 65535}}),
            vec![65535],
        ),
        (
            "livenessProbe",
            json!({"exec": {"command": ["true"]}}),
            vec![],
        ),
        (
            "lifecycle",
            json!({"postStart": {"httpGet": {"port": 5}}, "preStop": {"tcpSocket": {"port": "http"}}}),
            vec![5, 8080],
        ),
        (
            "lifecycle",
            json!({"postStart": {"sleep": {"seconds": 1}}, "preStop": {"exec": {}}}),
            vec![],
        ),
    ] {
        let container = json!({"name": "c", "ports": ports, field: probe});
        let pod = pod(
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [container]}}),
        );
        assert_eq!(pod.containers[0].probe_ports, expected, "{probe}");
    }
}

#[test]
fn cpu_is_defaulted_as_the_api_server_does() {
    let unset = json!({});
    let half = json!({"requests": {"cpu": "500m"}});
    let one = json!({"limits": {"cpu": 1}});
    let both = json!({"requests": {"cpu": "0.1"}, "limits": {"cpu": "1"}});
    for (container, pod_level, of_container, of_pod) in [
        (&unset, &Value::Null, (None, None), (None, None)),
        (&half, &Value::Null, (Some(500), None), (None, None)),
        (&one, &Value::Null, (Some(1_000), Some(1_000)), (None, None)),
        (&both, &Value::Null, (Some(100), Some(1_000)), (None, None)),
        (&unset, &half, (None, None), (Some(500), None)),
        (&unset, &one, (None, None), (Some(1_000), Some(1_000))),
        (&half, &one, (Some(500), None), (Some(500), Some(1_000))),
        (&half, &both, (Some(500), None), (Some(100), Some(1_000))),
    ] {
        let spec =
            json!({"containers": [{"name": "c", "resources": container}], "resources": pod_level});
        let pod = pod(
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}),
        );
        let declared = &pod.containers[0];
        assert_eq!(
            (declared.cpu_request_millis, declared.cpu_limit_millis),
            of_container,
            "{spec}"
        );
        assert_eq!(
            (pod.cpu_request_millis, pod.cpu_limit_millis),
            of_pod,
            "{spec}"
        );
    }
}

#[test]
fn init_containers_count_with_the_sidecars_before_them() {
    let of = |cpu: &str| json!({"requests": {"cpu": cpu}});
    let spec = json!({
        "resources": {"limits": {"cpu": "9"}},
        "initContainers": [
            {"name": "a", "resources": of("1")},
            {"name": "b", "restartPolicy": "Always", "resources": of("200m")},
            {"name": "c", "resources": of("1100m")},
            {"name": "d", "restartPolicy": "Always", "resources": of("50m")}],
        "containers": [{"name": "e", "resources": of("1")}],
    });
    let pod =
        pod(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}));
    // max(1000, 200 + 1100, 200 + 50 + 1000)
    assert_eq!(pod.cpu_request_millis, Some(1_300));
}

#[test]
fn of_two_readings_of_one_pod_the_later_stands() {
    let pod = |uid: &str, image: &str| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "uid": uid}, "spec": {"containers": [{"name": "c", "image": image}]}});
    let mut objects = Objects::new(10);
    for value in [pod("1", "old"), pod("2", "other"), pod("1", "new")] {
        objects.add("test", "", value);
    }
    let declared = objects.into_declared(String::new());
    let images = declared
        .pods
        .iter()
        .map(|pod| pod.containers[0].image.as_str());
    assert_eq!(images.collect::<Vec<_>>(), ["new", "other"]);
}

#[test]
fn more_objects_than_there_is_room_for_are_told_once() {
    let mut objects = Objects::new(2);
    for name in ["a", "b", "c", "d"] {
        objects.add(
            "dump.json",
            name,
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}}),
        );
    }
    assert_eq!(
        (objects.pods.len(), objects.problems.len(), objects.seen),
        (2, 1, 4)
    );
    assert_eq!(objects.problems[0].at, "dump.json: c");
}

fn check_error(path: &Path, expected: Expect) {
    let error = load(path).unwrap_err().to_string();
    expected.assert_eq(&error.replace(path.parent().unwrap().to_str().unwrap(), "DIR"));
}

#[test]
fn a_path_that_cannot_be_used_is_named_with_the_fix() {
    let scratch = tempfile::tempdir().unwrap();
    check_error(
        &scratch.path().join("absent"),
        expect![
            "--declared DIR/absent: No such file or directory (os error 2): give a file or directory of manifests, or a dump: kubectl get pods,services -A -o json > dump.json"
        ],
    );
    let empty = scratch.path().join("empty");
    fs::create_dir(&empty).unwrap();
    check_error(
        &empty,
        expect![
            "--declared DIR/empty: no *.yaml, *.yml or *.json below it: give a directory of manifests, or a dump"
        ],
    );
    fs::write(empty.join("a.yaml"), "a: [").unwrap();
    check_error(
        &empty,
        expect![
            "--declared DIR/empty: nothing in it can be read (a.yaml: not YAML, line 1: unclosed bracket '[')"
        ],
    );
    let pipe = scratch.path().join("pipe.json");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    check_error(
        &pipe,
        expect![
            "--declared DIR/pipe.json: neither a file nor a directory: give a file or directory of manifests, or a dump: kubectl get pods,services -A -o json > dump.json"
        ],
    );
    fs::write(
        scratch.path().join("truncated.json"),
        r#"{"kind": "List", "items": [{"#,
    )
    .unwrap();
    check_error(
        &scratch.path().join("truncated.json"),
        expect![
            "--declared DIR/truncated.json: nothing in it can be read (truncated.json: not JSON: EOF while parsing an object at line 1 column 28)"
        ],
    );
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-2_i32..70_000).prop_map(Value::from),
        prop::sample::select(vec![
            "", "TCP", "v1", "apps/v1", "Always", "1e999", "http", "10.0.0.1", "None", "-1"
        ])
        .prop_map(Value::from),
    ];
    let keys = prop::sample::select(vec![
        "apiVersion",
        "kind",
        "metadata",
        "name",
        "labels",
        "annotations",
        "ownerReferences",
        "controller",
        "spec",
        "template",
        "jobTemplate",
        "containers",
        "initContainers",
        "ephemeralContainers",
        "ports",
        "containerPort",
        "hostPort",
        "protocol",
        "resources",
        "limits",
        "requests",
        "cpu",
        "livenessProbe",
        "httpGet",
        "port",
        "lifecycle",
        "preStop",
        "tcpSocket",
        "status",
        "podIPs",
        "ip",
        "containerStatuses",
        "containerID",
        "state",
        "running",
        "startedAt",
        "items",
        "selector",
        "clusterIPs",
        "targetPort",
        "nodePort",
        "hostNetwork",
        "nodeName",
        "restartPolicy",
    ]);
    leaf.prop_recursive(6, 96, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(keys.clone(), inner, 0..6).prop_map(|map| map
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect::<Value>()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_json_is_taken_or_told(
        version in prop::sample::select(vec!["v1", "apps/v1", "batch/v1", "x"]),
        kind in prop::sample::select(vec!["Pod", "Service", "Deployment", "CronJob", "List", "PodList", "ServiceList", "Other"]),
        mut value in any_json(),
    ) {
        if let Value::Object(object) = &mut value {
            object.insert("apiVersion".to_owned(), version.into());
            object.insert("kind".to_owned(), kind.into());
        }
        let mut objects = Objects::new(50);
        objects.add("test", "", value);
        let used = objects.pods.len() + objects.services.len();
        prop_assert!(used <= objects.seen);
        for port in objects.pods.iter().flat_map(|pod| &pod.containers).flat_map(|container| &container.ports) {
            prop_assert!(port.port != 0 && port.host_port != Some(0));
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn one_wrong_value_anywhere_in_a_real_object_costs_at_most_that_object(
        place in any::<prop::sample::Index>(),
        wrong in any_json(),
    ) {
        let text = fs::read_to_string(fixture("dump.json")).unwrap();
        let mut dump: Value = serde_json::from_str(&text).unwrap();
        let mut places = Vec::new();
        for item in 0..dump["items"].as_array().unwrap().len() {
            pointers(&dump["items"][item], &format!("/items/{item}"), &mut places);
        }
        let pointer = place.get(&places);
        *dump.pointer_mut(pointer).unwrap() = wrong;
        let mut objects = Objects::new(50);
        objects.add("dump.json", "", dump);
        prop_assert!(objects.pods.len() + objects.services.len() >= 9, "{pointer}");
        prop_assert!(objects.problems.len() <= 5);
    }
}

/// Pointers to every value inside `value`.
fn pointers(value: &Value, at: &str, all: &mut Vec<String>) {
    let mut inside = |key: &str, value: &Value| {
        let pointer = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
        pointers(value, &pointer, all);
        all.push(pointer);
    };
    match value {
        Value::Array(values) => values
            .iter()
            .enumerate()
            .for_each(|(index, value)| inside(&index.to_string(), value)),
        Value::Object(fields) => fields.iter().for_each(|(key, value)| inside(key, value)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
