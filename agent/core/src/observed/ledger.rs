//! What came through bounded things and what they lost: since the agent began, and lately.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::settings::LOSS_WINDOW;
use crate::snapshot::{Delivered, Dropped, Loss};
use crate::time::Timestamp;

/// Places, and pairs of place and reason, that are told apart. Sources have some dozens; a recording may hold anything.
const PLACES_MAX: usize = 256;

/// Between two samples of the counters.
const SAMPLE_EVERY: Duration = Duration::from_secs(10);

/// Where it is counted what came through, for places that only count what they lost.
const STREAMS: [(&str, &str); 3] = [
    ("cpu_windows", "ebpf.cpu_windows"),
    ("ebpf.flows_overflow", "ebpf.flows"),
    ("ebpf.flows_pending", "ebpf.flows"),
];

/// The counters, and samples of them over [`LOSS_WINDOW`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    now: Counters,
    samples: VecDeque<(Timestamp, Counters)>,
}

#[derive(Clone, Debug, Default)]
struct Counters {
    delivered: BTreeMap<String, u64>,
    dropped: BTreeMap<(String, String), u64>,
}

impl Ledger {
    /// A place tells what came through it in all. Without room for one more place it is not told.
    pub(crate) fn delivered(&mut self, place: String, count: u64) {
        set(&mut self.now.delivered, place, count);
    }

    /// A place tells what it lost in all.
    pub(crate) fn dropped(&mut self, place: String, reason: String, count: u64) {
        set(&mut self.now.dropped, (place, reason), count);
    }

    /// More came through one of the core's own places.
    pub(crate) fn deliver(&mut self, place: &str, more: u64) {
        match self.now.delivered.get_mut(place) {
            Some(count) => *count = count.saturating_add(more),
            None => self.delivered(place.to_owned(), more),
        }
    }

    /// One of the core's own places lost more.
    pub(crate) fn drop(&mut self, place: &str, reason: &str, more: u64) {
        let key = (place.to_owned(), reason.to_owned());
        let count = self.now.dropped.get(&key).copied().unwrap_or(0);
        set(&mut self.now.dropped, key, count.saturating_add(more));
    }

    /// Remembers the counters as they are, when it is time to.
    pub(crate) fn sample(&mut self, at: Timestamp) {
        let due = self
            .samples
            .back()
            .is_none_or(|(last, _)| at.since(*last) >= SAMPLE_EVERY);
        if !due {
            return;
        }
        self.samples.push_back((at, self.now.clone()));
        // The oldest that is kept is as old as the window, or a little older.
        while self
            .samples
            .get(1)
            .is_some_and(|(second, _)| at.since(*second) >= LOSS_WINDOW)
        {
            self.samples.pop_front();
        }
    }

    /// What came through each place in all, by place.
    pub(crate) fn deliveries(&self) -> Vec<Delivered> {
        let view = |(place, count): (&String, &u64)| Delivered {
            place: place.clone(),
            count: *count,
        };
        self.now.delivered.iter().map(view).collect()
    }

    /// What each place lost in all, by place and reason; without what nothing was lost by.
    pub(crate) fn drops(&self) -> Vec<Dropped> {
        let lost = self.now.dropped.iter().filter(|(_, count)| **count > 0);
        let view = |((place, reason), count): (&(String, String), &u64)| Dropped {
            place: place.clone(),
            reason: reason.clone(),
            count: *count,
        };
        lost.map(view).collect()
    }

    /// What was lost over the window, or since the agent began if that is less, where it is known how much there was.
    pub(crate) fn losses(&self, now: Timestamp) -> Vec<Loss> {
        let Some((since, before)) = self.samples.front() else {
            return Vec::new();
        };
        let loss = |((place, reason), count): (&(String, String), &u64)| {
            let key = (place.clone(), reason.clone());
            let lost = count.saturating_sub(before.dropped.get(&key).copied().unwrap_or(0));
            let stream = STREAMS
                .iter()
                .find(|(of, _)| of == place)
                .map_or(place.as_str(), |(_, stream)| stream);
            let delivered = self.now.delivered.get(stream)?;
            let delivered_before = before.delivered.get(stream).copied().unwrap_or(0);
            (lost > 0).then(|| Loss {
                place: place.clone(),
                reason: reason.clone(),
                lost,
                delivered: delivered.saturating_sub(delivered_before),
                span: now.since(*since),
            })
        };
        self.now.dropped.iter().filter_map(loss).collect()
    }
}

fn set<K: Ord>(counts: &mut BTreeMap<K, u64>, key: K, count: u64) {
    if counts.len() < PLACES_MAX || counts.contains_key(&key) {
        counts.insert(key, count);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Ledger, PLACES_MAX, SAMPLE_EVERY};
    use crate::settings::LOSS_WINDOW;
    use crate::time::Timestamp;

    const START: Timestamp = Timestamp(1_000_000_000);

    fn lost(ledger: &Ledger, at: Timestamp) -> Vec<(String, u64, u64, Duration)> {
        let losses = ledger.losses(at).into_iter();
        losses
            .map(|loss| (loss.place, loss.lost, loss.delivered, loss.span))
            .collect()
    }

    #[test]
    fn what_was_lost_is_told_with_what_came_through_and_forgotten_after_the_window() {
        let mut ledger = Ledger::default();
        ledger.delivered("ebpf.flows".into(), 100);
        ledger.dropped("ebpf.flows".into(), "full".into(), 7);
        ledger.sample(START);
        assert_eq!(lost(&ledger, START), [], "before the window");
        ledger.delivered("ebpf.flows".into(), 350);
        ledger.dropped("ebpf.flows".into(), "full".into(), 9);
        ledger.drop("ebpf.flows_overflow", "full", 1);
        let later = START.plus(Duration::from_secs(20));
        let wanted = [
            ("ebpf.flows".to_owned(), 2, 250, Duration::from_secs(20)),
            (
                "ebpf.flows_overflow".to_owned(),
                1,
                250,
                Duration::from_secs(20),
            ),
        ];
        assert_eq!(lost(&ledger, later), wanted);
        let mut at = later;
        for _ in 0..40 {
            ledger.sample(at);
            at = at.plus(SAMPLE_EVERY);
        }
        assert_eq!(lost(&ledger, at), [], "long ago");
        assert_eq!(ledger.drops().len(), 2, "in all it stays");
    }

    #[test]
    fn where_nobody_knows_how_much_there_was_nothing_is_said() {
        let mut ledger = Ledger::default();
        ledger.sample(START);
        ledger.drop("recording", "full", 5);
        assert_eq!(lost(&ledger, START.plus(SAMPLE_EVERY)), []);
    }

    #[test]
    fn samples_and_places_are_bounded() {
        let mut ledger = Ledger::default();
        for n in 0..2 * PLACES_MAX {
            ledger.deliver(&n.to_string(), 1);
            ledger.drop(&n.to_string(), "full", 1);
        }
        assert_eq!(ledger.deliveries().len(), PLACES_MAX);
        assert_eq!(ledger.drops().len(), PLACES_MAX);
        for n in 0..1_000 {
            ledger.sample(START.plus(n * SAMPLE_EVERY));
        }
        let most = LOSS_WINDOW.as_secs() / SAMPLE_EVERY.as_secs() + 1;
        assert_eq!(ledger.samples.len() as u64, most);
    }
}
