//! Objects that nobody would write, in numbers: none may do more harm than to be told as a problem.
//!
//! A driver of its own, since it runs on stable Rust and within the ordinary tests: 20,000 objects, and a million in the full
//! tier (`PLUMBLINE_TEST_TIER=full`). A failure prints the seed and the object.

use std::fs;

use plumbline::sources::objects::Objects;
use serde_json::{Map, Value, json};

use crate::fixture;

/// Objects of one run.
fn runs() -> u64 {
    let full = std::env::var("PLUMBLINE_TEST_TIER").is_ok_and(|tier| tier == "full");
    if full { 1_000_000 } else { 20_000 }
}

/// splitmix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end.max(1)).unwrap()).unwrap()
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// Values that parsers stumble over.
fn odd(random: &mut Random) -> Value {
    let texts = [
        "",
        " ",
        "None",
        "TCP",
        "SCTP",
        "ICMP",
        "Always",
        "-1",
        "0x1",
        "1e999",
        "1E",
        "1Ei",
        "nan",
        "9999999999999999999999m",
        "0",
        "10.0.0.0/33",
        "10.0.0.0/0",
        "::/129",
        "::ffff:1.2.3.4",
        "256.1.1.1",
        "../../x",
        "\u{0}",
        "\u{1b}[31m",
        "\u{202e}",
        "é",
        "In",
        "Ingress",
        "Egress",
        "v1",
        "Pod",
        "List",
        "http",
        "65536",
        "2026-13-40T99:99:99Z",
        "containerd://",
        "://",
        "node-a",
    ];
    match random.below(9) {
        0 => Value::Null,
        1 => json!(random.next().is_multiple_of(2)),
        2 => json!(random.next()),
        3 => json!(-1 - i64::try_from(random.next() >> 2).unwrap()),
        4 => json!([0, 1, 65_535, 65_536, -1, i64::from(i32::MAX), i64::MIN][random.below(7)]),
        5 => json!([f64::MAX, f64::MIN_POSITIVE, -0.0, 1.5, 1e300][random.below(5)]),
        6 => json!("x".repeat(random.below(5_000))),
        7 => [
            json!([]),
            json!({}),
            json!([[]]),
            json!({"": {}}),
            json!([null]),
        ][random.below(5)]
        .clone(),
        _ => json!(random.of(&texts)),
    }
}

/// Every place in an object.
fn places(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match value {
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                places(value, &format!("{at}/{index}"), all);
            }
        }
        Value::Object(fields) => {
            for (key, value) in fields {
                let key = key.replace('~', "~0").replace('/', "~1");
                places(value, &format!("{at}/{key}"), all);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Changes a few places.
fn mutate(random: &mut Random, object: &mut Value, corpus: &[Value]) {
    for _ in 0..=random.below(4) {
        let mut all = Vec::new();
        places(object, "", &mut all);
        let place = object.pointer_mut(random.of::<String>(&all)).unwrap();
        match random.below(6) {
            0 | 1 => *place = odd(random),
            2 => {
                // A piece of another object.
                let other = random.of(corpus);
                let mut pieces = Vec::new();
                places(other, "", &mut pieces);
                *place = other.pointer(random.of::<String>(&pieces)).unwrap().clone();
            }
            3 => *place = json!([place.take()]),
            4 => match place {
                Value::Array(values) if !values.is_empty() => {
                    let value = values[random.below(values.len())].clone();
                    (0..random.below(40)).for_each(|_| values.push(value.clone()));
                }
                Value::Object(fields) if !fields.is_empty() => {
                    let key = fields
                        .keys()
                        .nth(random.below(fields.len()))
                        .cloned()
                        .unwrap();
                    fields.remove(&key);
                }
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::String(_)
                | Value::Array(_)
                | Value::Object(_) => {
                    *place = odd(random);
                }
            },
            _ => {
                if let Value::Object(fields) = place {
                    let key = random.of(KEYS);
                    fields.insert((*key).to_owned(), odd(random));
                } else {
                    *place = json!({"matchLabels": {"a": odd(random)}});
                }
            }
        }
    }
}

const KEYS: &[&str] = &[
    "apiVersion",
    "kind",
    "metadata",
    "name",
    "namespace",
    "uid",
    "labels",
    "annotations",
    "ownerReferences",
    "controller",
    "spec",
    "status",
    "containers",
    "initContainers",
    "ephemeralContainers",
    "ports",
    "containerPort",
    "hostPort",
    "port",
    "protocol",
    "endPort",
    "targetPort",
    "nodePort",
    "resources",
    "limits",
    "requests",
    "cpu",
    "livenessProbe",
    "httpGet",
    "grpc",
    "lifecycle",
    "preStop",
    "podIPs",
    "ip",
    "podIP",
    "containerStatuses",
    "containerID",
    "state",
    "running",
    "startedAt",
    "selector",
    "clusterIPs",
    "type",
    "hostNetwork",
    "nodeName",
    "restartPolicy",
    "volumes",
    "projected",
    "sources",
    "serviceAccountToken",
    "volumeMounts",
    "mountPath",
    "podSelector",
    "namespaceSelector",
    "matchLabels",
    "matchExpressions",
    "key",
    "operator",
    "values",
    "policyTypes",
    "ingress",
    "egress",
    "from",
    "to",
    "ipBlock",
    "cidr",
    "except",
    "endpoints",
    "addresses",
    "subsets",
    "subject",
    "priority",
    "action",
    "items",
    "template",
    "jobTemplate",
    "allocatable",
    "externalIPs",
];

/// An object out of nothing but names of fields.
fn generated(random: &mut Random, depth: usize) -> Value {
    if depth == 0 || random.below(4) == 0 {
        return odd(random);
    }
    if random.below(4) == 0 {
        return (0..random.below(4))
            .map(|_| generated(random, depth - 1))
            .collect();
    }
    let mut fields = Map::new();
    for _ in 0..random.below(8) {
        fields.insert((*random.of(KEYS)).to_owned(), generated(random, depth - 1));
    }
    Value::Object(fields)
}

/// Kinds that are read.
const KINDS: &[(&str, &str)] = &[
    ("v1", "Pod"),
    ("v1", "Service"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("v1", "Namespace"),
    ("v1", "Node"),
    ("v1", "Endpoints"),
    ("discovery.k8s.io/v1", "EndpointSlice"),
    ("apps/v1", "Deployment"),
    ("batch/v1", "CronJob"),
    ("networking.k8s.io/v1", "Ingress"),
    ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy"),
    (
        "policy.networking.k8s.io/v1alpha1",
        "BaselineAdminNetworkPolicy",
    ),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ("cilium.io/v2", "CiliumNetworkPolicy"),
    ("v1", "PodList"),
];

/// Real objects to begin with.
fn corpus() -> Vec<Value> {
    let mut all = Vec::new();
    for file in ["dump.json", "kinds.json"] {
        let dump: Value =
            serde_json::from_str(&fs::read_to_string(fixture(file)).unwrap()).unwrap();
        all.extend(dump["items"].as_array().unwrap().iter().cloned());
    }
    for _ in 0..6 {
        all.push(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "db", "namespace": "shop", "uid": "1"},
            "spec": {
                "podSelector": {"matchLabels": {"app": "db"}, "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["front"]}]},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{
                    "from": [
                        {"podSelector": {"matchLabels": {"app": "cart"}}, "namespaceSelector": {}},
                        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
                    ],
                    "ports": [{"protocol": "TCP", "port": 5432, "endPort": 5440}, {"protocol": "SCTP", "port": "peers"}],
                }],
                "egress": [{"to": [{"ipBlock": {"cidr": "fd00::/64"}}], "ports": [{"protocol": "UDP", "port": 53}]}, {}],
            },
        }));
    }
    all.push(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "endpoints": [{"addresses": ["192.0.2.30"]}], "ports": [{"name": "https", "port": 6443}],
    }));
    all.push(json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": "AdminNetworkPolicy", "metadata": {"name": "a"},
        "spec": {"priority": 7, "subject": {"namespaces": {}}, "ingress": [{"action": "Deny", "from": [{"namespaces": {"matchLabels": {"a": "b"}}}]}]},
    }));
    all
}

/// Says what was tried, if it fails.
struct Tried<'a>(u64, &'a Value);

impl Drop for Tried<'_> {
    #[expect(clippy::print_stderr, reason = "whoever reads of the failure needs it")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = self.1.to_string();
            let shown: String = text.chars().take(4_000).collect();
            eprintln!("run {}: {shown}", self.0);
        }
    }
}

/// Reads the object as a file and as a part of a list would, and checks what must hold whatever it says.
fn read(run: u64, object: &Value) -> bool {
    let _tried = Tried(run, object);
    let mut objects = Objects::new(50);
    objects.add("fuzz", "", object.clone());
    assert!(objects.problems.len() as u64 <= objects.problems_total);
    assert!(
        objects
            .problems
            .iter()
            .all(|problem| problem.at.starts_with("fuzz") && !problem.message.is_empty())
    );
    for pod in &objects.pods {
        assert!(!pod.name.is_empty() && !pod.namespace.is_empty() && !pod.owner.name.is_empty());
        for container in &pod.containers {
            let ports = container
                .ports
                .iter()
                .map(|port| port.port)
                .chain(container.probe_ports.iter().copied());
            assert!(ports.into_iter().all(|port| port != 0));
            assert!(
                container
                    .cpu_limit_millis
                    .is_none_or(|limit| limit <= 1_000_000_000)
            );
        }
    }
    assert!(
        objects
            .services
            .iter()
            .all(|service| service.ports.iter().all(|port| port.port != 0))
    );
    let used = !objects.pods.is_empty() || !objects.services.is_empty();
    let declared = objects.clone().into_declared("fuzz".into());
    assert_eq!(
        declared,
        objects.into_declared("fuzz".into()),
        "equal objects, equal results"
    );
    used
}

#[test]
fn objects_that_nobody_would_write_do_no_harm() {
    let corpus = corpus();
    let (mut used, mut broken, runs) = (0_u64, 0_u64, runs());
    for run in 0..runs {
        let mut random = Random(run);
        let object = match random.below(4) {
            // Out of nothing.
            0 => {
                let mut object = generated(&mut random, 6);
                let (version, kind) = random.of(KINDS);
                if let Value::Object(fields) = &mut object {
                    fields.insert("apiVersion".to_owned(), json!(version));
                    fields.insert("kind".to_owned(), json!(kind));
                }
                object
            }
            // Bytes that change on the way.
            1 => {
                let mut bytes = random.of(&corpus).to_string().into_bytes();
                for _ in 0..=random.below(4) {
                    let at = random.below(bytes.len());
                    match random.below(3) {
                        0 => bytes[at] = u8::try_from(random.below(256)).unwrap(),
                        1 => drop(bytes.remove(at)),
                        _ => bytes.insert(at, *random.of(b"{}[],:\"0-9ex \\")),
                    }
                }
                match serde_json::from_slice(&bytes) {
                    Ok(object) => object,
                    Err(_) => {
                        broken += 1;
                        continue;
                    }
                }
            }
            _ => {
                let mut object = random.of(&corpus).clone();
                mutate(&mut random, &mut object, &corpus);
                object
            }
        };
        used += u64::from(read(run, &object));
    }
    // Else it would be noise that no parser looks into.
    assert!(used > runs / 10, "{used} of {runs} made pods or Services");
    assert!(broken < runs / 4, "{broken} of {runs} were not even JSON");
}
