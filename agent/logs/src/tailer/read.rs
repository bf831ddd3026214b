//! A container's turn: bytes to lines to records.

use std::borrow::Cow;
use std::time::Duration;

use crate::clock;
use crate::container::Container;
use crate::file::Handle;
use crate::line::{self, Line, Stream};
use crate::offsets::{FileId, Place};
use crate::otlp::Encoder;
use crate::partial::{Merger, Record, Room};

use super::Settings;
use super::output::Output;
use super::ship::{Care, Ship};

/// Bytes read at once: they stay in the processor's cache until they are encoded.
const CHUNK: usize = 128 << 10;
/// What a runtime writes before a line's content, at most.
const LINE_HEAD: usize = 4 << 10;
/// Bytes of lines beyond the longest record.
const TOO_LONG: &str = "line_too_long";
/// A part of a line that nothing follows for so long is shipped by itself.
const PARTIAL_PATIENCE: Duration = Duration::from_secs(5);
/// A message of several lines that nothing follows for so long is complete.
const JOIN_PATIENCE: Duration = Duration::from_secs(1);

/// Reads; one buffer serves all files.
pub(super) struct Reader {
    buffer: Vec<u8>,
    /// A buffer that long without a newline is a line to be cut.
    buffer_max: usize,
    line_bytes_max: usize,
    room: Room,
    care: Care,
}

/// What lines go through.
struct Feed<'a> {
    container: &'a mut Container,
    out: &'a mut Output,
    room: &'a mut Room,
    care: &'a mut Care,
    encoder: Encoder,
    now: Duration,
    line_bytes_max: usize,
    /// The whole chunk is valid UTF-8, and so is each line.
    valid: bool,
}

impl Reader {
    pub(super) fn new(settings: &Settings) -> Self {
        let buffer_max = CHUNK.max(settings.line_bytes_max.saturating_add(LINE_HEAD));
        Self {
            buffer: vec![0; CHUNK],
            buffer_max,
            line_bytes_max: settings.line_bytes_max,
            room: Room::new(settings.partial_bytes_max),
            care: Care::new(settings),
        }
    }

    /// Reads about so many bytes. Gives how many, and whether there may be more.
    pub(super) fn turn(
        &mut self,
        container: &mut Container,
        bytes: u64,
        now: Duration,
        out: &mut Output,
    ) -> (u64, bool) {
        self.care.begin(&container.source.pod.uid, now);
        let mut used = 0;
        let more = loop {
            if used >= bytes || !out.has_room() {
                break true;
            }
            let Some(index) = container.next_readable(now) else {
                break false;
            };
            used += self.read(container, index, false, now, out);
            container.note(&mut out.resume);
        };
        if !more {
            while out.has_room()
                && let Some(index) = container.next_finished(now)
            {
                used += self.read(container, index, true, now, out);
            }
            self.flush_partials(container, now, out);
            container.note(&mut out.resume);
        }
        out.note_time(now);
        self.care.end(&container.source.pod.uid);
        (used, more)
    }

    /// Reads from one file; one that is over is closed at its end, and its last line needs no newline. Gives how many bytes were used, at least one so that an error does not keep the turn.
    fn read(
        &mut self,
        container: &mut Container,
        index: usize,
        is_over: bool,
        now: Duration,
        out: &mut Output,
    ) -> u64 {
        let run = container.files.get(index).map(|file| file.name.restart);
        let mut size = CHUNK;
        loop {
            self.buffer.resize(size, 0);
            let Some(file) = container.files.get_mut(index) else {
                return 1;
            };
            let (filled, end) = match file.fill(&mut self.buffer) {
                Ok(filled) => filled,
                Err(error) => {
                    container.counts.lose("read_error", 0, file.unread());
                    tracing::warn!(error = %error, pod = container.source.pod.pod, container = container.source.container, "a log file cannot be read");
                    file.handle = Handle::Closed;
                    return 1;
                }
            };
            // A file of an earlier run that is only closed, with nothing left in it, does not end this one's lines.
            if filled > 0 && container.run != run {
                self.end_run(container, out);
                container.run = run;
            }
            let Some(file) = container.files.get(index) else {
                return 1;
            };
            let is_final = end && (is_over || matches!(file.handle, Handle::Gzip(_)));
            let is_long = filled == size && size >= self.buffer_max;
            let used = self.feed(container, index, filled, is_final, is_long, now, out);
            let is_full = out.is_full();
            let is_longer = filled == size && size < self.buffer_max;
            if used == 0 && (is_full || is_longer) {
                if let Some(file) = container.files.get_mut(index) {
                    file.used(self.buffer.get(..filled).unwrap_or_default(), 0);
                }
                if is_full {
                    // Not looked at: the end of a run has filled the batch. It is still to be read.
                    return 1;
                }
                // A long line: more of it at once.
                size = (size * 4).min(self.buffer_max);
                continue;
            }
            self.after(container, index, filled, used, is_final, now);
            return (used as u64).max(1);
        }
    }

    /// The file's own account of what was used.
    fn after(
        &mut self,
        container: &mut Container,
        index: usize,
        filled: usize,
        used: usize,
        is_final: bool,
        now: Duration,
    ) {
        let Some(file) = container.files.get_mut(index) else {
            return;
        };
        file.used(self.buffer.get(..filled).unwrap_or_default(), used);
        if used == 0 {
            file.looked = file.read + filled as u64;
        } else {
            file.active = now;
        }
        if is_final && used == filled {
            if matches!(&file.handle, Handle::Gzip(gzip) if gzip.broken) {
                container.counts.lose("gzip", 0, file.unread());
            }
            file.handle = Handle::Closed;
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "what a chunk is; a struct of them would be made and taken apart at once"
    )]
    fn feed(
        &mut self,
        container: &mut Container,
        index: usize,
        filled: usize,
        is_final: bool,
        is_long: bool,
        now: Duration,
        out: &mut Output,
    ) -> usize {
        let chunk = self.buffer.get(..filled).unwrap_or_default();
        let Some(file) = container.files.get_mut(index) else {
            return 0;
        };
        let (id, base) = (file.id, file.read);
        // All whole lines at once: what follows them may end inside a character.
        let end = memchr::memrchr(b'\n', chunk).map_or(0, |newline| newline + 1);
        let lines = chunk.get(..end).unwrap_or_default();
        let mut at = 0;
        if file.skip_line {
            let newline = memchr::memchr(b'\n', chunk);
            at = newline.map_or(chunk.len(), |newline| newline + 1);
            file.skip_line = newline.is_none();
            container.counts.lose(TOO_LONG, 0, at as u64);
        }
        let mut feed = Feed {
            encoder: Encoder::new(clock::unix_ns()),
            valid: std::str::from_utf8(lines).is_ok(),
            container,
            out,
            room: &mut self.room,
            care: &mut self.care,
            now,
            line_bytes_max: self.line_bytes_max,
        };
        let place = |at: usize| Place {
            file: id,
            offset: base + at as u64,
        };
        while let Some(len) = memchr::memchr(b'\n', chunk.get(at..).unwrap_or_default()) {
            if feed.out.is_full() {
                return at;
            }
            feed.line(
                chunk.get(at..at + len).unwrap_or_default(),
                place(at),
                len as u64 + 1,
            );
            at += len + 1;
        }
        let rest = chunk.get(at..).unwrap_or_default();
        if rest.is_empty() || !(is_final || is_long && at == 0) || feed.out.is_full() {
            return at;
        }
        feed.valid = false;
        feed.cut_line(rest, place(at));
        if is_long && let Some(file) = feed.container.files.get_mut(index) {
            file.skip_line = true;
        }
        chunk.len()
    }

    /// What is open is shipped as it is: nothing goes on from one run of a container to the next.
    fn end_run(&mut self, container: &mut Container, out: &mut Output) {
        self.ship_open(container, Duration::MAX, Duration::MAX, out);
        container.merger = Merger::default();
    }

    fn flush_partials(&mut self, container: &mut Container, now: Duration, out: &mut Output) {
        let before = |patience| now.checked_sub(patience).unwrap_or_default();
        if container.is_open() {
            let (parts, lines) = (before(PARTIAL_PATIENCE), before(JOIN_PATIENCE));
            self.ship_open(container, parts, lines, out);
        }
    }

    /// Parts and messages that nothing was added to since then.
    fn ship_open(
        &mut self,
        container: &mut Container,
        parts: Duration,
        lines: Duration,
        out: &mut Output,
    ) {
        let Container {
            id,
            merger,
            joiner,
            counts,
            ..
        } = container;
        let encoder = Encoder::new(clock::unix_ns());
        let (cap, care) = (self.line_bytes_max, &mut self.care);
        let mut ship = Ship {
            out,
            encoder: &encoder,
            counts,
        };
        // It is cut, so it is not held, and where it began does not matter.
        let nowhere = Place {
            file: FileId {
                source: *id,
                number: 0,
            },
            offset: 0,
        };
        merger.flush(parts, &mut self.room, |record| {
            ship.put(record, false, nowhere, joiner, care, cap, Duration::ZERO);
        });
        ship.flush(lines, joiner, care);
    }
}

impl Feed<'_> {
    /// A line of the file, without its newline; `bytes` are those it takes in the file.
    fn line(&mut self, raw: &[u8], place: Place, bytes: u64) {
        let Some(line) = line::parse(raw) else {
            self.unparsed(raw, place, bytes, false);
            return;
        };
        self.container.counts.take(Some(line.stream), bytes);
        self.parsed(&line, place, false);
    }

    /// A line without an end: it was cut by whoever wrote it, or is too long to look for its end.
    fn cut_line(&mut self, raw: &[u8], place: Place) {
        let bytes = raw.len() as u64;
        match line::parse(raw) {
            Some(line) => {
                self.container.counts.take(Some(line.stream), bytes);
                let whole = Line {
                    partial: false,
                    ..line
                };
                self.parsed(&whole, place, true);
            }
            None => self.unparsed(raw, place, bytes, true),
        }
    }

    fn parsed(&mut self, line: &Line<'_>, place: Place, cut: bool) {
        let Container {
            merger,
            joiner,
            counts,
            ..
        } = &mut *self.container;
        let (cap, now, valid, care) = (self.line_bytes_max, self.now, self.valid, &mut *self.care);
        let mut ship = Ship {
            out: self.out,
            encoder: &self.encoder,
            counts,
        };
        if !line.partial && line.content.len() <= cap && merger.is_idle(line.stream) {
            let record = Record {
                time: line.time,
                stream: Some(line.stream),
                content: Cow::Borrowed(&line.content),
                truncated: cut,
                unparsed: false,
                severity: None,
            };
            ship.put(record, valid, place, joiner, care, cap, now);
            return;
        }
        let start = merger.start_of(line.stream).unwrap_or(place);
        let emit = |mut record: Record<'_>| {
            record.truncated |= cut;
            ship.put(record, valid, start, joiner, care, cap, now);
        };
        let dropped = merger.push(line, place, now, cap, self.room, emit);
        self.container.counts.lose_if(TOO_LONG, dropped);
    }

    fn unparsed(&mut self, raw: &[u8], place: Place, bytes: u64, cut: bool) {
        let cap = self.line_bytes_max;
        let fits = raw.len().min(cap);
        let record = Record {
            time: 0,
            stream: None,
            content: Cow::Borrowed(raw.get(..fits).unwrap_or_default()),
            truncated: cut || fits < raw.len(),
            unparsed: true,
            severity: None,
        };
        let Container { joiner, counts, .. } = &mut *self.container;
        counts.take(None::<Stream>, bytes);
        counts.lose_if(TOO_LONG, (raw.len() - fits) as u64);
        let mut ship = Ship {
            out: self.out,
            encoder: &self.encoder,
            counts,
        };
        ship.put(record, self.valid, place, joiner, self.care, cap, self.now);
    }
}
