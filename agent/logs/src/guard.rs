//! Opening what lies below the log root, where others can put things: never through a link, never out of the tree, never what
//! is no plain file, never on another device.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// The log root, open.
#[derive(Debug)]
pub struct Root {
    directory: OwnedFd,
    device: u64,
}

/// Why something was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is not there (any more).
    Gone,
    /// It is a link, leads out of the tree, or is neither file nor directory.
    Trick(&'static str),
    /// Something else, such as too many open files.
    Error(Errno),
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT | Errno::NOTDIR => Self::Gone,
            Errno::LOOP => Self::Trick("link"),
            Errno::XDEV => Self::Trick("outside"),
            other => Self::Error(other),
        }
    }
}

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);
/// A path of a tree that is being renamed under our feet gives EAGAIN.
const TRIES: u32 = 4;

impl Root {
    /// Opens the directory. It is the operator who names it: links on the way are his.
    ///
    /// # Errors
    ///
    /// It is no directory, or may not be read.
    pub fn open(path: &Path) -> rustix::io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        let device = rustix::fs::fstat(&directory)?.st_dev;
        Ok(Self { directory, device })
    }

    fn open_below(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Refused> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut tries = 0;
        loop {
            match rustix::fs::openat2(&self.directory, path, flags, Mode::empty(), RESOLVE) {
                Err(Errno::AGAIN | Errno::INTR) if tries < TRIES => tries += 1,
                opened => return Ok(opened?),
            }
        }
    }

    /// A directory below the root; "." is the root.
    ///
    /// # Errors
    ///
    /// See [`Refused`].
    pub fn directory(&self, path: &str) -> Result<OwnedFd, Refused> {
        let directory = self.open_below(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        if rustix::fs::fstat(&directory)?.st_dev != self.device {
            return Err(Refused::Trick("device"));
        }
        Ok(directory)
    }

    /// A plain file below the root, by its directory's path and its name, to be read. It has no second name anywhere.
    ///
    /// # Errors
    ///
    /// See [`Refused`].
    pub fn file(&self, path: &str) -> Result<(OwnedFd, Stat), Refused> {
        // A look first: opening a device may do something.
        let looked = self.open_below(path, OFlags::PATH)?;
        self.plain(&rustix::fs::fstat(&looked)?)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = self.open_below(path, flags)?;
        let stat = rustix::fs::fstat(&file)?;
        self.plain(&stat)?;
        Ok((file, stat))
    }

    fn plain(&self, stat: &Stat) -> Result<(), Refused> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Symlink {
            return Err(Refused::Trick("link"));
        }
        if kind != FileType::RegularFile {
            return Err(Refused::Trick("no_file"));
        }
        if stat.st_nlink > 1 {
            return Err(Refused::Trick("hard_link"));
        }
        if stat.st_dev != self.device {
            return Err(Refused::Trick("device"));
        }
        Ok(())
    }
}

/// Names in a directory, but `.` and `..`.
///
/// # Errors
///
/// It cannot be read.
pub fn names(directory: impl AsFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

/// What a name in a directory stands for; a link stands for itself.
///
/// # Errors
///
/// See [`Refused`].
pub fn look(directory: impl AsFd, name: &str) -> Result<Stat, Refused> {
    Ok(rustix::fs::statat(
        directory,
        name,
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}
