//! T1: what containers write stays what it is: a body, whatever it looks like.

use std::collections::BTreeSet;
use std::fs;

use opentelemetry_proto::tonic::common::v1::any_value::Value;

use super::{Arrived, Random, seed, settings, start, until};
use crate::otlp::{IOSTREAM, TRUNCATED, UNPARSED};

const WORDS: [&[u8]; 16] = [
    b"\x1b[31mred\x1b[0m",
    b"\x1b]0;title\x07",
    b"\0",
    b"\r",
    b"\x7f\x08\x0b",
    b"2026-11-25T10:00:00Z stderr F fake",
    b"{\"k8s.pod.name\":\"other\",\"level\":\"error\"}",
    b"{\"log\":\"x\\n\",\"stream\":\"stderr\",\"time\":\"2026-11-25T10:00:00Z\"}",
    b"\xff\xfe",
    b"\xc3",
    b"\xf0\x9f\x92",
    b"k8s.namespace.name=kube-system",
    b"service.name",
    b"../../etc/shadow",
    b" ",
    b"plain",
];

#[test]
fn ten_thousand_hostile_lines_are_bodies_and_nothing_else() {
    let mut random = Random::new(seed());
    let (root, arrived) = (tempfile::tempdir().unwrap(), Arrived::default());
    let directory = root.path().join("shop_web_uid/app");
    fs::create_dir_all(&directory).unwrap();
    let (mut file, mut contents) = (Vec::new(), Vec::new());
    for number in 0..10_000_u32 {
        let mut content = format!("{number} ").into_bytes();
        for _ in 0..=random.below(6) {
            let word = usize::try_from(random.below(WORDS.len() as u64)).unwrap();
            content.extend_from_slice(WORDS[word]);
        }
        file.extend_from_slice(format!("2026-11-25T10:00:00.{number:09}Z stdout F ").as_bytes());
        file.extend_from_slice(&content);
        file.push(b'\n');
        contents.push(content);
    }
    fs::write(directory.join("0.log"), &file).unwrap();
    let reader = start(settings(root.path()), &arrived);
    until("all", || arrived.len() >= contents.len());
    reader.join();
    let (mut keys, mut names) = (BTreeSet::new(), BTreeSet::new());
    for ((name, record), content) in arrived.all().into_iter().zip(&contents) {
        let value = record.body.unwrap().value.unwrap();
        let body = if let Value::StringValue(text) = value {
            text.into_bytes()
        } else if let Value::BytesValue(bytes) = value {
            bytes
        } else {
            panic!("{value:?}");
        };
        assert!(body == *content, "{}", content.escape_ascii());
        assert_eq!(
            (record.severity_number, record.severity_text.as_str()),
            (0, "")
        );
        keys.extend(record.attributes.into_iter().map(|pair| pair.key));
        names.insert(name);
    }
    assert_eq!(arrived.len(), contents.len());
    assert!(
        keys.iter()
            .all(|key| [IOSTREAM, TRUNCATED, UNPARSED].contains(&key.as_str())),
        "{keys:?}"
    );
    assert_eq!(names, BTreeSet::from(["shop_web_uid/app".to_owned()]));
}
