//! `plumbline check` on a dump finds what the running agent finds: the demo's deviations, played by real pods.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};

use plumbline_tests::agent::{Agent, built, get, get_json};
use plumbline_tests::pods::spec::{ContainerSpec, Kind, PodSpec, PortSpec};
use plumbline_tests::pods::{Container, Sandbox};
use plumbline_tests::skip::without_root;
use plumbline_tests::traffic::burn::{Burn, Shape};
use plumbline_tests::traffic::{Endpoint, Plan, Worker};
use plumbline_tests::wait::{PATIENCE, poll};
use serde_json::{Value, json};

/// Long enough for the agent and the check together; the workers are killed before it is over.
const BURN_MS: u64 = 600_000;

/// Pods and what runs in them.
struct Node {
    sandbox: Sandbox,
    _workers: Vec<Worker>,
}

fn pod_spec(namespace: &str, name: &str, owner: (&str, &str)) -> PodSpec {
    PodSpec {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        owner: Some((owner.0.to_owned(), owner.1.to_owned())),
        ..PodSpec::default()
    }
}

fn container(name: &str, ports: &[u16], request: Option<&str>) -> ContainerSpec {
    ContainerSpec {
        name: name.to_owned(),
        ports: ports.iter().map(|port| PortSpec::tcp(*port)).collect(),
        cpu_request: request.map(str::to_owned),
        ..ContainerSpec::default()
    }
}

fn listen(container: &Container, ports: &[u16]) -> Worker {
    let any = |port: &u16| Endpoint::tcp((Ipv4Addr::UNSPECIFIED, *port).into());
    let plan = Plan::Listen {
        endpoints: ports.iter().map(any).collect(),
    };
    let mut worker = Worker::ready(container.place(), &plan).expect("a server");
    worker.command("open").expect("the server listens");
    worker
}

/// Two ports of this machine that nobody uses at this moment.
fn free_host_ports() -> [u16; 2] {
    let held = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

impl Node {
    fn start() -> Self {
        let sandbox = Sandbox::new("plumbline-test-same").expect("root can make a sandbox");
        let mut workers = Vec::new();
        // P001: a debug endpoint beside the declared port. The sidecar's port is declared.
        let web = sandbox
            .pod(pod_spec("shop", "web-1", ("Deployment", "web")))
            .unwrap();
        let nginx = web
            .container(container("nginx", &[8_080], Some("100m")))
            .unwrap();
        workers.push(listen(&nginx, &[8_080, 6_060]));
        let proxy = ContainerSpec {
            kind: Kind::Sidecar,
            ..container("proxy", &[9_090], Some("50m"))
        };
        workers.push(listen(&web.container(proxy).unwrap(), &[9_090]));
        // C001: no CPU request.
        let cart = sandbox
            .pod(pod_spec("shop", "cart-1", ("Deployment", "cart")))
            .unwrap();
        let shipper = cart
            .container(container("log-shipper", &[7_000], None))
            .unwrap();
        workers.push(listen(&shipper, &[7_000]));
        // P007: an undeclared port of the node.
        let [declared, undeclared] = free_host_ports();
        let agent = PodSpec {
            host_network: true,
            ..pod_spec("kube-system", "node-agent-1", ("DaemonSet", "node-agent"))
        };
        let agent = sandbox.pod(agent).unwrap();
        let agent = agent
            .container(container("agent", &[declared], Some("20m")))
            .unwrap();
        workers.push(listen(&agent, &[declared, undeclared]));
        // C007: a fifth of a CPU on average, in bursts of a whole one; the limit is 0.9.
        let report = sandbox
            .pod(pod_spec("batch", "report-1", ("CronJob", "report")))
            .unwrap();
        let burner = ContainerSpec {
            cpu_limit: Some("900m".to_owned()),
            ..container("burner", &[], None)
        };
        let burner = report.container(burner).unwrap();
        let burn = Plan::Burn(Burn {
            threads: 1,
            wall_ms: BURN_MS,
            shape: Shape::Duty {
                busy_ms: 200,
                period_ms: 1_000,
                phase_ms: 0,
            },
            real_time: true,
        });
        workers.push(Worker::ready(burner.place(), &burn).expect("a burner"));
        Self {
            sandbox,
            _workers: workers,
        }
    }

    fn command(&self, what: &str, dump: &std::path::Path) -> Command {
        let mut command = Command::new(built().expect("the agent builds"));
        command
            .arg(what)
            .arg("--cgroup-root")
            .arg(self.sandbox.root())
            .arg("--declared")
            .arg(dump)
            .args(["--cluster-name", "test", "--node-name", "node-1"]);
        command
    }
}

/// What two runs must agree on, by fingerprint. Not what was measured: figures and times differ.
fn essence(findings: &Value) -> BTreeMap<String, Value> {
    let findings = findings.as_array().expect("a list of findings");
    let essence = findings.iter().map(|finding| {
        let mut essence = json!({});
        for key in [
            "rule_id", "title", "severity", "state", "resource", "declared", "coverage",
        ] {
            essence[key] = finding[key].clone();
        }
        if finding["rule_id"]
            .as_str()
            .is_some_and(|rule| rule.starts_with('P'))
        {
            for key in ["observed", "remediation", "patch"] {
                essence[key] = finding[key].clone();
            }
        }
        (finding["fingerprint"].as_str().unwrap().to_owned(), essence)
    });
    essence.collect()
}

#[test]
fn a_check_finds_what_the_running_agent_finds() {
    if without_root() {
        return;
    }
    let node = Node::start();
    let files = tempfile::tempdir().unwrap();
    let (dump, socket) = (files.path().join("pods.json"), files.path().join("socket"));
    node.sandbox.write_dump(&dump).unwrap();
    let mut run = node.command("run", &dump);
    run.arg("--socket").arg(&socket).stdout(Stdio::null());
    run.args(["--grace", "1s", "--scan-interval", "1s"]);
    run.args(["--cpu-startup-exclusion", "0s", "--cpu-mean-window", "8s"]);
    let agent = Agent::start(&mut run).expect("the agent starts");
    let expected = ["C001", "C007", "P001", "P007"];
    let found = poll(2 * PATIENCE, || {
        let findings = get_json(&socket, "/findings").ok()?;
        let rules = findings
            .as_array()?
            .iter()
            .filter_map(|one| one["rule_id"].as_str());
        let rules: Vec<&str> = rules.collect();
        expected
            .iter()
            .all(|rule| rules.contains(rule))
            .then_some(())
    });
    assert!(found.is_some(), "{:?}", get(&socket, "/findings"));
    let mut check = node.command("check", &dump);
    check.args(["--duration", "10s", "--output", "json", "--fail-on", "info"]);
    let output = check.stdin(Stdio::null()).output().expect("the check runs");
    // Both at the same time, so that neither sees what the other does not.
    let running = essence(&get_json(&socket, "/findings").unwrap());
    drop(agent);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    let checked = essence(&serde_json::from_slice(&output.stdout).unwrap());
    let rules: Vec<&str> = running
        .values()
        .filter_map(|one| one["rule_id"].as_str())
        .collect();
    for rule in expected {
        assert_eq!(
            rules.iter().filter(|one| **one == rule).count(),
            1,
            "{rule}: {running:#?}"
        );
    }
    assert_eq!(running, checked, "{said}");
}
