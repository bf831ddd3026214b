//! What was read, what was lost, and what is waiting.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::line::Stream;
use crate::source::Source;

/// Counts since the reader began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records handed on, of stdout and of stderr; those that name no stream count as stdout.
    pub records: [u64; 2],
    /// Bytes of the files that they took, likewise.
    pub bytes: [u64; 2],
    /// What will not arrive, by reason.
    pub lost: BTreeMap<&'static str, Lost>,
}

/// What was lost for one reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Records, as far as they were ever seen as such.
    pub records: u64,
    /// Bytes, as far as they are known.
    pub bytes: u64,
}

impl Counts {
    /// One record.
    pub(crate) fn count(&mut self, stream: Option<Stream>) {
        let [stdout, stderr] = &mut self.records;
        *of(stream, stdout, stderr) += 1;
    }

    /// A line that takes so many bytes of its file.
    pub(crate) fn take(&mut self, stream: Option<Stream>, bytes: u64) {
        let [stdout, stderr] = &mut self.bytes;
        *of(stream, stdout, stderr) += bytes;
    }

    /// Bytes of a record that was shipped without them.
    pub(crate) fn lose_if(&mut self, reason: &'static str, bytes: u64) {
        if bytes > 0 {
            self.lose(reason, 0, bytes);
        }
    }

    pub(crate) fn lose(&mut self, reason: &'static str, records: u64, bytes: u64) {
        let lost = self.lost.entry(reason).or_default();
        lost.records += records;
        lost.bytes += bytes;
    }
}

fn of<'a>(stream: Option<Stream>, stdout: &'a mut u64, stderr: &'a mut u64) -> &'a mut u64 {
    match stream {
        Some(Stream::Stdout) | None => stdout,
        Some(Stream::Stderr) => stderr,
    }
}

/// A container's part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerStats {
    /// Whose.
    pub source: Source,
    /// Since the reader began.
    pub counts: Counts,
    /// Bytes in its files that are not yet acknowledged; decompressed, as far as compressed files tell that.
    pub lag: u64,
    /// Those of them that were not read.
    pub unread: u64,
    /// Bytes of its files on disk, decompressed likewise.
    pub retained: u64,
}

/// How the reader fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sorted by source.
    pub containers: Vec<ContainerStats>,
    /// Files open.
    pub files_open: u64,
    /// Batches that wait for an answer.
    pub in_flight: u64,
    /// Pods that ended before a log file of theirs was found, as far as others saw them.
    pub missed_pods: u64,
    /// Losses that no container is known for.
    pub lost: BTreeMap<&'static str, Lost>,
    /// Files and directories that were refused, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// Why the checkpoint cannot be written; reading goes on.
    pub checkpoint_error: Option<String>,
    /// A checkpoint was put aside since it did not check.
    pub quarantined: bool,
    /// Why the log root is not read.
    pub root_error: Option<String>,
    /// Watches that the kernel refused: the scan finds what they would have told.
    pub watches_refused: u64,
}

impl Stats {
    pub(crate) fn lose(&mut self, reason: &'static str, records: u64, bytes: u64) {
        let lost = self.lost.entry(reason).or_default();
        lost.records += records;
        lost.bytes += bytes;
    }
}

/// [`Stats`] that the reader writes and others read.
#[derive(Clone, Debug, Default)]
pub struct Shared(Arc<Mutex<Stats>>);

impl Shared {
    /// As of the last second.
    #[must_use]
    pub fn read(&self) -> Stats {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn write(&self, stats: Stats) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }
}
