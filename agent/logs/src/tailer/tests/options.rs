//! What the operator may ask for: filters, redaction, joined lines, a pod's share.

use std::fs;
use std::path::Path;

use super::{Arrived, Settings, settings, start, until};
use crate::join::Rule;
use crate::redact::Redactor;
use crate::severity::Severity;
use crate::stats::Lost;

fn write(root: &Path, container: &str, contents: &[&str]) {
    let directory = root.join(container);
    fs::create_dir_all(&directory).unwrap();
    let line = |(number, content): (usize, &&str)| {
        format!("2026-11-25T10:00:00.{number:09}Z stdout F {content}\n")
    };
    let text: String = contents.iter().enumerate().map(line).collect();
    fs::write(directory.join("0.log"), text).unwrap();
}

/// Reads what is there; what arrived, sorted, and what was left out.
fn read(
    root: &Path,
    want: usize,
    change: impl FnOnce(&mut Settings),
) -> (Vec<String>, Vec<(&'static str, Lost)>) {
    let arrived = Arrived::default();
    let mut settings = settings(root);
    change(&mut settings);
    let reader = start(settings, &arrived);
    until("the records", || {
        let stats = reader.stats().read();
        arrived.len() >= want && stats.containers.iter().all(|logs| logs.lag == 0)
    });
    let stats = reader.join();
    let lost = stats
        .containers
        .iter()
        .flat_map(|logs| logs.counts.lost.clone());
    let mut bodies = arrived.bodies();
    bodies.sort();
    (bodies, lost.collect())
}

#[test]
fn namespaces_and_containers_are_left_out_unread() {
    let root = tempfile::tempdir().unwrap();
    for container in ["shop_web_u1/app", "shop_web_u1/proxy", "bank_web_u2/app"] {
        write(root.path(), container, &[container]);
    }
    let (bodies, lost) = read(root.path(), 1, |settings| {
        settings.select.exclude_namespaces = vec!["bank".into()];
        settings.select.exclude_containers = vec!["proxy".into()];
    });
    assert_eq!((bodies, lost), (vec!["shop_web_u1/app".to_owned()], vec![]));
}

#[test]
fn less_severe_records_are_left_out_and_counted() {
    let root = tempfile::tempdir().unwrap();
    write(
        root.path(),
        "shop_web_u/app",
        &["DEBUG a", "ERROR b", "c", "level=info d"],
    );
    let (bodies, lost) = read(root.path(), 2, |settings| {
        settings.process.severity_min = Some(Severity::Warn);
    });
    assert_eq!(bodies, ["ERROR b", "c"]);
    let (records, bytes) = (2, 7 + 12);
    assert_eq!(lost, [("severity", Lost { records, bytes })]);
}

/// T15: a secret is hidden also where the runtime cut its line into parts.
#[test]
fn secrets_are_hidden_over_the_parts_of_a_line() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("shop_web_u/app");
    fs::create_dir_all(&directory).unwrap();
    let text = "2026-11-25T10:00:00Z stdout P user=x pass\n2026-11-25T10:00:01Z stdout F word=hunter2 ok\n";
    fs::write(directory.join("0.log"), text).unwrap();
    let (bodies, _) = read(root.path(), 1, |settings| {
        settings.process.redact = Some(Redactor::new(&["@password".into()]).unwrap());
    });
    assert_eq!(bodies, ["user=x *** ok"]);
}

#[test]
fn a_stack_trace_is_one_record_and_survives_restarts() {
    let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(
        root.path(),
        "shop_web_u/app",
        &["boom", "\tat a", "\tat b", "next", "\tat c"],
    );
    let mut settings = settings(root.path());
    settings.state = Some(state.path().to_owned());
    settings.join = Some(Rule::Indented);
    let arrived = Arrived::default();
    let reader = start(settings.clone(), &arrived);
    until("the first message", || arrived.len() == 1);
    // The second may still go on: it is in no batch and in no checkpoint.
    reader.join();
    let reader = start(settings, &arrived);
    until("the second", || {
        arrived.bodies().iter().any(|body| body.starts_with("next"))
    });
    until("all to be committed", || {
        reader
            .stats()
            .read()
            .containers
            .iter()
            .all(|logs| logs.lag == 0)
    });
    reader.join();
    assert_eq!(arrived.bodies(), ["boom\n\tat a\n\tat b", "next\n\tat c"]);
}

#[test]
fn beyond_a_pods_share_records_are_dropped_and_counted() {
    let root = tempfile::tempdir().unwrap();
    let line = "x".repeat(1_000);
    let lines = vec![line.as_str(); 100];
    write(root.path(), "shop_loud_u1/app", &lines);
    write(root.path(), "shop_quiet_u2/app", &["quiet"]);
    let (bodies, lost) = read(root.path(), 11, |settings| {
        settings.pod_bytes_per_second = Some(1_000);
    });
    assert!(bodies.contains(&"quiet".to_owned()));
    let [(reason, lost)] = lost[..] else {
        panic!("{lost:?}")
    };
    // Ten seconds' worth at once, and what the reading took.
    let passed = bodies.len() - 1;
    assert!((10..100).contains(&passed), "{passed}");
    assert_eq!((reason, lost.records + passed as u64), ("rate_limit", 100));
    assert_eq!(lost.bytes, lost.records * 1_000);
}
