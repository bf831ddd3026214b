//! A node with an agent, a pod that makes trouble, and pods that must not feel it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use plumbline_tests::agent::{Agent, built, get, get_json};
use plumbline_tests::pods::spec::{ContainerSpec, PodSpec, PortSpec};
use plumbline_tests::pods::{Container, Pod, Sandbox};
use plumbline_tests::skip::without_root;
use plumbline_tests::traffic::{Endpoint, Lanes, Plan, Tally, Worker};
use plumbline_tests::wait::{PATIENCE, monotonic_ns, poll};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::memory::Watched;
use super::recording::Recording;

/// What the agent may take under any load: its own memory and its maps. The bound that the README states.
pub(crate) const MEMORY_BYTES_MAX: u64 = 128 << 20;

/// A machine under load may take long to become right again; how long it took is printed.
const CALM: Duration = Duration::from_secs(120);

/// A port that the victim declares, and one that it does not.
const PORTS: [u16; 2] = [8_080, 6_061];

pub(crate) struct Node {
    pub(crate) sandbox: Sandbox,
    /// Makes trouble.
    pub(crate) noisy: Container,
    victim: Victim,
    files: TempDir,
    agent: Agent,
    memory: Watched,
    ended_ns: Option<u64>,
}

/// A pod that listens and serves, and one that asks it.
struct Victim {
    pod: Pod,
    server: Container,
    client: Container,
    _listening: Worker,
}

/// What the victims did during a load.
pub(crate) struct Quiet {
    asked: Tally,
    served: Tally,
}

impl Node {
    /// `None` when this machine cannot run the test, which is then said.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// The same, with these variables for the agent.
    pub(crate) fn start_with(environment: &[(&str, &str)]) -> Option<Self> {
        if without_root() {
            return None;
        }
        let sandbox = Sandbox::new("plumbline-test-load").expect("root can make a sandbox");
        let victim = Victim::start(&sandbox);
        let (_, noisy) = sandbox.solo("noisy").unwrap();
        let files = tempfile::tempdir().unwrap();
        sandbox.write_dump(&files.path().join("pods.json")).unwrap();
        let mut command = Command::new(built().expect("the agent builds"));
        command.arg("run").arg("--cgroup-root").arg(sandbox.root());
        for (option, file) in [
            ("--declared", "pods.json"),
            ("--socket", "socket"),
            ("--record", "node.jsonl"),
        ] {
            command.arg(option).arg(files.path().join(file));
        }
        command
            .args(["--grace", "1s", "--scan-interval", "5s"])
            .envs(environment.iter().copied())
            .stdout(Stdio::null());
        let agent = Agent::start(&mut command).expect("the agent starts");
        let memory = Watched::start(agent.pid());
        let node = Self {
            sandbox,
            noisy,
            victim,
            files,
            agent,
            memory,
            ended_ns: None,
        };
        let socket = node.path("socket");
        assert!(
            poll(PATIENCE, || get(&socket, "/readyz").ok()).is_some(),
            "not ready: {:?}",
            get(&socket, "/readyz")
        );
        node.calm("before the load");
        Some(node)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    pub(crate) fn status(&self) -> Value {
        get_json(&self.path("socket"), "/status").expect("the agent answers")
    }

    /// What a probe of the agent says of itself.
    pub(crate) fn probe(&self, name: &str) -> Option<Value> {
        let status = self.status();
        let mut probes = status["probes"].as_array()?.iter();
        probes.find(|status| status["probe"] == name).cloned()
    }

    /// Whether a probe of the agent measures.
    pub(crate) fn measures(&self, name: &str) -> bool {
        self.probe(name)
            .is_some_and(|probe| probe["health"] == "ok")
    }

    /// Open findings about ports by container.
    fn port_findings(&self) -> Vec<String> {
        let findings = get_json(&self.path("socket"), "/findings").unwrap_or_default();
        let about = |finding: &Value| {
            let rule = finding["rule_id"].as_str()?;
            rule.starts_with('P').then(|| finding.to_string())
        };
        findings
            .as_array()
            .map(|all| all.iter().filter_map(about).collect())
            .unwrap_or_default()
    }

    /// Listeners that the victim's server opens during a load, and closes.
    pub(crate) const LANES: u64 = 4;

    /// The container that the victims' traffic goes to.
    pub(crate) const fn server(&self) -> &Container {
        &self.victim.server
    }

    /// The container that they come from.
    pub(crate) const fn client(&self) -> &Container {
        &self.victim.client
    }

    /// The open finding of a rule that contains the text.
    pub(crate) fn finding(&self, rule: &str, text: &str) -> Option<String> {
        let findings = get_json(&self.path("socket"), "/findings").ok()?;
        let findings = findings.as_array()?.iter();
        let mut of_rule = findings.filter(|finding| finding["rule_id"] == rule);
        of_rule
            .find(|finding| finding.to_string().contains(text))
            .map(Value::to_string)
    }

    /// Waits until that many containers that came after the agent are seen from their beginning, and no others.
    pub(crate) fn covered(&self, containers: u64) {
        let covered = poll(CALM, || {
            let status = self.status();
            let rows = status["coverage"].as_array()?;
            let full = rows.iter().filter(|row| row["state"] == "full");
            let full: u64 = full.filter_map(|row| row["containers"].as_u64()).sum();
            (full == containers).then_some(())
        });
        assert!(
            covered.is_some(),
            "{containers} covered: {:#}",
            self.status()
        );
    }

    /// Waits until there is a finding about the container's ports, and tells it.
    pub(crate) fn finds(&self, container: &Container) -> String {
        let name = format!("\"{}\"", container.name());
        let found = poll(CALM, || {
            let findings = self.port_findings();
            findings.into_iter().find(|finding| finding.contains(&name))
        });
        found.unwrap_or_else(|| panic!("nothing about {name}: {:?}", self.port_findings()))
    }

    /// How many were lost in a place, for any reason.
    pub(crate) fn lost(&self, place: &str) -> u64 {
        let status = self.status();
        let rows = status["dropped"].as_array().cloned().unwrap_or_default();
        rows.iter()
            .filter(|row| row["place"] == place)
            .filter_map(|row| row["count"].as_u64())
            .sum()
    }

    /// Sends the agent a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.agent.signal(signal).unwrap();
    }

    /// Runs a load while the victims work, and tells what they did.
    pub(crate) fn disturb<T>(&mut self, load: impl FnOnce(&Self) -> T) -> (T, Quiet) {
        let plan = |addresses| Lanes {
            addresses,
            first_port: 7_000,
            lanes: 4,
            connections: 50,
            seed: 11,
            framed: false,
            orders: Vec::new(),
            payload_max: Some(64 << 10),
            mptcp: false,
        };
        let victim = &self.victim;
        let any = plan(vec![Ipv6Addr::UNSPECIFIED.into()]);
        let serving = Worker::ready(victim.server.place(), &Plan::Serve(any)).unwrap();
        let there = plan(victim.pod.notations());
        let asking = Worker::start(victim.client.place(), &Plan::Connect(there)).unwrap();
        let result = load(self);
        let quiet = Quiet {
            asked: asking.finish().unwrap(),
            served: serving.finish().unwrap(),
        };
        self.ended_ns = Some(monotonic_ns());
        (result, quiet)
    }

    /// Waits until the state is that of a node on which nothing happens: the victim's one finding and no other, and every
    /// container that is there and no other.
    pub(crate) fn calm(&self, when: &str) {
        // Each pod has a pause container.
        let containers = 3 * 2;
        let calm = poll(CALM, || {
            let findings = self.port_findings();
            let right = matches!(&findings[..], [only] if only.contains("6061"));
            (right && self.status()["containers"] == containers).then_some(())
        });
        assert!(
            calm.is_some(),
            "{when}: not calm: {:?}\n{:#}",
            self.port_findings(),
            self.status()
        );
        if let Some(ended) = self.ended_ns {
            println!(
                "{when}: right again {} ms after the load",
                (monotonic_ns() - ended) / 1_000_000
            );
        }
    }

    /// Ends the agent in order; the victims' data must be exact and whole, and the memory within its bound.
    pub(crate) fn end(mut self, quiet: &Quiet) -> Recording {
        let (own, maps) = self.memory.bytes();
        self.agent.signal(Signal::TERM).unwrap();
        let status = self.agent.wait(PATIENCE).expect("it ends");
        assert!(status.success(), "{status}");
        println!(
            "agent: at most {} KiB of its own, {} KiB of maps",
            own >> 10,
            maps >> 10
        );
        assert!(own > 0 && maps > 0, "nothing was measured");
        assert!(
            own + maps <= MEMORY_BYTES_MAX,
            "{own} B of its own and {maps} B of maps"
        );
        let recording = Recording::read(&self.path("node.jsonl"));
        println!("dropped: {:?}", recording.dropped());
        recording.assert_exact(&self.victim.client, &quiet.asked);
        recording.assert_exact(&self.victim.server, &quiet.served);
        recording
    }
}

impl Victim {
    fn start(sandbox: &Sandbox) -> Self {
        let spec = PodSpec {
            name: "victim".to_owned(),
            ..PodSpec::default()
        };
        let pod = sandbox.pod(spec).unwrap();
        let server = pod
            .container(ContainerSpec {
                name: "victim".to_owned(),
                ports: (7_000..7_004)
                    .chain([PORTS[0]])
                    .map(PortSpec::tcp)
                    .collect(),
                cpu_request: Some("100m".to_owned()),
                ..ContainerSpec::default()
            })
            .unwrap();
        let (_, client) = sandbox.solo("asking").unwrap();
        let endpoints = PORTS.map(|port| Endpoint::tcp((Ipv4Addr::UNSPECIFIED, port).into()));
        let plan = Plan::Listen {
            endpoints: endpoints.to_vec(),
        };
        let mut listening = Worker::ready(server.place(), &plan).unwrap();
        listening.command("open").unwrap();
        Self {
            pod,
            server,
            client,
            _listening: listening,
        }
    }
}
