//! Where batches go: implemented by the agent's exporter, and here by what tests and benchmarks need.

use std::io::Write as _;

use crate::batch::{Batch, Share};
use crate::offsets::BatchId;

/// Takes batches and answers for each, once, in any order.
pub trait Sink: Send {
    /// Takes a batch, at once. It is called only while fewer than the reader's limit are unanswered.
    fn send(&mut self, batch: Batch);

    /// Answers that have come in. After the first it rings the reader's bell, if it has one.
    fn answers(&mut self) -> Vec<Answer>;
}

/// A batch is settled: its records have arrived, or are lost for good. Either way they are never sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Which.
    pub id: BatchId,
    /// What did not arrive.
    pub lost: Vec<Loss>,
    /// Records that the receiver turned away of a request that it otherwise took. It does not say which.
    pub rejected: u64,
}

/// Records that were given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Why.
    pub reason: &'static str,
    /// Whose, and how many.
    pub share: Share,
}

impl Answer {
    /// All of it arrived.
    #[must_use]
    pub fn arrived(id: BatchId) -> Self {
        Self {
            id,
            lost: Vec::new(),
            rejected: 0,
        }
    }
}

/// Everything arrives nowhere.
#[derive(Debug, Default)]
pub struct Null {
    answers: Vec<Answer>,
    /// Records taken.
    pub records: u64,
    /// Bytes of requests taken.
    pub bytes: u64,
}

impl Sink for Null {
    fn send(&mut self, batch: Batch) {
        self.records += batch.records();
        self.bytes += batch.request().len() as u64;
        self.answers.push(Answer::arrived(batch.id));
    }

    fn answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }
}

/// Each request is appended to a file, after its length as four bytes, big end first.
#[derive(Debug)]
pub struct File {
    file: std::fs::File,
    answers: Vec<Answer>,
}

impl File {
    /// Appends to this file.
    #[must_use]
    pub fn new(file: std::fs::File) -> Self {
        Self {
            file,
            answers: Vec::new(),
        }
    }
}

impl Sink for File {
    fn send(&mut self, batch: Batch) {
        let request = batch.request();
        let mut bytes = u32::try_from(request.len())
            .unwrap_or(u32::MAX)
            .to_be_bytes()
            .to_vec();
        bytes.extend_from_slice(&request);
        // One write: a process that dies leaves all of it or a torn end, which the next one's records follow.
        let answer = match self.file.write_all(&bytes) {
            Ok(()) => Answer::arrived(batch.id),
            Err(_full) => Answer {
                lost: losses(&batch, "write"),
                ..Answer::arrived(batch.id)
            },
        };
        self.answers.push(answer);
    }

    fn answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }
}

/// All of a batch, given up for one reason.
#[must_use]
pub fn losses(batch: &Batch, reason: &'static str) -> Vec<Loss> {
    let loss = |share| Loss { reason, share };
    batch.shares().into_iter().map(loss).collect()
}
