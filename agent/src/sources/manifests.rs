//! The declared side from files: `--declared PATH`, a file or a directory of manifests and dumps. In the same way
//! `--candidate-policies PATH`.
//!
//! Changes are found by looking every second, not by inotify: a ConfigMap changes by renaming a link that no watch of the
//! file sees, NFS tells nothing about other machines' writes, and inotify instances are few (128 a user) on a node. A
//! changed file is read once it has stood still between two looks, so that one still being written is not taken for
//! its contents. What cannot be read leaves its last good contents in force.

mod candidates;
mod documents;
mod scan;
mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use plumbline_core::declared::Declared;
use plumbline_core::observation::{Health, ProbeStatus};

use super::objects::{OBJECTS_MAX, ObjectError, Objects};
pub use candidates::{CANDIDATES, spawn_candidates};
use scan::{Found, Stamp};
pub use watch::{POLL_INTERVAL, spawn};

/// A file that changes at every look is read all the same after this many.
const LOOKS_MAX: u32 = 10;

/// The path given to a flag cannot be used at all. Names both and the fix.
#[derive(Debug, thiserror::Error)]
#[error("{flag} {}: {message}", path.display())]
pub struct LoadError {
    flag: &'static str,
    path: PathBuf,
    message: String,
}

/// What was read from one path, file by file, so that only what changed is read again.
#[derive(Debug)]
pub struct Manifests {
    root: PathBuf,
    files: BTreeMap<String, File>,
    /// Changed files that are waited for to stand still: how they looked last, and for how many looks.
    waiting: BTreeMap<String, (Stamp, u32)>,
    /// Files and directories that could not be looked at.
    unseen: BTreeMap<String, String>,
    problems_total: u64,
    lost: Option<String>,
}

#[derive(Debug)]
struct File {
    stamp: Option<Stamp>,
    objects: Objects,
    /// Why the last reading gave nothing; `objects` is then from the last good one.
    failure: Option<Objects>,
}

/// Reads once: for `plumbline check`.
///
/// # Errors
/// `path` does not exist, cannot be read, or nothing below it is a manifest.
pub fn load(path: &Path) -> Result<Declared, LoadError> {
    Manifests::open(path).map(|manifests| manifests.declared())
}

impl Manifests {
    /// Reads everything below the path that was given to `--declared`.
    ///
    /// # Errors
    /// `path` does not exist, cannot be read, or nothing below it is a manifest.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        Self::of_flag("--declared", path)
    }

    /// Reads everything below the path that was given to `flag`.
    ///
    /// # Errors
    /// `path` does not exist, cannot be read, or nothing below it is a manifest.
    pub fn of_flag(flag: &'static str, path: &Path) -> Result<Self, LoadError> {
        let error = |message| LoadError {
            flag,
            path: path.to_owned(),
            message,
        };
        let found = scan::walk(path).map_err(|cause| error(with_fix(&cause)))?;
        let mut manifests = Self {
            root: path.to_owned(),
            files: BTreeMap::new(),
            waiting: BTreeMap::new(),
            unseen: BTreeMap::new(),
            problems_total: 0,
            lost: None,
        };
        manifests.note_unseen(found.problems);
        let mut room = OBJECTS_MAX;
        for (name, (path, _)) in &found.files {
            manifests.read(name, path, &mut room);
        }
        if let Some(reason) = manifests.nothing_read() {
            return Err(error(reason));
        }
        Ok(manifests)
    }

    /// Looks for changes and reads what changed and stands still. `true` if anything may be different now.
    pub fn refresh(&mut self) -> bool {
        let found = match scan::walk(&self.root) {
            Ok(found) if found.files.is_empty() => {
                return self.lose("no manifest is left there".to_owned());
            }
            Ok(found) => found,
            Err(error) => return self.lose(error.to_string()),
        };
        let mut changed = self.lost.take().is_some();
        changed |= self.forget_absent(&found);
        let used = self.files.values().map(|file| file.objects.seen).sum();
        let mut room = OBJECTS_MAX.saturating_sub(used);
        for (name, (path, stamp)) in &found.files {
            if self.stands_still(name, *stamp) {
                self.read(name, path, &mut room);
                changed = true;
            }
        }
        changed | self.note_unseen(found.problems)
    }

    /// What the files say, as last read.
    #[must_use]
    pub fn declared(&self) -> Declared {
        let mut all = Objects::new(OBJECTS_MAX);
        for (name, message) in &self.unseen {
            all.problem(
                if name.is_empty() { "." } else { name },
                &ObjectError::new("", message.as_str()),
            );
        }
        for file in self.files.values() {
            all.append(&file.objects);
            if let Some(failure) = &file.failure {
                all.append(failure);
            }
        }
        let source = format!("files:{}", self.root.display());
        Declared {
            problems_total: self.problems_total,
            ..all.into_declared(source)
        }
    }

    /// How the source is doing.
    #[must_use]
    pub fn status(&self) -> ProbeStatus {
        let reason = self
            .lost
            .as_ref()
            .map(|cause| format!("{}: {cause}", self.root.display()));
        let reason = reason
            .or_else(|| self.nothing_read())
            .map(|reason| format!("{reason}; what was last read stays in force"));
        let health = if reason.is_some() {
            Health::Broken
        } else {
            Health::Ok
        };
        ProbeStatus {
            probe: "declared".to_owned(),
            health,
            reason,
        }
    }

    /// Objects of kinds that no rule uses, by kind.
    #[must_use]
    pub fn ignored(&self) -> BTreeMap<String, u64> {
        let mut all = Objects::new(OBJECTS_MAX);
        self.files
            .values()
            .for_each(|file| all.append(&file.objects));
        all.ignored
    }

    fn lose(&mut self, cause: String) -> bool {
        let changed = self.lost.as_ref() != Some(&cause);
        self.lost = Some(cause);
        changed
    }

    fn forget_absent(&mut self, found: &Found) -> bool {
        let before = self.files.len();
        // What cannot be looked at is not gone.
        self.files
            .retain(|name, _| found.files.contains_key(name) || found.hides(name));
        self.waiting
            .retain(|name, _| found.files.contains_key(name));
        self.files.len() != before
    }

    /// Whether a file differs from what was read, and did not change since the last look.
    fn stands_still(&mut self, name: &str, stamp: Stamp) -> bool {
        if self
            .files
            .get(name)
            .is_some_and(|file| file.stamp == Some(stamp))
        {
            self.waiting.remove(name);
            return false;
        }
        let (seen, looks) = self
            .waiting
            .get(name)
            .copied()
            .map_or((None, 0), |(seen, looks)| (Some(seen), looks));
        if seen == Some(stamp) || looks == LOOKS_MAX {
            self.waiting.remove(name);
            return true;
        }
        self.waiting.insert(name.to_owned(), (stamp, looks + 1));
        false
    }

    /// Reads one file; `room` is for how many objects beside those it held so far.
    fn read(&mut self, name: &str, path: &Path, room: &mut usize) {
        let former = self.files.remove(name);
        let available = *room + former.as_ref().map_or(0, |former| former.objects.seen);
        let mut objects = Objects::new(available);
        let (stamp, usable) = match scan::read(path) {
            Ok((bytes, stamp)) => (Some(stamp), documents::read(&bytes, name, &mut objects)),
            Err(message) => {
                objects.problem(name, &ObjectError::new("", message));
                (None, false)
            }
        };
        // A file that cannot be opened is tried again at every look; the same failure counts once.
        if former
            .as_ref()
            .is_none_or(|former| stamp.is_some() || former.failure.as_ref() != Some(&objects))
        {
            self.problems_total += objects.problems_total;
        }
        let file = if usable {
            File {
                stamp,
                objects,
                failure: None,
            }
        } else {
            let last_good = former.map_or_else(|| Objects::new(0), |file| file.objects);
            File {
                stamp,
                objects: last_good,
                failure: Some(objects),
            }
        };
        *room = available.saturating_sub(file.objects.seen);
        self.files.insert(name.to_owned(), file);
    }

    fn note_unseen(&mut self, unseen: BTreeMap<String, String>) -> bool {
        let new = unseen
            .iter()
            .filter(|(name, message)| self.unseen.get(*name) != Some(message))
            .count();
        self.problems_total += u64::try_from(new).unwrap_or(0);
        let changed = self.unseen != unseen;
        self.unseen = unseen;
        changed
    }

    /// Why there is nothing to go by, if so: no file, or none that could be read at the last try.
    fn nothing_read(&self) -> Option<String> {
        if self.files.values().any(|file| file.failure.is_none()) {
            return None;
        }
        let failures = self
            .files
            .values()
            .filter_map(|file| file.failure.as_ref()?.problems.first());
        let unseen = self
            .unseen
            .iter()
            .map(|(name, message)| format!("{name}: {message}"));
        let first = failures
            .map(|problem| format!("{}: {}", problem.at, problem.message))
            .chain(unseen)
            .next();
        Some(first.map_or_else(
            || {
                "no *.yaml, *.yml or *.json below it: give a directory of manifests, or a dump"
                    .to_owned()
            },
            |first| format!("nothing in it can be read ({first})"),
        ))
    }
}

fn with_fix(error: &std::io::Error) -> String {
    let fix = if error.kind() == std::io::ErrorKind::PermissionDenied {
        "let the agent's user read it, or run the agent as root"
    } else {
        "give a file or directory of manifests, or a dump: kubectl get pods,services -A -o json > dump.json"
    };
    format!("{error}: {fix}")
}
