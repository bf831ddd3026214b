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
            .and_then(|container| container.counts.lost.get("rotated").copied());
        lost.is_some_and(|lost| lost.bytes > 500_000) && stats.files_open == 0
    });
    reader.stop();
}

/// A file that the kubelet has compressed takes room as long as it is held open in its old form: beyond the budget it is read
/// on from its new one, and nothing is lost.
#[test]
fn a_held_file_that_was_compressed_is_read_on_from_its_new_form() {
    let pod = Pod::new();
    let mut settings = pod.settings();
    (settings.batch_bytes, settings.in_flight_max) = (40 << 10, 1);
    settings.held_bytes_max = 1_000;
    let gate = Gate {
        arrived: pod.arrived.clone(),
        ..Gate::default()
    };
    let open = std::sync::Arc::clone(&gate.open);
    let all = lines(0..20_000);
    fs::write(pod.path("0.log"), &all).unwrap();
    let waker = crate::watch::Waker::new().unwrap();
    let reader = super::spawn(settings, Box::new(gate), Box::new(super::Paths), waker).unwrap();
    until("reading to stop", || reader.stats().read().in_flight == 1);
    let rotated = pod.path("0.log.20261125-100000");
    fs::rename(pod.path("0.log"), &rotated).unwrap();
    fs::write(pod.path("0.log"), lines(20_000..20_001)).unwrap();
    let compressed = fs::File::create(pod.path("0.log.20261125-100000.gz")).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(compressed, flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, all.as_bytes()).unwrap();
    encoder.finish().unwrap();
    until("it to be known", || reader.stats().read().files_open == 2);
    // Twice, so that one look has seen both forms.
    std::thread::sleep(Duration::from_millis(200));
    fs::remove_file(&rotated).unwrap();
    let held = || {
        let fds = fs::read_dir("/proc/self/fd").unwrap();
        let targets = fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
        let name = format!("{} (deleted)", rotated.display());
        targets
            .into_iter()
            .any(|target| target.to_string_lossy() == name)
    };
    until("the old form to be closed", || !held());
    open.store(true, std::sync::atomic::Ordering::Relaxed);
    pod.arrives(20_001);
    let stats = reader.join();
    assert_eq!(pod.arrived.len(), 20_001);
    assert!(stats.containers[0].counts.lost.is_empty(), "{stats:?}");
}

/// Answers nothing until it is opened.
#[derive(Default)]
struct Gate {
    arrived: Arrived,
    open: std::sync::Arc<std::sync::atomic::AtomicBool>,
    answers: Vec<crate::sink::Answer>,
}

impl crate::sink::Sink for Gate {
    fn send(&mut self, batch: crate::batch::Batch) {
        self.arrived.take(&batch.request());
        self.answers.push(crate::sink::Answer::arrived(batch.id));
    }

    fn answers(&mut self) -> Vec<crate::sink::Answer> {
        if self.open.load(std::sync::atomic::Ordering::Relaxed) {
            std::mem::take(&mut self.answers)
        } else {
            Vec::new()
        }
    }
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
