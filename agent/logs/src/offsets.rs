//! From acknowledgements to offsets that may be committed. Pure.

use std::collections::VecDeque;

use crate::batch::SourceId;

/// A file that is read, for as long as it is the same file: a truncated one is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    /// Whose.
    pub source: SourceId,
    /// Which of its files, in the order of discovery.
    pub number: u32,
}

/// A byte of a file; of its decompressed content when it is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Which file.
    pub file: FileId,
    /// Bytes before it.
    pub offset: u64,
}

/// A batch, in the order of sealing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u64);

/// Batches that were sealed, and up to where files may be forgotten once all batches before are settled.
#[derive(Debug, Default)]
pub struct Ledger {
    sealed: VecDeque<Sealed>,
    next: u64,
}

#[derive(Debug)]
struct Sealed {
    id: BatchId,
    settled: bool,
    resume: Vec<Place>,
}

impl Ledger {
    /// A batch is complete: after it, each of these files is to be read on from there.
    pub fn seal(&mut self, resume: Vec<Place>) -> BatchId {
        let id = BatchId(self.next);
        self.next += 1;
        self.sealed.push_back(Sealed {
            id,
            settled: false,
            resume,
        });
        id
    }

    /// The batch has arrived, or is lost and counted. Returns where files may be read on from, oldest first: for one file
    /// the last counts. An id that is not unsettled is ignored.
    pub fn settle(&mut self, id: BatchId) -> Vec<Place> {
        if let Some(sealed) = self.sealed.iter_mut().find(|sealed| sealed.id == id) {
            sealed.settled = true;
        }
        let mut resume = Vec::new();
        while self.sealed.front().is_some_and(|sealed| sealed.settled) {
            resume.extend(
                self.sealed
                    .pop_front()
                    .into_iter()
                    .flat_map(|sealed| sealed.resume),
            );
        }
        resume
    }

    /// Batches that are remembered: not settled, or settled after one that is not. What bounds them bounds the memory.
    #[must_use]
    pub fn uncommitted(&self) -> usize {
        self.sealed.len()
    }

    /// Batches sealed and not settled.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        self.sealed.iter().filter(|sealed| !sealed.settled).count()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(offset: u64) -> Place {
        Place {
            file: FileId {
                source: SourceId(7),
                number: 1,
            },
            offset,
        }
    }

    #[test]
    fn nothing_is_committed_before_what_came_earlier() {
        let mut ledger = Ledger::default();
        let ids: Vec<_> = (1..=3)
            .map(|offset| ledger.seal(vec![at(offset)]))
            .collect();
        assert_eq!(ledger.settle(ids[1]), []);
        assert_eq!((ledger.unsettled(), ledger.uncommitted()), (2, 3));
        assert_eq!(ledger.settle(ids[0]), [at(1), at(2)]);
        assert_eq!(ledger.settle(ids[0]), []);
        assert_eq!(ledger.settle(ids[2]), [at(3)]);
        assert_eq!((ledger.unsettled(), ledger.uncommitted()), (0, 0));
    }

    proptest! {
        #[test]
        fn what_is_committed_is_the_longest_settled_beginning(order in Just((0..20_u64).collect::<Vec<_>>()).prop_shuffle()) {
            let mut ledger = Ledger::default();
            for offset in 0..20 {
                ledger.seal(vec![at(offset)]);
            }
            let (mut settled, mut committed) = ([false; 20], 0);
            for id in order {
                settled[usize::try_from(id).unwrap()] = true;
                committed += ledger.settle(BatchId(id)).len();
                prop_assert_eq!(committed, settled.iter().take_while(|settled| **settled).count());
            }
        }
    }
}
