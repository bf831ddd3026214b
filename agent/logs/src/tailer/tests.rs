//! The reader against a double of the kubelet, with an oracle that numbers every record.

mod endless;
mod faults;
mod hostile;
mod identity;
mod kill;
mod kubelet;
mod late;
mod lines;
mod load;
mod options;
mod oracle;
mod rotation;
mod tricks;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use prost::Message as _;

use super::{Handle, Resources, Settings, spawn};
use crate::batch::Batch;
use crate::clock;
use crate::otlp::Envelope;
use crate::sink::{Answer, Sink};
use crate::source::Source;
use crate::watch::Waker;

/// The resource is the container's directory, so that tests see whose a record is.
pub(super) struct Paths;

impl Resources for Paths {
    fn generation(&self) -> u64 {
        0
    }

    fn envelope(&self, source: &Source) -> Envelope {
        Envelope::new(b"", &source.directory(), "", "")
    }
}

/// Quick, for tests.
pub(super) fn settings(root: &std::path::Path) -> Settings {
    Settings {
        linger: Duration::from_millis(10),
        scan_interval: Duration::from_millis(50),
        checkpoint_interval: Duration::from_millis(20),
        drain: Duration::from_secs(20),
        ..Settings::new(root.to_owned())
    }
}

/// What arrived, in the order of arrival: container and record.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrived(Arc<Mutex<Vec<(String, LogRecord)>>>);

impl Arrived {
    pub(super) fn take(&self, request: &[u8]) {
        let request = ExportLogsServiceRequest::decode(request).unwrap();
        let mut arrived = self.0.lock().unwrap();
        for scope in request
            .resource_logs
            .into_iter()
            .flat_map(|resource| resource.scope_logs)
        {
            let name = scope.scope.unwrap().name;
            arrived.extend(
                scope
                    .log_records
                    .into_iter()
                    .map(|record| (name.clone(), record)),
            );
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub(super) fn all(&self) -> Vec<(String, LogRecord)> {
        self.0.lock().unwrap().clone()
    }

    /// The bodies as text, with marks for what is cut or in no known format.
    pub(super) fn bodies(&self) -> Vec<String> {
        use opentelemetry_proto::tonic::common::v1::any_value::Value;
        let body = |(_, record): &(String, LogRecord)| {
            let value = record.body.as_ref().and_then(|body| body.value.as_ref());
            let mut text = if let Some(Value::StringValue(text)) = value {
                text.clone()
            } else if let Some(Value::BytesValue(bytes)) = value {
                bytes.escape_ascii().to_string()
            } else {
                panic!("{value:?}");
            };
            for (key, mark) in [
                (crate::otlp::TRUNCATED, " (cut)"),
                (crate::otlp::UNPARSED, " (raw)"),
            ] {
                if record.attributes.iter().any(|pair| pair.key == key) {
                    text += mark;
                }
            }
            text
        };
        self.all().iter().map(body).collect()
    }
}

struct Collect {
    arrived: Arrived,
    answers: Vec<Answer>,
}

impl Sink for Collect {
    fn send(&mut self, batch: Batch) {
        self.arrived.take(&batch.request());
        self.answers.push(Answer::arrived(batch.id));
    }

    fn answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }
}

/// Starts a reader whose records go to `arrived`.
pub(super) fn start(settings: Settings, arrived: &Arrived) -> Handle {
    let sink = Collect {
        arrived: arrived.clone(),
        answers: Vec::new(),
    };
    spawn(
        settings,
        Box::new(sink),
        Box::new(Paths),
        Waker::new().unwrap(),
    )
    .unwrap()
}

/// Waits until `done`, at most a minute.
pub(super) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = clock::monotonic() + Duration::from_mins(1);
    while !done() {
        assert!(clock::monotonic() < end, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The thorough tier; else the one for every change.
pub(crate) fn full() -> bool {
    std::env::var("PLUMBLINE_TEST_TIER").is_ok_and(|tier| tier == "full")
}

/// A seed, told so that a failure can be repeated with `PLUMBLINE_TEST_SEED`.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("PLUMBLINE_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(clock::unix_ns);
    eprintln!("PLUMBLINE_TEST_SEED={seed}");
    seed
}

/// xorshift64*: enough to choose moments and sizes.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % bound
    }
}
