//! Joins lines that are one message, such as stack traces: opt-in, under the same hard cap as parts of a line. Pure.

use std::borrow::Cow;
use std::time::Duration;

use regex::bytes::{Regex, RegexBuilder};

use crate::line::Stream;
use crate::offsets::{FileId, Place};
use crate::partial::{Record, Room};

/// Lines of one message.
const LINES_MAX: u32 = 1_000;
/// Lines that go on though they are not indented, by how they begin: Java's causes.
const GOES_ON: [&[u8]; 2] = [b"Caused by: ", b"Suppressed: "];
/// Bytes of the automaton.
const AUTOMATON_BYTES_MAX: usize = 1 << 20;

/// Which lines go on with the one before.
#[derive(Clone, Debug)]
pub enum Rule {
    /// Those that begin with a space or a tab, and Java's causes.
    Indented,
    /// All but those that match.
    Until(Regex),
}

impl Rule {
    /// `indented`, or `start:EXPRESSION` for what the first line of a message matches.
    ///
    /// # Errors
    ///
    /// It is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "indented" {
            return Ok(Self::Indented);
        }
        let Some(start) = text.strip_prefix("start:") else {
            return Err("is `indented`, or `start:` and an expression".into());
        };
        let mut builder = RegexBuilder::new(start);
        builder.unicode(false).size_limit(AUTOMATON_BYTES_MAX);
        let start = builder.build().map_err(|error| error.to_string())?;
        Ok(Self::Until(start))
    }

    fn goes_on(&self, content: &[u8]) -> bool {
        match self {
            Self::Indented => {
                matches!(content, [b' ' | b'\t', ..])
                    || GOES_ON.iter().any(|begin| content.starts_with(begin))
            }
            Self::Until(start) => !start.is_match(content),
        }
    }
}

/// The message of each stream that may still go on.
#[derive(Debug, Default)]
pub struct Joiner {
    held: [Option<Held>; 2],
}

#[derive(Debug)]
struct Held {
    time: u64,
    stream: Stream,
    content: Vec<u8>,
    start: Place,
    last: Duration,
    lines: u32,
}

impl Held {
    fn record(self) -> Record<'static> {
        Record {
            time: self.time,
            stream: Some(self.stream),
            content: Cow::Owned(self.content),
            truncated: false,
            unparsed: false,
            severity: None,
        }
    }
}

impl Joiner {
    /// Takes a whole record that began at `start`, and gives what is complete to `emit`. Of one message at most `cap` bytes
    /// are held; what does not fit begins another.
    #[expect(
        clippy::too_many_arguments,
        reason = "as `Merger::push`, which it follows"
    )]
    pub fn push(
        &mut self,
        record: Record<'_>,
        start: Place,
        now: Duration,
        rule: &Rule,
        cap: usize,
        room: &mut Room,
        mut emit: impl FnMut(Record<'_>),
    ) {
        let Some(stream) = record
            .stream
            .filter(|_| !record.truncated && !record.unparsed)
        else {
            // Nothing is added to what is cut or in no known format, and it stays where it was among the others.
            self.end(room, &mut emit);
            emit(record);
            return;
        };
        let slot = match stream {
            Stream::Stdout => &mut self.held[0],
            Stream::Stderr => &mut self.held[1],
        };
        if let Some(held) = slot
            && rule.goes_on(&record.content)
            && held.lines < LINES_MAX
            && held.content.len() + 1 + record.content.len() <= cap
            && room.take(1 + record.content.len())
        {
            held.content.push(b'\n');
            held.content.extend_from_slice(&record.content);
            (held.last, held.lines) = (now, held.lines + 1);
            return;
        }
        if let Some(held) = slot.take() {
            room.give_back(held.content.len());
            emit(held.record());
        }
        if record.content.len() > cap || !room.take(record.content.len()) {
            emit(record);
            return;
        }
        *slot = Some(Held {
            time: record.time,
            stream,
            content: record.content.into_owned(),
            start,
            last: now,
            lines: 1,
        });
    }

    /// Messages whose last line came before `before` are complete.
    pub fn flush(&mut self, before: Duration, room: &mut Room, mut emit: impl FnMut(Record<'_>)) {
        for slot in &mut self.held {
            if let Some(held) = slot.take_if(|held| held.last < before) {
                room.give_back(held.content.len());
                emit(held.record());
            }
        }
    }

    /// All are.
    pub fn end(&mut self, room: &mut Room, emit: impl FnMut(Record<'_>)) {
        self.flush(Duration::MAX, room, emit);
    }

    /// Whether a message is held.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.starts().next().is_some()
    }

    /// Where the first held message that began in this file began.
    #[must_use]
    pub fn start_in(&self, file: FileId) -> Option<u64> {
        let here = self.starts().filter(|start| start.file == file);
        here.map(|start| start.offset).min()
    }

    /// Where held messages began.
    pub fn starts(&self) -> impl Iterator<Item = Place> {
        self.held.iter().flatten().map(|held| held.start)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::SourceId;

    const FILE: FileId = FileId {
        source: SourceId(1),
        number: 1,
    };

    struct Bench {
        joiner: Joiner,
        room: Room,
        rule: Rule,
        cap: usize,
        out: Vec<String>,
        at: u64,
    }

    impl Bench {
        fn new(rule: &str, cap: usize, room: usize) -> Self {
            Self {
                joiner: Joiner::default(),
                room: Room::new(room),
                rule: Rule::parse(rule).unwrap(),
                cap,
                out: Vec::new(),
                at: 0,
            }
        }

        fn push(&mut self, stream: Option<Stream>, text: &str) {
            let record = Record {
                time: self.at,
                stream,
                content: text.as_bytes().into(),
                truncated: false,
                unparsed: stream.is_none(),
                severity: None,
            };
            let start = Place {
                file: FILE,
                offset: self.at,
            };
            let out = &mut self.out;
            let emit = |record: Record<'_>| {
                out.push(String::from_utf8_lossy(&record.content).into_owned());
            };
            let now = Duration::from_secs(self.at);
            self.joiner.push(
                record,
                start,
                now,
                &self.rule,
                self.cap,
                &mut self.room,
                emit,
            );
            self.at += 1;
        }

        fn end(&mut self) {
            let out = &mut self.out;
            self.joiner.end(&mut self.room, |record| {
                out.push(String::from_utf8_lossy(&record.content).into_owned());
            });
        }
    }

    const OUT: Option<Stream> = Some(Stream::Stdout);

    #[test]
    fn a_stack_trace_is_one_record() {
        let mut bench = Bench::new("indented", 1_000, 1_000);
        for line in ["boom", "\tat x", "Caused by: y", "\tat z", "next"] {
            bench.push(OUT, line);
            bench.push(Some(Stream::Stderr), "other");
        }
        assert_eq!(bench.joiner.start_in(FILE), Some(8));
        bench.end();
        assert_eq!(
            bench.out[..5]
                .iter()
                .filter(|text| *text == "other")
                .count(),
            4
        );
        assert!(
            bench
                .out
                .contains(&"boom\n\tat x\nCaused by: y\n\tat z".to_owned())
        );
        assert_eq!(bench.room.free(), 1_000);
    }

    #[test]
    fn a_first_line_by_expression() {
        let mut bench = Bench::new("start:^[0-9]{4} ", 1_000, 1_000);
        for line in ["lost beginning", "2026 a", "b", "2027 c"] {
            bench.push(OUT, line);
        }
        bench.end();
        assert_eq!(bench.out, ["lost beginning", "2026 a\nb", "2027 c"]);
        assert!(Rule::parse("start:(").is_err() && Rule::parse("x").is_err());
    }

    #[test]
    fn what_does_not_fit_is_another_record() {
        let mut bench = Bench::new("indented", 6, 100);
        for line in ["abc", " d", " e", "0123456", "x"] {
            bench.push(OUT, line);
        }
        bench.end();
        assert_eq!(bench.out, ["abc\n d", " e", "0123456", "x"]);
    }

    #[test]
    fn what_is_in_no_known_format_keeps_its_place() {
        let mut bench = Bench::new("indented", 100, 100);
        bench.push(OUT, "a");
        bench.push(None, " raw");
        bench.push(OUT, " b");
        bench.end();
        assert_eq!(bench.out, ["a", " raw", " b"]);
    }

    proptest! {
        /// Every line comes out once and whole, whatever is joined; and all room is given back.
        #[test]
        fn nothing_is_lost(
            lines in proptest::collection::vec((any::<bool>(), "[ a-c]{0,6}"), 0..40), cap in 1_usize..20, room in 0_usize..40,
        ) {
            let mut bench = Bench::new("indented", cap, room);
            for (stdout, text) in &lines {
                bench.push(if *stdout { OUT } else { Some(Stream::Stderr) }, text);
            }
            bench.end();
            prop_assert_eq!(bench.room.free(), room);
            let mut out: Vec<String> = bench.out.iter().flat_map(|record| record.split('\n')).map(str::to_owned).collect();
            let mut fed: Vec<String> = lines.into_iter().map(|(_, text)| text).collect();
            out.sort();
            fed.sort();
            prop_assert_eq!(out, fed);
        }
    }
}
