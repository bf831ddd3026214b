//! OTLP log records straight to protobuf: no message is built, no map is made. Pure.
//!
//! The layout is that of `opentelemetry/proto/logs/v1/logs.proto` (1.x, stable); a test holds it against the generated types.

use crate::line::Stream;
use crate::partial::Record;

/// Field number and wire type, as one byte each.
mod tag {
    pub(super) const REQUEST_RESOURCE_LOGS: u8 = 0x0a;
    pub(super) const RESOURCE_LOGS_RESOURCE: u8 = 0x0a;
    pub(super) const RESOURCE_LOGS_SCOPE_LOGS: u8 = 0x12;
    pub(super) const SCOPE_LOGS_SCOPE: u8 = 0x0a;
    pub(super) const SCOPE_LOGS_RECORD: u8 = 0x12;
    /// The same number in both messages.
    pub(super) const SCHEMA_URL: u8 = 0x1a;
    pub(super) const SCOPE_NAME: u8 = 0x0a;
    pub(super) const SCOPE_VERSION: u8 = 0x12;
    pub(super) const RECORD_TIME: u8 = 0x09;
    pub(super) const RECORD_SEVERITY_NUMBER: u8 = 0x10;
    pub(super) const RECORD_SEVERITY_TEXT: u8 = 0x1a;
    pub(super) const RECORD_BODY: u8 = 0x2a;
    pub(super) const RECORD_ATTRIBUTE: u8 = 0x32;
    pub(super) const RECORD_OBSERVED: u8 = 0x59;
    pub(super) const PAIR_KEY: u8 = 0x0a;
    pub(super) const PAIR_VALUE: u8 = 0x12;
    pub(super) const VALUE_STRING: u8 = 0x0a;
    pub(super) const VALUE_BOOL: u8 = 0x10;
    pub(super) const VALUE_BYTES: u8 = 0x3a;
}

/// The attribute that names the stream.
pub const IOSTREAM: &str = "log.iostream";
/// Set on a record that lacks something of what the container wrote, or begins in the middle of it.
pub const TRUNCATED: &str = "plumbline.log.truncated";
/// Set on a record whose line is in no known format.
pub const UNPARSED: &str = "plumbline.log.unparsed";

/// Records of a request that share a resource: all that surrounds them.
#[derive(Debug, PartialEq, Eq)]
pub struct Envelope {
    resource: Vec<u8>,
    scope: Vec<u8>,
    schema: Vec<u8>,
}

impl Envelope {
    /// `resource` is an encoded `Resource` message; name and version are the scope's.
    #[must_use]
    pub fn new(resource: &[u8], name: &str, version: &str, schema_url: &str) -> Self {
        let mut scope = Vec::new();
        put_bytes(&mut scope, tag::SCOPE_NAME, name.as_bytes());
        put_bytes(&mut scope, tag::SCOPE_VERSION, version.as_bytes());
        let field = |tag, bytes: &[u8]| {
            let mut field = Vec::with_capacity(bytes.len() + 6);
            put_bytes(&mut field, tag, bytes);
            field
        };
        Self {
            resource: field(tag::RESOURCE_LOGS_RESOURCE, resource),
            scope: field(tag::SCOPE_LOGS_SCOPE, &scope),
            schema: field(tag::SCHEMA_URL, schema_url.as_bytes()),
        }
    }

    /// Bytes that it adds to a request, at most.
    #[must_use]
    pub fn len(&self) -> usize {
        // Two tags, two lengths of up to five bytes.
        self.resource.len() + self.scope.len() + 2 * self.schema.len() + 12
    }

    /// There is always something in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Appends one `ResourceLogs` with these encoded records to a request.
    pub fn put(&self, request: &mut Vec<u8>, records: &[u8]) {
        let scope_logs = self.scope.len() + records.len() + self.schema.len();
        let scope_logs_field = 1 + varint_len(scope_logs) + scope_logs;
        let resource_logs = self.resource.len() + scope_logs_field + self.schema.len();
        request.push(tag::REQUEST_RESOURCE_LOGS);
        put_varint(request, resource_logs);
        request.extend_from_slice(&self.resource);
        request.push(tag::RESOURCE_LOGS_SCOPE_LOGS);
        put_varint(request, scope_logs);
        request.extend_from_slice(&self.scope);
        request.extend_from_slice(records);
        request.extend_from_slice(&self.schema);
        request.extend_from_slice(&self.schema);
    }
}

/// Encodes records that are read at about the same time.
#[derive(Debug)]
pub struct Encoder {
    /// What comes after the body, by stream; the last is for lines that name none.
    tails: [Vec<u8>; 3],
}

impl Encoder {
    /// `observed` is when these records are read, in nanoseconds since 1970.
    #[must_use]
    pub fn new(observed: u64) -> Self {
        let tail = |stream: Option<Stream>| {
            let mut tail = Vec::with_capacity(64);
            if let Some(stream) = stream {
                put_string_pair(&mut tail, IOSTREAM, stream.as_str());
            }
            tail.push(tag::RECORD_OBSERVED);
            tail.extend_from_slice(&observed.to_le_bytes());
            tail
        };
        Self {
            tails: [
                tail(Some(Stream::Stdout)),
                tail(Some(Stream::Stderr)),
                tail(None),
            ],
        }
    }

    /// Appends a record, as a field of `ScopeLogs`. What is no valid UTF-8 goes as bytes, so that nothing of it is lost;
    /// `valid` says that it is known to be.
    pub fn put(&self, out: &mut Vec<u8>, record: &Record<'_>, valid: bool) {
        let content = &*record.content;
        let tail = match record.stream {
            Some(Stream::Stdout) => &self.tails[0],
            Some(Stream::Stderr) => &self.tails[1],
            None => &self.tails[2],
        };
        let mut flags = Vec::new();
        if record.truncated {
            put_true(&mut flags, TRUNCATED);
        }
        if record.unparsed {
            put_true(&mut flags, UNPARSED);
        }
        if let Some(severity) = record.severity {
            flags.extend([tag::RECORD_SEVERITY_NUMBER, severity.number()]);
            put_bytes(
                &mut flags,
                tag::RECORD_SEVERITY_TEXT,
                severity.as_str().as_bytes(),
            );
        }
        let time = if record.time == 0 { 0 } else { 9 };
        let value = 1 + varint_len(content.len()) + content.len();
        let inner = time + 1 + varint_len(value) + value + flags.len() + tail.len();
        // All that stands before the content, in one piece.
        let mut head = Head::default();
        head.push(tag::SCOPE_LOGS_RECORD);
        head.varint(inner);
        if time > 0 {
            head.push(tag::RECORD_TIME);
            head.extend(&record.time.to_le_bytes());
        }
        head.push(tag::RECORD_BODY);
        head.varint(value);
        let text = valid || std::str::from_utf8(content).is_ok();
        head.push(if text {
            tag::VALUE_STRING
        } else {
            tag::VALUE_BYTES
        });
        head.varint(content.len());
        out.reserve(head.len + content.len() + flags.len() + tail.len());
        out.extend_from_slice(head.bytes.get(..head.len).unwrap_or_default());
        out.extend_from_slice(content);
        out.extend_from_slice(&flags);
        out.extend_from_slice(tail);
    }
}

/// Room for four tags, three lengths of up to five bytes, and a time.
#[derive(Default)]
struct Head {
    bytes: [u8; 32],
    len: usize,
}

// `get_mut` in both: the room is enough by the count above, and a mistake there must not panic on a line from outside.
impl Head {
    fn push(&mut self, byte: u8) {
        self.extend(&[byte]);
    }

    fn extend(&mut self, bytes: &[u8]) {
        if let Some(place) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            place.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }

    fn varint(&mut self, value: usize) {
        let mut value = value;
        while value > 0x7f {
            self.push(low_bits(value) | 0x80);
            value >>= 7;
        }
        self.push(low_bits(value));
    }
}

/// How many encoded records there are; `None` if these are none.
#[must_use]
pub fn count(records: &[u8]) -> Option<u64> {
    let (mut rest, mut count) = (records, 0);
    while !rest.is_empty() {
        rest = rest.get(record_len(rest)?..)?;
        count += 1;
    }
    Some(count)
}

/// Where the record after the first `n` begins.
#[must_use]
pub fn after(records: &[u8], n: u64) -> Option<usize> {
    let mut at = 0;
    for _ in 0..n {
        at += record_len(records.get(at..)?)?;
    }
    Some(at)
}

fn record_len(field: &[u8]) -> Option<usize> {
    let (&tag, mut rest) = field.split_first()?;
    if tag != tag::SCOPE_LOGS_RECORD {
        return None;
    }
    let (mut len, mut shift) = (0_usize, 0_u32);
    loop {
        let (&byte, after) = rest.split_first()?;
        len |= usize::from(byte & 0x7f).checked_shl(shift)?;
        (rest, shift) = (after, shift + 7);
        if byte < 0x80 {
            return (field.len() - rest.len()).checked_add(len);
        }
        if shift > 56 {
            return None;
        }
    }
}

fn put_varint(out: &mut Vec<u8>, value: usize) {
    let mut head = Head::default();
    head.varint(value);
    out.extend_from_slice(head.bytes.get(..head.len).unwrap_or_default());
}

fn low_bits(value: usize) -> u8 {
    (value & 0x7f).to_le_bytes()[0]
}

fn varint_len(value: usize) -> usize {
    let bits = usize::BITS - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

fn put_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    put_varint(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_pair(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    let mut pair = Vec::with_capacity(key.len() + value.len() + 4);
    put_bytes(&mut pair, tag::PAIR_KEY, key.as_bytes());
    put_bytes(&mut pair, tag::PAIR_VALUE, value);
    put_bytes(out, tag::RECORD_ATTRIBUTE, &pair);
}

fn put_string_pair(out: &mut Vec<u8>, key: &str, text: &str) {
    let mut value = Vec::with_capacity(text.len() + 2);
    put_bytes(&mut value, tag::VALUE_STRING, text.as_bytes());
    put_pair(out, key, &value);
}

fn put_true(out: &mut Vec<u8>, key: &str) {
    put_pair(out, key, &[tag::VALUE_BOOL, 1]);
}

#[cfg(test)]
mod tests;
