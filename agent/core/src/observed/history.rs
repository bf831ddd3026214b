//! CPU use of one container over a day and over a week: rings of sketches, each of one slot of time.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::observation::CPU_WINDOW_NS;
use crate::sketch::Sketch;
use crate::snapshot::Distribution;
use crate::time::Timestamp;

const HOUR_NS: u64 = 3_600_000_000_000;

/// Slots of an hour that make a day, and of a day that make a week. What is older is forgotten slot by slot, so a full
/// ring tells of 23 to 24 hours, and of 6 to 7 days.
const HOURS: u64 = 24;
const DAYS: u64 = 7;

/// The windows of one container, as far back as they are kept. Memory: at most 33 sketches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    day: Ring,
    week: Ring,
    /// Every window since the container was first seen.
    all: Arc<Sketch>,
}

/// Sketches of consecutive slots of time, and their sum.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ring {
    slot_ns: u64,
    slots: u64,
    held: VecDeque<Slot>,
    /// The sum of the slots, kept as windows come and slots go: shared with snapshots.
    sum: Arc<Sketch>,
    /// End of the last window.
    until: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Slot {
    index: u64,
    /// Start of its first window.
    since: Timestamp,
    sketch: Sketch,
}

impl Default for History {
    fn default() -> Self {
        Self {
            day: Ring::new(HOUR_NS, HOURS),
            week: Ring::new(HOUR_NS * HOURS, DAYS),
            all: Arc::default(),
        }
    }
}

impl History {
    /// Counts one window. Only one that is `judged` (not of the start-up) is told of by [`Self::day`] and [`Self::week`].
    /// Windows come in order.
    pub fn add(&mut self, start: Timestamp, busy_us: u32, judged: bool) {
        Arc::make_mut(&mut self.all).add(busy_us);
        if judged {
            self.day.add(start, busy_us);
            self.week.add(start, busy_us);
        }
    }

    /// The last 24 hours; `None` without windows.
    #[must_use]
    pub fn day(&self) -> Option<Distribution> {
        self.day.view()
    }

    /// The last 7 days; `None` without windows.
    #[must_use]
    pub fn week(&self) -> Option<Distribution> {
        self.week.view()
    }

    /// Every window since the container was first seen, those of its start-up too; `None` without windows.
    #[must_use]
    pub fn all(&self) -> Option<Arc<Sketch>> {
        (self.all.count() > 0).then(|| Arc::clone(&self.all))
    }
}

impl Ring {
    fn new(slot_ns: u64, slots: u64) -> Self {
        Self {
            slot_ns,
            slots,
            held: VecDeque::new(),
            sum: Arc::default(),
            until: Timestamp(0),
        }
    }

    fn add(&mut self, start: Timestamp, busy_us: u32) {
        let index = start.0 / self.slot_ns;
        self.forget(index);
        if self.held.back().is_none_or(|slot| slot.index != index) {
            self.held.push_back(Slot {
                index,
                since: start,
                sketch: Sketch::default(),
            });
        }
        if let Some(slot) = self.held.back_mut() {
            slot.sketch.add(busy_us);
        }
        Arc::make_mut(&mut self.sum).add(busy_us);
        self.until = Timestamp(start.0.saturating_add(CPU_WINDOW_NS));
    }

    /// Forgets slots that are too old while the slot `now` is filled.
    fn forget(&mut self, now: u64) {
        let is_old = |slot: &Slot| slot.index.saturating_add(self.slots) <= now;
        let mut forgot = false;
        while self.held.front().is_some_and(is_old) {
            if let Some(old) = self.held.pop_front() {
                Arc::make_mut(&mut self.sum).subtract(&old.sketch);
                forgot = true;
            }
        }
        if forgot {
            let max_us = self.held.iter().map(|slot| slot.sketch.max_us()).max();
            Arc::make_mut(&mut self.sum).set_max(max_us.unwrap_or(0));
        }
    }

    fn view(&self) -> Option<Distribution> {
        let first = self.held.front()?;
        Some(Distribution {
            sketch: Arc::clone(&self.sum),
            since: first.since,
            until: self.until,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{HOUR_NS, HOURS, History, Ring};
    use crate::sketch::Sketch;
    use crate::time::Timestamp;

    #[test]
    fn a_day_forgets_hour_by_hour_and_a_week_day_by_day() {
        let mut history = History::default();
        // One window in the middle of each hour for ten days; the first hour's is the highest.
        for hour in 0..240_u64 {
            let busy_us = if hour == 0 { 900_000 } else { 1_000 };
            history.add(Timestamp(hour * HOUR_NS + HOUR_NS / 2), busy_us, true);
        }
        let day = history.day().unwrap();
        assert_eq!((day.sketch.count(), day.sketch.max_us()), (24, 1_000));
        assert_eq!(day.sketch.sum_us(), 24_000);
        assert_eq!(
            day.span(),
            Duration::from_secs(23 * 3_600) + Duration::from_millis(100)
        );
        let week = history.week().unwrap();
        assert_eq!(week.sketch.count(), 7 * 24);
        assert_eq!(history.all().unwrap().count(), 240);
        assert_eq!(history.all().unwrap().max_us(), 900_000);
    }

    #[test]
    fn a_gap_longer_than_the_ring_leaves_nothing() {
        let mut ring = Ring::new(HOUR_NS, HOURS);
        ring.add(Timestamp(0), 5_000);
        ring.add(Timestamp(100 * HOUR_NS), 7_000);
        let view = ring.view().unwrap();
        assert_eq!((view.sketch.count(), view.sketch.max_us()), (1, 7_000));
        assert_eq!(view.since, Timestamp(100 * HOUR_NS));
    }

    #[test]
    fn windows_of_the_start_are_only_in_the_whole() {
        let mut history = History::default();
        history.add(Timestamp(0), 5_000, false);
        assert_eq!(history.day(), None);
        assert_eq!(history.all().unwrap().count(), 1);
        assert_eq!(History::default().all(), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_sum_is_that_of_the_windows_not_yet_too_old(steps in prop::collection::vec((0..3_u64, 0..400_000_u32), 1..60)) {
            let (mut ring, mut kept, mut now) = (Ring::new(10, 4), Vec::new(), 0);
            for (step, busy_us) in steps {
                now += step * 7;
                ring.add(Timestamp(now), busy_us);
                kept.push((now / 10, busy_us));
                kept.retain(|(slot, _)| slot + 4 > now / 10);
                let mut whole = Sketch::default();
                kept.iter().for_each(|(_, busy_us)| whole.add(*busy_us));
                let view = ring.view().unwrap();
                prop_assert_eq!(view.sketch.count(), whole.count());
                prop_assert_eq!(view.sketch.max_us(), whole.max_us());
                prop_assert_eq!(view.sketch.sum_us(), whole.sum_us());
                prop_assert_eq!(view.sketch.quantile_us(500), whole.quantile_us(500));
                prop_assert!(ring.held.len() <= 4);
            }
        }
    }
}
