//! inotify, as a hint only: what it says makes us early; what it does not say is found by the next scan.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, ReadFlags, WatchFlags};

/// Events read at once.
const BUFFER: usize = 16 << 10;

/// A directory that is watched, as the reader names it: empty for the root, `<pod>`, or `<pod>/<container>`.
pub type Directory = String;

/// What may have changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Entries of these came or went.
    pub changed: Vec<Directory>,
    /// Files in these were written to.
    pub written: Vec<Directory>,
    /// Events were lost: anything may have changed.
    pub all: bool,
}

/// The watches.
#[derive(Debug)]
pub struct Watches {
    root: PathBuf,
    inotify: Option<OwnedFd>,
    directories: HashMap<i32, Directory>,
    /// Watches that the kernel refused.
    pub refused: u64,
}

impl Watches {
    /// Without inotify (its instances are used up) it never hints.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let inotify = inotify::init(flags).ok();
        Self {
            root: root.to_owned(),
            refused: u64::from(inotify.is_none()),
            inotify,
            directories: HashMap::new(),
        }
    }

    /// Watches a directory from now on. That it is named by path does no harm: a hint for the wrong one costs a look.
    pub fn add(&mut self, directory: &str) {
        let Some(inotify) = &self.inotify else { return };
        let flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::MODIFY
            | WatchFlags::ONLYDIR
            | WatchFlags::DONT_FOLLOW;
        match inotify::add_watch(inotify, self.root.join(directory), flags) {
            Ok(watch) => {
                self.directories.insert(watch, directory.to_owned());
            }
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {}
            Err(_full) => self.refused += 1,
        }
    }

    /// What has been hinted since the last call.
    pub fn read(&mut self) -> Hints {
        let mut hints = Hints::default();
        let Some(inotify) = &self.inotify else {
            return hints;
        };
        let mut buffer = [const { MaybeUninit::uninit() }; BUFFER];
        let mut reader = inotify::Reader::new(inotify, &mut buffer);
        let mut ended = Vec::new();
        while let Ok(event) = reader.next() {
            let flags = event.events();
            hints.all |= flags.contains(ReadFlags::QUEUE_OVERFLOW);
            if flags.contains(ReadFlags::IGNORED) {
                ended.push(event.wd());
                continue;
            }
            let Some(directory) = self.directories.get(&event.wd()) else {
                continue;
            };
            let list = if flags.contains(ReadFlags::MODIFY) {
                &mut hints.written
            } else {
                &mut hints.changed
            };
            if list.last() != Some(directory) {
                list.push(directory.clone());
            }
        }
        for watch in ended {
            self.directories.remove(&watch);
        }
        hints
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }
}

/// Wakes the reader from another thread.
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// Not yet rung.
    ///
    /// # Errors
    ///
    /// Too many open files.
    pub fn new() -> std::io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(Arc::new(rustix::event::eventfd(0, flags)?)))
    }

    /// The reader's wait ends now, or the next one at once.
    pub fn wake(&self) {
        // It can only fail when it was rung 2^64 times and never heard.
        rustix::io::write(&*self.0, &1_u64.to_ne_bytes()).unwrap_or(0);
    }

    /// Waits for a ring, for a hint if `watches` are given, or for `limit`.
    pub(crate) fn wait(&self, watches: Option<&Watches>, limit: Duration) {
        let mut fds = vec![PollFd::new(&*self.0, PollFlags::IN)];
        let hints = watches.and_then(Watches::fd);
        if let Some(hints) = &hints {
            fds.push(PollFd::new(hints, PollFlags::IN));
        }
        let limit = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(limit.subsec_nanos()),
        };
        // An interrupted wait is a short wait.
        rustix::event::poll(&mut fds, Some(&limit)).unwrap_or(0);
        rustix::io::read(&*self.0, &mut [0_u8; 8]).unwrap_or(0);
    }
}
