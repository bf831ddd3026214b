//! A checkpoint that cannot be read when the reader starts, and can be later.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Arrived, Handle, settings, start, until};
use crate::store::Store;

fn lines(numbers: std::ops::Range<u32>) -> String {
    let line = |number: u32| format!("2026-11-25T10:00:00.{number:09}Z stdout F {number}\n");
    numbers.map(line).collect()
}

fn error(reader: &Handle) -> Option<String> {
    reader.stats().read().checkpoint_error
}

/// Two containers, read and delivered; one of them is away when the reader starts the next time.
struct Node {
    _all: tempfile::TempDir,
    root: PathBuf,
    state: PathBuf,
    away: PathBuf,
    arrived: Arrived,
}

const AWAY: &str = "shop_away_uid-1";
const HERE: &str = "shop_here_uid-2";

impl Node {
    fn new() -> Self {
        let all = tempfile::tempdir().unwrap();
        let path = |name: &str| all.path().join(name);
        let node = Self {
            root: path("pods"),
            state: path("state"),
            away: path("away"),
            arrived: Arrived::default(),
            _all: all,
        };
        for (pod, numbers) in [(AWAY, 0..10), (HERE, 10..20)] {
            let directory = node.root.join(pod).join("app");
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("0.log"), lines(numbers)).unwrap();
        }
        let reader = node.start();
        until("all", || node.arrived.len() == 20);
        reader.join();
        fs::rename(node.root.join(AWAY), &node.away).unwrap();
        node
    }

    fn start(&self) -> Handle {
        let mut settings = settings(&self.root);
        settings.state = Some(self.state.clone());
        start(settings, &self.arrived)
    }

    /// `hide` makes the checkpoint unreadable, `show` readable again.
    fn check(&self, hide: impl Fn(&Path), show: impl Fn(&Path)) {
        hide(&self.state);
        let reader = self.start();
        // Without a checkpoint what is here is sent again, and nothing is written over the old one.
        until("the error", || {
            error(&reader).is_some() && self.arrived.len() == 30
        });
        show(&self.state);
        until("the checkpoint", || error(&reader).is_none());
        fs::rename(&self.away, self.root.join(AWAY)).unwrap();
        let log = self.root.join(AWAY).join("app/0.log");
        let old = fs::read_to_string(&log).unwrap();
        append(&log, &lines(20..21));
        until("the last", || self.arrived.bodies().contains(&"20".into()));
        let stats = reader.join();
        let bodies = self.arrived.bodies();
        assert_eq!(
            bodies.len(),
            31,
            "what was away is not sent again: {bodies:?}"
        );
        let lost = |container: &crate::stats::ContainerStats| container.counts.lost.is_empty();
        assert!(stats.containers.iter().all(lost), "{stats:?}");
        let store = lock(&self.state);
        let entries = store.load().unwrap().entries;
        let mut offsets: Vec<_> = entries
            .iter()
            .map(|entry| (&*entry.pod, entry.offset))
            .collect();
        offsets.sort();
        let len = |text: &str| text.len() as u64;
        assert_eq!(
            offsets,
            [
                (AWAY, len(&old) + len(&lines(20..21))),
                (HERE, len(&lines(10..20)))
            ]
        );
    }
}

fn append(path: &Path, text: &str) {
    use std::io::Write as _;
    let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn aside(path: &Path) -> PathBuf {
    path.with_extension("aside")
}

/// A process that another test starts has all locks until it is another program.
fn lock(path: &Path) -> Store {
    let mut store = None;
    until("the lock", || {
        store = Store::open(path).unwrap();
        store.is_some()
    });
    store.unwrap()
}

/// In one step: for a moment without any the reader would make a new one.
fn exchange(one: &Path, other: &Path) {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
}

#[test]
fn a_state_directory_that_comes_late_is_read_before_it_is_written() {
    let hide = |state: &Path| {
        fs::rename(state, aside(state)).unwrap();
        fs::write(state, "no directory").unwrap();
    };
    let show = |state: &Path| {
        exchange(state, &aside(state));
    };
    Node::new().check(hide, show);
}

#[test]
fn a_checkpoint_that_cannot_be_read_is_not_replaced() {
    let hide = |state: &Path| {
        let checkpoint = state.join("logs.checkpoint");
        fs::rename(&checkpoint, aside(&checkpoint)).unwrap();
        fs::create_dir(&checkpoint).unwrap();
    };
    let show = |state: &Path| {
        let checkpoint = state.join("logs.checkpoint");
        exchange(&checkpoint, &aside(&checkpoint));
    };
    Node::new().check(hide, show);
}

#[test]
fn that_another_process_has_the_late_directory_is_told() {
    let node = Node::new();
    let state = node.state.clone();
    fs::rename(&state, aside(&state)).unwrap();
    fs::write(&state, "no directory").unwrap();
    let reader = node.start();
    until("the error", || error(&reader).is_some());
    let store = lock(&aside(&state));
    exchange(&state, &aside(&state));
    until("the other to be told", || {
        error(&reader).is_some_and(|error| error.contains("another process"))
    });
    drop(store);
    until("the checkpoint", || error(&reader).is_none());
    reader.join();
}
