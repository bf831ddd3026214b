//! The file in which findings outlive the agent, so that a restart is no news: what was open stays open, with when it was
//! first seen, and is not told of again.
//!
//! Replaced as a whole (temporary file, fsync, rename, fsync of the directory), so that there is either the old or the new
//! one. One that does not check is put aside, and findings are derived anew. Where it cannot be written the agent runs on,
//! and the probe `findings_state` says so. A replay neither reads nor writes it.

pub mod keeper;

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use plumbline_core::finding::digest;
use plumbline_core::findings::Remembered;
use plumbline_core::settings::NodeIdentity;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Version of the format. A change that old files do not survive raises it.
pub const FORMAT: u32 = 1;

/// A larger file is not read, and none is written: 4,096 findings of 8 KiB each.
const BYTES_MAX: u64 = 32 << 20;

const NAME: &str = "findings.state";
const NEW: &str = "findings.state.new";
/// The last one that did not check; for a person to look at.
const QUARANTINE: &str = "findings.state.corrupt";
const LOCK: &str = "findings.lock";
const MAGIC: &str = "plumbline-findings";

/// What the file says after its first line, which has format and digest.
#[derive(Debug, Deserialize, Serialize)]
struct Body {
    /// Whose findings these are: another node's file, copied with an image, is none of ours.
    cluster: Option<String>,
    node: Option<String>,
    remembered: Remembered,
}

/// What came of reading the file.
#[derive(Debug, Default, PartialEq)]
pub struct Loaded {
    /// What an earlier run remembered.
    pub remembered: Remembered,
    /// There was a file and it did not check, for this reason; it was put aside.
    pub quarantined: Option<String>,
}

/// The state directory, locked: two agents with one file would each undo the other's.
#[derive(Debug)]
pub struct Store {
    directory: OwnedFd,
    path: PathBuf,
    _lock: OwnedFd,
}

impl Store {
    /// Opens the directory, made if need be, and locks it.
    ///
    /// # Errors
    ///
    /// It cannot be made, opened or written to, or another process holds the lock.
    pub fn open(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock = rustix::fs::openat(&directory, LOCK, flags, Mode::RUSR | Mode::WUSR)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                directory,
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(Errno::WOULDBLOCK) => Err(io::Error::other("another agent uses it")),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads what was remembered. What does not check, or is about another node, is put aside.
    ///
    /// # Errors
    ///
    /// There is a file, and it cannot be read or put aside.
    pub fn load(&self, node: &NodeIdentity) -> io::Result<Loaded> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = match rustix::fs::openat(&self.directory, NAME, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(Loaded::default()),
            Err(errno) => return Err(errno.into()),
        };
        let mut bytes = Vec::new();
        file.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
        match decode(&bytes, node) {
            Ok(remembered) => Ok(Loaded {
                remembered,
                quarantined: None,
            }),
            Err(why) => {
                rustix::fs::renameat(&self.directory, NAME, &self.directory, QUARANTINE)?;
                rustix::fs::fsync(&self.directory)?;
                Ok(Loaded {
                    remembered: Remembered::default(),
                    quarantined: Some(why),
                })
            }
        }
    }

    /// Replaces the file. The old one stays until the new one is safe on disk.
    ///
    /// # Errors
    ///
    /// Any step failed; the old one is as it was.
    pub fn save(&self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() as u64 > BYTES_MAX {
            return Err(io::Error::other(format!("more than {BYTES_MAX} bytes")));
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let new = rustix::fs::openat(&self.directory, NEW, flags, Mode::RUSR | Mode::WUSR)?;
        let mut new = File::from(new);
        new.write_all(bytes)?;
        new.sync_all()?;
        rustix::fs::renameat(&self.directory, NEW, &self.directory, NAME)?;
        rustix::fs::fsync(&self.directory)?;
        Ok(())
    }
}

/// The bytes of the file.
///
/// # Errors
///
/// Never in practice: what is remembered is plain data.
pub fn encode(node: &NodeIdentity, remembered: Remembered) -> serde_json::Result<Vec<u8>> {
    let body = serde_json::to_vec(&Body {
        cluster: node.cluster.clone(),
        node: node.node.clone(),
        remembered,
    })?;
    let mut bytes = format!("{MAGIC} {FORMAT} {}\n", digest([body.as_slice()])).into_bytes();
    bytes.extend(body);
    Ok(bytes)
}

fn decode(bytes: &[u8], node: &NodeIdentity) -> Result<Remembered, String> {
    if bytes.len() as u64 > BYTES_MAX {
        return Err(format!("more than {BYTES_MAX} bytes"));
    }
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (head, body) = end.map_or((bytes, &[][..]), |end| (&bytes[..end], &bytes[end + 1..]));
    let head = std::str::from_utf8(head).unwrap_or_default();
    let mut words = head.split(' ');
    if words.next() != Some(MAGIC) {
        return Err("not a file of findings".into());
    }
    let format = words.next().unwrap_or_default();
    if format != FORMAT.to_string() {
        return Err(format!(
            "format {format:.16}; this agent has format {FORMAT}"
        ));
    }
    if words.next() != Some(&digest([body])) {
        return Err("its digest does not fit: cut or changed".into());
    }
    let body: Body = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if (&body.cluster, &body.node) != (&node.cluster, &node.node) {
        return Err("it is about another node".into());
    }
    Ok(body.remembered)
}

#[cfg(test)]
mod tests;
