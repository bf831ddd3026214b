//! T2, F55: lines without an end. A line of 8 GiB takes no more memory than one of 4 MiB, and the next line is whole.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::FallocateFlags;

use super::{Arrived, Paths, full, settings, until};
use crate::batch::Batch;
use crate::clock;
use crate::offsets::BatchId;
use crate::sink::{Answer, Sink};
use crate::tailer::{Handle, spawn};
use crate::watch::Waker;

const DIRECTORY: &str = "PLUMBLINE_TEST_DIRECTORY";
const TIME: &str = "2026-11-25T10:00:00.000000001Z";
/// Written before the reader is waited for: what is on disk at one time.
const CHUNK: u64 = 64 << 20;
/// At the beginning of the file; its identity, so it is left alone.
const KEPT: u64 = 64 << 10;

/// A log file that takes no more room on disk than a chunk, whatever its length.
struct Log<'a> {
    file: File,
    len: u64,
    reader: &'a Handle,
}

impl Log<'_> {
    fn append(&mut self, bytes: &[u8]) {
        self.file.write_all_at(bytes, self.len).unwrap();
        self.len += bytes.len() as u64;
    }

    /// Parts of a line of stdout and of one of stderr by turns, none of which ends.
    fn parts(&mut self, bytes: u64) {
        let part = |stream| format!("{TIME} {stream} P {}\n", "z".repeat(16 << 10));
        let parts = (part("stdout") + &part("stderr")).repeat(32).into_bytes();
        let end = self.len + bytes;
        while self.len < end {
            let chunk = end.min(self.len + CHUNK);
            while self.len < chunk {
                self.append(&parts);
            }
            self.wait();
            self.punch();
        }
    }

    /// A line that never was written and yet is there: a hole reads as zeros.
    fn hole(&mut self, bytes: u64) {
        self.len += bytes;
        self.file.set_len(self.len).unwrap();
        self.wait();
    }

    /// Waits until all has been read, as long as something is.
    fn wait(&self) {
        let (mut end, mut before) = (clock::monotonic() + Duration::from_mins(1), 0);
        loop {
            let stats = self.reader.stats().read();
            let logs = stats.containers.first();
            let read = logs.map_or(0, |logs| logs.retained - logs.unread);
            if read == self.len {
                return;
            }
            if read > before {
                (end, before) = (clock::monotonic() + Duration::from_mins(1), read);
            }
            assert!(clock::monotonic() < end, "{read} of {} read", self.len);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Gives back what was read. The length stays, and so do the offsets.
    fn punch(&self) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if let Some(len) = self.len.checked_sub(KEPT).filter(|len| *len > 0) {
            rustix::fs::fallocate(&self.file, flags, KEPT, len).unwrap();
        }
    }
}

/// How long each record is, and how it ends: no more is kept of it.
#[derive(Clone, Default)]
struct Marks(Arc<Mutex<Vec<(usize, String)>>>, Vec<BatchId>);

impl Sink for Marks {
    fn send(&mut self, batch: Batch) {
        let arrived = Arrived::default();
        arrived.take(&batch.request());
        for body in arrived.bodies() {
            let end = body.len().saturating_sub(11);
            let mark = (body.len(), body[end..].to_owned());
            self.0.lock().unwrap().push(mark);
        }
        self.1.push(batch.id);
    }

    fn answers(&mut self) -> Vec<Answer> {
        self.1.drain(..).map(Answer::arrived).collect()
    }
}

/// The most memory that this process ever had, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() << 10
}

/// Not a test by itself: the process whose memory is looked at.
#[test]
#[ignore = "it is the process that another test starts"]
fn endless_child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let (pods, marks) = (Path::new(&directory), Marks::default());
    let app = pods.join("shop_web_uid/app");
    fs::create_dir_all(&app).unwrap();
    let (sink, waker) = (Box::new(marks.clone()), Waker::new().unwrap());
    let reader = spawn(settings(pods), sink, Box::new(Paths), waker).unwrap();
    let mut log = Log {
        file: File::create(app.join("0.log")).unwrap(),
        len: 0,
        reader: &reader,
    };
    log.append(format!("{TIME} stdout F first\n").as_bytes());
    let mut peaks = Vec::new();
    // The first round is what the other is held against.
    let most: u64 = if full() { 8 << 30 } else { 128 << 20 };
    let most_sparse: u64 = if full() { 8 << 30 } else { 1 << 30 };
    for (parts, hole) in [(4 << 20, 4 << 20), (most, most_sparse)] {
        log.parts(parts);
        for stream in ["stdout", "stderr"] {
            log.append(format!("{TIME} {stream} F end\n{TIME} {stream} F next\n").as_bytes());
        }
        log.hole(hole);
        log.append(format!("\n{TIME} stdout F last\n").as_bytes());
        let want = 6 + usize::from(peaks.is_empty());
        until("the records", || marks.0.lock().unwrap().len() >= want);
        peaks.push(peak());
        let mut got = std::mem::take(&mut *marks.0.lock().unwrap());
        got.retain(|(_, end)| end != "first");
        let ends: Vec<_> = got.iter().map(|(len, end)| (*len, end.as_str())).collect();
        let cut = (6 + (1 << 20), "zzzzz (cut)");
        let next = (4, "next");
        let sparse = (12 + (1 << 20), "(cut) (raw)");
        assert_eq!(ends, [cut, cut, next, next, sparse, (4, "last")]);
    }
    reader.join();
    eprintln!("peak RSS {} kB, then {} kB", peaks[0] >> 10, peaks[1] >> 10);
    assert!(peaks[1] <= peaks[0] + (2 << 20), "{peaks:?}");
}

#[test]
fn a_line_of_gibibytes_takes_no_more_memory_than_one_of_mebibytes() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "tailer::tests::endless::endless_child"])
        .args(["--ignored", "--quiet", "--nocapture"])
        .env(DIRECTORY, directory.path())
        .stdout(Stdio::null());
    assert!(child.status().unwrap().success());
}
