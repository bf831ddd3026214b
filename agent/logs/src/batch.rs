//! Records of several containers on their way to one request. Pure.

use std::sync::Arc;

use crate::offsets::BatchId;
use crate::otlp::{self, Encoder, Envelope};
use crate::partial::Record;

/// A container, for the time that it is known: what a loss is counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u32);

/// Records to be sent in one request, encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The same for all pieces of a batch.
    pub id: BatchId,
    groups: Vec<Group>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    source: SourceId,
    envelope: Arc<Envelope>,
    records: Vec<u8>,
    count: u64,
}

/// How much of a source something is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Which.
    pub source: SourceId,
    /// Records.
    pub records: u64,
    /// Their encoded bytes.
    pub bytes: u64,
}

impl Batch {
    /// Records in it.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.groups.iter().map(|group| group.count).sum()
    }

    /// What it holds of each source.
    #[must_use]
    pub fn shares(&self) -> Vec<Share> {
        let share = |group: &Group| Share {
            source: group.source,
            records: group.count,
            bytes: group.records.len() as u64,
        };
        self.groups.iter().map(share).collect()
    }

    /// Bytes of the request, without those that frame its groups.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let len = |group: &Group| group.envelope.len() + group.records.len();
        self.groups.iter().map(len).sum()
    }

    /// The request: an `ExportLogsServiceRequest` in protobuf.
    #[must_use]
    pub fn request(&self) -> Vec<u8> {
        let mut request = Vec::with_capacity(self.bytes());
        for group in &self.groups {
            group.envelope.put(&mut request, &group.records);
        }
        request
    }

    /// The encoded records of each source, without what surrounds them.
    pub fn encoded(&self) -> impl Iterator<Item = (SourceId, &[u8])> {
        self.groups
            .iter()
            .map(|group| (group.source, &*group.records))
    }

    /// Two halves.
    ///
    /// # Errors
    ///
    /// It has one record, and is given back.
    pub fn split(self) -> Result<(Self, Self), Self> {
        let half = self.records() / 2;
        self.split_at(half)
    }

    /// The first record, for a try, and the rest.
    ///
    /// # Errors
    ///
    /// It has one record, and is given back.
    pub fn split_first(self) -> Result<(Self, Self), Self> {
        self.split_at(1)
    }

    fn split_at(self, records: u64) -> Result<(Self, Self), Self> {
        if records == 0 || records >= self.records() {
            return Err(self);
        }
        let (mut first, mut second, mut room) = (Vec::new(), Vec::new(), records);
        for mut group in self.groups {
            if group.count <= room {
                room -= group.count;
                first.push(group);
                continue;
            }
            // Our own bytes: a record's length is where we put it.
            let cut = otlp::after(&group.records, room).unwrap_or(0);
            if cut > 0 {
                let rest = Group {
                    records: group.records.split_off(cut),
                    count: group.count - room,
                    envelope: Arc::clone(&group.envelope),
                    source: group.source,
                };
                group.count = room;
                first.push(group);
                second.push(rest);
                room = 0;
            } else {
                second.push(group);
            }
        }
        let piece = |groups| Self {
            id: self.id,
            groups,
        };
        Ok((piece(first), piece(second)))
    }
}

/// A batch in the making.
#[derive(Debug, Default)]
pub struct Builder {
    groups: Vec<Group>,
    bytes: usize,
    current: usize,
}

impl Builder {
    /// What comes next is of this source.
    pub fn turn(&mut self, source: SourceId, envelope: &Arc<Envelope>) {
        let known =
            |group: &Group| group.source == source && Arc::ptr_eq(&group.envelope, envelope);
        self.current = self.groups.iter().position(known).unwrap_or_else(|| {
            self.bytes += envelope.len();
            self.groups.push(Group {
                source,
                envelope: Arc::clone(envelope),
                records: Vec::new(),
                count: 0,
            });
            self.groups.len() - 1
        });
    }

    /// Adds a record of the source whose turn it is.
    pub fn push(&mut self, encoder: &Encoder, record: &Record<'_>, valid: bool) {
        if let Some(group) = self.groups.get_mut(self.current) {
            let before = group.records.len();
            encoder.put(&mut group.records, record, valid);
            group.count += 1;
            self.bytes += group.records.len() - before;
        }
    }

    /// Bytes that the request would have, or a few more.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// No record is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.iter().all(|group| group.count == 0)
    }

    /// Ends the batch and begins the next; the turn must be told anew.
    pub fn seal(&mut self, id: BatchId) -> Batch {
        let mut groups = std::mem::take(&mut self.groups);
        groups.retain(|group| group.count > 0);
        *self = Self::default();
        Batch { id, groups }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn batch(counts: &[u64]) -> Batch {
        let (mut builder, encoder) = (Builder::default(), Encoder::new(1));
        for (source, count) in (0..).zip(counts) {
            let envelope = Arc::new(Envelope::new(b"", &format!("s{source}"), "1", "u"));
            builder.turn(SourceId(source), &envelope);
            for number in 0..*count {
                let record = Record {
                    time: number,
                    stream: None,
                    content: format!("{source}/{number}").into_bytes().into(),
                    truncated: false,
                    unparsed: false,
                    severity: None,
                };
                builder.push(&encoder, &record, true);
            }
        }
        let bytes = builder.bytes();
        let batch = builder.seal(BatchId(3));
        assert!(batch.request().len() <= bytes || batch.records() == 0);
        assert!(builder.is_empty());
        batch
    }

    fn all(pieces: &[Batch]) -> Vec<(u32, Vec<u8>)> {
        let mut all: Vec<(u32, Vec<u8>)> = Vec::new();
        for (source, records) in pieces.iter().flat_map(Batch::encoded) {
            match all.last_mut() {
                Some((last, bytes)) if *last == source.0 => bytes.extend(records),
                _ => all.push((source.0, records.to_vec())),
            }
        }
        all
    }

    proptest! {
        #[test]
        fn halves_are_the_whole(counts in proptest::collection::vec(0_u64..5, 0..5)) {
            let whole = batch(&counts);
            let (mut done, mut stack) = (Vec::new(), vec![whole.clone()]);
            while let Some(piece) = stack.pop() {
                prop_assert_eq!(piece.id, whole.id);
                match piece.split() {
                    Ok((first, second)) => {
                        prop_assert!(first.records() > 0 && second.records() > 0);
                        stack.extend([second, first]);
                    }
                    Err(single) => done.push(single),
                }
            }
            prop_assert!(done.iter().all(|piece| piece.records() <= 1));
            prop_assert_eq!(all(&done), all(&[whole]));
        }
    }

    #[test]
    fn one_goes_ahead() {
        let (first, rest) = batch(&[2, 2]).split_first().unwrap();
        assert_eq!((first.records(), rest.records()), (1, 3));
        let shares: Vec<_> = rest
            .shares()
            .iter()
            .map(|share| (share.source.0, share.records))
            .collect();
        assert_eq!(shares, [(0, 1), (1, 2)]);
        assert!(first.split_first().is_err());
    }
}
