//! The checkpoint's life in the reader: got at the start or late, written while something is delivered.

use std::time::Duration;

use crate::checkpoint::Entry;
use crate::clock;
use crate::store::Store;

use super::Tailer;

/// So long the checkpoint's entries wait for their files.
const PENDING: Duration = Duration::from_mins(1);
/// Between tries to get the lock of the state directory.
const LOCK_RETRY: Duration = Duration::from_millis(500);
const IN_USE: &str = "another process uses the state directory";

impl Tailer {
    /// Gets the lock and the checkpoint. `false`: it was told to stop before it had them.
    pub(super) fn load(&mut self) -> bool {
        let Some(path) = self.settings.state.clone() else {
            return true;
        };
        while !self.stopping() {
            match Store::open(&path) {
                Ok(Some(store)) => {
                    // If it cannot be read it is tried again with each checkpoint that is due.
                    self.dirty = !self.load_from(store);
                    return true;
                }
                Ok(None) => self.tell_checkpoint(Some(IN_USE.into())),
                Err(error) => {
                    // Likewise.
                    self.tell_checkpoint(Some(error.to_string()));
                    self.dirty = true;
                    return true;
                }
            }
            self.publish();
            self.waker.wait(None, LOCK_RETRY);
        }
        false
    }

    /// Takes over what the checkpoint says. `false`: it cannot be read, and is not to be replaced before it was.
    pub(super) fn load_from(&mut self, store: Store) -> bool {
        let loaded = match store.load() {
            Ok(loaded) => loaded,
            Err(error) => {
                self.tell_checkpoint(Some(error.to_string()));
                return false;
            }
        };
        self.stats.quarantined = loaded.quarantined.is_some();
        if let Some(refused) = loaded.quarantined {
            tracing::error!(
                ?refused,
                "the log checkpoint does not check and was put aside: what is on disk is sent again"
            );
        }
        for entry in loaded.entries {
            let Some(source) = entry.source() else {
                continue;
            };
            // Known already when it is read late.
            let known = self.by_source.get(&source);
            match known.and_then(|id| self.containers.get_mut(id)) {
                Some(container) => container.learn(entry),
                None => self.pending.entry(source).or_default().push(entry),
            }
        }
        self.tell_checkpoint(None);
        self.pending_until = clock::monotonic() + PENDING;
        self.store = Some(store);
        true
    }

    /// Gets the lock and the checkpoint if that could not be done before. `false`: it still cannot.
    pub(super) fn load_late(&mut self) -> bool {
        if self.store.is_some() {
            return true;
        }
        let Some(path) = &self.settings.state else {
            return false;
        };
        match Store::open(path) {
            Ok(Some(store)) => return self.load_from(store),
            Ok(None) => self.tell_checkpoint(Some(IN_USE.into())),
            Err(error) => self.tell_checkpoint(Some(error.to_string())),
        }
        false
    }

    /// Told when it changes, not each second.
    pub(super) fn tell_checkpoint(&mut self, error: Option<String>) {
        if self.stats.checkpoint_error.is_some() != error.is_some() {
            match &error {
                Some(error) => tracing::error!(
                    error,
                    "the log checkpoint cannot be written or read: after a restart lines are sent again"
                ),
                None if self.saved > Duration::ZERO => {
                    tracing::info!("the log checkpoint is written again")
                }
                None => {}
            }
        }
        self.stats.checkpoint_error = error;
    }

    pub(super) fn save_if_due(&mut self, now: Duration) {
        if self.dirty && now >= self.saved + self.settings.checkpoint_interval {
            self.saved = now;
            self.save();
        }
    }

    pub(super) fn save(&mut self) {
        if !self.load_late() {
            return;
        }
        let Some(store) = &self.store else { return };
        let known = self
            .containers
            .values()
            .flat_map(|container| container.entries());
        let pending = self.pending.values().flatten().cloned();
        let mut entries: Vec<Entry> = known.chain(pending).collect();
        entries.sort_by(|a, b| {
            (&a.pod, &a.container, a.restart, a.head).cmp(&(
                &b.pod,
                &b.container,
                b.restart,
                b.head,
            ))
        });
        let saved = store.save(&entries);
        self.dirty = saved.is_err();
        self.tell_checkpoint(saved.err().map(|error| error.to_string()));
    }
}
