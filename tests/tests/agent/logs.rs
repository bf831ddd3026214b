//! Container logs by the agent's own binary: shipped, told in `status`, counted to the end.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point;
use plumbline_tests::agent::{get, get_json};
use plumbline_tests::pods::spec::{ContainerSpec, PodSpec};
use plumbline_tests::skip::without_root;
use plumbline_tests::wait::{PATIENCE, poll};
use prost::Message as _;
use rustix::process::Signal;

use super::Scene;

/// Path and body.
type Request = (String, Vec<u8>);

/// Takes everything over OTLP/HTTP.
#[derive(Clone, Default)]
struct Taken(Arc<Mutex<Vec<Request>>>);

impl Taken {
    fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let taken = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let taken = taken.clone();
                std::thread::spawn(move || taken.connection(stream.unwrap()));
            }
        });
        format!("http://{address}")
    }

    fn connection(&self, stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let path = line.split(' ').nth(1)?.to_owned();
            let mut length = 0;
            while line != "\r\n" {
                line.clear();
                reader.read_line(&mut line).ok()?;
                let header = line.to_ascii_lowercase();
                if let Some(value) = header.strip_prefix("content-length:") {
                    length = value.trim().parse().ok()?;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).ok()?;
            self.0.lock().unwrap().push((path, body));
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            reader.get_mut().write_all(answer).ok()?;
        }
    }

    fn of(&self, path: &str) -> Vec<Vec<u8>> {
        let taken = self.0.lock().unwrap();
        let of_path = taken.iter().filter(|(of, _)| of == path);
        of_path.map(|(_, body)| body.clone()).collect()
    }

    /// Bodies of log records; findings have other ones.
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for request in self.of("/v1/logs") {
            let request = ExportLogsServiceRequest::decode(&request[..]).unwrap();
            let scopes = request
                .resource_logs
                .into_iter()
                .flat_map(|of| of.scope_logs);
            for record in scopes.flat_map(|scope| scope.log_records) {
                if let Some(Value::StringValue(text)) = record.body.and_then(|body| body.value) {
                    lines.push(text);
                }
            }
        }
        lines
    }

    /// Sums of `plumbline.log.records` in the last report that has any, by pod.
    fn records(&self) -> BTreeMap<String, i64> {
        let mut last = BTreeMap::new();
        for request in self.of("/v1/metrics") {
            let request = ExportMetricsServiceRequest::decode(&request[..]).unwrap();
            let mut sums = BTreeMap::new();
            for of in request.resource_metrics {
                let pod = of.resource.iter().flat_map(|resource| &resource.attributes);
                let mut pod = pod.filter(|pair| pair.key == "k8s.pod.name");
                let name = pod.next().and_then(|pair| pair.value.clone()?.value);
                let metrics = of.scope_metrics.into_iter().flat_map(|scope| scope.metrics);
                for metric in metrics.filter(|metric| metric.name == "plumbline.log.records") {
                    let Some(Data::Sum(sum)) = metric.data else {
                        continue;
                    };
                    for point in sum.data_points {
                        if let (
                            Some(Value::StringValue(pod)),
                            Some(number_data_point::Value::AsInt(count)),
                        ) = (&name, point.value)
                        {
                            *sums.entry(pod.clone()).or_default() += count;
                        }
                    }
                }
            }
            if !sums.is_empty() {
                last = sums;
            }
        }
        last
    }
}

/// The counts of what is read last are in the last report, though the interval of reports is a minute.
#[test]
fn container_logs_are_shipped_told_and_counted_to_the_end() {
    if without_root() {
        return;
    }
    let (root, state, taken) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
        Taken::default(),
    );
    let app = root.path().join("shop_web-7_uid-7/app");
    fs::create_dir_all(&app).unwrap();
    let lines: String = (0..100)
        .map(|number| format!("2026-11-25T10:00:00.{number:09}Z stdout F line {number}\n"))
        .collect();
    fs::write(app.join("0.log"), lines).unwrap();
    symlink("/etc/passwd", app.join("1.log")).unwrap();
    let url = taken.serve();
    let mut scene = Scene::new(
        &[
            "--log-root",
            root.path().to_str().unwrap(),
            "--log-state",
            state.path().to_str().unwrap(),
        ],
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &url),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
        ],
    );
    let shipped = || {
        let lines = taken.lines();
        (0..100).all(|number| lines.contains(&format!("line {number}")))
    };
    assert!(
        poll(PATIENCE, || shipped().then_some(())).is_some(),
        "{:?}",
        taken.lines().len()
    );
    let socket = scene.path("socket");
    let told = poll(PATIENCE, || {
        let status = get_json(&socket, "/status").ok()?;
        let probes = status["probes"].as_array()?;
        let logs = probes.iter().find(|probe| probe["probe"] == "logs")?;
        let reason = logs["reason"].as_str()?;
        let well = logs["health"] == "ok" && reason.contains("link: 1");
        let counted = status["logs"]["containers"] == 1 && status["logs"]["lag_bytes"] == 0;
        (well && counted && status["logs"]["refused"]["link"] == 1).then_some(())
    });
    assert!(told.is_some(), "{:?}", get(&socket, "/status"));
    let more = "2026-11-25T10:00:01Z stdout F the last\n".repeat(7);
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(app.join("0.log"))
        .unwrap();
    file.write_all(more.as_bytes()).unwrap();
    let count = || {
        taken
            .lines()
            .iter()
            .filter(|line| *line == "the last")
            .count()
    };
    assert!(poll(PATIENCE, || (count() == 7).then_some(())).is_some());
    scene.agent().signal(Signal::TERM).unwrap();
    let ended = scene.agent().wait(PATIENCE);
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    assert_eq!(taken.records(), BTreeMap::from([("web-7".to_owned(), 107)]));
    assert!(state.path().join("logs.checkpoint").exists());
}

/// A directory that comes and goes between two looks leaves nothing behind; the kernel's cgroups tell that there was a pod.
#[test]
fn a_pod_that_was_gone_before_its_log_was_found_is_told() {
    if without_root() {
        return;
    }
    let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (log_root, log_state) = (
        root.path().to_str().unwrap(),
        state.path().to_str().unwrap(),
    );
    let url = Taken::default().serve();
    let scene = Scene::new(
        &["--log-root", log_root, "--log-state", log_state],
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &url),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ],
    );
    let socket = scene.path("socket");
    let is_read = || {
        let status = get_json(&socket, "/status").ok()?;
        (status["logs"]["files_open"].as_u64()? > 0).then_some(())
    };
    let short = |name: &str, has_log: bool| {
        let pod = scene.sandbox.pod(PodSpec {
            namespace: "job".to_owned(),
            name: name.to_owned(),
            ..PodSpec::default()
        });
        let pod = pod.unwrap();
        if has_log {
            let app = root.path().join(format!("job_{name}_{}/app", pod.uid()));
            fs::create_dir_all(&app).unwrap();
            fs::write(app.join("0.log"), "").unwrap();
            assert!(poll(PATIENCE, is_read).is_some(), "its log is found");
        }
        pod.container(ContainerSpec::default()).unwrap();
        pod.delete(&scene.sandbox).unwrap();
    };
    short("read", true);
    short("missed-1", false);
    short("missed-2", false);
    let told = poll(PATIENCE, || {
        let status = get_json(&socket, "/status").ok()?;
        let findings = get_json(&socket, "/findings").ok()?;
        let findings = findings.as_array()?.iter();
        let mut of_rule = findings.filter(|finding| finding["rule_id"] == "L001");
        let text = of_rule.next()?.to_string();
        (status["logs"]["missed_pods"] == 2 && text.contains("2 pods were gone")).then_some(())
    });
    assert!(told.is_some(), "{:?}", get(&socket, "/status"));
}
