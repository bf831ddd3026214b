//! Sockets that are in another network than the processes that hold them: a mesh does so for others, and a pod that wants to be
//! overlooked does so to itself.

use std::net::Ipv4Addr;

use plumbline_tests::agent::get_json;
use plumbline_tests::pods::Sandbox;
use plumbline_tests::skip::without_root;
use plumbline_tests::traffic::{Endpoint, Plan, Worker};
use plumbline_tests::wait::{PATIENCE, poll};
use serde_json::Value;

use super::Scene;

/// Where the mesh listens in the network of somebody else's pod.
const INSIDE: u16 = 15_008;
/// Where a pod listens before it goes away.
const LEFT: u16 = 7_777;

fn listener(sandbox: &Sandbox, pod: &str, port: u16) -> Worker {
    let (_, container) = sandbox.solo(pod).expect("a pod");
    let plan = Plan::Listen {
        endpoints: vec![Endpoint::tcp((Ipv4Addr::UNSPECIFIED, port).into())],
    };
    Worker::ready(container.place(), &plan).expect("a server")
}

fn findings(scene: &Scene) -> Vec<Value> {
    let findings = get_json(&scene.path("socket"), "/findings");
    let list = findings
        .ok()
        .and_then(|findings| findings.as_array().cloned());
    list.unwrap_or_default()
}

fn is_open(finding: &Value, rule: &str, words: &str) -> bool {
    finding["rule_id"] == rule && finding["state"] == "open" && finding.to_string().contains(words)
}

#[test]
fn a_mesh_is_not_blamed_for_others_networks_and_who_leaves_its_own_is() {
    if without_root() {
        return;
    }
    let mut scene = Scene::without_agent(&[]);
    let (guest, _) = scene.sandbox.solo("guest").expect("a pod");
    let mut mesh = listener(&scene.sandbox, "mesh", INSIDE);
    let mut sly = listener(&scene.sandbox, "sly", LEFT);
    let dump = scene.path("pods.json");
    scene
        .sandbox
        .write_dump(&dump)
        .expect("the dump is written");
    scene.start(&[]);
    scene.ready();
    let inside = format!("inside {}", guest.netns().path());
    mesh.command(&inside).expect("it listens there");
    sly.command("open").expect("it listens");
    sly.command("leave").expect("it goes");

    let both = poll(PATIENCE, || {
        let findings = findings(&scene);
        let has = |rule, words: &str| findings.iter().any(|one| is_open(one, rule, words));
        (has("P001", &format!("tcp/{LEFT} ")) && has("M001", "passed_socket")).then_some(())
    });
    assert!(both.is_some(), "{:#?}", findings(&scene));
    // Some more scans, and the grace after which one that is not seen any more would be over.
    scene.scanned(5);
    let findings = findings(&scene);
    let left = format!("tcp/{LEFT} ");
    assert!(
        findings.iter().any(|one| is_open(one, "P001", &left)),
        "{findings:#?}"
    );
    let blamed =
        |one: &Value| one["rule_id"] != "M001" && one.to_string().contains(&INSIDE.to_string());
    assert!(!findings.iter().any(blamed), "{findings:#?}");
    let passed = findings
        .iter()
        .find(|one| is_open(one, "M001", "passed_socket"));
    let names = passed.map(|one| one["evidence"]["names"].to_string());
    assert!(
        names
            .as_ref()
            .is_some_and(|names| names.contains("mesh") && !names.contains("sly")),
        "{names:?}"
    );
}
