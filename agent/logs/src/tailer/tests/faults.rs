//! The world goes wrong around the reader: the disk of its checkpoint, the kernel's watches, pods that are gone at once.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::io::Errno;

use super::{Arrived, Paths, full, settings, start, until};
use crate::batch::Batch;
use crate::fault::{self, Fault, Faults};
use crate::sink::{Answer, Sink};
use crate::store::Store;
use crate::watch::Waker;

fn lines(numbers: std::ops::Range<u32>) -> String {
    let line = |number: u32| format!("2026-11-25T10:00:00.{number:09}Z stdout F {number}\n");
    numbers.map(line).collect()
}

fn append(path: &Path, text: &str) {
    use std::io::Write as _;
    let mut file = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// F58: whatever is wrong with the checkpoint's disk, shipping goes on, the fault is told, the old checkpoint stays whole, and
/// when the disk is well again the next one is written.
fn checkpoint_fails(step: &'static str, error: Option<Errno>, delay: Duration) {
    let faults: Faults = Arc::new(Mutex::new(None));
    fault::inject(&faults);
    let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let directory = root.path().join("shop_web_uid/app");
    fs::create_dir_all(&directory).unwrap();
    let (log, arrived) = (directory.join("0.log"), Arrived::default());
    let mut settings = settings(root.path());
    settings.state = Some(state.path().to_owned());
    append(&log, &lines(0..10));
    let reader = start(settings.clone(), &arrived);
    let checkpoint = state.path().join("logs.checkpoint");
    until("a first checkpoint", || {
        arrived.len() == 10 && checkpoint.exists()
    });
    *faults.lock().unwrap() = Some(Fault { step, error, delay });
    append(&log, &lines(10..20));
    until("the records", || arrived.len() == 20);
    if error.is_some() {
        until("the fault to be told", || {
            reader.stats().read().checkpoint_error.is_some()
        });
    }
    let bytes = fs::read(&checkpoint).unwrap();
    assert!(crate::checkpoint::decode(&bytes).is_ok(), "{step}");
    *faults.lock().unwrap() = None;
    append(&log, &lines(20..21));
    until("it to be well again", || {
        arrived.len() == 21 && reader.stats().read().checkpoint_error.is_none()
    });
    reader.join();
    let reader = start(settings, &arrived);
    append(&log, &lines(21..22));
    until("what came since", || arrived.len() >= 22);
    reader.join();
    assert_eq!(
        arrived.len(),
        22,
        "{step}: after a clean end nothing is sent again"
    );
    assert!(Store::open(state.path()).unwrap().is_some());
}

#[test]
fn a_disk_that_fails_at_any_step_of_the_checkpoint_stops_nothing() {
    for step in [
        "checkpoint open",
        "checkpoint write",
        "checkpoint half written",
        "checkpoint fsync",
        "checkpoint rename",
        "checkpoint directory fsync",
    ] {
        for error in [Errno::NOSPC, Errno::IO, Errno::ROFS] {
            checkpoint_fails(step, Some(error), Duration::ZERO);
        }
    }
}

#[test]
fn a_disk_that_is_slow_stops_nothing() {
    let delay = Duration::from_millis(if full() { 2_000 } else { 200 });
    for step in ["checkpoint fsync", "checkpoint rename"] {
        checkpoint_fails(step, None, delay);
    }
}

const CONTAINERS: u32 = 2_000;
const DIRECTORY: &str = "PLUMBLINE_TEST_DIRECTORY";

/// Not a test by itself: it runs in a user namespace that has few watches or none.
#[test]
#[ignore = "it is the process that another test starts"]
fn with_few_watches() {
    let Some(root) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let (root, arrived) = (Path::new(&root), Arrived::default());
    let path = |number: u32| root.join(format!("shop_web-{number}_uid-{number}/app"));
    for number in 0..CONTAINERS {
        fs::create_dir_all(path(number)).unwrap();
        fs::write(path(number).join("0.log"), lines(number..number + 1)).unwrap();
    }
    let mut settings = settings(root);
    settings.scan_interval = Duration::from_millis(500);
    let reader = start(settings, &arrived);
    let count = |want: u32| arrived.len() >= usize::try_from(want).unwrap();
    until("all files to be read", || count(CONTAINERS));
    // What comes now nobody hints at: a written file, a new one, a new pod.
    append(&path(CONTAINERS - 1).join("0.log"), &lines(9_000..9_001));
    append(&path(CONTAINERS - 2).join("1.log"), &lines(9_001..9_002));
    fs::create_dir_all(path(CONTAINERS)).unwrap();
    append(&path(CONTAINERS).join("0.log"), &lines(9_002..9_003));
    until("what came later", || count(CONTAINERS + 3));
    let stats = reader.join();
    assert!(stats.watches_refused > 0, "{}", stats.watches_refused);
    assert_eq!(u32::try_from(arrived.len()).unwrap(), CONTAINERS + 3);
}

/// F61: without inotify, and with too few watches, the scan finds everything.
#[test]
fn where_the_kernel_refuses_watches_the_scan_finds_all() {
    for limits in [
        "echo 0 > /proc/sys/user/max_inotify_instances",
        "echo 100 > /proc/sys/user/max_inotify_watches",
    ] {
        let directory = tempfile::tempdir().unwrap();
        let script = format!("{limits} && exec \"$0\" \"$@\"");
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "sh", "-c"]);
        command.arg(script).arg(std::env::current_exe().unwrap());
        command
            .args(["--exact", "tailer::tests::faults::with_few_watches"])
            .args(["--ignored", "--quiet"])
            .env(DIRECTORY, directory.path());
        let mut allowed = Command::new("unshare");
        allowed.args(["--user", "--map-root-user", "true"]);
        if !allowed.status().is_ok_and(|status| status.success()) {
            eprintln!("skipped: no user namespaces here");
            return;
        }
        assert!(command.status().unwrap().success(), "{limits}");
    }
}

/// Holds the reader where it sends, for as long as the test keeps the lock.
struct Gate(super::Collect, Arc<Mutex<()>>, Arc<AtomicU32>);

impl Sink for Gate {
    fn send(&mut self, batch: Batch) {
        self.2.fetch_add(1, Ordering::Relaxed);
        drop(self.1.lock().unwrap());
        self.0.send(batch);
    }

    fn answers(&mut self) -> Vec<Answer> {
        self.0.answers()
    }
}

/// F61: more happens than the kernel keeps hints for, and a pod comes after that. No scan is due: only the word of the
/// overflow can lead to it.
#[test]
fn an_overflow_of_hints_is_a_scan() {
    let (root, arrived) = (tempfile::tempdir().unwrap(), Arrived::default());
    let app = |pod: &str| root.path().join(format!("shop_{pod}_uid-{pod}/app"));
    fs::create_dir_all(app("web")).unwrap();
    append(&app("web").join("0.log"), &lines(0..1));
    let (gate, sends) = (Arc::new(Mutex::new(())), Arc::new(AtomicU32::new(0)));
    let collect = super::Collect {
        arrived: arrived.clone(),
        answers: Vec::new(),
    };
    let sink = Box::new(Gate(collect, Arc::clone(&gate), Arc::clone(&sends)));
    let mut settings = settings(root.path());
    settings.scan_interval = Duration::from_hours(1);
    let reader = super::spawn(settings, sink, Box::new(Paths), Waker::new().unwrap()).unwrap();
    until("the first record", || arrived.len() == 1);
    let held = gate.lock().unwrap();
    append(&app("web").join("0.log"), &lines(1..2));
    until("the reader to be held", || {
        sends.load(Ordering::Relaxed) == 2
    });
    let queue = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let queue: u32 = queue.trim().parse().unwrap();
    let passing = app("web").join("passing");
    for _ in 0..queue {
        // Two hints each.
        fs::write(&passing, "").unwrap();
        fs::remove_file(&passing).unwrap();
    }
    fs::create_dir_all(app("late")).unwrap();
    append(&app("late").join("0.log"), &lines(2..3));
    drop(held);
    until("the pod that nothing hinted at", || arrived.len() == 3);
    reader.join();
    assert_eq!(arrived.bodies(), ["0", "1", "2"]);
}

/// F62: 50 pods a second that live for 300 ms. In the usual tier each lives until its file is open: a machine that is busy
/// with other tests is no fault of the reader.
#[test]
fn pods_that_are_gone_at_once_are_read() {
    const LINES: usize = 5;
    let (root, arrived) = (tempfile::tempdir().unwrap(), Arrived::default());
    let reader = super::spawn(
        settings(root.path()),
        Box::new(super::Collect {
            arrived: arrived.clone(),
            answers: Vec::new(),
        }),
        Box::new(Paths),
        Waker::new().unwrap(),
    )
    .unwrap();
    let pods: u32 = if full() { 1_000 } else { 100 };
    let mut living = std::collections::VecDeque::new();
    let remove = |pod: std::path::PathBuf| {
        if !full() {
            let name = pod.file_name().unwrap().to_str().unwrap().to_owned();
            until("the file to be open", || {
                let stats = reader.stats().read();
                stats
                    .containers
                    .iter()
                    .any(|logs| logs.source.pod.directory() == name && logs.retained > 0)
                    || arrived
                        .all()
                        .iter()
                        .any(|(container, _)| container.starts_with(&name))
            });
        }
        fs::remove_dir_all(pod).unwrap();
    };
    for number in 0..pods {
        let pod = root.path().join(format!("job_short-{number}_uid-{number}"));
        fs::create_dir_all(pod.join("app")).unwrap();
        append(&pod.join("app/0.log"), &lines(number * 10..number * 10 + 5));
        living.push_back(pod);
        std::thread::sleep(Duration::from_millis(20));
        if living.len() > 15 {
            remove(living.pop_front().unwrap());
        }
    }
    living.into_iter().for_each(remove);
    until("files to be closed", || {
        reader.stats().read().files_open == 0
    });
    reader.join();
    let (got, all) = (arrived.len(), LINES * usize::try_from(pods).unwrap());
    eprintln!("{got} of {all} records of {pods} pods");
    let most_missing = if full() { all / 1_000 } else { 0 };
    assert!(got + most_missing >= all, "{got} of {all}");
}
