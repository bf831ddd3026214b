//! The agent's binary as a whole: what it finds, how it ends, what it leaves behind, and that a recording says the same
//! again.

mod canary;
mod candidates;
mod ends;
mod foreign;
mod host;
mod life;
mod logs;
mod same;
mod traps;

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use aya::maps::loaded_maps;
use aya::programs::{loaded_links, loaded_programs};
use plumbline_ebpf::names;
use plumbline_tests::agent::{Agent, built, get, get_json};
use plumbline_tests::pods::spec::{ContainerSpec, PodSpec, PortSpec};
use plumbline_tests::pods::{Container, Sandbox};
use plumbline_tests::scale::scale;
use plumbline_tests::skip::without_root;
use plumbline_tests::traffic::{Endpoint, Plan, Worker};
use plumbline_tests::wait::{PATIENCE, poll};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// A node with one pod that listens on a declared and on an undeclared port, and an agent that watches it.
struct Scene {
    agent: Option<Agent>,
    arguments: Vec<String>,
    files: TempDir,
    container: Container,
    _listening: Worker,
    sandbox: Sandbox,
}

const DECLARED: u16 = 8_080;
const UNDECLARED: u16 = 6_061;

impl Scene {
    fn new(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut scene = Self::without_agent(arguments);
        scene.start(environment);
        scene
    }

    /// The node alone.
    fn without_agent(arguments: &[&str]) -> Self {
        let sandbox = Sandbox::new("plumbline-test-agent").expect("root can make a sandbox");
        let spec = PodSpec {
            namespace: "shop".to_owned(),
            name: "web-0".to_owned(),
            ..PodSpec::default()
        };
        let pod = sandbox.pod(spec).expect("a pod");
        let container = pod.container(ContainerSpec {
            name: "web".to_owned(),
            ports: vec![PortSpec::tcp(DECLARED)],
            cpu_request: Some("100m".to_owned()),
            ..ContainerSpec::default()
        });
        let container = container.expect("a container");
        let files = tempfile::tempdir().expect("a directory for files");
        sandbox
            .write_dump(&files.path().join("pods.json"))
            .expect("the dump is written");
        let any = |port| Endpoint::tcp((Ipv4Addr::UNSPECIFIED, port).into());
        let plan = Plan::Listen {
            endpoints: vec![any(DECLARED), any(UNDECLARED)],
        };
        let mut listening = Worker::ready(container.place(), &plan).expect("a server");
        listening.command("open").expect("the server listens");

        Self {
            agent: None,
            arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
            files,
            container,
            _listening: listening,
            sandbox,
        }
    }

    /// Starts the agent; one that ran before must have ended.
    fn start(&mut self, environment: &[(&str, &str)]) {
        self.start_logging(environment, Stdio::inherit());
    }

    /// The same, with its log there.
    fn start_logging(&mut self, environment: &[(&str, &str)], log: impl Into<Stdio>) {
        let mut command = Command::new(built().expect("the agent builds"));
        command
            .arg("run")
            .arg("--cgroup-root")
            .arg(self.sandbox.root());
        command
            .arg("--declared")
            .arg(self.path("pods.json"))
            .arg("--socket")
            .arg(self.path("socket"));
        command
            .args(["--grace", "1s", "--scan-interval", "1s"])
            .args(&self.arguments);
        command
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(log);
        self.agent = Some(Agent::start(&mut command).expect("the agent starts"));
    }

    fn agent(&mut self) -> &mut Agent {
        self.agent.as_mut().expect("it was started")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Waits for the agent's word that it has read everything once.
    fn ready(&self) {
        let socket = self.path("socket");
        let ready = poll(PATIENCE, || get(&socket, "/readyz").ok());
        assert!(ready.is_some(), "not ready: {:?}", get(&socket, "/readyz"));
    }

    /// Waits until so many more scans of the node are done.
    fn scanned(&self, more: u64) {
        let scans = || get_json(&self.path("socket"), "/status").ok()?["scans"].as_u64();
        let until = scans().expect("the agent answers") + more;
        let done = poll(PATIENCE, || scans().filter(|scans| *scans >= until));
        assert!(done.is_some(), "{:?} of {until} scans", scans());
    }

    /// Waits for the finding about the undeclared port.
    fn finding(&self) -> Value {
        let socket = self.path("socket");
        let found = poll(PATIENCE, || {
            let findings = get_json(&socket, "/findings").ok()?;
            findings
                .as_array()?
                .iter()
                .find(|finding| finding["rule_id"] == "P001")
                .cloned()
        });
        found.unwrap_or_else(|| panic!("no P001: {:?}", get(&socket, "/status")))
    }
}

/// Ids of the kernel's objects that a process holds open, or that belong to them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Held {
    programs: BTreeSet<u32>,
    maps: BTreeSet<u32>,
    links: BTreeSet<u32>,
}

fn held_by(pid: u32) -> Held {
    let mut held = Held::default();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))
        .expect("the agent runs")
        .flatten()
    {
        let Ok(text) = fs::read_to_string(entry.path()) else {
            continue;
        };
        let field = |name| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.trim().parse::<u32>().ok())
        };
        match (field("link_id:"), field("prog_id:"), field("map_id:")) {
            (Some(link), ..) => held.links.insert(link),
            (None, Some(program), _) => held.programs.insert(program),
            (None, None, Some(map)) => held.maps.insert(map),
            (None, None, None) => false,
        };
    }
    for program in loaded_programs()
        .flatten()
        .filter(|program| held.programs.contains(&program.id()))
    {
        held.maps
            .extend(program.map_ids().ok().flatten().unwrap_or_default());
    }
    held.links.extend(
        loaded_links()
            .flatten()
            .filter(|link| held.programs.contains(&link.program_id()))
            .map(|link| link.id()),
    );
    held
}

/// Which of them the kernel still has.
fn remaining(held: &Held) -> Held {
    Held {
        programs: loaded_programs()
            .flatten()
            .map(|program| program.id())
            .filter(|id| held.programs.contains(id))
            .collect(),
        maps: loaded_maps()
            .flatten()
            .map(|map| map.id())
            .filter(|id| held.maps.contains(id))
            .collect(),
        links: loaded_links()
            .flatten()
            .map(|link| link.id())
            .filter(|id| held.links.contains(id))
            .collect(),
    }
}

#[test]
fn sigkill_leaves_no_program_link_or_map() {
    if without_root() {
        return;
    }
    let mut scene = Scene::new(&[], &[]);
    scene.ready();
    let held = held_by(scene.agent().pid());
    let programs: BTreeSet<String> = loaded_programs()
        .flatten()
        .filter(|program| held.programs.contains(&program.id()))
        .filter_map(|program| program.name_as_str().map(str::to_owned))
        .collect();
    assert!(
        programs.is_superset(&names::PROGRAMS.map(str::to_owned).into()),
        "{programs:?}"
    );
    // The pod's container and its pause container have a link each, the tracepoints one each.
    assert!(
        held.links.len() >= 2 && held.maps.len() >= names::MAPS.len(),
        "{held:?}"
    );

    scene.agent().signal(Signal::KILL).unwrap();
    assert!(scene.agent().wait(PATIENCE).is_some());
    let gone = poll(PATIENCE, || {
        (remaining(&held) == Held::default()).then_some(())
    });
    assert!(gone.is_some(), "left behind: {:?}", remaining(&held));
}

#[test]
fn sigkill_at_any_moment_leaves_nothing() {
    if without_root() {
        return;
    }
    let mut scene = Scene::new(&["--canary-interval", "1s"], &[]);
    for n in 0..scale().kills {
        if n > 0 {
            scene.start(&[]);
        }
        let pid = scene.agent().pid();
        // Now when it has just begun, now when it works.
        let held = poll(PATIENCE, || {
            let held = held_by(pid);
            let some = !held.programs.is_empty();
            let ready = n % 2 == 0 || get(&scene.path("socket"), "/readyz").is_ok();
            (some && ready).then_some(held)
        });
        let held = held.expect("it loads programs");
        scene.agent().signal(Signal::KILL).unwrap();
        assert!(scene.agent().wait(PATIENCE).is_some());
        let gone = poll(PATIENCE, || {
            (remaining(&held) == Held::default()).then_some(())
        });
        assert!(
            gone.is_some(),
            "kill {n} left behind: {:?}",
            remaining(&held)
        );
    }
    // What those before left in the tree is removed by the next, but for its own.
    scene.start(&[]);
    scene.ready();
    let left = || -> Vec<String> {
        let entries = fs::read_dir(scene.sandbox.root()).unwrap().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names
            .filter(|name| name.starts_with("plumbline-canary-"))
            .collect()
    };
    let own = poll(PATIENCE, || (left().len() == 1).then_some(()));
    assert!(own.is_some(), "{:?}", left());
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the time to the end is printed, not asserted"
)]
fn sigterm_ends_it_even_when_the_collector_hangs() {
    if without_root() {
        return;
    }
    // Connections are accepted by the kernel, and nobody ever answers.
    let hanging = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let endpoint = format!("http://{}", hanging.local_addr().unwrap());
    for environment in [
        &[][..],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())][..],
    ] {
        let mut scene = Scene::new(&[], environment);
        scene.finding();
        let held = held_by(scene.agent().pid());
        let begun = Instant::now();
        scene.agent().signal(Signal::TERM).unwrap();
        let status = scene.agent().wait(PATIENCE).expect("it ends");
        println!(
            "SIGTERM to exit with {environment:?}: {:?}",
            begun.elapsed()
        );
        assert!(status.success(), "{status}");
        let gone = poll(PATIENCE, || {
            (remaining(&held) == Held::default()).then_some(())
        });
        assert!(gone.is_some(), "left behind: {:?}", remaining(&held));
        assert!(!scene.path("socket").exists(), "the socket is removed");
    }
}

#[test]
fn the_undeclared_port_is_found_and_nothing_else() {
    if without_root() {
        return;
    }
    let scene = Scene::new(&[], &[]);
    let finding = scene.finding();
    let evidence = finding.to_string();
    for part in ["shop", "web-0", "\"web\"", "6061", "/plumbline-traffic"] {
        assert!(evidence.contains(part), "{part} is not in {finding:#}");
    }
    let all = get_json(&scene.path("socket"), "/findings").unwrap();
    let rules: Vec<&str> = all
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|finding| finding["rule_id"].as_str())
        .collect();
    assert_eq!(rules, ["P001"], "{all:#}");
    // Declaring the port ends the finding.
    let mut dump = scene.sandbox.dump();
    let ports = &mut dump["items"][0]["spec"]["containers"][0]["ports"];
    ports
        .as_array_mut()
        .unwrap()
        .push(serde_json::json!({ "containerPort": UNDECLARED, "protocol": "TCP" }));
    fs::write(scene.path("pods.new"), dump.to_string()).unwrap();
    fs::rename(scene.path("pods.new"), scene.path("pods.json")).unwrap();
    let ended = poll(PATIENCE, || {
        get_json(&scene.path("socket"), "/findings")
            .ok()?
            .as_array()?
            .is_empty()
            .then_some(())
    });
    assert!(
        ended.is_some(),
        "still open: {}",
        get(&scene.path("socket"), "/findings").unwrap()
    );
}

fn replay(recording: &PathBuf) -> Output {
    Command::new(built().expect("the agent builds"))
        .arg("replay")
        .arg(recording)
        .output()
        .expect("the replay runs")
}

#[test]
fn a_recording_replays_to_the_same_bytes() {
    if without_root() {
        return;
    }
    let recording = tempfile::tempdir().unwrap();
    let recording = recording.path().join("node.jsonl");
    let mut scene = Scene::new(&["--record", recording.to_str().unwrap()], &[]);
    let finding = scene.finding();
    scene.agent().signal(Signal::TERM).unwrap();
    assert!(
        scene
            .agent()
            .wait(PATIENCE)
            .is_some_and(|status| status.success())
    );

    let (first, second) = (replay(&recording), replay(&recording));
    assert!(
        first.status.success(),
        "{}",
        String::from_utf8_lossy(&first.stderr)
    );
    assert_eq!(first.stdout, second.stdout);
    let text = String::from_utf8(first.stdout).unwrap();
    assert!(
        text.contains(finding["fingerprint"].as_str().unwrap()),
        "the replay finds the same:\n{text}"
    );
    assert!(
        text.contains(scene.container.id()) || text.contains("web-0"),
        "{text}"
    );
}
