//! SIGKILL at random moments and at every step of the checkpoint, under writing and rotation: nothing is lost.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::kubelet::Kubelet;
use super::oracle::Oracle;
use super::{Arrived, Paths, Random, full, seed, settings, until};
use crate::sink;
use crate::tailer::spawn;
use crate::watch::Waker;

const DIRECTORY: &str = "PLUMBLINE_TEST_DIRECTORY";

/// Not a test by itself: the process that is killed.
#[test]
#[ignore = "it is the process that other tests start and kill"]
fn child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let directory = Path::new(&directory);
    let mut settings = settings(&directory.join("pods"));
    settings.state = Some(directory.join("state"));
    settings.batch_bytes = 48 << 10;
    let out = OpenOptions::new()
        .create(true)
        .append(true)
        .open(directory.join("out"))
        .unwrap();
    let sink = Box::new(sink::File::new(out));
    let reader = spawn(settings, sink, Box::new(Paths), Waker::new().unwrap()).unwrap();
    until("the end", || {
        directory.join("stop").exists() || !directory.exists()
    });
    reader.join();
}

fn run(directory: &Path, kill_at: Option<u64>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "tailer::tests::kill::child",
            "--ignored",
            "--quiet",
        ])
        .env(DIRECTORY, directory)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Some(at) = kill_at {
        command.env("PLUMBLINE_KILL_AT", at.to_string());
    }
    command.spawn().unwrap()
}

/// What the killed processes sent, each request looked at once.
struct Received {
    path: PathBuf,
    /// Bytes of it that were looked at: whole requests.
    looked: u64,
    oracle: Oracle,
}

impl Received {
    fn new(directory: &Path) -> Self {
        Self {
            path: directory.join("out"),
            looked: 0,
            oracle: Oracle::default(),
        }
    }

    /// Takes the whole requests that have come since. Gives how many bytes of a torn one follow.
    fn look(&mut self) -> u64 {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(&self.path) {
            file.seek(SeekFrom::Start(self.looked)).unwrap();
            file.read_to_end(&mut bytes).unwrap();
        }
        let (mut rest, arrived) = (&bytes[..], Arrived::default());
        while let Some((len, after)) = rest.split_first_chunk::<4>() {
            let len = usize::try_from(u32::from_be_bytes(*len)).unwrap();
            let Some((request, after)) = after.split_at_checked(len) else {
                break;
            };
            arrived.take(request);
            rest = after;
        }
        self.oracle.take(&arrived.all());
        self.looked += (bytes.len() - rest.len()) as u64;
        rest.len() as u64
    }

    /// After a kill. A torn request at the end was never answered: it is cut off.
    fn cut(&mut self) {
        if self.look() > 0 {
            let file = OpenOptions::new().write(true).open(&self.path).unwrap();
            file.set_len(self.looked).unwrap();
        }
    }
}

/// Reads to the end and judges. Gives the duplicates.
fn finish(directory: &Path, kubelet: &Kubelet, received: &mut Received) -> u64 {
    let mut last = run(directory, None);
    until("all records", || {
        received.look();
        received.oracle.has_all(kubelet)
    });
    File::create(directory.join("stop")).unwrap();
    assert!(last.wait().unwrap().success());
    assert_eq!(received.look(), 0, "a torn request");
    let verdict = received.oracle.verdict(&[kubelet]);
    assert!(
        verdict.missing.is_empty() && verdict.damaged.is_empty(),
        "{verdict:?}"
    );
    verdict.duplicates
}

/// Stops at the latest when all have arrived: the kubelet keeps three files more than the live one.
fn rotate_if_read(kubelet: &mut Kubelet, received: &Received, rotations: &mut u32) {
    if *rotations < 3 {
        kubelet.rotate();
        *rotations += 1;
    } else if received.oracle.has_all(kubelet) {
        *rotations = 0;
    }
}

#[test]
fn killed_at_random_moments() {
    let (seed, kills) = (seed(), if full() { 200 } else { 12 });
    for records in [5, 100, 1_000] {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let mut kubelet = Kubelet::new(&directory.join("pods"), 0, seed);
        let (mut random, mut rotations) = (Random::new(seed), 0);
        let mut received = Received::new(directory);
        for kill in 0..kills {
            kubelet.write(random.below(records));
            let mut child = run(directory, None);
            for _ in 0..random.below(8) {
                kubelet.write(random.below(records));
                std::thread::sleep(Duration::from_millis(random.below(25)));
            }
            if kill % 3 == 0 {
                rotate_if_read(&mut kubelet, &received, &mut rotations);
            }
            kubelet.write(random.below(records));
            std::thread::sleep(Duration::from_millis(random.below(30)));
            child.kill().unwrap();
            child.wait().unwrap();
            received.cut();
        }
        let duplicates = finish(directory, &kubelet, &mut received);
        // At most what was in flight or not yet in a checkpoint, each time.
        let written = kubelet.written;
        eprintln!("{kills} kills, {written} records, {duplicates} duplicates");
        assert!(duplicates <= kills * 8 * records, "{duplicates}");
    }
}

#[test]
fn killed_at_each_step() {
    let seed = seed();
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let mut kubelet = Kubelet::new(&directory.join("pods"), 0, seed);
    let (mut rotations, mut received) = (0, Received::new(directory));
    let last = if full() { 200 } else { 24 };
    for step in 1..=last {
        kubelet.write(20);
        let mut child = run(directory, Some(step));
        // A checkpoint passes seven steps; more of them come as more is written.
        let mut writes = 0;
        until("the process to die at its step", || {
            if writes < 200 {
                kubelet.write(3);
                writes += 1;
            }
            std::thread::sleep(Duration::from_millis(10));
            child.try_wait().unwrap().is_some()
        });
        received.cut();
        if step % 4 == 0 {
            rotate_if_read(&mut kubelet, &received, &mut rotations);
        }
    }
    let duplicates = finish(directory, &kubelet, &mut received);
    eprintln!(
        "{last} kills, {} records, {duplicates} duplicates",
        kubelet.written
    );
}
