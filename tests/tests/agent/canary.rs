//! That a probe which sees nothing says so: the canary, and what other tools do to our programs.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use plumbline_tests::agent::{get, get_json};
use plumbline_tests::cgroup;
use plumbline_tests::foreign::{self, Foreign};
use plumbline_tests::skip::without_root;
use plumbline_tests::wait::{PATIENCE, poll};
use rustix::process::Signal;
use serde_json::Value;

use super::Scene;

/// The probe as `/status` tells it.
fn probe(socket: &Path, name: &str) -> Option<Value> {
    let status = get_json(socket, "/status").ok()?;
    let probes = status["probes"].as_array()?;
    probes.iter().find(|probe| probe["probe"] == name).cloned()
}

/// Waits until the probe is as said and M001 names it with its reason, which it returns.
fn broken(socket: &Path, name: &str) -> String {
    let key = format!("{name} is broken");
    let found = poll(4 * PATIENCE, || {
        let findings = get_json(socket, "/findings").ok()?;
        let of_probe = findings.as_array()?.iter().find_map(|finding| {
            let observed = finding["observed"].as_str()?;
            (finding["rule_id"] == "M001" && observed.contains(&key)).then(|| observed.to_owned())
        });
        of_probe.filter(|_| probe(socket, name).is_some_and(|probe| probe["health"] == "broken"))
    });
    found.unwrap_or_else(|| panic!("{name} is not broken: {:?}", get(socket, "/status")))
}

/// `BPF_CGROUP_SOCK_OPS` of the kernel's `enum bpf_attach_type`.
const SOCK_OPS: u64 = 3;

/// Ids of the links of a process that hold a network program to the cgroup; those of UDP are not among them.
fn links_of(pid: u32, cgroup: u64) -> Vec<u32> {
    let mut links = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))
        .expect("the agent runs")
        .flatten()
    {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let field = |name| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
        };
        if field("cgroup_id:") == Some(cgroup) && field("attach_type:") == Some(SOCK_OPS) {
            links.extend(field("link_id:").and_then(|id| u32::try_from(id).ok()));
        }
    }
    links
}

#[test]
fn a_canary_is_seen_and_leaves_no_trace() {
    if without_root() {
        return;
    }
    let recording = tempfile::tempdir().unwrap();
    let recording = recording.path().join("node.jsonl");
    let path = recording.to_str().unwrap();
    let mut scene = Scene::new(&["--canary-interval", "1s", "--record", path], &[]);
    let socket = scene.path("socket");
    scene.ready();
    let pid = scene.agent().pid();
    let canary = scene.sandbox.root().join(format!("plumbline-canary-{pid}"));
    let id = fs::metadata(&canary).expect("it has a cgroup").ino();
    // A round takes some seconds: after its CPU time was counted twice, one is over.
    let usage = || cgroup::usage_us(&canary).ok();
    let acted = poll(4 * PATIENCE, || (usage()? >= 20_000).then_some(()));
    assert!(acted.is_some(), "{:?}", get(&socket, "/status"));
    for name in ["canary", "tcp", "cpu_windows", "cgroups"] {
        assert_eq!(probe(&socket, name).unwrap()["health"], "ok", "{name}");
    }
    scene.agent().signal(Signal::TERM).unwrap();
    assert!(scene.agent().wait(PATIENCE).is_some());
    assert!(!canary.exists(), "its cgroup is removed");
    // It is among the cgroups of the node, and nothing else is told of it.
    let told = fs::read_to_string(&recording).unwrap();
    for line in told.lines().skip(1) {
        let fact: Value = serde_json::from_str(line).unwrap();
        let about = ["cgroup_seen", "cgroup_gone", "cgroup_tree"];
        let is_tree = about.iter().any(|kind| fact["kind"] == *kind);
        let owner = format!(":{id}");
        let named = line.contains(&format!("{owner},")) || line.contains(&format!("{owner}}}"));
        assert!(is_tree || !named, "{line}");
    }
}

#[test]
fn a_program_that_was_detached_is_told_of_and_attached_again() {
    if without_root() {
        return;
    }
    let mut scene = Scene::new(&[], &[]);
    scene.finding();
    let container = scene.container.cgroup_id();
    let [link] = links_of(scene.agent().pid(), container)[..] else {
        panic!("one link: {:?}", links_of(scene.agent().pid(), container));
    };
    foreign::detach_link(link).unwrap();
    let reason = broken(&scene.path("socket"), "tcp");
    assert!(reason.contains("detached"), "{reason}");
    let again = poll(PATIENCE, || {
        let links = links_of(scene.agent().pid(), container);
        (links.len() == 1 && links != [link]).then_some(())
    });
    assert!(again.is_some(), "attached again");
}

#[test]
fn a_program_that_replaces_callback_flags_is_named() {
    if without_root() {
        return;
    }
    let scene = Scene::new(&["--canary-interval", "1s"], &[]);
    scene.ready();
    let socket = scene.path("socket");
    assert_eq!(probe(&socket, "tcp").unwrap()["health"], "ok");
    let _foreign = Foreign::attach(scene.sandbox.root()).unwrap();
    let reason = broken(&socket, "tcp");
    assert!(reason.contains(foreign::NAME), "{reason}");
}
