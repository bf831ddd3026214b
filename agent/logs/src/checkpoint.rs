//! The checkpoint's bytes: how far each file was delivered. Pure; total on reading.
//!
//! One line of text with version, checksum and length, then JSON. What does not check is refused as a whole: to read again
//! gives duplicates, to trust a wrong offset gives losses.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::source::Source;

/// Longest checkpoint that is read: some 400,000 files.
pub const BYTES_MAX: usize = 64 << 20;
/// Bytes at the beginning of a file that tell it from others, up to its first newline. A runtime's line begins with its time
/// in nanoseconds.
pub const HEAD_BYTES: usize = 1024;
const MAGIC: &str = "plumbline-log-checkpoint";
const VERSION: u32 = 1;

/// How far a file was delivered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// `<namespace>_<pod>_<uid>`.
    pub pod: String,
    /// The container's directory in it.
    pub container: String,
    /// Which run of the container.
    pub restart: u32,
    /// Device of the file when it was last seen uncompressed; 0 if it never was.
    pub device: u64,
    /// Inode likewise.
    pub inode: u64,
    /// What it begins with.
    pub head: Head,
    /// Bytes delivered, of the decompressed content.
    pub offset: u64,
    /// Bytes that it had when last seen, decompressed; 0 if that is not known.
    pub size: u64,
}

impl Entry {
    /// Bytes that the file had and that were not delivered, as far as known.
    #[must_use]
    pub fn unread(&self) -> u64 {
        self.size.saturating_sub(self.offset)
    }
}

/// What a file begins with, as a digest: up to and with its first newline, or [`HEAD_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Head([u8; 16]);

/// Why a checkpoint was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is of a version that this program does not know.
    Version,
    /// It was changed or cut.
    Corrupt,
}

impl Head {
    /// Of the first bytes of a file; `None` while its first line is shorter than [`HEAD_BYTES`] and not complete.
    #[must_use]
    pub fn of(beginning: &[u8]) -> Option<Self> {
        let beginning = beginning.get(..HEAD_BYTES).unwrap_or(beginning);
        let end = match memchr::memchr(b'\n', beginning) {
            Some(newline) => newline + 1,
            None if beginning.len() == HEAD_BYTES => HEAD_BYTES,
            None => return None,
        };
        let digest: [u8; 32] = Sha256::digest(beginning.get(..end)?).into();
        let (half, _) = digest.split_first_chunk::<16>()?;
        Some(Self(*half))
    }
}

impl Serialize for Head {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{:032x}", u128::from_be_bytes(self.0)))
    }
}

impl<'de> Deserialize<'de> for Head {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let number = u128::from_str_radix(&text, 16).map_err(serde::de::Error::custom)?;
        Ok(Self(number.to_be_bytes()))
    }
}

impl Entry {
    /// Whose file.
    #[must_use]
    pub fn source(&self) -> Option<Source> {
        Source::parse(self.pod.as_bytes(), self.container.as_bytes())
    }
}

/// The file's bytes.
#[must_use]
pub fn encode(entries: &[Entry]) -> Vec<u8> {
    let json = serde_json::to_vec(entries).expect("entries have string keys only");
    let mut bytes =
        format!("{MAGIC} {VERSION} {:08x} {}\n", checksum(&json), json.len()).into_bytes();
    bytes.extend_from_slice(&json);
    bytes
}

/// The entries of a file; those whose names no pod could have are left out.
///
/// # Errors
///
/// It is not what [`encode`] gave.
pub fn decode(bytes: &[u8]) -> Result<Vec<Entry>, Refused> {
    if bytes.len() > BYTES_MAX {
        return Err(Refused::Corrupt);
    }
    let newline = memchr::memchr(b'\n', bytes).ok_or(Refused::Corrupt)?;
    let (head, json) = bytes.split_at_checked(newline).ok_or(Refused::Corrupt)?;
    let json = json.get(1..).ok_or(Refused::Corrupt)?;
    let head = std::str::from_utf8(head).map_err(|_not_text| Refused::Corrupt)?;
    let mut words = head.split(' ');
    if words.next() != Some(MAGIC) {
        return Err(Refused::Corrupt);
    }
    let version = words.next().and_then(|word| word.parse::<u32>().ok());
    if version.is_some_and(|version| version > VERSION) {
        return Err(Refused::Version);
    }
    let check = (words.next(), words.next(), words.next());
    let (sum, len) = (format!("{:08x}", checksum(json)), json.len().to_string());
    if version != Some(VERSION) || check != (Some(&*sum), Some(&*len), None) {
        return Err(Refused::Corrupt);
    }
    let mut entries: Vec<Entry> =
        serde_json::from_slice(json).map_err(|_not_ours| Refused::Corrupt)?;
    entries.retain(|entry| entry.source().is_some());
    Ok(entries)
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        let entry = |number: u64| Entry {
            pod: "shop_web-1_uid-1".into(),
            container: "app".into(),
            restart: 2,
            device: 3,
            inode: 1 << 60,
            head: Head::of(format!("line {number}\n").as_bytes()).unwrap(),
            offset: number,
            size: u64::MAX,
        };
        vec![entry(1), entry(2)]
    }

    #[test]
    fn what_was_written_is_read() {
        assert_eq!(decode(&encode(&entries())), Ok(entries()));
        assert_eq!(decode(&encode(&[])), Ok(vec![]));
    }

    #[test]
    fn each_flipped_byte_and_each_cut_is_found() {
        let good = encode(&entries());
        for at in 0..good.len() {
            for flip in [0x01, 0x10, 0x80] {
                let mut bad = good.clone();
                bad[at] ^= flip;
                assert!(decode(&bad).is_err(), "byte {at} ^ {flip:#x}");
            }
            assert_eq!(decode(&good[..at]), Err(Refused::Corrupt), "cut at {at}");
        }
        assert_eq!(
            decode(&[good.clone(), vec![b' ']].concat()),
            Err(Refused::Corrupt)
        );
        let future = [b"plumbline-log-checkpoint 2 00000000 2\n[]".as_slice()].concat();
        assert_eq!(decode(&future), Err(Refused::Version));
    }

    #[test]
    fn names_that_lead_elsewhere_are_left_out() {
        let mut bad = entries();
        bad[0].container = "../../etc".into();
        assert_eq!(decode(&encode(&bad)).unwrap(), entries()[1..]);
    }

    #[test]
    fn the_head_ends_with_the_first_line() {
        assert_eq!(Head::of(b""), None);
        assert_eq!(Head::of(b"no newline yet"), None);
        assert_eq!(Head::of(b"a\n"), Head::of(b"a\nb\n"));
        assert_ne!(Head::of(b"a\n"), Head::of(b"b\n"));
        let long = vec![b'x'; HEAD_BYTES + 1];
        assert_eq!(Head::of(&long), Head::of(&long[..HEAD_BYTES]));
    }
}
