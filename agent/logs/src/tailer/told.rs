//! What the reader tells others: counts of containers, also of those that are gone, and how it fares.

use crate::container::Container;
use crate::stats::{ContainerStats, Counts};

use super::Tailer;

impl Tailer {
    /// Takes what was answered: losses are counted, places committed.
    pub(super) fn settle(&mut self) {
        let settled = self.out.settle();
        for loss in settled.lost {
            let (records, bytes) = (loss.share.records, loss.share.bytes);
            match self.containers.get_mut(&loss.share.source) {
                Some(container) => container.counts.lose(loss.reason, records, bytes),
                None => self.stats.lose(loss.reason, records, bytes),
            }
        }
        if settled.rejected > 0 {
            self.stats.lose("rejected", settled.rejected, 0);
        }
        self.commit(settled.resume);
    }

    /// The counts of containers that are remembered no longer: what they lost was lost on this node.
    pub(super) fn retire(&mut self, counts: Option<Counts>) {
        for (reason, lost) in counts.into_iter().flat_map(|counts| counts.lost) {
            self.stats.lose(reason, lost.records, lost.bytes);
        }
    }

    pub(super) fn publish(&mut self) {
        let containers = self.containers.values();
        self.stats.containers = containers.map(|container| stats(container)).collect();
        self.stats.containers.extend(self.ended.stats());
        self.stats
            .containers
            .sort_by(|a, b| a.source.cmp(&b.source));
        let open = self
            .containers
            .values()
            .flat_map(|container| &container.files)
            .filter(|file| !file.is_closed());
        self.stats.files_open = open.count() as u64;
        self.stats.in_flight = self.out.in_flight() as u64;
        self.stats.watches_refused = self.watches.refused;
        self.shared.write(self.stats.clone());
    }
}

fn stats(container: &Container) -> ContainerStats {
    let present = container.files.iter().filter(|file| file.missing.is_none());
    ContainerStats {
        source: container.source.clone(),
        counts: container.counts.clone(),
        lag: container.lag(),
        unread: container.files.iter().map(|file| file.unread()).sum(),
        retained: present.map(|file| file.content_len()).sum(),
    }
}
