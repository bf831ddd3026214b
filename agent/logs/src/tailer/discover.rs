//! Which containers and files there are: by hints early, by scans in any case.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::batch::SourceId;
use crate::checkpoint::Entry;
use crate::container::{Container, Scan};
use crate::file::Handle as FileHandle;
use crate::guard::{self, Refused, Root};
use crate::source::{PodName, Source};
use crate::stats::Counts;

use super::pods::Seen;
use super::{Tailer, Wanted};

/// Containers that are followed; beyond it new ones wait for old ones to end.
const CONTAINERS_MAX: usize = 10_000;

impl Tailer {
    pub(super) fn follow_hints(&mut self, now: Duration) {
        let hints = self.watches.read();
        if hints.all {
            self.scanned = None;
            return;
        }
        for directory in &hints.written {
            self.activate(directory);
        }
        for directory in hints.changed {
            match directory.split_once('/') {
                None => self.scanned = None,
                Some(_) => self.scan_one(&directory, now),
            }
            self.activate(&directory);
        }
    }

    fn activate(&mut self, directory: &str) {
        let source = directory
            .split_once('/')
            .and_then(|(pod, container)| Source::parse(pod.as_bytes(), container.as_bytes()));
        if let Some(id) = source.and_then(|source| self.by_source.get(&source)) {
            self.robin.activate(*id);
        }
    }

    /// The truth: all directories, whatever was hinted.
    pub(super) fn scan(&mut self, now: Duration) {
        self.scanned = Some(now);
        self.stats.refused.clear();
        if self.root.is_none() {
            self.watches.add("");
        }
        // Opened anew each time: the directory may have been replaced, by a mount or by hand.
        match Root::open(&self.settings.root) {
            Ok(root) => {
                self.root = Some(root);
                self.tell_root(None);
            }
            Err(errno) => self.tell_root(Some(errno.to_string())),
        }
        for source in self.sources(now) {
            self.add(source);
        }
        let ids: Vec<SourceId> = self.containers.keys().copied().collect();
        for id in ids {
            self.scan_container(id, now);
        }
        self.count_missed(now);
        self.enforce_held(now);
        self.forget(now);
        self.publish();
    }

    /// Told when it changes, not each second.
    fn tell_root(&mut self, error: Option<String>) {
        let root = self.settings.root.display();
        match &error {
            _ if error == self.stats.root_error => return,
            Some(error) => {
                tracing::warn!(error, %root, "the directory of container logs cannot be read")
            }
            None => tracing::info!(%root, "the directory of container logs is read again"),
        }
        self.stats.root_error = error;
    }

    /// The containers that have a directory.
    fn sources(&mut self, now: Duration) -> Vec<Source> {
        let Some(root) = &self.root else {
            return Vec::new();
        };
        let mut sources = Vec::new();
        let list = |path: &str| guard::names(root.directory(path)?).map_err(Refused::from);
        let mut refuse = |reason| *self.stats.refused.entry(reason).or_default() += 1;
        for pod in list(".").unwrap_or_default() {
            let Some(pod) = PodName::parse(&pod) else {
                refuse("name");
                continue;
            };
            if self.settings.exclude_uids.contains(&pod.uid)
                || !self.settings.select.namespace(&pod.namespace)
            {
                self.pods.note(&pod.uid, Seen::Settled, now);
                continue;
            }
            self.pods.note(&pod.uid, Seen::Directory, now);
            let containers = match list(&pod.directory()) {
                Ok(containers) => containers,
                Err(Refused::Gone) => continue,
                Err(Refused::Trick(reason)) => {
                    refuse(reason);
                    continue;
                }
                Err(Refused::Error(_)) => {
                    refuse("error");
                    continue;
                }
            };
            for container in containers {
                let Some(container) = crate::source::container_name(&container) else {
                    refuse("name");
                    continue;
                };
                let pod = pod.clone();
                let source = Source { pod, container };
                let wanted = if self.settings.select.container(&source) {
                    self.resources.is_wanted(&source)
                } else {
                    Wanted::No
                };
                match wanted {
                    Wanted::Yes => sources.push(source),
                    Wanted::No => self.pods.note(&source.pod.uid, Seen::Settled, now),
                    Wanted::NotYet => {}
                }
            }
        }
        sources
    }

    fn add(&mut self, source: Source) {
        if self.by_source.contains_key(&source) {
            return;
        }
        if self.containers.len() >= CONTAINERS_MAX {
            *self.stats.refused.entry("too_many_containers").or_default() += 1;
            return;
        }
        self.watches.add(&source.pod.directory());
        self.watches.add(&source.directory());
        self.next_source += 1;
        let id = SourceId(self.next_source);
        let pending = self.pending.remove(&source).unwrap_or_default();
        self.by_source.insert(source.clone(), id);
        let mut container = Container::new(id, source, pending);
        container.counts = self.ended.take(&container.source).unwrap_or_default();
        self.containers.insert(id, Box::new(container));
    }

    fn scan_one(&mut self, directory: &str, now: Duration) {
        let source = directory
            .split_once('/')
            .and_then(|(pod, container)| Source::parse(pod.as_bytes(), container.as_bytes()));
        if let Some(id) = source.and_then(|source| self.by_source.get(&source).copied()) {
            self.scan_container(id, now);
        }
    }

    fn scan_container(&mut self, id: SourceId, now: Duration) {
        let (Some(root), Some(container)) = (&self.root, self.containers.get_mut(&id)) else {
            return;
        };
        let refused = |of: &BTreeMap<&str, u64>| of.values().sum::<u64>();
        let before = refused(&self.stats.refused);
        let mut scan = Scan {
            root,
            now,
            refused: &mut self.stats.refused,
        };
        container.scan(&mut scan);
        if !container.files.is_empty() || refused(&self.stats.refused) > before {
            self.pods
                .note(&container.source.pod.uid, Seen::Settled, now);
        }
        let due = container.is_open() || container.next_finished(now).is_some();
        if due
            || container
                .files
                .iter()
                .any(crate::file::LogFile::is_readable)
        {
            self.robin.activate(id);
        }
    }

    /// Pods that ended before a file of theirs was found. Not where the directories cannot be read: that is told
    /// then, and who had one is not known.
    fn count_missed(&mut self, now: Duration) {
        if self.root.is_none() || self.stats.root_error.is_some() {
            return;
        }
        let select = &self.settings.select;
        let is_read = |namespace: Option<&str>| match namespace {
            Some(namespace) => select.namespace(namespace),
            None => select.takes_all_namespaces(),
        };
        let ended = self.resources.ended_pods();
        self.stats.missed_pods += self.pods.missed(&ended, is_read, now);
        let left_out = self.pods.forget(now);
        if left_out > 0 {
            self.stats.refused.insert("too_many_pods", left_out);
        }
    }

    /// Deleted files that take more room or time than they may are given up, the oldest first.
    fn enforce_held(&mut self, now: Duration) {
        let mut held = Vec::new();
        for (id, container) in &self.containers {
            for file in &container.files {
                let since = file.missing.or(file.unlinked);
                if let (Some(since), FileHandle::Plain(_)) = (since, &file.handle) {
                    held.push((since, *id, file.id, file.stamp.size));
                }
            }
        }
        held.sort();
        let mut bytes: u64 = held.iter().map(|(.., size)| size).sum();
        for (since, id, file, size) in held {
            let late = now >= since + self.settings.held_time_max;
            if !late && bytes <= self.settings.held_bytes_max {
                break;
            }
            bytes -= size;
            let Some(container) = self.containers.get_mut(&id) else {
                continue;
            };
            let compressed = self
                .root
                .as_ref()
                .is_some_and(|root| container.fall_back(file, root));
            let reason = container.gone_reason();
            let file = container.files.iter_mut().find(|known| known.id == file);
            if let Some(file) = file.filter(|_| !compressed) {
                container.counts.lose(reason, 0, file.unread());
                file.handle = FileHandle::Closed;
            }
        }
    }

    fn forget(&mut self, now: Duration) {
        let over = now >= self.pending_until;
        for container in self.containers.values_mut() {
            container.forget(now);
            let reason = container.gone_reason();
            if over {
                for entry in container.pending.drain(..) {
                    container.counts.lose_if(reason, entry.unread());
                }
            }
        }
        let mut ended = Vec::new();
        // With the root not readable, nothing is known to be gone.
        if over && self.root.is_some() && self.stats.root_error.is_none() {
            let lost = |(source, entries): (Source, Vec<Entry>)| {
                let mut counts = Counts::default();
                counts.lose_if("deleted", entries.iter().map(Entry::unread).sum());
                (source, counts)
            };
            ended.extend(self.pending.drain().map(lost));
            ended.sort_by(|a, b| a.0.cmp(&b.0));
        }
        let by_source = &mut self.by_source;
        self.containers.retain(|_, container| {
            let over =
                !container.present && container.files.is_empty() && container.pending.is_empty();
            if over {
                by_source.remove(&container.source);
                let counts = std::mem::take(&mut container.counts);
                ended.push((container.source.clone(), counts));
            }
            !over
        });
        for (source, counts) in ended {
            let gives_way = self.ended.add(now, source, counts);
            self.retire(gives_way);
        }
        self.ended.expire(now);
    }
}
