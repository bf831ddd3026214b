//! A double of runtime and kubelet for one container: writes numbered records and rotates exactly as
//! `pkg/kubelet/logs/container_log_manager.go` does.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::Random;

/// The content of record number `seq`: any mix-up of bytes shows.
pub(super) fn content(seq: u64) -> String {
    let len = if seq % 101 == 100 { 40_000 } else { seq % 97 };
    format!("{seq} {}", "x".repeat(usize::try_from(len).unwrap()))
}

pub(super) struct Kubelet {
    pub(super) directory: PathBuf,
    pub(super) name: String,
    file: File,
    restart: u32,
    pub(super) written: u64,
    rotations: u64,
    pub(super) files_max: usize,
    pub(super) random: Random,
}

impl Kubelet {
    pub(super) fn new(root: &Path, number: u64, seed: u64) -> Self {
        let name = format!("shop_web-{number}_uid-{number}/app");
        let directory = root.join(&name);
        fs::create_dir_all(&directory).unwrap();
        let file = open(&directory.join("0.log"));
        Self {
            directory,
            name,
            file,
            restart: 0,
            written: 0,
            rotations: 0,
            files_max: 5,
            random: Random::new(seed ^ number.wrapping_mul(0x9E37_79B9)),
        }
    }

    fn live(&self) -> PathBuf {
        self.directory.join(format!("{}.log", self.restart))
    }

    /// Writes records, each in one to three parts, as containerd does: one write a line.
    pub(super) fn write(&mut self, records: u64) {
        for _ in 0..records {
            let (seq, text) = (self.written, content(self.written));
            let stream = if seq % 3 == 0 { "stderr" } else { "stdout" };
            let parts = if seq % 13 == 0 { 3 } else { 1 };
            let step = (text.len() / parts).max(1);
            let mut rest = text.as_str();
            for part in 1..=parts {
                let (now, later) = if part == parts {
                    (rest, "")
                } else {
                    rest.split_at(step.min(rest.len()))
                };
                let tag = if part == parts { "F" } else { "P" };
                let (second, ns) = (seq / 1_000_000_000 % 60, seq % 1_000_000_000);
                let line = format!("2026-11-25T10:00:{second:02}.{ns:09}Z {stream} {tag} {now}\n");
                self.file.write_all(line.as_bytes()).unwrap();
                rest = later;
            }
            self.written += 1;
        }
    }

    /// Writes a part of a record that goes on in the next file.
    pub(super) fn write_across_rotation(&mut self) {
        let text = content(self.written);
        let (first, second) = text.split_at(1);
        writeln!(
            self.file,
            "2026-11-25T10:00:00.{:09}Z stdout P {first}",
            self.written
        )
        .unwrap();
        self.tidy();
        self.rotate_latest(0);
        writeln!(
            self.file,
            "2026-11-25T10:00:00.{:09}Z stdout F {second}",
            self.written
        )
        .unwrap();
        self.written += 1;
    }

    fn rotated(&self) -> Vec<PathBuf> {
        let prefix = format!("{}.log.", self.restart);
        let mut logs: Vec<PathBuf> = fs::read_dir(&self.directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| {
                path.file_name()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .starts_with(&prefix)
            })
            .collect();
        logs.sort();
        logs
    }

    /// `rotateLog`.
    pub(super) fn rotate(&mut self) {
        self.tidy();
        self.rotate_latest(2);
    }

    /// `cleanupUnusedLogs`, `removeExcessLogs`, `compressLog`.
    pub(super) fn tidy(&mut self) {
        let all = self.rotated();
        let has = |path: &PathBuf| all.contains(path);
        let (mut used, mut unused) = (Vec::new(), Vec::new());
        for log in all.clone() {
            let name = log.to_str().unwrap();
            let compressed = PathBuf::from(format!("{name}.gz"));
            if name.ends_with(".tmp") || (!name.ends_with(".gz") && has(&compressed)) {
                unused.push(log);
            } else {
                used.push(log);
            }
        }
        for log in unused {
            fs::remove_file(log).unwrap();
        }
        let excess = used.len().saturating_sub(self.files_max - 2);
        for log in used.drain(..excess) {
            fs::remove_file(log).unwrap();
        }
        for log in used {
            if log.extension().is_none_or(|extension| extension != "gz") {
                compress(&log);
            }
        }
    }

    /// `rotateLatestLog`.
    fn rotate_latest(&mut self, meanwhile: u64) {
        let rotated = self.next_stamp();
        fs::rename(self.live(), &rotated).unwrap();
        // What the runtime writes before it is told goes to the old file.
        self.write(meanwhile);
        if self.random.below(5) == 0 {
            // `ReopenContainerLog` failed.
            fs::rename(&rotated, self.live()).unwrap();
            return;
        }
        self.file = open(&self.live());
    }

    /// Ten seconds later each time, which is how often the kubelet looks.
    fn next_stamp(&mut self) -> PathBuf {
        let seconds = self.rotations * 10;
        self.rotations += 1;
        let stamp = format!(
            "20261125-{:02}{:02}{:02}",
            seconds / 3_600,
            seconds / 60 % 60,
            seconds % 60
        );
        self.directory.join(format!("{}.log.{stamp}", self.restart))
    }

    /// The container ends and is started again.
    pub(super) fn restart(&mut self) {
        self.restart += 1;
        self.file = open(&self.live());
    }
}

fn open(path: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .unwrap()
}

/// `compressLog`.
fn compress(log: &Path) {
    let name = log.to_str().unwrap();
    let temporary = format!("{name}.tmp");
    let mut encoder = GzEncoder::new(File::create(&temporary).unwrap(), Compression::fast());
    std::io::copy(&mut File::open(log).unwrap(), &mut encoder).unwrap();
    encoder.finish().unwrap();
    fs::rename(&temporary, format!("{name}.gz")).unwrap();
    fs::remove_file(log).unwrap();
}
