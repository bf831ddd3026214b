//! The files of one container: which is which, through renames, compression, truncation and deletion.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::batch::SourceId;
use crate::checkpoint::{Entry, Head};
use crate::file::{Gzip, Handle, LogFile, Stamp, gzip_head, plain_head};
use crate::guard::{self, Refused, Root};
use crate::join::Joiner;
use crate::offsets::{FileId, Place};
use crate::otlp::Envelope;
use crate::partial::Merger;
use crate::source::{LogName, Source};
use crate::stats::Counts;

/// A file that was renamed is kept open for this long after the last byte: the runtime writes to it until it opens the next.
const QUIET_RENAMED: Duration = quiet(5_000);
/// Likewise for one that no listing shows any more.
const QUIET_MISSING: Duration = quiet(2_000);
/// So long a file that is read and gone is remembered: its compressed form may still appear.
const REMEMBER: Duration = quiet(30_000);
/// Tests pass through all of a file's life in little time.
const fn quiet(milliseconds: u64) -> Duration {
    Duration::from_millis(if cfg!(test) {
        milliseconds / 20
    } else {
        milliseconds
    })
}

/// How often a directory is listed at once while new files are found in it.
const LOOKS_MAX: usize = 4;
/// How many forms of one file are told apart from new ones.
const ALIASES_MAX: usize = 4;

/// A container whose directory is or was there.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: SourceId,
    pub(crate) source: Source,
    /// From the oldest to the newest.
    pub(crate) files: Vec<LogFile>,
    pub(crate) merger: Merger,
    pub(crate) joiner: Joiner,
    /// The run that `merger` is about.
    pub(crate) run: Option<u32>,
    pub(crate) counts: Counts,
    /// With the generation of what it was made of.
    pub(crate) envelope: Option<(u64, Arc<Envelope>)>,
    /// What the checkpoint says of files that were not found yet.
    pub(crate) pending: Vec<Entry>,
    /// The directory is there.
    pub(crate) present: bool,
    numbers: u32,
}

/// What a scan needs of the outside.
pub(crate) struct Scan<'a> {
    pub(crate) root: &'a Root,
    pub(crate) now: Duration,
    pub(crate) refused: &'a mut BTreeMap<&'static str, u64>,
}

impl Scan<'_> {
    pub(crate) fn refuse(&mut self, refused: Refused) {
        let reason = match refused {
            Refused::Gone => return,
            Refused::Trick(reason) => reason,
            Refused::Error(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => "too_many_open",
            Refused::Error(_) => "error",
        };
        *self.refused.entry(reason).or_default() += 1;
    }
}

impl Container {
    pub(crate) fn new(id: SourceId, source: Source, pending: Vec<Entry>) -> Self {
        Self {
            id,
            source,
            files: Vec::new(),
            merger: Merger::default(),
            joiner: Joiner::default(),
            run: None,
            counts: Counts::default(),
            envelope: None,
            pending,
            present: true,
            numbers: 0,
        }
    }

    fn file_id(&mut self) -> FileId {
        self.numbers += 1;
        FileId {
            source: self.id,
            number: self.numbers,
        }
    }

    /// Looks at the directory and at the open files.
    pub(crate) fn scan(&mut self, scan: &mut Scan<'_>) {
        let directory = match scan.root.directory(&self.source.directory()) {
            Ok(directory) => Some(directory),
            Err(Refused::Gone) => None,
            // Not to be read for now is not to be gone.
            Err(other) => return scan.refuse(other),
        };
        self.present = directory.is_some();
        // Known by content before any other form of them is looked at.
        for index in 0..self.files.len() {
            self.refresh(index, scan.now);
        }
        let refused = scan.refused.clone();
        for _ in 0..LOOKS_MAX {
            *scan.refused = refused.clone();
            let known = self.numbers;
            self.look(directory.as_ref(), scan);
            // When a file is opened for the first time, one that was renamed meanwhile to make room for it may be in no
            // listing yet, and is to be read before it.
            if self.numbers == known {
                break;
            }
        }
        self.files.sort_by_key(|file| {
            (
                file.name.restart,
                file.missing.is_none(),
                file.name.age,
                file.id,
            )
        });
    }

    /// Looks at what is in the directory, and opens what is not known.
    fn look(&mut self, directory: Option<&OwnedFd>, scan: &mut Scan<'_>) {
        let listing = directory
            .map(|directory| listing(directory, scan))
            .unwrap_or_default();
        let (mut seen, mut unknown) = (Vec::with_capacity(self.files.len()), Vec::new());
        for (name, stamp) in listing {
            match self.known(name, stamp) {
                Some(known) => seen.push(known),
                None => unknown.push(name),
            }
        }
        // Before the unknown are opened: one of them may be what became of a file that has vanished.
        for file in &mut self.files {
            if seen.contains(&file.id) {
                file.missing = None;
            } else {
                file.missing.get_or_insert(scan.now);
            }
        }
        for name in unknown {
            let opened = self.open(name, scan);
            let known = |file: &&mut LogFile| Some(file.id) == opened;
            if let Some(file) = self.files.iter_mut().find(known) {
                file.missing = None;
            }
        }
    }

    /// The file that this is, if it is one that needs no look at its content.
    fn known(&mut self, name: LogName, stamp: Stamp) -> Option<FileId> {
        for file in &mut self.files {
            let same = file.stamp.same_inode(&stamp) && file.name.restart == name.restart;
            // While it is open its inode cannot become another's.
            if same && (!file.is_closed() || file.stamp == stamp) {
                file.name = name;
                return Some(file.id);
            }
            if file.aliases.iter().any(|(_, alias)| *alias == stamp) {
                return Some(file.id);
            }
        }
        None
    }

    /// Opens a file that is not known by its inode: a new one, or a known one in another form.
    fn open(&mut self, name: LogName, scan: &mut Scan<'_>) -> Option<FileId> {
        let path = format!("{}/{}", self.source.directory(), name.file_name());
        let (fd, stat) = match scan.root.file(&path) {
            Ok(opened) => opened,
            Err(refused) => {
                scan.refuse(refused);
                return None;
            }
        };
        let stamp = Stamp::of(&stat);
        // Between listing and opening the name may have come to mean a file that we know.
        if let Some(known) = self.known(name, stamp) {
            return Some(known);
        }
        let head = if name.gzip {
            gzip_head(&fd)
        } else {
            plain_head(&fd)
        };
        if let Some(known) = self.same_content(name, stamp, head) {
            return Some(known);
        }
        if let Some(id) = self.reopen(name, stamp, head, &fd) {
            return Some(id);
        }
        let handle = if name.gzip {
            Handle::Gzip(Box::new(Gzip::new(fd, stamp.size)))
        } else {
            Handle::Plain(fd)
        };
        let mut file = LogFile::new(self.file_id(), name, stamp, handle, scan.now);
        file.head = head;
        if let Some(offset) = self.take_pending(&file) {
            file.resume(offset);
        }
        let id = file.id;
        self.files.push(file);
        Some(id)
    }

    /// The kubelet compresses a rotated file under the same stamp, and then removes it. A file that has vanished may have
    /// been renamed and compressed since it was last seen.
    fn same_content(&mut self, name: LogName, stamp: Stamp, head: Option<Head>) -> Option<FileId> {
        let head = head?;
        let file = self.files.iter_mut().find(|file| {
            let form = file.name.gzip != name.gzip && file.name.age == name.age;
            let vanished = name.gzip && file.missing.is_some();
            file.name.restart == name.restart && file.head == Some(head) && (form || vanished)
        })?;
        if file.aliases.len() == ALIASES_MAX {
            file.aliases.remove(0);
        }
        file.aliases.push((name, stamp));
        // It may have been renamed and compressed since it was last seen by its own name: it stays older than what came after.
        file.name.age = name.age;
        Some(file.id)
    }

    /// A file that was read to its end and closed, and has changed since.
    fn reopen(
        &mut self,
        name: LogName,
        stamp: Stamp,
        head: Option<Head>,
        fd: &OwnedFd,
    ) -> Option<FileId> {
        if name.gzip {
            return None;
        }
        let file = self.files.iter_mut().find(|file| {
            file.is_closed()
                && file.stamp.same_inode(&stamp)
                && file.head.is_some()
                && file.head == head
        })?;
        if file.name.restart != name.restart || stamp.size < file.read {
            return None;
        }
        file.handle = Handle::Plain(fd.try_clone().ok()?);
        (file.name, file.stamp) = (name, stamp);
        Some(file.id)
    }

    /// What the checkpoint knows of this file. A plain file must also have the same inode: equal first lines are no proof
    /// where a runtime writes no times.
    fn take_pending(&mut self, file: &LogFile) -> Option<u64> {
        let at = self.pending.iter().position(|entry| is_of(entry, file))?;
        Some(self.pending.swap_remove(at).offset)
    }

    /// What the checkpoint said, when it could not be read before files were opened. What was read since is sent again.
    pub(crate) fn learn(&mut self, entry: Entry) {
        match self.files.iter_mut().find(|file| is_of(&entry, file)) {
            Some(file) => file.committed = file.committed.max(entry.offset),
            None => self.pending.push(entry),
        }
    }

    /// Asks for the file's length. One that was truncated is another file from now on.
    fn refresh(&mut self, index: usize, now: Duration) {
        let next = self.file_id();
        let Some(file) = self.files.get_mut(index) else {
            return;
        };
        let before = file.stamp;
        if !file.refresh() {
            // What was written between the last look and the truncation is not known.
            let unread = before.size.saturating_sub(file.read);
            self.counts.lose("truncated", 0, unread);
            file.begin_again(next);
            file.refresh();
        }
        if file.is_unlinked {
            file.unlinked.get_or_insert(now);
        }
    }

    /// A file that was compressed and is held open in its old form is read on from its new one.
    pub(crate) fn fall_back(&mut self, id: FileId, root: &Root) -> bool {
        let directory = self.source.directory();
        let Some(file) = self.files.iter_mut().find(|file| file.id == id) else {
            return false;
        };
        for (name, stamp) in file.aliases.clone() {
            let opened = root.file(&format!("{directory}/{}", name.file_name()));
            let same = opened.ok().filter(|(_, stat)| Stamp::of(stat) == stamp);
            if let Some((fd, _)) = same.filter(|_| name.gzip) {
                file.handle = Handle::Gzip(Box::new(Gzip::new(fd, stamp.size)));
                (file.name, file.stamp, file.unlinked) = (name, stamp, None);
                return true;
            }
        }
        false
    }

    /// Why its files are gone.
    pub(crate) fn gone_reason(&self) -> &'static str {
        if self.present { "rotated" } else { "deleted" }
    }

    /// Which file to read next: the oldest with something new.
    pub(crate) fn next_readable(&mut self, now: Duration) -> Option<usize> {
        let found = self.first_readable(self.files.len(), now)?;
        // An older one may have grown after it was looked at and before this one began: a line's parts must stay in order.
        self.first_readable(found, now).or(Some(found))
    }

    fn first_readable(&mut self, end: usize, now: Duration) -> Option<usize> {
        (0..end).find(|index| {
            self.refresh(*index, now);
            self.files.get(*index).is_some_and(LogFile::is_readable)
        })
    }

    /// A file that will not grow any more, read but for an unfinished last line.
    pub(crate) fn next_finished(&self, now: Duration) -> Option<usize> {
        self.files.iter().position(|file| {
            let Handle::Plain(_) = file.handle else {
                return false;
            };
            let newer = |other: &LogFile| {
                other.missing.is_none()
                    && (other.name.restart, other.name.age) > (file.name.restart, file.name.age)
            };
            let quiet = match file.missing {
                Some(since) => since.max(file.active) + QUIET_MISSING,
                None if self.files.iter().any(newer) => file.active + QUIET_RENAMED,
                None => return false,
            };
            now >= quiet && !file.is_readable()
        })
    }

    /// Forgets files that are gone and delivered.
    pub(crate) fn forget(&mut self, now: Duration) {
        self.files.retain(|file| {
            let gone = file.missing.is_some_and(|since| now >= since + REMEMBER);
            !(file.is_closed() && gone && file.committed >= file.read)
        });
    }

    /// Where each file is to be read on from once all that was handed on is delivered, where that is news.
    /// While a line is unfinished that began in another file nothing is noted: parts of it may be in this one, and in no
    /// batch yet. Each turn notes anew, also that which ships the line for want of an end.
    pub(crate) fn note(&mut self, resume: &mut Vec<Place>) {
        for file in &mut self.files {
            let mut starts = self.merger.starts().chain(self.joiner.starts());
            if starts.any(|start| start.file != file.id) {
                continue;
            }
            let starts = [self.merger.start_in(file.id), self.joiner.start_in(file.id)];
            let start = starts.into_iter().flatten().min();
            let offset = start.map_or(file.read, |start| start.min(file.read));
            if offset > file.noted {
                file.noted = offset;
                resume.push(Place {
                    file: file.id,
                    offset,
                });
            }
        }
    }

    /// A line or a message of several may still go on.
    pub(crate) fn is_open(&self) -> bool {
        self.merger.is_open() || self.joiner.is_open()
    }

    /// So far a file was delivered.
    pub(crate) fn commit(&mut self, place: Place) {
        if let Some(file) = self.files.iter_mut().find(|file| file.id == place.file) {
            file.committed = file.committed.max(place.offset);
        }
    }

    /// What is to be known of its files after a restart.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry> {
        let of_file = |file: &LogFile| {
            Some(Entry {
                pod: self.source.pod.directory(),
                container: self.source.container.clone(),
                restart: file.name.restart,
                device: if file.name.gzip { 0 } else { file.stamp.device },
                inode: if file.name.gzip { 0 } else { file.stamp.inode },
                head: file.head.filter(|_| file.committed > 0)?,
                offset: file.committed,
                size: if file.name.gzip { 0 } else { file.stamp.size },
            })
        };
        self.files
            .iter()
            .filter_map(of_file)
            .chain(self.pending.iter().cloned())
    }

    /// Bytes on disk that are not delivered.
    pub(crate) fn lag(&self) -> u64 {
        let of_file = |file: &LogFile| file.unread() + file.read.saturating_sub(file.committed);
        self.files.iter().map(of_file).sum()
    }
}

/// Whether the checkpoint speaks of this file.
fn is_of(entry: &Entry, file: &LogFile) -> bool {
    let same = entry.restart == file.name.restart && Some(entry.head) == file.head;
    let plain = entry.inode == file.stamp.inode && entry.offset <= file.stamp.size;
    same && (file.name.gzip || plain)
}

/// The log files in a directory.
fn listing(directory: &OwnedFd, scan: &mut Scan<'_>) -> Vec<(LogName, Stamp)> {
    let names = match guard::names(directory) {
        Ok(names) => names,
        Err(errno) => {
            scan.refuse(Refused::Error(errno));
            return Vec::new();
        }
    };
    let mut listing = Vec::with_capacity(names.len());
    for name in names.iter().filter_map(|name| LogName::parse(name)) {
        match guard::look(directory, &name.file_name()) {
            Ok(stat) => listing.push((name, Stamp::of(&stat))),
            Err(refused) => scan.refuse(refused),
        }
    }
    listing.sort_by_key(|(name, _)| *name);
    listing
}

#[cfg(test)]
mod tests;
