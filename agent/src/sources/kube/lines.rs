//! Lines of a watch, one event each, while they arrive. Pure.

use super::items::OBJECT_BYTES_MAX;

/// An event is an object and its type.
const LINE_BYTES_MAX: usize = OBJECT_BYTES_MAX + 1_024;
/// Room that is kept from one line to the next.
const ROOM_KEPT: usize = 256 << 10;

/// One event of a watch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// Its bytes, without the end of line.
    Whole(&'a [u8]),
    /// It is longer than any event may be.
    TooLong,
}

/// Reads one body.
#[derive(Debug, Default)]
pub(super) struct Lines {
    buffer: Vec<u8>,
    too_long: bool,
}

impl Lines {
    /// Takes the next bytes in; `line` is called for each line that they complete, but for empty ones.
    pub(super) fn push(&mut self, bytes: &[u8], mut line: impl FnMut(Line<'_>)) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.take(&rest[..end]);
            rest = &rest[end + 1..];
            if self.too_long {
                line(Line::TooLong);
            } else if !self.buffer.is_empty() {
                line(Line::Whole(&self.buffer));
            }
            self.too_long = false;
            self.buffer.clear();
            self.buffer.shrink_to(ROOM_KEPT);
        }
        self.take(rest);
    }

    /// Whether a line has begun and not ended: the body broke off.
    pub(super) fn is_within(&self) -> bool {
        self.too_long || !self.buffer.is_empty()
    }

    fn take(&mut self, bytes: &[u8]) {
        if self.too_long || self.buffer.len() + bytes.len() > LINE_BYTES_MAX {
            (self.too_long, self.buffer) = (true, Vec::new());
        } else {
            self.buffer.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LINE_BYTES_MAX, Line, Lines};

    #[test]
    fn lines_are_whole_whatever_the_pieces() {
        let body = b"{\"a\":1}\n\nsecond\nthird";
        for piece in 1..body.len() {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for bytes in body.chunks(piece) {
                lines.push(bytes, |line| {
                    if let Line::Whole(bytes) = line {
                        found.push(String::from_utf8(bytes.to_vec()).unwrap());
                    }
                });
            }
            assert_eq!(found, ["{\"a\":1}", "second"]);
            assert!(lines.is_within());
        }
    }

    #[test]
    fn a_line_without_end_costs_no_memory_and_not_the_next() {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for _ in 0..100 {
            lines.push(&vec![b'x'; LINE_BYTES_MAX / 10], |_| {});
            assert!(lines.buffer.capacity() <= 2 * LINE_BYTES_MAX);
        }
        lines.push(b"\nnext\n", |line| found.push(line == Line::TooLong));
        assert_eq!(found, [true, false]);
        assert!(!lines.is_within());
    }
}
