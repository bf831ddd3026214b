//! That a probe which sees nothing says so: the canary, and what other tools do to our programs.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use plumbline_tests::agent::{get, get_json};
use plumbline_tests::cgroup;
use plumbline_tests::foreign::{self, Foreign, SOCK_OPS, UDP4_RECVMSG, UDP4_SENDMSG, links_of};
use plumbline_tests::skip::without_root;
use plumbline_tests::traffic::{Endpoint, Plan, Worker};
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
    let acted = poll(4 * PATIENCE, || (usage()? >= 8_000).then_some(()));
    assert!(acted.is_some(), "{:?}", get(&socket, "/status"));
    for name in [
        "canary",
        "tcp",
        "udp",
        "cpu_windows",
        "cgroups",
        "listeners",
        "connections",
    ] {
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

/// A scan of the node may come at the very moment in which a canary listens.
#[test]
fn a_canary_that_listens_is_told_to_nobody() {
    if without_root() {
        return;
    }
    let mut scene = Scene::without_agent(&["--disable", "canary"]);
    // A canary of process 1, which lives: the agent must not remove it.
    let places = ["plumbline-canary-1", "no-canary"].map(|name| scene.sandbox.unit(name).unwrap());
    let listen = Plan::Listen {
        endpoints: vec![Endpoint::tcp((Ipv4Addr::LOCALHOST, 0).into())],
    };
    let listening = places.each_ref().map(|place| {
        let mut worker = Worker::ready(place, &listen).unwrap();
        worker.command("open").unwrap();
        worker
    });
    let recording = scene.path("node.jsonl");
    scene
        .arguments
        .extend(["--record".to_owned(), recording.display().to_string()]);
    scene.start(&[]);
    let [canary, other] = places
        .each_ref()
        .map(|place| format!("\"owner\":{},", place.cgroup_id()));
    let scans = || {
        let told = fs::read_to_string(&recording).ok()?;
        let scans = told
            .lines()
            .filter(|line| line.contains("\"kind\":\"listeners\""));
        let seen: Vec<String> = scans
            .filter(|line| line.contains(&other))
            .map(str::to_owned)
            .collect();
        (seen.len() >= 2).then_some(seen)
    };
    let scans = poll(PATIENCE, scans).expect("the other listener is seen in scans");
    assert!(
        scans.iter().all(|scan| !scan.contains(&canary)),
        "{scans:?}"
    );
    drop(listening);
}

#[test]
fn a_program_that_was_detached_is_told_of_and_attached_again() {
    if without_root() {
        return;
    }
    let mut scene = Scene::new(&[], &[]);
    scene.finding();
    let container = scene.container.cgroup_id();
    let pid = scene.agent().pid();
    for (probe, attach_type) in [("tcp", SOCK_OPS), ("udp", UDP4_SENDMSG)] {
        let links = || links_of(pid, container, attach_type);
        let [link] = links()[..] else {
            panic!("{probe}: one link: {:?}", links());
        };
        foreign::detach_link(link).unwrap();
        let reason = broken(&scene.path("socket"), probe);
        assert!(reason.contains("detached"), "{reason}");
        let again = poll(PATIENCE, || {
            (links().len() == 1 && links() != [link]).then_some(())
        });
        assert!(again.is_some(), "{probe}: attached again");
    }
}

/// The canary's own programs, which no walk of containers looks after.
#[test]
fn what_the_canary_is_not_told_of_is_said_and_mended() {
    if without_root() {
        return;
    }
    let mut scene = Scene::new(&["--canary-interval", "1s"], &[]);
    scene.ready();
    let pid = scene.agent().pid();
    let canary = scene.sandbox.root().join(format!("plumbline-canary-{pid}"));
    let id = fs::metadata(&canary).expect("it has a cgroup").ino();
    let links = |of| links_of(pid, of, UDP4_RECVMSG);
    assert!(links(id).is_empty(), "no container chose a port");
    let mut server = Worker::ready(scene.container.place(), &Plan::Datagrams).unwrap();
    server.command("bind server 127.0.0.1:5353").unwrap();
    let link = poll(4 * PATIENCE, || links(id).first().copied());
    let link = link.expect("what it receives is tried out from its next round on");
    foreign::detach_link(link).unwrap();
    let reason = broken(&scene.path("socket"), "udp");
    assert!(
        reason.contains("the datagram that was received"),
        "{reason}"
    );
    let socket = scene.path("socket");
    let well = poll(4 * PATIENCE, || {
        (probe(&socket, "udp")?["health"] == "ok").then_some(())
    });
    assert!(well.is_some(), "{:?}", get(&socket, "/status"));
}

/// Of a UDP server that was there before the agent no event tells, and it need not ever answer.
#[test]
fn what_an_older_server_receives_is_seen() {
    if without_root() {
        return;
    }
    let mut scene = Scene::without_agent(&[]);
    let mut server = Worker::ready(scene.container.place(), &Plan::Datagrams).unwrap();
    server.command("bind server 127.0.0.1:5353").unwrap();
    scene.start(&[]);
    scene.ready();
    let (pid, container) = (scene.agent().pid(), scene.container.cgroup_id());
    let heard = poll(4 * PATIENCE, || {
        (links_of(pid, container, UDP4_RECVMSG).len() == 1).then_some(())
    });
    assert!(
        heard.is_some(),
        "{:?}",
        get(&scene.path("socket"), "/status")
    );
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
