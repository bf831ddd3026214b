//! The same work done with and without what is to be measured, in turns of some milliseconds: what disturbs a virtual machine
//! for seconds disturbs both alike.

use anyhow::Result;
use plumbline_tests::wait::process_cpu_ns;
use serde::{Deserialize, Serialize};

use super::statistics::{Spread, per};

/// How often the work is done before it is another's turn: some milliseconds.
const TURN: u64 = 1_000;

/// One turn of each.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Turn {
    /// How often the work was done by each.
    pub(super) count: u64,
    /// CPU time with it.
    pub(super) with_ns: u64,
    /// Without.
    pub(super) without_ns: u64,
    /// Without once more: what differs is noise.
    pub(super) again_ns: u64,
}

/// How many sides take turns: the position is that of [`Turn`]'s fields, so that side 0 is the one with it.
pub(super) const SIDES: usize = 3;

/// Does the work so often on each side, in an order that changes from turn to turn. What `prepare` does for a side is not
/// counted.
///
/// # Errors
/// Those of the work and its preparation.
pub(super) fn turns(
    count: u64,
    mut prepare: impl FnMut(usize) -> Result<()>,
    mut work: impl FnMut(usize, u64) -> Result<()>,
) -> Result<Vec<Turn>> {
    let mut turns = Vec::new();
    let mut left = count;
    while left > 0 {
        let count = left.min(TURN);
        let mut spent = [0; SIDES];
        for step in 0..SIDES {
            let side = (turns.len() + step) % SIDES;
            prepare(side)?;
            let before = process_cpu_ns();
            work(side, count)?;
            spent[side] = process_cpu_ns() - before;
        }
        let [with_ns, without_ns, again_ns] = spent;
        turns.push(Turn {
            count,
            with_ns,
            without_ns,
            again_ns,
        });
        left -= count;
    }
    Ok(turns)
}

/// Ratios, turn by turn.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Compared {
    /// CPU time with it to that without.
    pub(super) ratio: Spread,
    /// That without once more to that without.
    pub(super) noise: Spread,
}

impl Compared {
    /// Of any turns but none.
    pub(super) fn of<'a>(turns: impl Iterator<Item = &'a Turn> + Clone) -> Option<Self> {
        let to_without = |ns: fn(&Turn) -> u64| {
            let turns = turns.clone().filter(|turn| turn.without_ns > 0);
            Spread::of(turns.map(move |turn| per(ns(turn), turn.without_ns)))
        };
        Some(Self {
            ratio: to_without(|turn| turn.with_ns)?,
            noise: to_without(|turn| turn.again_ns)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::{Compared, SIDES, TURN, Turn, turns};

    #[test]
    fn each_side_does_all_and_every_order_comes() {
        let (mut done, mut order, prepared) = ([0; SIDES], Vec::new(), Cell::new(SIDES));
        let prepare = |side| {
            prepared.set(side);
            Ok(())
        };
        let turns = turns(2 * TURN + 1, prepare, |side, count| {
            assert_eq!(prepared.get(), side);
            done[side] += count;
            order.push(side);
            Ok(())
        });
        let counts: Vec<u64> = turns.unwrap().iter().map(|turn| turn.count).collect();
        assert_eq!(counts, [TURN, TURN, 1]);
        assert_eq!(done, [2 * TURN + 1; SIDES]);
        assert_eq!(order, [0, 1, 2, 1, 2, 0, 2, 0, 1]);
    }

    #[test]
    fn a_ratio_is_that_of_one_turn() {
        let turn = |with_ns, without_ns, again_ns| Turn {
            count: 1,
            with_ns,
            without_ns,
            again_ns,
        };
        // The machine is half as fast in the second turn.
        let turns = [turn(110, 100, 100), turn(220, 200, 202), turn(105, 100, 99)];
        let compared = Compared::of(turns.iter()).unwrap();
        assert_eq!((compared.ratio.median, compared.noise.median), (1.1, 1.0));
        assert!(Compared::of([].iter()).is_none());
    }
}
