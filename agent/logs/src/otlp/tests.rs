use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::severity::Severity;

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn resource() -> Resource {
    Resource {
        attributes: vec![pair("k8s.pod.name", Value::StringValue("web".into()))],
        ..Resource::default()
    }
}

/// The same by the generated types.
fn official(record: &Record<'_>, observed: u64) -> LogRecord {
    let content = record.content.to_vec();
    let body = match String::from_utf8(content) {
        Ok(text) => Value::StringValue(text),
        Err(error) => Value::BytesValue(error.into_bytes()),
    };
    let flags = [(record.truncated, TRUNCATED), (record.unparsed, UNPARSED)];
    let mut attributes: Vec<KeyValue> = flags
        .iter()
        .filter(|(set, _)| *set)
        .map(|(_, key)| pair(key, Value::BoolValue(true)))
        .collect();
    if let Some(stream) = record.stream {
        attributes.push(pair(IOSTREAM, Value::StringValue(stream.as_str().into())));
    }
    LogRecord {
        severity_number: record
            .severity
            .map_or(0, |severity| severity.number().into()),
        severity_text: record.severity.map_or("", Severity::as_str).into(),
        time_unix_nano: record.time,
        observed_time_unix_nano: observed,
        body: Some(AnyValue { value: Some(body) }),
        attributes,
        ..LogRecord::default()
    }
}

fn encoded(records: &[Record<'_>], observed: u64) -> Vec<u8> {
    let encoder = Encoder::new(observed);
    let mut out = Vec::new();
    for record in records {
        encoder.put(&mut out, record, false);
    }
    out
}

fn request(records: &[Record<'_>], observed: u64) -> ExportLogsServiceRequest {
    let envelope = Envelope::new(
        &resource().encode_to_vec(),
        "plumbline",
        "1.0",
        "https://s/1",
    );
    let mut bytes = Vec::new();
    let encoded = encoded(records, observed);
    envelope.put(&mut bytes, &encoded);
    assert!(bytes.len() <= envelope.len() + encoded.len());
    ExportLogsServiceRequest::decode(&bytes[..]).unwrap()
}

fn official_request(records: &[Record<'_>], observed: u64) -> ExportLogsServiceRequest {
    let scope = InstrumentationScope {
        name: "plumbline".into(),
        version: "1.0".into(),
        ..InstrumentationScope::default()
    };
    let scope_logs = ScopeLogs {
        scope: Some(scope),
        log_records: records
            .iter()
            .map(|record| official(record, observed))
            .collect(),
        schema_url: "https://s/1".into(),
    };
    let resource_logs = ResourceLogs {
        resource: Some(resource()),
        scope_logs: vec![scope_logs],
        schema_url: "https://s/1".into(),
    };
    ExportLogsServiceRequest {
        resource_logs: vec![resource_logs],
    }
}

fn records() -> impl Strategy<Value = Vec<Record<'static>>> {
    let content = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..300),
        ".{0,200}".prop_map(String::into_bytes),
        Just(vec![b'x'; 20_000]),
    ];
    let stream = prop_oneof![
        Just(None),
        Just(Some(Stream::Stdout)),
        Just(Some(Stream::Stderr))
    ];
    let severity = prop_oneof![
        Just(None),
        Just(Some(Severity::Warn)),
        Just(Some(Severity::Fatal))
    ];
    let flags = (any::<bool>(), any::<bool>());
    let record = (any::<u64>(), stream, content, flags, severity).prop_map(
        |(time, stream, content, (truncated, unparsed), severity)| Record {
            time,
            stream,
            content: content.into(),
            truncated,
            unparsed,
            severity,
        },
    );
    proptest::collection::vec(record, 0..8)
}

proptest! {
    #[test]
    fn it_is_what_the_generated_types_say(records in records(), observed: u64) {
        prop_assert_eq!(request(&records, observed), official_request(&records, observed));
    }

    #[test]
    fn encoded_records_can_be_counted_and_cut(records in records()) {
        let bytes = encoded(&records, 1);
        prop_assert_eq!(count(&bytes), Some(records.len() as u64));
        let half = records.len() / 2;
        let at = after(&bytes, half as u64).unwrap();
        prop_assert_eq!(&bytes[..at], &encoded(&records[..half], 1)[..]);
        prop_assert_eq!(&bytes[at..], &encoded(&records[half..], 1)[..]);
    }

    #[test]
    fn garbage_is_no_record(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        let _count = count(&bytes);
        let _after = after(&bytes, 3);
    }
}

#[test]
fn golden() {
    let record = Record {
        time: 1,
        stream: Some(Stream::Stderr),
        content: b"hi".as_slice().into(),
        truncated: false,
        unparsed: false,
        severity: None,
    };
    let want = "\\x122\\t\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00*\\x04\\n\\x02hi\
                2\\x18\\n\\x0clog.iostream\\x12\\x08\\n\\x06stderrY\\x02\\x00\\x00\\x00\\x00\\x00\\x00\\x00";
    assert_eq!(encoded(&[record], 2).escape_ascii().to_string(), want);
}
