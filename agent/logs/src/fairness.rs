//! Deficit round robin by bytes: a container that floods gets its share and no more. Pure.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;

/// Those who have something to be read, in turn.
#[derive(Debug)]
pub struct RoundRobin<K> {
    quantum: i64,
    queue: VecDeque<(K, i64)>,
    waiting: HashSet<K>,
}

impl<K: Copy + Eq + Hash> RoundRobin<K> {
    /// Each gets so many bytes a turn.
    #[must_use]
    pub fn new(quantum: u32) -> Self {
        Self {
            quantum: i64::from(quantum.max(1)),
            queue: VecDeque::new(),
            waiting: HashSet::new(),
        }
    }

    /// It has something to be read. One that already waits keeps its place.
    pub fn activate(&mut self, key: K) {
        if self.waiting.insert(key) {
            self.queue.push_back((key, 0));
        }
    }

    /// Whose turn it is, and how many bytes it may use; it then is not waiting. What it used is told to [`Self::done`].
    pub fn turn(&mut self) -> Option<Turn<K>> {
        loop {
            let (key, deficit) = self.queue.pop_front()?;
            let deficit = deficit + self.quantum;
            if let Ok(bytes @ 1..) = u64::try_from(deficit) {
                return Some(Turn {
                    key,
                    bytes,
                    deficit,
                });
            }
            self.queue.push_back((key, deficit));
        }
    }

    /// The turn is over. Who used more than it had waits longer; who has nothing left keeps no claim.
    pub fn done(&mut self, turn: &Turn<K>, used: u64, more: bool) {
        if more {
            let used = i64::try_from(used).unwrap_or(i64::MAX);
            // What was not used is no claim for later: it is not the reader who decides how much there is.
            let deficit = turn.deficit.saturating_sub(used).min(0);
            self.queue.push_back((turn.key, deficit));
        } else {
            self.waiting.remove(&turn.key);
        }
    }

    /// Nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// A turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn<K> {
    /// Whose.
    pub key: K,
    /// How much it may use.
    pub bytes: u64,
    deficit: i64,
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::RoundRobin;

    #[test]
    fn shares_are_equal_however_long_the_lines_are() {
        let mut robin = RoundRobin::new(100);
        // One reads in steps that are far longer than its share, one in short ones.
        let steps = HashMap::from([('l', 1_000), ('m', 100), ('s', 7)]);
        for key in ['l', 'm', 's'] {
            robin.activate(key);
        }
        let mut used = HashMap::from([('l', 0_u64), ('m', 0), ('s', 0)]);
        for _ in 0..2_000 {
            let turn = robin.turn().unwrap();
            let step = steps[&turn.key];
            let mut taken = 0;
            while taken < turn.bytes {
                taken += step;
            }
            *used.get_mut(&turn.key).unwrap() += taken;
            robin.done(&turn, taken, true);
        }
        let (least, most) = (used.values().min().unwrap(), used.values().max().unwrap());
        assert!(most - least <= 2_000, "{used:?}");
    }

    #[test]
    fn who_has_nothing_left_does_not_wait() {
        let mut robin = RoundRobin::new(10);
        robin.activate(1);
        robin.activate(1);
        let turn = robin.turn().unwrap();
        assert_eq!(turn.bytes, 10);
        robin.done(&turn, 3, false);
        assert!(robin.is_empty() && robin.turn().is_none());
        robin.activate(1);
        assert_eq!(robin.turn().unwrap().bytes, 10);
    }
}
