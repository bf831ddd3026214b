//! OOM kills of containers, from `memory.events` of their cgroups.
//!
//! Why this file and no probe: the tracepoint `oom:mark_victim` names a pid, in the first pid namespace, of a process that
//! is about to die, and passes a pointer to it from Linux 6.8 on; a pid is no identity. The file counts by cgroup, children
//! included, needs no rights, is the same from 5.10 to 7.3, and a count that was missed is there at the next reading. The
//! kernel raises an event of inotify for it before it kills the victim, so that it is read before the cgroup goes away.
//! Where the memory controller is not in cgroup v2 there is no such file: then nothing is told, and nothing is zero.

use std::collections::BTreeMap;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use plumbline_core::id::CgroupId;
use plumbline_core::observation::{CgroupRow, Fact, MemoryEventsRow};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

use crate::clock;
use crate::sources::Sink;
use crate::sources::cgroups::CgroupRoot;

/// How long a change of the list of containers, or the end, may wait.
const LOOK: Duration = Duration::from_secs(1);
/// Between two readings of all files.
const REREAD: Duration = Duration::from_secs(30);

/// The running source.
#[derive(Debug)]
pub struct MemoryEvents {
    /// Those that the thread has not taken in yet.
    containers: Arc<Mutex<Option<Vec<CgroupRow>>>>,
    thread: JoinHandle<()>,
}

impl MemoryEvents {
    /// Starts the thread. It ends soon after `stop` is set.
    ///
    /// # Errors
    ///
    /// The system gives no thread or no inotify instance.
    pub fn spawn(root: CgroupRoot, sink: Sink, stop: Arc<AtomicBool>) -> anyhow::Result<Self> {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let notify = inotify::init(flags).context("make an inotify instance")?;
        let containers = Arc::new(Mutex::new(None));
        let shared = Arc::clone(&containers);
        let thread = std::thread::Builder::new()
            .name("memory".into())
            .spawn(move || {
                let mut work = Work {
                    root,
                    sink,
                    notify,
                    watched: BTreeMap::new(),
                };
                work.run(&shared, &stop);
            })
            .context("start the thread that reads memory.events")?;
        Ok(Self { containers, thread })
    }

    /// The containers that are there now.
    pub fn watch(&self, containers: Vec<CgroupRow>) {
        *self
            .containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(containers);
    }

    /// Whether the thread still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.thread.is_finished()
    }
}

/// One container's file.
#[derive(Debug)]
struct Watched {
    file: PathBuf,
    /// The watch descriptor; `None` when there is no file, or no more watches are to be had: then rereading has to do.
    watch: Option<i32>,
    told: Option<MemoryEventsRow>,
}

struct Work {
    root: CgroupRoot,
    sink: Sink,
    notify: OwnedFd,
    /// As many as there are containers.
    watched: BTreeMap<CgroupId, Watched>,
}

impl Work {
    fn run(&mut self, containers: &Mutex<Option<Vec<CgroupRow>>>, stop: &AtomicBool) {
        let mut reread = clock::monotonic();
        while !stop.load(Ordering::Relaxed) {
            let mut changed = self.wait();
            let now = containers
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            changed.extend(now.map(|now| self.follow(now)).unwrap_or_default());
            if clock::monotonic() >= reread {
                reread = clock::monotonic().plus(REREAD);
                changed = self.watched.keys().copied().collect();
            }
            self.read(&changed);
        }
    }

    /// Waits for a while; which containers' files have changed.
    fn wait(&self) -> Vec<CgroupId> {
        let timeout = Timespec::try_from(LOOK).unwrap_or(Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        });
        let mut fds = [PollFd::new(&self.notify, PollFlags::IN)];
        if !matches!(poll(&mut fds, Some(&timeout)), Ok(1..)) {
            return Vec::new();
        }
        let mut buffer = [const { MaybeUninit::<u8>::uninit() }; 4_096];
        let mut reader = inotify::Reader::new(self.notify.as_fd(), &mut buffer);
        let mut changed = Vec::new();
        // Ends with EAGAIN. After an overflow of the queue the next rereading makes up for it.
        while let Ok(event) = reader.next() {
            let of = self
                .watched
                .iter()
                .find(|(_, watched)| watched.watch == Some(event.wd()));
            changed.extend(of.map(|(cgroup, _)| *cgroup));
        }
        changed.dedup();
        changed
    }

    /// Watches what is new and forgets what is gone, for which the kernel has removed the watch. Returns what is new.
    fn follow(&mut self, containers: Vec<CgroupRow>) -> Vec<CgroupId> {
        let there: BTreeMap<CgroupId, String> = containers
            .into_iter()
            .map(|row| (row.cgroup, row.path))
            .collect();
        self.watched.retain(|cgroup, _| there.contains_key(cgroup));
        let mut new = Vec::new();
        for (cgroup, path) in there {
            if self.watched.contains_key(&cgroup) {
                continue;
            }
            let file = self.root.directory_of(&path).join("memory.events");
            let watch = inotify::add_watch(&self.notify, &file, inotify::WatchFlags::MODIFY).ok();
            let told = None;
            self.watched.insert(cgroup, Watched { file, watch, told });
            new.push(cgroup);
        }
        new
    }

    /// Reads the files of these containers and tells what has changed.
    fn read(&mut self, cgroups: &[CgroupId]) {
        let at = clock::monotonic();
        let mut rows = Vec::new();
        for cgroup in cgroups {
            let Some(watched) = self.watched.get(cgroup) else {
                continue;
            };
            // The container has ended, or the controller is not there.
            let row = fs::read_to_string(&watched.file)
                .ok()
                .and_then(|text| parse(*cgroup, &text));
            rows.extend(row.filter(|row| watched.told.as_ref() != Some(row)));
        }
        if rows.is_empty() {
            return;
        }
        let fact = Fact::MemoryEvents { rows: rows.clone() };
        if self.sink.send(at, fact) {
            for row in rows {
                if let Some(watched) = self.watched.get_mut(&row.cgroup) {
                    watched.told = Some(row);
                }
            }
        }
    }
}

/// The row of a cgroup from the text of its `memory.events`; `None` without `oom_kill`.
fn parse(cgroup: CgroupId, text: &str) -> Option<MemoryEventsRow> {
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .and_then(|value| value.trim().parse().ok())
    };
    Some(MemoryEventsRow {
        cgroup,
        oom_kills: field("oom_kill")?,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use plumbline_core::id::CgroupId;
    use plumbline_core::observation::{CgroupRow, Fact};

    use super::{MemoryEvents, parse};
    use crate::clock;
    use crate::sources::Sink;
    use crate::sources::cgroups::CgroupRoot;

    #[test]
    fn kills_are_read_or_absent() {
        let kills = |text| parse(CgroupId(7), text).map(|row| row.oom_kills);
        let text = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(kills(text), Some(2));
        assert_eq!(kills("low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n"), Some(0));
        for nonsense in ["", "oom 3\n", "oom_kill\n", "oom_kill many\n"] {
            assert_eq!(kills(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn a_change_is_told_at_once_and_only_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("memory.events");
        let container = |cgroup, path: &str| CgroupRow {
            cgroup: CgroupId(cgroup),
            path: path.to_owned(),
        };
        fs::write(&file, "oom_kill 0\n").unwrap();
        let root = CgroupRoot {
            directory: folder.path().to_path_buf(),
            kernel_path: None,
        };
        let (sink, mut facts) = Sink::new();
        let stop = Arc::new(AtomicBool::new(false));
        let source = MemoryEvents::spawn(root, sink, Arc::clone(&stop)).unwrap();
        source.watch(vec![container(7, "/"), container(8, "/without")]);
        let mut next = || {
            let deadline = clock::instant() + Duration::from_secs(20);
            loop {
                if let Ok(observation) = facts.try_recv() {
                    let Fact::MemoryEvents { rows } = observation.fact else {
                        panic!("{observation:?}");
                    };
                    break rows
                        .iter()
                        .map(|row| (row.cgroup.0, row.oom_kills))
                        .collect::<Vec<_>>();
                }
                assert!(clock::instant() < deadline, "nothing was told");
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        assert_eq!(next(), [(7, 0)], "none yet; and of the other nothing");
        fs::write(&file, "oom_kill 3\n").unwrap();
        // The writer truncates first, which is no text and tells nothing.
        assert_eq!(next(), [(7, 3)]);
        stop.store(true, Ordering::Relaxed);
        assert!(source.thread.join().is_ok());
        assert!(facts.try_recv().is_err(), "the same is not told again");
    }
}
