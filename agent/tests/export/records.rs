//! Container logs from file to collector, under each fault: nothing is lost that is not counted, and the checkpoint follows
//! the collector's answers.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use plumbline::export::Exporter;
use plumbline::export::records::{Hold, Pace};
use plumbline::export::settings::Protocol;
use plumbline_logs::otlp::Envelope;
use plumbline_logs::source::Source;
use plumbline_logs::stats::{ContainerStats, Counts, Stats};
use plumbline_logs::tailer::{self, Handle, Resources, Settings};
use plumbline_logs::watch::Waker;
use tonic::{Code, Status};

use crate::common::collector::{Answer, Collector, Options, until};
use crate::common::data::node;
use crate::common::pki::Authority;
use crate::{settings, start};

pub(super) const BOTH: [Protocol; 2] = [Protocol::Grpc, Protocol::HttpProtobuf];

/// Anyone is the same one.
struct Nobody(Arc<OnceLock<PathBuf>>);

impl Resources for Nobody {
    fn generation(&self) -> u64 {
        0
    }

    fn envelope(&self, _source: &Source) -> Envelope {
        self.0
            .get_or_init(|| fs::read_link("/proc/thread-self").unwrap());
        Envelope::new(b"", "test", "1", "")
    }
}

/// A log directory with one container, and its reader.
pub(super) struct Node {
    pods: tempfile::TempDir,
    state: tempfile::TempDir,
    written: u32,
    pub(super) digits: usize,
    pub(super) compression: &'static str,
    /// A busy machine answers late, and an answer that is too late is a duplicate: only who stalls needs it short.
    pub(super) timeout_ms: &'static str,
    linger: Duration,
    pub(super) drain: Duration,
    pub(super) before_attempt: Option<fn()>,
    certificate: Option<String>,
    /// Instead of the collector's own.
    pub(super) endpoint: Option<&'static str>,
    /// The reader's thread, below `/proc`.
    pub(super) thread: Arc<OnceLock<PathBuf>>,
    pub(super) scan_interval: Duration,
    lane: Option<Hold>,
    pub(super) exporter: Option<Exporter>,
    pub(super) reader: Option<Handle>,
}

impl Node {
    pub(super) fn new() -> Self {
        let pods = tempfile::tempdir().unwrap();
        fs::create_dir_all(pods.path().join("shop_web_uid/app")).unwrap();
        Self {
            pods,
            state: tempfile::tempdir().unwrap(),
            written: 0,
            digits: 0,
            compression: "gzip",
            timeout_ms: "20000",
            linger: Duration::from_millis(20),
            drain: Duration::from_secs(20),
            before_attempt: None,
            certificate: None,
            endpoint: None,
            thread: Arc::default(),
            scan_interval: Duration::from_millis(50),
            lane: None,
            exporter: None,
            reader: None,
        }
    }

    pub(super) fn write(&mut self, records: u32) {
        let path = self.pods.path().join("shop_web_uid/app/0.log");
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .unwrap();
        let digits = self.digits;
        for number in self.written..self.written + records {
            writeln!(
                file,
                "2026-11-25T10:00:00.{number:09}Z stdout F {number:0>digits$}"
            )
            .unwrap();
        }
        self.written += records;
    }

    pub(super) fn start(&mut self, collector: &Collector, batch_bytes: usize) {
        let mut more = vec![
            ("OTEL_EXPORTER_OTLP_TIMEOUT", self.timeout_ms),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", self.compression),
        ];
        let certificate = self.certificate.as_deref();
        more.extend(
            self.endpoint
                .map(|url| ("OTEL_EXPORTER_OTLP_ENDPOINT", url)),
        );
        more.extend(certificate.map(|path| ("OTEL_EXPORTER_OTLP_CERTIFICATE", path)));
        let endpoint = settings(collector, &more).findings.unwrap();
        let mut exporter = start(collector, &more[2..]);
        let waker = Waker::new().unwrap();
        let pace = Pace {
            refused: Duration::from_millis(50),
            before_attempt: self.before_attempt,
        };
        let (sink, lane) = exporter
            .start_records(endpoint, &node(), waker.clone(), pace)
            .unwrap();
        let settings = Settings {
            state: Some(self.state.path().to_owned()),
            // The margin below which a batch counts as full is 32 KiB.
            batch_bytes: (32 << 10) + batch_bytes,
            linger: self.linger,
            scan_interval: self.scan_interval,
            checkpoint_interval: Duration::from_millis(20),
            drain: self.drain,
            ..Settings::new(self.pods.path().to_owned())
        };
        let reader = tailer::spawn(
            settings,
            Box::new(sink),
            Box::new(Nobody(Arc::clone(&self.thread))),
            waker,
        )
        .unwrap();
        (self.exporter, self.lane, self.reader) = (Some(exporter), Some(lane), Some(reader));
    }

    pub(super) async fn end(&mut self) -> Counts {
        let counts = self.join().await;
        self.shutdown().await;
        counts
    }

    /// Ends the reader, and then the lane.
    async fn join(&mut self) -> Counts {
        let reader = self.reader.take().unwrap();
        self.lane.iter().for_each(Hold::hasten);
        let stats: Stats = tokio::task::spawn_blocking(|| reader.join()).await.unwrap();
        self.lane = None;
        stats.containers[0].counts.clone()
    }

    async fn shutdown(&mut self) {
        let exporter = self.exporter.take().unwrap();
        exporter.shutdown(Duration::from_secs(20)).await;
    }

    /// Records that the lane gave up.
    fn given_up(&self) -> u64 {
        let stats = self.exporter.as_ref().unwrap().stats();
        let lane = stats.iter().find(|stats| stats.lane == "logs").unwrap();
        lane.dropped.values().sum()
    }

    /// How often each record arrived.
    pub(super) fn arrived(&self, collectors: &[&Collector]) -> BTreeMap<u32, u32> {
        let mut arrived = BTreeMap::new();
        let requests = collectors.iter().flat_map(|collector| collector.logs());
        let scopes = requests
            .flat_map(|request| request.resource_logs)
            .flat_map(|resource| resource.scope_logs);
        for record in scopes.flat_map(|scope| scope.log_records) {
            let Some(Value::StringValue(body)) = record.body.unwrap().value else {
                panic!("a body that is no text");
            };
            *arrived.entry(body.parse().unwrap()).or_default() += 1;
        }
        arrived
    }

    pub(super) fn missing(&self, collectors: &[&Collector]) -> u32 {
        self.written - u32::try_from(self.arrived(collectors).len()).unwrap()
    }

    /// Whether all that was read is settled.
    pub(super) fn is_settled(&self) -> bool {
        let stats = self.reader.as_ref().unwrap().stats().read();
        let records: u64 = stats
            .containers
            .iter()
            .flat_map(|container| container.counts.records)
            .sum();
        let lag: u64 = stats.containers.iter().map(|container| container.lag).sum();
        records >= u64::from(self.written) && lag == 0
    }
}

fn http(status: u16) -> Answer {
    Answer::Http(status, Vec::new(), "said by the collector")
}

fn grpc(code: Code) -> Answer {
    Answer::Status(Status::new(code, "said by the collector"))
}

/// Reads 3,000 records to a collector that first gives `answers`. What was lost, and how many did not arrive.
async fn through(protocol: Protocol, answers: Vec<Answer>) -> (Counts, u32, BTreeMap<u32, u32>) {
    of(Node::new(), protocol, answers).await
}

async fn of(
    mut node: Node,
    protocol: Protocol,
    answers: Vec<Answer>,
) -> (Counts, u32, BTreeMap<u32, u32>) {
    let collector = Collector::start(protocol).await;
    collector.script(answers);
    node.write(3_000);
    node.start(&collector, 20_000);
    until("all to be settled", || node.is_settled()).await;
    let counts = node.end().await;
    let missing = node.missing(&[&collector]);
    (counts, missing, node.arrived(&[&collector]))
}

#[tokio::test]
async fn what_may_pass_costs_nothing() {
    for protocol in BOTH {
        let mut answers = vec![Answer::Reset, http(503), Answer::Stall, Answer::Reset];
        if protocol == Protocol::HttpProtobuf {
            answers.push(Answer::Http(429, vec![("retry-after", "0".into())], ""));
        } else {
            answers.push(grpc(Code::Unavailable));
        }
        let node = Node {
            timeout_ms: "3000",
            ..Node::new()
        };
        let (counts, missing, arrived) = of(node, protocol, answers).await;
        assert_eq!((missing, counts.lost.len()), (0, 0), "{counts:?}");
        // None of these answers came after the records were taken.
        assert!(arrived.values().all(|times| *times == 1));
    }
}

#[tokio::test]
async fn too_large_is_halved_until_it_fits() {
    for (protocol, answer) in [
        (Protocol::HttpProtobuf, http(413)),
        (Protocol::Grpc, grpc(Code::ResourceExhausted)),
    ] {
        let (counts, missing, _) = through(protocol, vec![answer; 9]).await;
        assert_eq!((missing, counts.lost.len()), (0, 0), "{counts:?}");
    }
}

#[tokio::test]
async fn what_is_refused_for_good_is_counted_and_not_sent_again() {
    for (protocol, answer, reason) in [
        (Protocol::HttpProtobuf, http(400), "bad_request"),
        (Protocol::HttpProtobuf, http(500), "server_error"),
        (Protocol::Grpc, grpc(Code::InvalidArgument), "bad_request"),
    ] {
        let mut node = Node::new();
        // To a compressed request such an answer may only mean that the collector does not take gzip.
        node.compression = "none";
        let (counts, missing, _) = of(node, protocol, vec![answer]).await;
        assert!(missing > 0, "{counts:?}");
        assert_eq!(
            counts.lost[reason].records,
            u64::from(missing),
            "{counts:?}"
        );
        assert_eq!(counts.lost.len(), 1);
    }
}

#[tokio::test]
async fn a_collector_that_refuses_us_gets_one_record_at_a_time() {
    for (protocol, answer) in [
        (Protocol::HttpProtobuf, http(401)),
        (Protocol::HttpProtobuf, http(404)),
        (Protocol::Grpc, grpc(Code::Unauthenticated)),
    ] {
        // Up to four requests are under way when the first is refused; then tries of one record, each with a request
        // without any.
        let (counts, missing, arrived) = through(protocol, vec![answer; 13]).await;
        assert_eq!((missing, counts.lost.len()), (0, 0), "{counts:?}");
        assert!(arrived.values().all(|times| *times == 1));
    }
}

/// F4: what a collector (or a filter before it) refuses for its content is found, counted, and does not stop the rest.
#[tokio::test]
async fn a_record_that_is_not_wanted_is_given_up_alone() {
    let (mut node, collector) = (Node::new(), Collector::start(Protocol::HttpProtobuf).await);
    collector.refuse_what_contains(b"1234");
    node.compression = "none";
    node.write(3_000);
    node.start(&collector, 20_000);
    until("all to be settled", || node.is_settled()).await;
    let counts = node.end().await;
    let arrived = node.arrived(&[&collector]);
    assert_eq!(node.missing(&[&collector]), 1);
    assert!(!arrived.contains_key(&1_234));
    assert_eq!(counts.lost["unauthorized"].records, 1, "{counts:?}");
}

/// F8: a panic while sending costs an attempt.
#[tokio::test]
async fn a_panic_in_the_lane_loses_nothing() {
    static ATTEMPTS: AtomicU32 = AtomicU32::new(0);
    let mut node = Node {
        before_attempt: Some(|| {
            let attempt = ATTEMPTS.fetch_add(1, Ordering::Relaxed);
            assert!(attempt % 3 != 1, "a panic that the test asks for");
        }),
        ..Node::new()
    };
    let collector = Collector::start(Protocol::HttpProtobuf).await;
    node.write(3_000);
    node.start(&collector, 20_000);
    until("all to be settled", || node.is_settled()).await;
    assert!(node.lane.as_ref().unwrap().is_alive());
    let counts = node.end().await;
    assert_eq!((node.missing(&[&collector]), counts.lost.len()), (0, 0));
    assert!(ATTEMPTS.load(Ordering::Relaxed) > 3);
}

/// F7: the collector's certificate and the authority behind it change while the agent runs; it goes on without a restart as
/// soon as its own file has the new authority, and nothing was lost meanwhile.
#[tokio::test]
async fn a_changed_certificate_loses_nothing() {
    for protocol in BOTH {
        let directory = tempfile::tempdir().unwrap();
        let (old, new) = (Authority::new(), Authority::new());
        let options = |authority: &Authority| Options {
            protocol,
            tls: Some(authority.server("localhost").acceptor(protocol, None)),
            takes_gzip: true,
        };
        let ca = old.write(directory.path(), "ca.pem");
        let mut node = Node {
            certificate: Some(ca.to_str().unwrap().to_owned()),
            ..Node::new()
        };
        let first = Collector::with(options(&old)).await;
        node.write(500);
        node.start(&first, 20_000);
        until("the first", || node.missing(&[&first]) == 0).await;
        let (address, before) = (first.address, first.logs());
        drop(first);
        let second = Collector::again_with(address, options(&new)).await;
        node.write(500);
        until("it to be refused", || second.connections() > 1).await;
        assert_eq!(
            second.logs().len(),
            0,
            "{protocol:?}: nothing to whom is not trusted"
        );
        new.write(directory.path(), "ca.pem");
        let got = || node.arrived(&[&second]).len() + 500 >= 1_000;
        until("the rest", got).await;
        let counts = node.end().await;
        assert!(counts.lost.is_empty() && !before.is_empty(), "{counts:?}");
    }
}

/// F2: a collector that is slow to answer gets four requests at once and no more, and everything in the end.
#[tokio::test]
async fn partial_success_is_counted_and_never_sent_again() {
    for protocol in BOTH {
        let answers = vec![
            Answer::Partial(3, "no"),
            Answer::Partial(0, "hm"),
            Answer::Partial(1 << 40, "all"),
        ];
        let (_, missing, arrived) = through(protocol, answers).await;
        assert_eq!(missing, 0);
        assert!(arrived.values().all(|times| *times == 1));
    }
}

/// The agent ends both at once: the lane must outlast the reader.
#[tokio::test]
async fn the_last_batch_arrives_though_the_exporter_ended_first() {
    let (mut node, collector) = (Node::new(), Collector::start(Protocol::HttpProtobuf).await);
    // Only the end sends it.
    node.linger = Duration::from_hours(1);
    node.write(10);
    node.start(&collector, 20_000);
    until("all to be read", || {
        let stats = node.reader.as_ref().unwrap().stats().read();
        let records = |container: &ContainerStats| container.counts.records[0];
        stats.containers.iter().map(records).sum::<u64>() == 10
    })
    .await;
    node.shutdown().await;
    node.join().await;
    assert_eq!(node.missing(&[&collector]), 0);
}

/// Records are tried one at a time while a collector refuses us; at the end none of the rest may be thrown after them.
#[tokio::test]
async fn at_the_end_what_is_refused_stays_in_its_file() {
    let (mut node, refusing) = (Node::new(), Collector::start(Protocol::HttpProtobuf).await);
    refusing.script(vec![http(401); 5_000]);
    node.drain = Duration::from_secs(1);
    node.write(3_000);
    node.start(&refusing, 20_000);
    // Some tries of one record.
    until("it to be refused", || refusing.seen().len() > 10).await;
    node.lane = None;
    let counts = node.join().await;
    assert_eq!(node.given_up(), 0, "{counts:?}");
    node.shutdown().await;
    assert!(counts.lost.is_empty(), "{counts:?}");
    let taking = Collector::start(Protocol::HttpProtobuf).await;
    node.start(&taking, 20_000);
    until("all to arrive", || node.missing(&[&taking]) == 0).await;
    node.end().await;
}

/// The thorough tier; else the one for every change.
pub(super) fn full() -> bool {
    std::env::var("PLUMBLINE_TEST_TIER").is_ok_and(|tier| tier == "full")
}

/// F1, F9: the collector goes away and comes back, and the agent is restarted meanwhile.
#[tokio::test]
async fn outages_and_restarts_lose_nothing() {
    for protocol in BOTH {
        let mut node = Node::new();
        let first = Collector::start(protocol).await;
        let address = first.address;
        let mut collectors = vec![first];
        for round in 0..if full() { 50 } else { 3 } {
            node.write(500);
            node.start(collectors.last().unwrap(), 5_000);
            until("all to arrive", || {
                node.missing(&collectors.iter().collect::<Vec<_>>()) == 0
            })
            .await;
            // From now on its address answers nobody.
            let gone = collectors.last().unwrap();
            gone.script(vec![Answer::Reset; 2]);
            node.write(500);
            if round % 2 == 0 {
                let counts = node.end().await;
                assert!(counts.lost.is_empty(), "{counts:?}");
                node.start(collectors.last().unwrap(), 5_000);
            }
            until("all to arrive", || {
                node.missing(&collectors.iter().collect::<Vec<_>>()) == 0
            })
            .await;
            let counts = node.end().await;
            assert!(counts.lost.is_empty(), "{counts:?}");
        }
        let arrived = node.arrived(&collectors.iter().collect::<Vec<_>>());
        let again: Vec<_> = arrived.iter().filter(|(_, times)| **times > 1).collect();
        assert!(
            again.is_empty(),
            "{protocol:?}: after clean ends there are no duplicates: {again:?}"
        );
        // Gone when the agent starts, and back later at the same address.
        let gone = collectors.pop().unwrap();
        node.write(500);
        node.start(&gone, 5_000);
        drop(gone);
        tokio::time::sleep(Duration::from_millis(300)).await;
        let back = Collector::again(address, protocol).await;
        until("the last to arrive", || node.arrived(&[&back]).len() >= 500).await;
        node.end().await;
    }
}
