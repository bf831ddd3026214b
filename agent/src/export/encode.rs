//! Core types to OTLP messages. Pure: equal input gives equal bytes.
//!
//! One OTLP resource per subject, so that a pod's attributes travel once however many points it has.

#[cfg(test)]
mod catalogue;
mod findings;
mod image;
mod metrics;
mod resource;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, any_value,
};
use prost::Message as _;

pub use findings::{FindingOptions, encode_findings};
pub use metrics::{encode_metrics, ended_series};
pub(crate) use resource::resource;

/// Bytes of one request before compression. The OpenTelemetry Collector refuses gRPC messages over 4 MiB by default.
pub const REQUEST_BYTES_MAX: usize = 3 << 20;
/// Bytes of one text value; longer ones are cut. Longest in practice: a path (4,096).
pub const TEXT_BYTES_MAX: usize = 4 << 10;

/// A request, and how many items it carries.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// What is sent.
    pub payload: Payload,
    /// Data points or log records in it.
    pub items: u64,
}

/// A request of either signal.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    /// Points.
    Metrics(ExportMetricsServiceRequest),
    /// Findings.
    Logs(ExportLogsServiceRequest),
}

impl Payload {
    /// The message in protobuf.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Metrics(request) => request.encode_to_vec(),
            Self::Logs(request) => request.encode_to_vec(),
        }
    }

    fn encoded_len(&self) -> usize {
        match self {
            Self::Metrics(request) => request.encoded_len(),
            Self::Logs(request) => request.encoded_len(),
        }
    }
}

impl Batch {
    fn new(payload: Payload) -> Self {
        let items = match &payload {
            Payload::Metrics(request) => metrics::count_points(request),
            Payload::Logs(request) => findings::count_records(request),
        };
        Self { payload, items }
    }

    /// Two halves: by resource if there are several, else by metric, else by point or record. `Err` gives back one that
    /// cannot be halved.
    ///
    /// # Errors
    ///
    /// It holds one item.
    pub fn split(self) -> Result<(Self, Self), Self> {
        let halves = match self.payload {
            Payload::Metrics(request) => {
                metrics::halve(request).map(|(a, b)| (Payload::Metrics(a), Payload::Metrics(b)))
            }
            Payload::Logs(request) => {
                findings::halve(request).map(|(a, b)| (Payload::Logs(a), Payload::Logs(b)))
            }
        };
        match halves {
            Ok((first, second)) => Ok((Self::new(first), Self::new(second))),
            Err(Halved::Metrics(request)) => Err(Self::new(Payload::Metrics(request))),
            Err(Halved::Logs(request)) => Err(Self::new(Payload::Logs(request))),
        }
    }

    /// Pieces of at most `bytes_max` each, in order. One item over that stays as it is: the collector decides.
    fn within(self, bytes_max: usize) -> Vec<Self> {
        let mut done = Vec::new();
        let mut stack = vec![self];
        while let Some(batch) = stack.pop() {
            if batch.items == 0 {
                continue;
            }
            if batch.payload.encoded_len() <= bytes_max {
                done.push(batch);
                continue;
            }
            match batch.split() {
                Ok((first, second)) => stack.extend([second, first]),
                Err(whole) => done.push(whole),
            }
        }
        done
    }
}

/// A request that could not be halved, given back.
enum Halved {
    Metrics(ExportMetricsServiceRequest),
    Logs(ExportLogsServiceRequest),
}

/// Splits off the second half of a list of at least two.
fn halve_list<T>(list: &mut Vec<T>) -> Vec<T> {
    list.split_off(list.len() / 2)
}

fn scope(version: &str) -> InstrumentationScope {
    InstrumentationScope {
        name: "plumbline".to_owned(),
        version: version.to_owned(),
        ..InstrumentationScope::default()
    }
}

fn text(value: &str) -> any_value::Value {
    any_value::Value::StringValue(cut(value).to_owned())
}

fn list<'a>(values: impl IntoIterator<Item = &'a str>) -> any_value::Value {
    let values = values
        .into_iter()
        .map(|value| AnyValue {
            value: Some(text(value)),
        })
        .collect();
    any_value::Value::ArrayValue(ArrayValue { values })
}

fn pair(key: impl Into<String>, value: any_value::Value) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

/// At most [`TEXT_BYTES_MAX`] bytes, cut between characters.
fn cut(value: &str) -> &str {
    &value[..value.floor_char_boundary(TEXT_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_cut_between_characters() {
        let long = "é".repeat(TEXT_BYTES_MAX);
        assert_eq!(cut(&long).len(), TEXT_BYTES_MAX);
        let odd = format!("x{long}");
        assert_eq!(cut(&odd).len(), TEXT_BYTES_MAX - 1);
        assert_eq!(cut("short"), "short");
    }
}
