//! F24 of RELIABILITY: a cluster of 5,000 pods in which 500 things happen a second, watched by the agent as it is shipped.
//!
//! `PLUMBLINE_TEST_TIER=full` has that many, a twentieth else. Figures are of the release build.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use plumbline::clock;
use serde_json::{Value, json};

use crate::double::Api;

/// Of this node.
const OWN: usize = 30;
/// In each second, and how far apart.
const TICKS: usize = 25;
const TICK: Duration = Duration::from_millis(40);
/// How much happens.
#[derive(Clone, Copy)]
struct Size {
    /// Pods of other nodes.
    others: usize,
    events_per_second: usize,
    seconds: usize,
    /// What the agent may take over idle.
    over_idle_kib_max: u64,
}

/// RELIABILITY's in the full tier.
fn size() -> Size {
    if std::env::var("PLUMBLINE_TEST_TIER").is_ok_and(|tier| tier == "full") {
        Size {
            others: 5_000,
            events_per_second: 500,
            seconds: 20,
            over_idle_kib_max: 24 << 10,
        }
    } else {
        Size {
            others: 250,
            events_per_second: 25,
            seconds: 4,
            over_idle_kib_max: 6 << 10,
        }
    }
}

/// A pod as large as they are: what the agent does not need is most of it.
fn pod(number: usize, node: &str, generation: usize) -> Value {
    let fields: Value = (0..60)
        .map(|n| {
            (
                format!("f:field-{n}"),
                json!({"f:value": {}, "f:more": {"f:name": {}}}),
            )
        })
        .collect();
    let env: Vec<Value> = (0..30).map(|n| json!({"name": format!("VARIABLE_{n}"), "value": "a value of some length, as they are"})).collect();
    let ip = format!(
        "10.{}.{}.{}",
        100 + number / 60_000,
        number / 250 % 240,
        number % 250
    );
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("web-6d8f7c9b5-{number:05}"), "namespace": format!("team-{}", number % 40),
            "uid": format!("0a1b2c3d-0000-4000-8000-{number:012}"), "generateName": "web-6d8f7c9b5-",
            "labels": {"app": format!("web-{}", number % 400), "pod-template-hash": "6d8f7c9b5", "team": format!("team-{}", number % 40)},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-6d8f7c9b5", "uid": "1", "controller": true}],
            "managedFields": [{"manager": "kubelet", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields}],
        },
        "spec": {
            "nodeName": node,
            "containers": [{"name": "web", "image": "web:1", "env": env, "ports": [{"name": "http", "containerPort": 8080}], "resources": {"requests": {"cpu": "100m"}}}],
        },
        "status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "observedGeneration": generation,
            "conditions": [{"type": "Ready", "status": "True", "lastProbeTime": generation.to_string()}],
        },
    })
}

/// The agent, ended with the test.
struct Agent(Child);

impl Agent {
    fn start(api: &Api, scratch: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plumbline"));
        command.args([
            "run",
            "--kube",
            "--node-name",
            "node-a",
            "--peers",
            "cluster",
            "--disable",
            "tcp,udp,cpu-windows,connections,canary",
        ]);
        command
            .arg("--kubeconfig")
            .arg(api.kubeconfig(scratch, None));
        command
            .arg("--socket")
            .arg(scratch.join("socket"))
            .env("RUST_LOG", "warn");
        Self(command.spawn().unwrap())
    }

    /// A line of `/proc/PID/status` in KiB.
    fn memory(&self, line: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let value = status
            .lines()
            .find_map(|text| text.strip_prefix(line))
            .unwrap();
        value
            .trim_matches([':', ' ', '\t', 'k', 'B'])
            .parse()
            .unwrap()
    }

    /// CPU time so far, in hundredths of a second.
    fn cpu(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    fn status(&self, scratch: &Path) -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plumbline"));
        let output = command
            .args(["status", "--output", "json", "--socket"])
            .arg(scratch.join("socket"))
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..6_000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{what}: not in two minutes");
}

/// Resident memory in KiB: when all is quiet, and at most.
fn measure(size: Size, minor: u32) -> (u64, u64) {
    let others = size.others;
    let api = Api::start();
    api.set_minor(minor);
    for number in 0..OWN {
        api.put("pods", pod(90_000 + number, "node-a", 0));
    }
    for number in 0..others {
        api.put("pods", pod(number, &format!("node-{}", number % 100), 0));
    }
    let scratch = tempfile::tempdir().unwrap();
    let agent = Agent::start(&api, scratch.path());
    let following = |api: &Api| {
        let asked = api.asked();
        let mut of_others = asked
            .into_iter()
            .filter(|asked| asked.verb == "watch" && asked.target.contains("nodeName!%3D"));
        if minor >= 32 {
            of_others.next().map(|_| clock::instant())
        } else {
            of_others.next().map(|asked| asked.at)
        }
    };
    wait("the first list", || following(&api).is_some());
    wait("the status", || {
        agent.status(scratch.path())["declared"]["pods"] == json!(OWN)
    });
    let first = api.asked()[0].at;
    let synced = following(&api).unwrap().duration_since(first);
    std::thread::sleep(Duration::from_secs(5));
    let quiet = agent.memory("VmRSS");
    let (before, started) = (agent.cpu(), clock::instant());
    if others > 0 {
        let each = size.events_per_second / TICKS;
        for tick in 0..size.seconds * TICKS {
            for one in 0..each {
                let number = (tick * each + one) * 7 % others;
                // Every fifth event is a pod that comes anew with another address.
                let address = if one % 5 == 0 {
                    number + 10_000 + tick
                } else {
                    number
                };
                let mut object = pod(number, &format!("node-{}", number % 100), tick);
                object["status"]["podIPs"] = pod(address, "x", tick)["status"]["podIPs"].clone();
                api.put("pods", object);
            }
            std::thread::sleep(TICK);
        }
    }
    let busy = started.elapsed();
    std::thread::sleep(Duration::from_secs(2));
    let peak = agent.memory("VmHWM");
    let cpu = (agent.cpu() - before) * 10;
    tell(&format!(
        "{others} pods of other nodes, server 1.{minor}: synced {synced:?} after the first request; {quiet} KiB quiet, {peak} KiB at most; CPU {cpu} ms in {busy:?}"
    ));
    assert_eq!(
        api.count("list", "/pods?") + api.count("watch", "sendInitialEvents"),
        if minor >= 32 {
            api.count("watch", "sendInitialEvents")
        } else {
            2
        }
    );
    (quiet, peak)
}

/// A figure, for whoever runs this.
#[expect(clippy::print_stdout, reason = "what this measures")]
fn tell(text: &str) {
    println!("measured: {text}");
}

#[test]
fn a_large_cluster_in_which_much_happens_takes_little_memory() {
    let size = size();
    let (idle, _) = measure(Size { others: 0, ..size }, 30);
    for minor in [30, 34] {
        let (_, peak) = measure(size, minor);
        let over = peak.saturating_sub(idle);
        tell(&format!("over idle, server 1.{minor}: {over} KiB"));
        assert!(over <= size.over_idle_kib_max, "{over} KiB over idle");
    }
}
