//! How much of the whole way of container logs a CPU second buys, from files to a collector on loopback.
//!
//! `logs sink http|grpc` is the collector: it prints its address, takes requests until its standard input ends, and prints
//! what it got. `logs send DIR ADDRESS http|grpc none|gzip` reads the files below a directory, sends them there by the
//! agent's own lane, and prints what that cost. Two processes, so that taking requests costs the sender nothing.
#![expect(clippy::print_stdout, reason = "figures are what it is for")]
#![expect(
    clippy::unwrap_used,
    reason = "a bench that cannot go on should say where"
)]

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use flate2::read::GzDecoder;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use plumbline::export::Exporter;
use plumbline::export::records::{IN_FLIGHT_MAX, Pace};
use plumbline::export::settings::ExportSettings;
use plumbline_core::settings::NodeIdentity;
use plumbline_logs::otlp::Envelope;
use plumbline_logs::source::Source;
use plumbline_logs::tailer::{Resources, Settings, spawn};
use plumbline_logs::watch::Waker;
use serde_json::json;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    match words[..] {
        ["sink", protocol @ ("http" | "grpc")] => runtime.block_on(sink(protocol == "grpc")),
        ["send", directory, address, protocol, compression] => {
            runtime.block_on(send(Path::new(directory), address, protocol, compression))
        }
        _ => println!("logs sink http|grpc | logs send DIR ADDRESS http|grpc none|gzip"),
    }
}

/// What the sink got.
#[derive(Default)]
struct Got {
    requests: AtomicU64,
    /// As they came over the wire, without what surrounds messages.
    bytes: AtomicU64,
    records: AtomicU64,
}

async fn sink(grpc: bool) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let got = Arc::new(Got::default());
    let counted = Arc::clone(&got);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let got = Arc::clone(&counted);
            tokio::spawn(async move {
                let service = service_fn(move |request| take(request, grpc, Arc::clone(&got)));
                let stream = TokioIo::new(stream);
                // A sender that goes away is no failure of the sink.
                if grpc {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    drop(server.serve_connection(stream, service).await);
                } else {
                    let server = hyper::server::conn::http1::Builder::new();
                    drop(server.serve_connection(stream, service).await);
                }
            });
        }
    });
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        drop(std::io::stdin().read_to_end(&mut Vec::new()));
        ended.send(()).unwrap();
    });
    drop(end.await);
    let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
    println!(
        "{}",
        json!({"requests": load(&got.requests), "bytes": load(&got.bytes), "records": load(&got.records)})
    );
}

type Body = http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>;

async fn take(
    request: Request<Incoming>,
    grpc: bool,
    got: Arc<Got>,
) -> Result<Response<Body>, hyper::Error> {
    let encoded = request.headers().contains_key(header::CONTENT_ENCODING);
    let mut body = request.into_body().collect().await?.to_bytes();
    let mut compressed = encoded;
    if grpc {
        // A flag and the length of the message.
        compressed = body[0] == 1;
        body.advance(5);
    }
    got.requests.fetch_add(1, Ordering::Relaxed);
    got.bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
    let plain = if compressed {
        let mut plain = Vec::new();
        GzDecoder::new(&body[..]).read_to_end(&mut plain).unwrap();
        Bytes::from(plain)
    } else {
        body
    };
    got.records.fetch_add(records(&plain), Ordering::Relaxed);
    Ok(if grpc { grpc_answer() } else { answer() })
}

fn answer() -> Response<Body> {
    let mut response = Response::new(Full::default().boxed());
    let protobuf = HeaderValue::from_static("application/x-protobuf");
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, protobuf);
    response
}

/// An empty message, and the status after it.
fn grpc_answer() -> Response<Body> {
    let trailers = HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]);
    let message = Full::new(Bytes::from_static(&[0; 5]));
    let body = message.with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(body.boxed());
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(header::CONTENT_TYPE, grpc);
    response
}

/// Log records of a request: fields 1, 2 and 2 of messages in each other.
fn records(request: &[u8]) -> u64 {
    let resources = fields(request, 1);
    let scopes = resources.flat_map(|resource| fields(resource, 2));
    scopes.map(|scope| fields(scope, 2).count() as u64).sum()
}

/// The messages in this field. Only such fields as a log request has: all of them have a length.
fn fields(message: &[u8], number: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = message;
    std::iter::from_fn(move || {
        while let Some((&tag, after)) = rest.split_first() {
            let (mut len, mut shift, mut at) = (0_usize, 0, 0);
            loop {
                let byte = after[at];
                len |= usize::from(byte & 0x7f) << shift;
                (at, shift) = (at + 1, shift + 7);
                if byte < 0x80 {
                    break;
                }
            }
            let (field, next) = after[at..].split_at(len);
            rest = next;
            if tag == number << 3 | 2 {
                return Some(field);
            }
        }
        None
    })
}

/// A resource as long as a usual one.
struct Usual;

impl Resources for Usual {
    fn generation(&self) -> u64 {
        0
    }

    fn envelope(&self, source: &Source) -> Envelope {
        Envelope::new(&[0; 300], &source.directory(), "1", "")
    }
}

async fn send(directory: &Path, address: &str, protocol: &str, compression: &str) {
    let protocol = if protocol == "grpc" {
        "grpc"
    } else {
        "http/protobuf"
    };
    let endpoint = format!("http://{address}");
    let settings = ExportSettings::from_env(|name| {
        let value = match name {
            "OTEL_EXPORTER_OTLP_ENDPOINT" => endpoint.as_str(),
            "OTEL_EXPORTER_OTLP_PROTOCOL" => protocol,
            "OTEL_EXPORTER_OTLP_COMPRESSION" => compression,
            // A busy machine is slow to answer; what is sent twice would be counted twice.
            "OTEL_EXPORTER_OTLP_TIMEOUT" => "60000",
            _ => return None,
        };
        Some(value.to_owned())
    })
    .unwrap();
    let waker = Waker::new().unwrap();
    let node = NodeIdentity::default();
    let mut exporter = Exporter::start(ExportSettings::off(), node.clone()).unwrap();
    let (sink, lane) = exporter
        .start_records(
            settings.findings.unwrap(),
            &node,
            waker.clone(),
            Pace::default(),
        )
        .unwrap();
    let settings = Settings {
        in_flight_max: IN_FLIGHT_MAX,
        linger: Duration::from_millis(200),
        ..Settings::new(directory.to_owned())
    };
    let reader = spawn(settings, Box::new(sink), Box::new(Usual), waker).unwrap();
    let stats = reader.stats();
    let all = bytes(directory);
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let stats = stats.read();
        let counts = stats.containers.iter().map(|logs| &logs.counts);
        let read: u64 = counts.flat_map(|counts| counts.bytes).sum();
        let lag: u64 = stats.containers.iter().map(|logs| logs.lag).sum();
        if read >= all && lag == 0 {
            break;
        }
    }
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let stats = tokio::task::spawn_blocking(|| reader.join()).await.unwrap();
    drop(lane);
    let counts = stats.containers.iter().map(|logs| &logs.counts);
    let records: u64 = counts.flat_map(|counts| counts.records).sum();
    println!(
        "{}",
        json!({"bytes": all, "records": records, "cpu_ns": cpu.tv_sec * 1_000_000_000 + cpu.tv_nsec, "peak_kib": peak_kib()})
    );
}

fn bytes(directory: &Path) -> u64 {
    let pods = fs::read_dir(directory).unwrap();
    pods.map(|pod| {
        fs::metadata(pod.unwrap().path().join("app/0.log"))
            .unwrap()
            .len()
    })
    .sum()
}

fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}
