//! One log file: its identity, how far it is read, and its bytes, compressed or not.

use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::time::Duration;

use flate2::bufread::MultiGzDecoder;
use rustix::fs::Stat;

use crate::checkpoint::{HEAD_BYTES, Head};
use crate::offsets::FileId;
use crate::source::LogName;

/// The most that deflate can make of one byte.
const DEFLATE_MAX: u64 = 1_032;

/// What `stat` says of a file that is to be known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    modified: (i64, u64),
}

impl Stamp {
    pub(crate) fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: (stat.st_mtime, stat.st_mtime_nsec),
        }
    }

    pub(crate) fn same_inode(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

#[derive(Debug)]
pub(crate) enum Handle {
    Plain(OwnedFd),
    Gzip(Box<Gzip>),
    /// Read to its end, or not openable for now.
    Closed,
}

/// A file of a container.
#[derive(Debug)]
pub(crate) struct LogFile {
    pub(crate) id: FileId,
    pub(crate) name: LogName,
    pub(crate) stamp: Stamp,
    pub(crate) head: Option<Head>,
    /// As of when its beginning was last seen to be the same, and what a cheap checksum of it was.
    verified: Option<(Stamp, u32)>,
    pub(crate) handle: Handle,
    /// Bytes read and handed on; of the decompressed content.
    pub(crate) read: u64,
    /// Bytes looked at in vain: there is no newline up to here.
    pub(crate) looked: u64,
    /// Up to where the batches know of it.
    pub(crate) noted: u64,
    /// Bytes that need not be read again.
    pub(crate) committed: u64,
    /// In the middle of a line whose beginning was shipped.
    pub(crate) skip_line: bool,
    /// Since when no listing has shown it.
    pub(crate) missing: Option<Duration>,
    /// It has no name any more: while it is open it takes room on disk that nobody sees.
    pub(crate) is_unlinked: bool,
    /// Since when.
    pub(crate) unlinked: Option<Duration>,
    /// When something was last read of it.
    pub(crate) active: Duration,
    /// Other files with the same content: what became of it when it was compressed.
    pub(crate) aliases: Vec<(LogName, Stamp)>,
}

impl LogFile {
    pub(crate) fn new(
        id: FileId,
        name: LogName,
        stamp: Stamp,
        handle: Handle,
        now: Duration,
    ) -> Self {
        Self {
            id,
            name,
            stamp,
            head: None,
            verified: None,
            handle,
            read: 0,
            looked: 0,
            noted: 0,
            committed: 0,
            skip_line: false,
            missing: None,
            is_unlinked: false,
            unlinked: None,
            active: now,
            aliases: Vec::new(),
        }
    }

    /// Where reading goes on from.
    pub(crate) fn resume(&mut self, offset: u64) {
        (self.read, self.noted, self.committed, self.looked) = (offset, offset, offset, offset);
    }

    /// It is another file now, under the old descriptor: it was truncated.
    pub(crate) fn begin_again(&mut self, id: FileId) {
        self.id = id;
        self.verified = None;
        self.resume(0);
        self.skip_line = false;
        self.head = None;
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.handle, Handle::Closed)
    }

    /// Asks the kernel how long it is. `false`: it was truncated, since it is shorter than what was read of it, or begins
    /// with something else.
    pub(crate) fn refresh(&mut self) -> bool {
        let Handle::Plain(fd) = &self.handle else {
            return true;
        };
        let Ok(stat) = rustix::fs::fstat(fd) else {
            return true;
        };
        self.stamp = Stamp::of(&stat);
        self.is_unlinked = stat.st_nlink == 0;
        if self.stamp.size < self.read {
            return false;
        }
        if self.verified.is_some_and(|(stamp, _)| stamp == self.stamp) {
            return true;
        }
        let mut beginning = [0; HEAD_BYTES];
        let Ok(len) = rustix::io::pread(fd, &mut beginning, 0) else {
            return true;
        };
        let beginning = first_line(beginning.get(..len).unwrap_or_default());
        let sum = beginning.map(checksum);
        match (sum, self.verified) {
            (Some(sum), Some((_, before))) if sum != before => return false,
            // It has lost its first line.
            (None, Some(_)) => return false,
            (Some(sum), _) => self.verified = Some((self.stamp, sum)),
            (None, None) => {}
        }
        if self.head.is_none() {
            self.head = beginning.and_then(Head::of);
        }
        true
    }

    /// Whether there is something to be read that was not looked at before.
    pub(crate) fn is_readable(&self) -> bool {
        match &self.handle {
            Handle::Plain(_) => self.stamp.size > self.read.max(self.looked),
            // Closed as soon as all of it was used.
            Handle::Gzip(_) => true,
            Handle::Closed => false,
        }
    }

    /// Bytes that it has, decompressed.
    pub(crate) fn content_len(&self) -> u64 {
        match &self.handle {
            Handle::Gzip(gzip) => gzip.content_len,
            // All that could be read of it was.
            Handle::Closed if self.name.gzip => self.read,
            Handle::Plain(_) | Handle::Closed => self.stamp.size,
        }
    }

    /// Bytes that are known to be there and were not read.
    pub(crate) fn unread(&self) -> u64 {
        if self.is_closed() {
            return 0;
        }
        self.content_len().saturating_sub(self.read)
    }

    /// Fills `buffer` from where reading goes on. Gives the bytes in it, and whether there are no more for now.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) -> std::io::Result<(usize, bool)> {
        match &mut self.handle {
            Handle::Plain(fd) => {
                let mut filled = 0;
                while filled < buffer.len() {
                    let rest = buffer.get_mut(filled..).unwrap_or_default();
                    match rustix::io::pread(&*fd, rest, self.read + filled as u64) {
                        Ok(0) => return Ok((filled, true)),
                        Ok(more) => filled += more,
                        Err(rustix::io::Errno::INTR) => {}
                        Err(errno) if filled == 0 => return Err(errno.into()),
                        Err(_told_next_time) => break,
                    }
                }
                Ok((filled, false))
            }
            Handle::Gzip(gzip) => gzip.fill(buffer, self.read),
            Handle::Closed => Ok((0, true)),
        }
    }

    /// So many bytes of the filled part of the buffer were used.
    pub(crate) fn used(&mut self, filled: &[u8], used: usize) {
        self.read += used as u64;
        self.looked = self.read;
        if let Handle::Gzip(gzip) = &mut self.handle {
            if gzip.carry.len() > filled.len() {
                // The buffer was too short for all of it.
                gzip.carry.drain(..used);
            } else {
                gzip.carry.clear();
                gzip.carry
                    .extend_from_slice(filled.get(used..).unwrap_or_default());
            }
        }
    }
}

/// The part of a beginning that tells files apart, once it is complete.
fn first_line(beginning: &[u8]) -> Option<&[u8]> {
    match memchr::memchr(b'\n', beginning) {
        Some(newline) => beginning.get(..=newline),
        None => (beginning.len() == HEAD_BYTES).then_some(beginning),
    }
}

/// Enough to see that a file was replaced under us; what goes into the checkpoint is the digest.
fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// What a plain file begins with.
pub(crate) fn plain_head(fd: &OwnedFd) -> Option<Head> {
    let mut beginning = [0; HEAD_BYTES];
    let len = rustix::io::pread(fd, &mut beginning, 0).ok()?;
    Head::of(beginning.get(..len)?)
}

/// What a compressed file begins with.
pub(crate) fn gzip_head(fd: &OwnedFd) -> Option<Head> {
    let mut decoder = MultiGzDecoder::new(std::io::BufReader::with_capacity(
        2 * HEAD_BYTES,
        At {
            fd: fd.try_clone().ok()?,
            offset: 0,
        },
    ));
    let (mut beginning, mut len) = ([0; HEAD_BYTES], 0);
    // A file that is cut or broken may still have a beginning.
    while let Ok(more @ 1..) = decoder.read(beginning.get_mut(len..)?) {
        len += more;
    }
    Head::of(beginning.get(..len)?)
}

/// How many bytes a compressed file has decompressed, as its last four bytes say: an estimate, since they may lie, and are
/// those of its last part only.
fn gzip_len(fd: &OwnedFd, size: u64) -> u64 {
    let mut end = [0; 4];
    let at = size.saturating_sub(end.len() as u64);
    let read = rustix::io::pread(fd, &mut end, at);
    let told = read.map_or(0, |_| u64::from(u32::from_le_bytes(end)));
    told.clamp(size, size.saturating_mul(DEFLATE_MAX))
}

/// A file read by position, so that its descriptor's own is left alone.
#[derive(Debug)]
struct At {
    fd: OwnedFd,
    offset: u64,
}

impl std::io::Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = rustix::io::pread(&self.fd, buffer, self.offset)?;
        self.offset += len as u64;
        Ok(len)
    }
}

/// A compressed file, read as a stream: nothing is decompressed before there is room for it.
#[derive(Debug)]
pub(crate) struct Gzip {
    fd: OwnedFd,
    /// Made at the first reading: until then only the descriptor is held.
    decoder: Option<MultiGzDecoder<std::io::BufReader<At>>>,
    /// Decompressed and not yet used: less than a line, or what did not fit a batch.
    carry: Vec<u8>,
    /// Nothing more will come; `carry` may still hold something.
    at_end: bool,
    /// It did not decompress to its end.
    pub(crate) broken: bool,
    /// Bytes that it says to have, decompressed.
    content_len: u64,
}

impl Gzip {
    /// `size` is that of the file.
    pub(crate) fn new(fd: OwnedFd, size: u64) -> Self {
        Self {
            content_len: gzip_len(&fd, size),
            fd,
            decoder: None,
            carry: Vec::new(),
            at_end: false,
            broken: false,
        }
    }

    fn fill(&mut self, buffer: &mut [u8], skip: u64) -> std::io::Result<(usize, bool)> {
        if self.decoder.is_none() && !self.at_end {
            let at = At {
                fd: self.fd.try_clone()?,
                offset: 0,
            };
            self.decoder = Some(MultiGzDecoder::new(std::io::BufReader::new(at)));
            let mut left = skip;
            while left > 0 && !self.at_end {
                let room = buffer
                    .len()
                    .min(usize::try_from(left).unwrap_or(usize::MAX));
                left -= self.decode(buffer.get_mut(..room).unwrap_or_default()) as u64;
            }
        }
        let mut filled = self.carry.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..filled), self.carry.get(..filled)) {
            to.copy_from_slice(from);
        }
        while self.carry.len() <= filled && filled < buffer.len() && !self.at_end {
            filled += self.decode(buffer.get_mut(filled..).unwrap_or_default());
        }
        Ok((filled, self.at_end && filled < buffer.len()))
    }

    /// Decompressed bytes. At the end of what can be had, `at_end` is set.
    fn decode(&mut self, buffer: &mut [u8]) -> usize {
        let Some(decoder) = &mut self.decoder else {
            return 0;
        };
        match decoder.read(buffer) {
            Ok(0) => self.at_end = true,
            Ok(len) => return len,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_cut_or_damaged) => (self.at_end, self.broken) = (true, true),
        }
        if self.at_end {
            self.decoder = None;
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::batch::SourceId;
    use crate::source::Age;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn open(bytes: &[u8]) -> (tempfile::NamedTempFile, OwnedFd) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let fd = std::fs::File::open(file.path()).unwrap().into();
        (file, fd)
    }

    /// All bytes from `offset` on, with a buffer of `room` of which each time all but `leave` is used; and whether it broke.
    fn read(bytes: &[u8], offset: u64, room: usize, leave: usize) -> (Vec<u8>, bool) {
        let (_file, fd) = open(bytes);
        let stat = Stamp::of(&rustix::fs::fstat(&fd).unwrap());
        let name = LogName {
            restart: 0,
            age: Age::Live,
            gzip: true,
        };
        let mut file = LogFile::new(
            FileId {
                source: SourceId(0),
                number: 0,
            },
            name,
            stat,
            Handle::Gzip(Box::new(Gzip::new(fd, stat.size))),
            Duration::ZERO,
        );
        file.resume(offset);
        let (mut buffer, mut all) = (vec![0; room], Vec::new());
        loop {
            let (filled, end) = file.fill(&mut buffer).unwrap();
            let used = if end { filled } else { filled - leave };
            all.extend_from_slice(&buffer[..used]);
            file.used(&buffer[..filled], used);
            if end {
                let Handle::Gzip(gzip) = file.handle else {
                    unreachable!()
                };
                return (all, gzip.broken);
            }
        }
    }

    #[test]
    fn a_compressed_file_is_read_from_any_offset_in_any_steps() {
        let content: Vec<u8> = (0..10_000_u32)
            .flat_map(|n| format!("line {n}\n").into_bytes())
            .collect();
        let bytes = gzip(&content);
        for (offset, room, leave) in [
            (0, 4_096, 0),
            (0, 100, 99),
            (777, 1_000, 13),
            (50_000, 1 << 20, 5),
        ] {
            assert_eq!(
                read(&bytes, offset as u64, room, leave),
                (content[offset..].to_vec(), false)
            );
        }
        let beyond = content.len() as u64 + 5;
        assert_eq!(read(&bytes, beyond, 100, 0), (vec![], false));
    }

    #[test]
    fn of_a_broken_one_all_that_can_be_had() {
        let content = vec![b'x'; 100_000];
        let bytes = gzip(&content);
        let (got, broken) = read(&[&bytes[..], b"garbage"].concat(), 0, 4_096, 0);
        assert_eq!((got.len(), broken), (100_000, true));
        let (got, broken) = read(&bytes[..bytes.len() / 2], 0, 4_096, 0);
        assert!(broken && got.len() < 100_000 && got.iter().all(|byte| *byte == b'x'));
        assert_eq!(read(b"no gzip at all", 0, 100, 0), (vec![], true));
        let two = [gzip(b"a\n"), gzip(b"b\n")].concat();
        assert_eq!(read(&two, 0, 100, 0), (b"a\nb\n".to_vec(), false));
    }

    #[test]
    fn compressed_or_not_a_file_begins_the_same() {
        let content = b"2026-11-25T10:00:00.5Z stdout F a\n2026-11-25T10:00:01Z stdout F b\n";
        let (plain, compressed) = (open(content), open(&gzip(content)));
        assert!(plain_head(&plain.1).is_some());
        assert_eq!(plain_head(&plain.1), gzip_head(&compressed.1));
        assert_eq!(gzip_head(&open(b"no gzip").1), None);
        assert_eq!(plain_head(&open(b"no newline").1), None);
    }
}
