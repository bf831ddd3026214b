//! Which cgroups there are, and which of them may come to be: a table and a queue, without IO and without a clock.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use plumbline_core::attribution::container_of;
use plumbline_core::id::CgroupId;
use plumbline_core::observation::CgroupRow;
use plumbline_core::time::Timestamp;

/// The cgroups below the root.
#[derive(Debug, Default)]
pub(super) struct Tree {
    by_id: BTreeMap<CgroupId, String>,
    by_path: BTreeMap<String, CgroupId>,
}

/// What a walk changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Cgroups that were not known, parents before children.
    pub(super) seen: Vec<CgroupRow>,
    /// Cgroups that are no longer there.
    pub(super) gone: Vec<CgroupId>,
}

/// Whether the path is that of a container's own cgroup, where its program belongs.
pub(super) fn is_container(path: &str) -> bool {
    container_of(path).is_some_and(|container| container.path == path)
}

/// Whether the path is a container's or below one: its CPU time is measured.
pub(super) fn is_in_container(path: &str) -> bool {
    container_of(path).is_some()
}

impl Tree {
    /// Adds a cgroup. `false` when it was known.
    pub(super) fn insert(&mut self, row: &CgroupRow) -> bool {
        if self.by_id.get(&row.cgroup) == Some(&row.path) {
            return false;
        }
        if let Some(before) = self.by_id.insert(row.cgroup, row.path.clone()) {
            self.by_path.remove(&before);
        }
        if let Some(before) = self.by_path.insert(row.path.clone(), row.cgroup) {
            self.by_id.remove(&before);
        }
        true
    }

    /// The cgroup at a path.
    pub(super) fn at(&self, path: &str) -> Option<CgroupId> {
        self.by_path.get(path).copied()
    }

    /// Removes the cgroup at a path and what is below it, of which events may have been lost.
    pub(super) fn remove(&mut self, path: &str) -> Vec<CgroupId> {
        let below = format!("{path}/");
        let mut gone: Vec<(String, CgroupId)> = self
            .by_path
            .range(below.clone()..)
            .take_while(|(path, _)| path.starts_with(&below))
            .map(|(path, id)| (path.clone(), *id))
            .collect();
        gone.extend(self.at(path).map(|id| (path.to_owned(), id)));
        for (path, id) in &gone {
            self.by_path.remove(path);
            self.by_id.remove(id);
        }
        gone.into_iter().map(|(_, id)| id).collect()
    }

    /// Adds what an incomplete walk found: what it did not find may well be there.
    pub(super) fn add(&mut self, rows: &[CgroupRow]) -> Changes {
        let mut changes = Changes::default();
        for row in rows {
            changes.gone.extend(self.displaced(row));
            if self.insert(row) {
                changes.seen.push(row.clone());
            }
        }
        changes
    }

    /// Removes the cgroup whose path another one has now, and what was below it.
    pub(super) fn displaced(&mut self, row: &CgroupRow) -> Vec<CgroupId> {
        match self.at(&row.path) {
            Some(before) if before != row.cgroup => self.remove(&row.path),
            _ => Vec::new(),
        }
    }

    /// Replaces everything by what a complete walk found.
    pub(super) fn replace(&mut self, rows: &[CgroupRow]) -> Changes {
        let now: BTreeMap<CgroupId, &str> = rows
            .iter()
            .map(|row| (row.cgroup, row.path.as_str()))
            .collect();
        let gone: Vec<CgroupId> = self
            .by_id
            .keys()
            .filter(|id| !now.contains_key(id))
            .copied()
            .collect();
        for id in &gone {
            if let Some(path) = self.by_id.remove(id) {
                self.by_path.remove(&path);
            }
        }
        let seen = rows
            .iter()
            .filter(|row| self.insert(row))
            .cloned()
            .collect();
        Changes { seen, gone }
    }
}

/// Paths of directories that were announced and could not be opened yet. The event comes before the directory is in
/// place; events of cgroup v1 hierarchies name directories that never come.
#[derive(Debug, Default)]
pub(super) struct Retries {
    queue: VecDeque<Retry>,
}

#[derive(Debug)]
struct Retry {
    path: String,
    attempt: u32,
    due: Timestamp,
}

/// Announcements that wait; a walk of the tree finds what is beyond.
const RETRIES_MAX: usize = 1_024;

/// Attempts after 1, 2, 4 ... ms: 127 ms in all.
const ATTEMPTS_MAX: u32 = 7;

impl Retries {
    /// Queues the next attempt (0 is the first). `false` when there is no room, or none is left.
    pub(super) fn push(&mut self, path: String, attempt: u32, now: Timestamp) -> bool {
        if self.queue.len() == RETRIES_MAX || attempt >= ATTEMPTS_MAX {
            return false;
        }
        self.queue.push_back(Retry {
            path,
            attempt,
            due: now.plus(Duration::from_millis(1 << attempt)),
        });
        true
    }

    /// Takes what is due: path and number of the attempt.
    pub(super) fn due(&mut self, now: Timestamp) -> Vec<(String, u32)> {
        let (due, later): (VecDeque<Retry>, VecDeque<Retry>) =
            self.queue.drain(..).partition(|r| r.due <= now);
        self.queue = later;
        due.into_iter()
            .map(|retry| (retry.path, retry.attempt))
            .collect()
    }

    /// When something is due.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.queue.iter().map(|retry| retry.due).min()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use plumbline_core::id::CgroupId;
    use plumbline_core::observation::CgroupRow;
    use plumbline_core::time::Timestamp;

    use super::{ATTEMPTS_MAX, Changes, RETRIES_MAX, Retries, Tree};

    fn row(id: u64, path: &str) -> CgroupRow {
        CgroupRow {
            cgroup: CgroupId(id),
            path: path.to_owned(),
        }
    }

    #[test]
    fn a_walk_tells_what_came_and_went() {
        let mut tree = Tree::default();
        let changes = tree.replace(&[row(1, "/"), row(2, "/a"), row(3, "/a/b")]);
        assert_eq!((changes.seen.len(), changes.gone.len()), (3, 0));
        let changes = tree.replace(&[row(1, "/"), row(2, "/a"), row(4, "/a/b")]);
        assert_eq!(changes.seen, [row(4, "/a/b")], "same name, another cgroup");
        assert_eq!(changes.gone, [CgroupId(3)]);
        assert_eq!(tree.at("/a/b"), Some(CgroupId(4)));
        assert!(!tree.insert(&row(4, "/a/b")));
    }

    #[test]
    fn an_incomplete_walk_adds_and_removes_only_what_was_replaced() {
        let mut tree = Tree::default();
        tree.replace(&[row(1, "/"), row(2, "/a"), row(3, "/a/b"), row(4, "/c")]);
        assert_eq!(tree.add(&[]), Changes::default());
        let changes = tree.add(&[row(5, "/a"), row(6, "/d")]);
        assert_eq!(changes.seen, [row(5, "/a"), row(6, "/d")]);
        assert_eq!(changes.gone, [CgroupId(3), CgroupId(2)]);
        assert_eq!(tree.at("/c"), Some(CgroupId(4)));
    }

    #[test]
    fn removing_takes_what_is_below_and_nothing_beside() {
        let mut tree = Tree::default();
        tree.replace(&[
            row(1, "/"),
            row(2, "/a"),
            row(3, "/a/b"),
            row(4, "/ab"),
            row(5, "/a-b"),
        ]);
        let mut gone = tree.remove("/a");
        gone.sort_unstable();
        assert_eq!(gone, [CgroupId(2), CgroupId(3)]);
        assert_eq!(tree.remove("/a"), []);
        assert_eq!(tree.at("/ab"), Some(CgroupId(4)));
        assert_eq!(tree.at("/a-b"), Some(CgroupId(5)));
    }

    #[test]
    fn a_name_that_is_used_again_replaces_the_one_before() {
        let mut tree = Tree::default();
        assert!(tree.insert(&row(2, "/a")));
        assert!(tree.insert(&row(3, "/a")));
        assert_eq!(tree.replace(&[row(3, "/a")]).gone, []);
    }

    #[test]
    fn attempts_come_later_and_later_and_end() {
        let mut retries = Retries::default();
        let (mut now, mut attempts) = (Timestamp(0), 0);
        let mut attempt = 0;
        while retries.push("/a".into(), attempt, now) {
            let due = retries.next().unwrap();
            assert_eq!(
                retries.due(due.minus(Duration::from_nanos(1))),
                [],
                "not yet"
            );
            now = due;
            attempt = retries.due(now)[0].1 + 1;
            attempts += 1;
        }
        assert_eq!((attempts, now), (ATTEMPTS_MAX, Timestamp(127_000_000)));
    }

    #[test]
    fn the_queue_has_a_bound() {
        let mut retries = Retries::default();
        for _ in 0..RETRIES_MAX {
            assert!(retries.push("/a".into(), 0, Timestamp(0)));
        }
        assert!(!retries.push("/a".into(), 0, Timestamp(0)));
    }
}
