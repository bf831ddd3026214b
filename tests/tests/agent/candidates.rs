//! Policies that are not in force, beside real traffic.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use plumbline_tests::agent::get_json;
use plumbline_tests::skip::without_root;
use plumbline_tests::traffic::{Lanes, Plan, Tally, Worker};
use plumbline_tests::wait::{PATIENCE, poll};
use serde_json::{Value, json};

use super::Scene;

/// Nobody may reach the pods of the namespace.
const DENY_ALL: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-all, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress]}
";

fn address_of(dump: &Value, pod: &str) -> IpAddr {
    let mut items = dump["items"].as_array().into_iter().flatten();
    let found = items.find(|item| item["metadata"]["name"] == pod);
    let address = found.and_then(|pod| pod["status"]["podIP"].as_str());
    let address = address.expect("the pod has an address");
    address.parse().expect("it is one")
}

#[test]
fn what_a_candidate_policy_would_deny_is_told_and_passes() {
    if without_root() {
        return;
    }
    let mut scene = Scene::without_agent(&[]);
    let (_, client) = scene.sandbox.solo("client").unwrap();
    // One of elsewhere: a dump without policies says nothing about policies.
    scene.sandbox.object(json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "other", "namespace": "elsewhere"},
        "spec": {"podSelector": {}},
    }));
    scene.sandbox.write_dump(&scene.path("pods.json")).unwrap();
    let candidates = scene.path("candidates.yaml");
    fs::write(&candidates, DENY_ALL).unwrap();
    let arguments = ["--candidate-policies", candidates.to_str().unwrap()];
    scene.arguments.extend(arguments.map(str::to_owned));
    scene.start(&[]);
    scene.ready();
    let server = address_of(&scene.sandbox.dump(), "web-0");
    let lanes = |address: IpAddr| Lanes {
        addresses: vec![address],
        first_port: 8_081,
        lanes: 1,
        connections: 1,
        seed: 7,
        framed: false,
        orders: Vec::new(),
        payload_max: Some(100),
        mptcp: false,
    };
    let answers = Plan::Serve(lanes(Ipv4Addr::UNSPECIFIED.into()));
    let _answering = Worker::ready(scene.container.place(), &answers).unwrap();
    let connect = Plan::Connect(lanes(server));
    let asked: Tally = Worker::start(client.place(), &connect)
        .unwrap()
        .finish()
        .unwrap();
    assert_eq!(asked.total().connections, 1, "nothing is blocked");

    let socket = scene.path("socket");
    let found = poll(PATIENCE, || {
        let findings = get_json(&socket, "/findings").ok()?;
        let mut findings = findings.as_array()?.iter();
        findings
            .find(|finding| finding["rule_id"] == "F006")
            .cloned()
    });
    let found = found.unwrap_or_else(|| panic!("{:?}", get_json(&socket, "/findings")));
    assert_eq!(found["severity"], "info");
    let observed = found["observed"].as_str().unwrap();
    assert!(observed.contains("would be denied"), "{observed}");
    assert!(found.to_string().contains("deny-all"), "{found}");
}
