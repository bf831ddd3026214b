//! Which file is which.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::{Arrived, Settings, settings, start, until};

struct Pod {
    root: tempfile::TempDir,
    state: tempfile::TempDir,
    arrived: Arrived,
}

impl Pod {
    fn new() -> Self {
        let pod = Self {
            root: tempfile::tempdir().unwrap(),
            state: tempfile::tempdir().unwrap(),
            arrived: Arrived::default(),
        };
        fs::create_dir_all(pod.path("")).unwrap();
        pod
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("shop_web_uid/app").join(name)
    }

    fn settings(&self) -> Settings {
        let mut settings = settings(self.root.path());
        settings.state = Some(self.state.path().to_owned());
        settings
    }

    fn arrives(&self, records: usize) {
        until("the records", || self.arrived.len() >= records);
    }
}

/// A line; the number makes the first lines of files differ, as a runtime's nanoseconds do.
fn line(number: u32) -> String {
    format!("2026-11-25T10:00:00.{number:09}Z stdout F {number}\n")
}

fn lines(numbers: std::ops::Range<u32>) -> String {
    numbers.map(line).collect()
}

#[test]
fn a_new_file_with_an_old_inode_is_read_from_its_beginning() {
    let pod = Pod::new();
    let reader = start(pod.settings(), &pod.arrived);
    let (mut inodes, mut written) = (Vec::new(), 0);
    for round in 0..20_u32 {
        let path = pod.path("0.log");
        let first = round * 100;
        fs::write(&path, lines(first..first + 3)).unwrap();
        inodes.push(std::os::unix::fs::MetadataExt::ino(
            &fs::metadata(&path).unwrap(),
        ));
        written += 3;
        pod.arrives(written);
        fs::remove_file(&path).unwrap();
    }
    reader.join();
    assert_eq!(pod.arrived.len(), written, "{inodes:?}");
}

#[test]
fn truncated_and_written_anew() {
    let pod = Pod::new();
    let reader = start(pod.settings(), &pod.arrived);
    fs::write(pod.path("0.log"), lines(0..10)).unwrap();
    pod.arrives(10);
    // Shorter than before, in one step as in two.
    fs::write(pod.path("0.log"), lines(100..103)).unwrap();
    pod.arrives(13);
    fs::write(pod.path("0.log"), "").unwrap();
    until("the truncation to be seen", || {
        let stats = reader.stats().read();
        stats
            .containers
            .iter()
            .any(|container| container.counts.lost.contains_key("truncated"))
    });
    // Longer than before: only its beginning tells.
    fs::write(pod.path("0.log"), lines(200..230)).unwrap();
    pod.arrives(43);
    let stats = reader.join();
    assert_eq!(pod.arrived.len(), 43, "{stats:?}");
}

#[test]
fn a_pod_that_is_gone_at_once_is_read_all_the_same() {
    let pod = Pod::new();
    let reader = start(pod.settings(), &pod.arrived);
    until("a first look", || {
        !reader.stats().read().containers.is_empty()
    });
    let path = pod.path("0.log");
    fs::write(&path, lines(0..50)).unwrap();
    until("the file to be open", || {
        reader.stats().read().files_open > 0 || pod.arrived.len() == 50
    });
    fs::remove_dir_all(pod.root.path().join("shop_web_uid")).unwrap();
    pod.arrives(50);
    until("the descriptor to be closed", || {
        reader.stats().read().files_open == 0
    });
    reader.join();
}

#[test]
fn deleted_files_are_held_within_a_budget() {
    let pod = Pod::new();
    let mut settings = pod.settings();
    // No room for a second batch: reading stops, and the file stays unread.
    (settings.batch_bytes, settings.in_flight_max) = (40 << 10, 1);
    settings.held_bytes_max = 1_000;
    let silent = Silent;
    fs::write(pod.path("0.log"), lines(0..20_000)).unwrap();
    let waker = crate::watch::Waker::new().unwrap();
    let reader = super::spawn(settings, Box::new(silent), Box::new(super::Paths), waker).unwrap();
    until("reading to stop", || reader.stats().read().in_flight == 1);
    fs::remove_file(pod.path("0.log")).unwrap();
    until("the file to be given up", || {
        let stats = reader.stats().read();
        let lost = stats
            .containers
            .first()
            .and_then(|container| container.counts.lost.get("deleted").copied());
        lost.is_some_and(|lost| lost.bytes > 500_000) && stats.files_open == 0
    });
    reader.stop();
}

/// Never answers.
struct Silent;

impl crate::sink::Sink for Silent {
    fn send(&mut self, _batch: crate::batch::Batch) {}

    fn answers(&mut self) -> Vec<crate::sink::Answer> {
        Vec::new()
    }
}

#[test]
fn without_a_checkpoint_that_checks_all_is_sent_again() {
    let pod = Pod::new();
    fs::write(pod.path("0.log"), lines(0..10)).unwrap();
    let reader = start(pod.settings(), &pod.arrived);
    pod.arrives(10);
    reader.join();
    let checkpoint = pod.state.path().join("logs.checkpoint");
    let mut bytes = fs::read(&checkpoint).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&checkpoint, bytes).unwrap();
    let reader = start(pod.settings(), &pod.arrived);
    pod.arrives(20);
    let stats = reader.join();
    assert!(stats.quarantined);
    assert_eq!(pod.arrived.len(), 20);
}

#[test]
fn a_state_directory_that_cannot_be_written_stops_nothing() {
    let pod = Pod::new();
    let mut settings = pod.settings();
    let file = pod.state.path().join("file");
    fs::write(&file, "").unwrap();
    settings.state = Some(file.join("below"));
    fs::write(pod.path("0.log"), lines(0..10)).unwrap();
    let reader = start(settings, &pod.arrived);
    pod.arrives(10);
    let stats = reader.join();
    assert!(stats.checkpoint_error.is_some());
}

#[test]
fn lost_while_the_agent_was_down_is_counted() {
    let pod = Pod::new();
    let mut settings = pod.settings();
    (settings.batch_bytes, settings.in_flight_max, settings.drain) = (33 << 10, 1, Duration::ZERO);
    fs::write(pod.path("0.log"), lines(0..20_000)).unwrap();
    let reader = start(settings, &pod.arrived);
    pod.arrives(1);
    reader.join();
    assert!(
        pod.arrived.len() < 20_000,
        "it was meant to be stopped in the middle"
    );
}
