//! Much at once: a burst, and one container that floods beside many that do not.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Arrived, Paths, full, settings, until};
use crate::batch::Batch;
use crate::clock;
use crate::sink::{Answer, Null, Sink};
use crate::tailer::spawn;
use crate::watch::Waker;

const DIRECTORY: &str = "PLUMBLINE_TEST_DIRECTORY";
const RECORDS: &str = "PLUMBLINE_TEST_RECORDS";

/// Answers through the reader's bell, as an exporter would.
struct Rung(Null, Waker);

impl Sink for Rung {
    fn send(&mut self, batch: Batch) {
        self.0.send(batch);
        self.1.wake();
    }

    fn answers(&mut self) -> Vec<Answer> {
        self.0.answers()
    }
}

/// Not a test by itself: the process whose memory is looked at.
#[test]
#[ignore = "it is the process that another test starts"]
fn burst_child() {
    let (Some(directory), Ok(records)) = (std::env::var_os(DIRECTORY), std::env::var(RECORDS))
    else {
        return;
    };
    let (directory, records) = (Path::new(&directory), records.parse::<u64>().unwrap());
    let waker = Waker::new().unwrap();
    let sink = Box::new(Rung(Null::default(), waker.clone()));
    let reader = spawn(
        settings(&directory.join("pods")),
        sink,
        Box::new(Paths),
        waker,
    )
    .unwrap();
    File::create(directory.join("started")).unwrap();
    let end = clock::monotonic() + Duration::from_mins(5);
    loop {
        let stats = reader.stats().read();
        let counts = stats.containers.iter().map(|logs| &logs.counts);
        let read: u64 = counts.flat_map(|counts| counts.records).sum();
        let lag: u64 = stats.containers.iter().map(|logs| logs.lag).sum();
        if read >= records && lag == 0 {
            break;
        }
        assert!(clock::monotonic() < end, "{read} of {records}, {lag} wait");
        std::thread::sleep(Duration::from_millis(20));
    }
    let stats = reader.join();
    let counts = stats.containers.iter().map(|logs| &logs.counts);
    assert!(
        counts.clone().all(|counts| counts.lost.is_empty()),
        "{stats:?}"
    );
    assert_eq!(
        counts.flat_map(|counts| counts.records).sum::<u64>(),
        records
    );
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak: u64 = peak
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    eprintln!("{records} records, peak RSS {peak} kB");
    assert!(peak <= 40 << 10, "{peak} kB");
}

/// F57: a burst of lines of 150 B is read in full within the bound of memory, whatever its size.
#[test]
fn a_burst_is_read_within_the_bound_of_memory() {
    let records: u64 = if full() { 10_000_000 } else { 500_000 };
    let directory = tempfile::tempdir().unwrap();
    let app = directory.path().join("pods/shop_web_uid/app");
    fs::create_dir_all(&app).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    let mut child = child
        .args([
            "--exact",
            "tailer::tests::load::burst_child",
            "--ignored",
            "--quiet",
        ])
        .env(DIRECTORY, directory.path())
        .env(RECORDS, records.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("the reader to start", || {
        directory.path().join("started").exists()
    });
    let mut file = BufWriter::new(File::create(app.join("0.log")).unwrap());
    let fill = "x".repeat(95);
    for number in 0..records {
        let (second, ns) = (number / 1_000_000_000 % 60, number % 1_000_000_000);
        writeln!(
            file,
            "2026-11-25T10:00:{second:02}.{ns:09}Z stdout F {number:010} {fill}"
        )
        .unwrap();
    }
    file.flush().unwrap();
    assert!(child.wait().unwrap().success());
}

/// Takes one batch at a time, slowly, and remembers how many came before each.
struct Slow {
    arrived: Arrived,
    /// For each record, in order: how many batches had come with it.
    at: Arc<Mutex<Vec<u64>>>,
    batches: Arc<AtomicU64>,
    waiting: Vec<Answer>,
}

impl Sink for Slow {
    fn send(&mut self, batch: Batch) {
        std::thread::sleep(Duration::from_millis(5));
        let number = self.batches.fetch_add(1, Ordering::Relaxed);
        let before = self.arrived.len();
        self.arrived.take(&batch.request());
        let more = self.arrived.len() - before;
        let mut at = self.at.lock().unwrap();
        at.extend(std::iter::repeat_n(number, more));
        self.waiting.push(Answer::arrived(batch.id));
    }

    fn answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.waiting)
    }
}

/// T3: how long a quiet pod's line waits does not depend on how much a flooding one has written. Told in batches, of which
/// the flood alone fills hundreds: time depends on the machine.
#[test]
fn a_flood_does_not_delay_the_quiet() {
    const QUIET: usize = 50;
    let (root, arrived) = (tempfile::tempdir().unwrap(), Arrived::default());
    let pod = |name: &str| root.path().join(format!("shop_{name}_uid-{name}/app"));
    fs::create_dir_all(pod("flood")).unwrap();
    let mut file = BufWriter::new(File::create(pod("flood").join("0.log")).unwrap());
    let bytes: u64 = if full() { 128 << 20 } else { 48 << 20 };
    let line = format!("2026-11-25T10:00:00Z stdout F flood {}\n", "x".repeat(960));
    for _ in 0..bytes / line.len() as u64 {
        file.write_all(line.as_bytes()).unwrap();
    }
    file.flush().unwrap();
    for number in 0..QUIET {
        fs::create_dir_all(pod(&format!("quiet-{number}"))).unwrap();
    }
    let (at, batches) = (Arc::default(), Arc::new(AtomicU64::new(0)));
    let sink = Slow {
        arrived: arrived.clone(),
        at: Arc::clone(&at),
        batches: Arc::clone(&batches),
        waiting: Vec::new(),
    };
    let mut settings = settings(root.path());
    settings.batch_bytes = 160 << 10;
    let waker = Waker::new().unwrap();
    let reader = spawn(settings, Box::new(sink), Box::new(Paths), waker).unwrap();
    until("the flood to begin", || batches.load(Ordering::Relaxed) > 5);
    let mut written = Vec::new();
    for number in 0..QUIET {
        let path = pod(&format!("quiet-{number}")).join("0.log");
        written.push(batches.load(Ordering::Relaxed));
        fs::write(
            path,
            format!("2026-11-25T10:00:00Z stdout F quiet {number}\n"),
        )
        .unwrap();
    }
    let all = usize::try_from(bytes / line.len() as u64).unwrap() + QUIET;
    until("all", || arrived.len() >= all);
    reader.join();
    assert_eq!(arrived.len(), all);
    let at = at.lock().unwrap();
    let mut waited = Vec::new();
    for ((container, _), batch) in arrived.all().iter().zip(at.iter()) {
        let number = container
            .strip_prefix("shop_quiet-")
            .and_then(|rest| rest.split_once('_'));
        if let Some((number, _)) = number {
            waited.push(batch.saturating_sub(written[number.parse::<usize>().unwrap()]));
        }
    }
    waited.sort_unstable();
    let (most, of) = (
        waited.last().copied().unwrap(),
        batches.load(Ordering::Relaxed),
    );
    eprintln!("quiet lines waited for at most {most} of {of} batches");
    assert!(waited.len() == QUIET && most < of / 3, "{waited:?} of {of}");
}
