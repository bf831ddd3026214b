//! Findings that outlive the agent, and what may hide them: the binary as a whole, with a collector that counts.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use plumbline_tests::agent::{built, get, get_json};
use plumbline_tests::skip::without_root;
use plumbline_tests::wait::{PATIENCE, poll};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Scene, UNDECLARED};

/// A collector for OTLP over HTTP: takes everything, and keeps what findings' requests said.
struct Collector {
    endpoint: String,
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || serve(stream, &kept));
            }
        });
        Self { endpoint, requests }
    }

    /// How often this transition of P001 was told of. Strings lie in a protobuf message as they are, each with its length.
    fn told(&self, transition: &str) -> usize {
        let value = u8::try_from(transition.len()).unwrap();
        let mut needle = b"plumbline.finding.transition".to_vec();
        needle.extend([0x12, value + 2, 0x0a, value]);
        needle.extend(transition.as_bytes());
        let requests = self.requests.lock().unwrap();
        requests
            .iter()
            .map(|body| {
                body.windows(needle.len())
                    .filter(|bytes| *bytes == needle)
                    .count()
            })
            .sum()
    }

    fn wait(&self, transition: &str, count: usize) {
        let told = poll(PATIENCE, || (self.told(transition) >= count).then_some(()));
        assert!(told.is_some(), "{transition}: {}", self.told(transition));
    }
}

fn serve(mut stream: TcpStream, kept: &Mutex<Vec<Vec<u8>>>) -> Option<()> {
    let mut bytes = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            more(&mut stream, &mut bytes)?;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))?;
        let length: usize = length.trim().parse().ok()?;
        while bytes.len() < end + length {
            more(&mut stream, &mut bytes)?;
        }
        let body: Vec<u8> = bytes.drain(..end + length).skip(end).collect();
        if head.starts_with("post /v1/logs") {
            kept.lock().unwrap().push(body);
        }
        let answer =
            b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).ok()?;
    }
}

fn more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<()> {
    let mut buffer = [0; 16 << 10];
    let count = stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
    bytes.extend(&buffer[..count]);
    Some(())
}

impl Scene {
    fn end(&mut self, signal: Signal) {
        self.agent().signal(signal).unwrap();
        assert!(self.agent().wait(PATIENCE).is_some());
        self.agent = None;
    }

    fn status(&self) -> Value {
        get_json(&self.path("socket"), "/status").unwrap_or_default()
    }

    /// Waits until what `done` asks for is in the status.
    fn until(&self, what: &str, done: impl Fn(&Value) -> bool) {
        let found = poll(PATIENCE, || done(&self.status()).then_some(()));
        assert!(found.is_some(), "{what}: {:#}", self.status());
    }

    fn rewrite_dump(&self, change: impl FnOnce(&mut Value)) {
        let mut dump = self.sandbox.dump();
        change(&mut dump);
        fs::write(self.path("pods.new"), dump.to_string()).unwrap();
        fs::rename(self.path("pods.new"), self.path("pods.json")).unwrap();
    }
}

/// A configuration file that changes.
struct Config(TempDir);

impl Config {
    fn new(text: &str) -> Self {
        let config = Self(tempfile::tempdir().unwrap());
        fs::write(config.0.path().join("config.yaml"), text).unwrap();
        config
    }

    fn path(&self) -> &'static str {
        let path = self.0.path().join("config.yaml");
        path.to_str().unwrap().to_owned().leak()
    }

    /// At once, as ConfigMap volumes do it.
    fn replace(&self, text: &str) {
        fs::write(self.0.path().join("new"), text).unwrap();
        fs::rename(self.0.path().join("new"), self.0.path().join("config.yaml")).unwrap();
    }
}

fn hidden(socket: &Path) -> Option<Value> {
    let hidden = get_json(socket, "/suppressed").ok()?;
    hidden.as_array()?.first().cloned()
}

fn plumbline(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(built().expect("the agent builds"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn a_restart_tells_nothing_twice_and_forgets_nothing() {
    if without_root() {
        return;
    }
    let collector = Collector::start();
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
    ];
    let state = tempfile::tempdir().unwrap();
    let directory = state.path().to_str().unwrap();
    let mut scene = Scene::new(
        &["--state-dir", directory, "--node-name", "n"],
        &environment,
    );
    let first = scene.finding();
    collector.wait("opened", 1);
    // Ended in order, ended at once when the state is on disk, and in order again: nothing is opened a second time.
    for (n, signal) in [Signal::TERM, Signal::KILL, Signal::TERM]
        .into_iter()
        .enumerate()
    {
        if signal == Signal::KILL {
            let saved = state.path().join("findings.state");
            let fingerprint = first["fingerprint"].as_str().unwrap();
            let kept = poll(PATIENCE, || {
                let text = fs::read_to_string(&saved).ok()?;
                (text.contains(fingerprint) && !text.contains("\"told\":null")).then_some(())
            });
            assert!(kept.is_some(), "{:?}", fs::read_to_string(&saved));
        }
        scene.end(signal);
        scene.start(&environment);
        let restored = scene.finding();
        for key in ["fingerprint", "first_seen"] {
            assert_eq!(restored[key], first[key], "restart {n}: {key}");
        }
        scene.ready();
        // It is seen again, not only remembered.
        let before = restored["occurrences"].as_u64().unwrap();
        let again = poll(PATIENCE, || {
            (scene.finding()["occurrences"].as_u64()? > before + 3).then_some(())
        });
        assert!(again.is_some(), "restart {n}: {:#}", scene.finding());
        assert_eq!(collector.told("opened"), 1, "restart {n}");
    }
    // What ends while nobody looks is resolved by the next, once.
    scene.end(Signal::TERM);
    scene.rewrite_dump(|dump| {
        let ports = &mut dump["items"][0]["spec"]["containers"][0]["ports"];
        ports
            .as_array_mut()
            .unwrap()
            .push(json!({ "containerPort": UNDECLARED }));
    });
    scene.start(&environment);
    collector.wait("resolved", 1);
    scene.end(Signal::TERM);
    // And comes back as itself.
    scene.rewrite_dump(|_| {});
    scene.start(&environment);
    collector.wait("reopened", 1);
    let back = scene.finding();
    assert_eq!(back["first_seen"], first["first_seen"]);
    assert_eq!(back["reopened"], 1);
    assert_eq!(
        (collector.told("opened"), collector.told("resolved")),
        (1, 1)
    );
}

#[test]
fn a_state_that_does_not_check_is_put_aside_and_derived_anew() {
    if without_root() {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    fs::write(state.path().join("findings.state"), "garbage").unwrap();
    let scene = Scene::new(&["--state-dir", state.path().to_str().unwrap()], &[]);
    scene.finding();
    scene.until("quarantined", |status| status["state"]["quarantined"] == 1);
    let aside = fs::read(state.path().join("findings.state.corrupt")).unwrap();
    assert_eq!(aside, b"garbage");
}

#[test]
fn only_the_operator_hides_and_a_broken_file_changes_nothing() {
    if without_root() {
        return;
    }
    let file = Config::new("cluster_name: test\n");
    let scene = Scene::new(&["--config", file.path()], &[]);
    let socket = scene.path("socket");
    scene.finding();
    // The pod asks, and is told of with the finding.
    scene.rewrite_dump(|dump| {
        let annotations = json!({ "plumbline/suppress.P001": "2099-01-01 let me be" });
        dump["items"][0]["metadata"]["annotations"] = annotations;
    });
    let asked = poll(PATIENCE, || {
        let finding = scene.finding();
        (!finding["suppression_ignored"].is_null()).then_some(finding)
    });
    assert_eq!(asked.expect("it is told")["state"], "open");
    let hidden = || hidden(&socket);
    // The operator hears this namespace and rule.
    file.replace("cluster_name: test\nannotations: [{namespace: shop, rules: [P001]}]\n");
    let by = poll(PATIENCE, hidden).expect("hidden by the annotation");
    assert_eq!(by["suppression"]["reason"], "let me be");
    // A broken file keeps it so, and is named.
    file.replace("cluster_name: test\nannotation: []\n");
    scene.until("refused", |status| {
        status["config"]["problems"][0]
            .as_str()
            .is_some_and(|text| text.contains("line 2"))
            && status["probes"]
                .to_string()
                .contains("the configuration before stays in force")
    });
    assert!(hidden().is_some());
}

#[test]
fn a_suppression_hides_until_it_is_over_and_what_is_hidden_is_explained() {
    if without_root() {
        return;
    }
    let file = Config::new("cluster_name: test\n");
    let scene = Scene::new(&["--config", file.path()], &[]);
    let socket = scene.path("socket");
    let first = scene.finding();
    let hidden = || hidden(&socket);
    // A suppression that is over hides nothing; one of the operator's own does.
    file.replace(
        "suppressions:\n  - {rule: P001, until: 2020-01-01, reason: over}\ncluster_name: test\n",
    );
    let ignored = poll(PATIENCE, || {
        let ignored = scene.finding()["suppression_ignored"].to_string();
        ignored.contains("ended at 2020").then_some(())
    });
    assert!(ignored.is_some(), "{:#}", scene.finding());
    assert_eq!(hidden(), None);
    let socket_text = socket.to_str().unwrap();
    let (code, status, _) = plumbline(&["status", "--socket", socket_text]);
    assert_eq!(code, Some(0));
    assert!(
        status.contains("suppressions[0]: hides nothing: it ended"),
        "{status}"
    );
    file.replace(
        "suppressions:\n  - {rule: P001, namespace: shop, until: 2099-01-01, reason: INC-42}\ncluster_name: test\n",
    );
    let by = poll(PATIENCE, hidden).expect("hidden by the operator");
    assert_eq!(by["suppression"]["by"], "suppressions[0]");
    assert_eq!(by["fingerprint"], first["fingerprint"]);
    // It can be explained all the same, with its patch.
    let fingerprint = by["fingerprint"].as_str().unwrap();
    let (code, text, error) = plumbline(&["explain", "--socket", socket_text, &fingerprint[..12]]);
    assert_eq!(code, Some(0), "{error}");
    for part in [
        "Declared",
        &format!("tcp/{UNDECLARED}"),
        "Evidence",
        "INC-42",
        &format!("containerPort: {UNDECLARED}"),
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    // A rule that is turned off ends its findings.
    file.replace("rules: {P001: {enabled: false}}\ncluster_name: test\n");
    let ended = poll(PATIENCE, || hidden().is_none().then_some(()));
    assert!(ended.is_some(), "{:?}", get(&socket, "/suppressed"));
    scene.until("off", |status| {
        status["unknown_rules"]["P001"] == "turned off in the configuration"
    });
}

#[test]
fn the_configuration_is_checked_and_printed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yaml");
    let path = file.to_str().unwrap();
    fs::write(&file, "grase: 3s\nkube: 7\n").unwrap();
    let (code, _, error) =
        plumbline(&["config", "check", "--config", path, "--scan-interval", "5m"]);
    assert_eq!(code, Some(2));
    for part in [
        "line 1: unknown key `grase`",
        "line 2: `kube`",
        "--scan-interval",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    fs::write(
        &file,
        "suppressions: [{rule: P001, until: 2020-01-01, reason: x}]\n",
    )
    .unwrap();
    let (code, _, error) = plumbline(&["config", "check", "--config", path]);
    assert_eq!(code, Some(2));
    assert!(error.contains("hides nothing"), "{error}");
    fs::write(&file, "grace: 3s\n").unwrap();
    let (code, out, error) = plumbline(&["config", "check", "--config", path]);
    assert_eq!((code, out.as_str(), error.as_str()), (Some(0), "", ""));
    let (code, printed, _) = plumbline(&["config", "print", "--config", path, "--grace", "4s"]);
    assert_eq!(code, Some(0));
    assert!(printed.contains("grace: \"4s\"\n"), "{printed}");
    fs::write(&file, printed.clone()).unwrap();
    assert_eq!(plumbline(&["config", "print", "--config", path]).1, printed);
}
