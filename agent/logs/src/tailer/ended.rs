//! Counts of containers that are gone: kept for a while, so that the last of them are told and losses are never forgotten.

use std::collections::VecDeque;
use std::time::Duration;

use crate::source::Source;
use crate::stats::{ContainerStats, Counts};

/// So long they are told: more than two of the longest usual intervals of export.
const LINGER: Duration = Duration::from_mins(3);
/// Beyond it the oldest give way, and what they lost is counted for the node.
const ENDED_MAX: usize = 1_024;

/// The containers, the oldest end first.
#[derive(Debug, Default)]
pub(super) struct Ended(VecDeque<(Duration, Source, Counts)>);

impl Ended {
    /// A container is gone. Gives the counts of those that give way.
    pub(super) fn add(&mut self, now: Duration, source: Source, counts: Counts) -> Option<Counts> {
        // With nothing to tell there is nothing to remember.
        if counts == Counts::default() {
            return None;
        }
        self.0.push_back((now, source, counts));
        let is_full = self.0.len() > ENDED_MAX;
        is_full
            .then(|| self.0.pop_front())
            .flatten()
            .map(|(_, _, counts)| counts)
    }

    /// The container is back: its counts go on.
    pub(super) fn take(&mut self, source: &Source) -> Option<Counts> {
        let at = self.0.iter().position(|(_, known, _)| known == source)?;
        self.0.remove(at).map(|(_, _, counts)| counts)
    }

    pub(super) fn expire(&mut self, now: Duration) {
        while self.0.front().is_some_and(|(at, ..)| now >= *at + LINGER) {
            self.0.pop_front();
        }
    }

    pub(super) fn stats(&self) -> impl Iterator<Item = ContainerStats> {
        self.0.iter().map(|(_, source, counts)| ContainerStats {
            source: source.clone(),
            counts: counts.clone(),
            lag: 0,
            unread: 0,
            retained: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: usize) -> Source {
        Source::parse(format!("a_b-{number}_c").as_bytes(), b"d").unwrap()
    }

    fn lost(bytes: u64) -> Counts {
        let mut counts = Counts::default();
        counts.lose("deleted", 0, bytes);
        counts
    }

    #[test]
    fn they_are_told_for_a_while_and_go_on_when_the_container_is_back() {
        let mut ended = Ended::default();
        ended.add(Duration::ZERO, source(1), lost(1));
        ended.add(Duration::ZERO, source(2), lost(2));
        ended.add(Duration::ZERO, source(3), Counts::default());
        assert_eq!(ended.stats().count(), 2);
        assert_eq!(ended.take(&source(1)), Some(lost(1)));
        assert_eq!(ended.take(&source(1)), None);
        ended.expire(LINGER);
        assert_eq!(ended.stats().count(), 0);
    }

    #[test]
    fn they_are_bounded_and_what_gives_way_is_given_back() {
        let mut ended = Ended::default();
        for number in 0..ENDED_MAX {
            assert_eq!(ended.add(Duration::ZERO, source(number), lost(1)), None);
        }
        let gone = ended.add(Duration::ZERO, source(ENDED_MAX), lost(1));
        assert_eq!((gone, ended.stats().count()), (Some(lost(1)), ENDED_MAX));
    }
}
