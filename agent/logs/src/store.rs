//! The checkpoint's file: replaced as a whole, so that whenever power or process ends there is either the old or the new one.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::checkpoint::{self, BYTES_MAX, Entry, Refused};
use crate::fault;

const NAME: &str = "logs.checkpoint";
const NEW: &str = "logs.checkpoint.new";
/// The last one that did not check; for a person to look at.
const QUARANTINE: &str = "logs.checkpoint.corrupt";
const LOCK: &str = "logs.lock";

/// The state directory, locked: two agents with one checkpoint would each undo the other's.
#[derive(Debug)]
pub struct Store {
    directory: OwnedFd,
    _lock: OwnedFd,
}

/// What came of reading the checkpoint.
#[derive(Debug, Default)]
pub struct Loaded {
    /// What was delivered.
    pub entries: Vec<Entry>,
    /// There was one and it did not check; it was put aside.
    pub quarantined: Option<Refused>,
}

impl Store {
    /// Opens the directory, made if need be, and locks it. `None`: another process holds the lock.
    ///
    /// # Errors
    ///
    /// It cannot be made, opened or written to.
    pub fn open(path: &Path) -> std::io::Result<Option<Self>> {
        std::fs::create_dir_all(path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock = rustix::fs::openat(&directory, LOCK, flags, Mode::RUSR | Mode::WUSR)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self {
                directory,
                _lock: lock,
            })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Reads the checkpoint. One that does not check is renamed, and nothing counts as delivered.
    ///
    /// # Errors
    ///
    /// There is one, and it cannot be read or put aside.
    pub fn load(&self) -> std::io::Result<Loaded> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = match rustix::fs::openat(&self.directory, NAME, flags, Mode::empty()) {
            Ok(file) => std::fs::File::from(file),
            Err(Errno::NOENT) => return Ok(Loaded::default()),
            Err(errno) => return Err(errno.into()),
        };
        let mut bytes = Vec::new();
        file.take(BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
        match checkpoint::decode(&bytes) {
            Ok(entries) => Ok(Loaded {
                entries,
                quarantined: None,
            }),
            Err(refused) => {
                rustix::fs::renameat(&self.directory, NAME, &self.directory, QUARANTINE)?;
                rustix::fs::fsync(&self.directory)?;
                Ok(Loaded {
                    entries: Vec::new(),
                    quarantined: Some(refused),
                })
            }
        }
    }

    /// Replaces the checkpoint. The old one stays until the new one is safe on disk.
    ///
    /// # Errors
    ///
    /// Any step failed; the old one is as it was.
    pub fn save(&self, entries: &[Entry]) -> std::io::Result<()> {
        let bytes = checkpoint::encode(entries);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        fault::point("checkpoint open")?;
        let new = rustix::fs::openat(&self.directory, NEW, flags, Mode::RUSR | Mode::WUSR)?;
        let mut new = std::fs::File::from(new);
        fault::point("checkpoint write")?;
        let (first, second) = bytes.split_at(bytes.len() / 2);
        new.write_all(first)?;
        fault::point("checkpoint half written")?;
        new.write_all(second)?;
        fault::point("checkpoint fsync")?;
        new.sync_all()?;
        fault::point("checkpoint rename")?;
        rustix::fs::renameat(&self.directory, NEW, &self.directory, NAME)?;
        fault::point("checkpoint directory fsync")?;
        rustix::fs::fsync(&self.directory)?;
        fault::point("checkpoint done")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Head;

    fn entries() -> Vec<Entry> {
        vec![Entry {
            pod: "a_b_c".into(),
            container: "d".into(),
            restart: 0,
            device: 1,
            inode: 2,
            head: Head::of(b"x\n").unwrap(),
            offset: 3,
            size: 4,
        }]
    }

    #[test]
    fn what_was_saved_is_loaded_by_the_next_and_two_do_not_share() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let store = Store::open(&path).unwrap().unwrap();
        assert!(store.load().unwrap().entries.is_empty());
        store.save(&entries()).unwrap();
        assert!(Store::open(&path).unwrap().is_none());
        drop(store);
        let store = Store::open(&path).unwrap().unwrap();
        assert_eq!(store.load().unwrap().entries, entries());
    }

    #[test]
    fn what_does_not_check_is_put_aside() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap().unwrap();
        for bad in [
            b"".as_slice(),
            b"garbage",
            b"plumbline-log-checkpoint 9 0 0\n",
        ] {
            std::fs::write(directory.path().join(NAME), bad).unwrap();
            let loaded = store.load().unwrap();
            assert!(loaded.entries.is_empty() && loaded.quarantined.is_some());
            assert_eq!(
                std::fs::read(directory.path().join(QUARANTINE)).unwrap(),
                bad
            );
            assert!(store.load().unwrap().quarantined.is_none());
        }
    }
}
