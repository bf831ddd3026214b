//! Puts the parts of a container's long lines together again, under a hard cap. Pure.
//!
//! A runtime cuts lines at 16 KiB (containerd) or 8 KiB (conmon) and marks all parts but the last. Nothing is allocated
//! before it is known to fit: a container that never ends its line must cost no more than one that does.

use std::borrow::Cow;
use std::time::Duration;

use crate::line::{Line, Stream};
use crate::offsets::{FileId, Place};
use crate::severity::Severity;

/// What the open chains of all containers may hold together. Beyond it a chain is shipped in pieces.
#[derive(Debug)]
pub struct Room {
    free: usize,
}

/// A line as the container wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// When the runtime took its first part, in nanoseconds since 1970; 0 when the line does not say.
    pub time: u64,
    /// Where it was written to; `None` when the line does not say.
    pub stream: Option<Stream>,
    /// Its bytes.
    pub content: Cow<'a, [u8]>,
    /// Something is missing at its beginning or end.
    pub truncated: bool,
    /// The line is shipped as it stands in the file, since it is in no known format.
    pub unparsed: bool,
    /// How bad it says it is, where that was asked for.
    pub severity: Option<Severity>,
}

/// The open chains of one run of a container.
#[derive(Debug, Default)]
pub struct Merger {
    chains: [Chain; 2],
}

#[derive(Debug, Default)]
enum Chain {
    #[default]
    Idle,
    Open {
        time: u64,
        content: Vec<u8>,
        start: Place,
        last: Duration,
    },
    /// The cap was reached: parts are dropped up to the last one.
    Skipping,
}

impl Room {
    /// So many bytes in all.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self { free: bytes }
    }

    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        let Some(free) = self.free.checked_sub(bytes) else {
            return false;
        };
        self.free = free;
        true
    }

    pub(crate) fn give_back(&mut self, bytes: usize) {
        self.free += bytes;
    }

    /// Bytes that may still be taken.
    #[must_use]
    pub fn free(&self) -> usize {
        self.free
    }
}

impl Merger {
    /// Whether a whole line of this stream stands for itself.
    #[must_use]
    pub fn is_idle(&self, stream: Stream) -> bool {
        matches!(self.chains[index(stream)], Chain::Idle)
    }

    /// Takes a line at `place`, and gives what is complete to `emit`. Returns how many bytes were dropped: those beyond
    /// `cap`, of which at most so many are ever held for one line.
    pub fn push(
        &mut self,
        line: &Line<'_>,
        place: Place,
        now: Duration,
        cap: usize,
        room: &mut Room,
        mut emit: impl FnMut(Record<'_>),
    ) -> u64 {
        let chain = &mut self.chains[index(line.stream)];
        let record = |time, content, truncated| Record {
            time,
            stream: Some(line.stream),
            content,
            truncated,
            unparsed: false,
            severity: None,
        };
        let held = match chain {
            Chain::Skipping => {
                if !line.partial {
                    *chain = Chain::Idle;
                }
                return line.content.len() as u64;
            }
            Chain::Idle => 0,
            Chain::Open { content, .. } => content.len(),
        };
        let fits = line.content.len().min(cap.saturating_sub(held));
        let dropped = line.content.len() - fits;
        let part = line.content.get(..fits).unwrap_or_default();
        if held == 0 && !line.partial {
            emit(record(line.time, Cow::Borrowed(part), dropped > 0));
            *chain = Chain::Idle;
            return dropped as u64;
        }
        if !room.take(part.len()) {
            // Others hold it all: pieces rather than losses.
            if let Chain::Open { time, content, .. } = std::mem::take(chain) {
                room.give_back(content.len());
                emit(record(time, Cow::Owned(content), true));
            }
            emit(record(line.time, Cow::Borrowed(part), true));
            if dropped > 0 && line.partial {
                *chain = Chain::Skipping;
            }
            return dropped as u64;
        }
        match chain {
            Chain::Open { content, last, .. } => {
                content.extend_from_slice(part);
                *last = now;
            }
            Chain::Idle | Chain::Skipping => {
                *chain = Chain::Open {
                    time: line.time,
                    content: part.to_vec(),
                    start: place,
                    last: now,
                }
            }
        }
        if line.partial && dropped == 0 {
            return 0;
        }
        let next = if line.partial {
            Chain::Skipping
        } else {
            Chain::Idle
        };
        if let Chain::Open { time, content, .. } = std::mem::replace(chain, next) {
            room.give_back(content.len());
            emit(record(time, Cow::Owned(content), dropped > 0));
        }
        dropped as u64
    }

    /// Ends chains whose last part came before `before`: they are shipped as they are.
    pub fn flush(&mut self, before: Duration, room: &mut Room, mut emit: impl FnMut(Record<'_>)) {
        for (chain, stream) in self.chains.iter_mut().zip([Stream::Stdout, Stream::Stderr]) {
            if !matches!(chain, Chain::Open { last, .. } if *last < before) {
                continue;
            }
            if let Chain::Open { time, content, .. } = std::mem::take(chain) {
                room.give_back(content.len());
                emit(Record {
                    time,
                    stream: Some(stream),
                    content: Cow::Owned(content),
                    truncated: true,
                    unparsed: false,
                    severity: None,
                });
            }
        }
    }

    /// The end of a run: what is open is shipped, and nothing is expected any more.
    pub fn end(&mut self, room: &mut Room, emit: impl FnMut(Record<'_>)) {
        self.flush(Duration::MAX, room, emit);
        self.chains = Default::default();
    }

    /// Whether any chain is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.starts().next().is_some()
    }

    /// Where the stream's open chain began.
    #[must_use]
    pub fn start_of(&self, stream: Stream) -> Option<Place> {
        match &self.chains[index(stream)] {
            Chain::Open { start, .. } => Some(*start),
            Chain::Idle | Chain::Skipping => None,
        }
    }

    /// Where the first open chain that began in this file began.
    #[must_use]
    pub fn start_in(&self, file: FileId) -> Option<u64> {
        let here = self.starts().filter(|start| start.file == file);
        here.map(|start| start.offset).min()
    }

    /// Where open chains began.
    pub fn starts(&self) -> impl Iterator<Item = Place> {
        self.chains.iter().filter_map(|chain| match chain {
            Chain::Open { start, .. } => Some(*start),
            Chain::Idle | Chain::Skipping => None,
        })
    }
}

fn index(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::SourceId;

    const CAP: usize = 10;
    const FILE: FileId = FileId {
        source: SourceId(1),
        number: 1,
    };
    const OTHER: FileId = FileId {
        source: SourceId(1),
        number: 2,
    };

    struct Bench {
        merger: Merger,
        room: Room,
        out: Vec<(Vec<u8>, bool)>,
        dropped: u64,
        at: u64,
    }

    impl Bench {
        fn new(room: usize) -> Self {
            Self {
                merger: Merger::default(),
                room: Room::new(room),
                out: Vec::new(),
                dropped: 0,
                at: 0,
            }
        }

        fn push(&mut self, stream: Stream, partial: bool, content: &[u8]) {
            let line = Line {
                time: 1,
                stream,
                partial,
                content: content.into(),
            };
            let place = Place {
                file: FILE,
                offset: self.at,
            };
            let out = &mut self.out;
            let emit =
                |record: Record<'_>| out.push((record.content.into_owned(), record.truncated));
            self.dropped += self.merger.push(
                &line,
                place,
                Duration::from_secs(self.at),
                CAP,
                &mut self.room,
                emit,
            );
            self.at += 1;
        }

        fn shown(&self) -> Vec<String> {
            let show = |(content, truncated): &(Vec<u8>, bool)| {
                format!(
                    "{}{}",
                    content.escape_ascii(),
                    if *truncated { "!" } else { "" }
                )
            };
            self.out.iter().map(show).collect()
        }
    }

    use Stream::{Stderr, Stdout};

    #[test]
    fn streams_have_a_chain_each() {
        let mut bench = Bench::new(100);
        bench.push(Stdout, true, b"ab");
        bench.push(Stderr, false, b"x");
        bench.push(Stderr, true, b"y");
        assert_eq!(bench.merger.start_in(FILE), Some(0));
        assert_eq!(bench.merger.start_in(OTHER), None);
        bench.push(Stdout, false, b"cd");
        assert_eq!(bench.merger.start_in(FILE), Some(2));
        bench.push(Stderr, false, b"z");
        assert_eq!(bench.shown(), ["x", "abcd", "yz"]);
        assert!(!bench.merger.is_open());
        assert_eq!(bench.room.free(), 100);
    }

    #[test]
    fn at_the_cap_a_line_is_cut_and_the_next_is_whole() {
        let mut bench = Bench::new(100);
        bench.push(Stdout, true, b"0123456");
        bench.push(Stdout, true, b"789ab");
        bench.push(Stdout, true, b"cdef");
        bench.push(Stdout, false, b"g");
        bench.push(Stdout, false, b"next");
        bench.push(Stdout, false, b"0123456789abc");
        assert_eq!(bench.shown(), ["0123456789!", "next", "0123456789!"]);
        assert_eq!((bench.dropped, bench.room.free()), (10, 100));
    }

    #[test]
    fn without_room_a_line_comes_in_pieces() {
        let mut bench = Bench::new(5);
        bench.push(Stdout, true, b"abcd");
        bench.push(Stdout, true, b"efgh");
        bench.push(Stdout, false, b"ij");
        assert_eq!(bench.shown(), ["abcd!", "efgh!", "ij"]);
        assert_eq!((bench.dropped, bench.room.free()), (0, 5));
    }

    #[test]
    fn a_chain_that_does_not_go_on_is_shipped() {
        let mut bench = Bench::new(100);
        bench.push(Stdout, true, b"a");
        bench.push(Stderr, true, b"b");
        let out = &mut bench.out;
        let emit = |record: Record<'_>| out.push((record.content.into_owned(), record.truncated));
        bench
            .merger
            .flush(Duration::from_secs(1), &mut bench.room, emit);
        assert_eq!(bench.shown(), ["a!"]);
        bench.merger.end(&mut bench.room, |_| {});
        assert_eq!(bench.room.free(), 100);
    }

    proptest! {
        /// Bytes in = bytes out + bytes dropped + bytes held, whatever comes, and no record is over the cap.
        #[test]
        fn nothing_gets_lost_uncounted(
            lines in proptest::collection::vec((any::<bool>(), any::<bool>(), proptest::collection::vec(any::<u8>(), 0..15)), 0..50),
            room in 0_usize..40,
        ) {
            let mut bench = Bench::new(room);
            let mut fed = 0;
            for (stdout, partial, content) in &lines {
                bench.push(if *stdout { Stdout } else { Stderr }, *partial, content);
                fed += content.len();
            }
            let held = room - bench.room.free();
            prop_assert!(bench.out.iter().all(|(content, _)| content.len() <= CAP));
            let out: usize = bench.out.iter().map(|(content, _)| content.len()).sum();
            prop_assert_eq!(fed, out + usize::try_from(bench.dropped).unwrap() + held);
            bench.merger.end(&mut bench.room, |_| {});
            prop_assert_eq!(bench.room.free(), room);
        }
    }
}
