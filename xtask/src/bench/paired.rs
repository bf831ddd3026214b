//! The same work done by sockets of a watched container and by sockets of nobody's, in turns of some milliseconds: what
//! disturbs a virtual machine for seconds disturbs both alike. What hooks cost every socket of the node, watched or not, is not
//! in their ratio: the kernel takes a socket's lock for each datagram as soon as any cgroup has a program for it.

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
    /// CPU time of the watched container's.
    pub(super) watched_ns: u64,
    /// Of those that nobody watches.
    pub(super) beside_ns: u64,
    /// Of others that nobody watches: what differs is noise.
    pub(super) again_ns: u64,
}

/// Whose turn it is: the position is that of [`Turn`]'s fields.
pub(super) const SIDES: usize = 3;

/// Does the work so often on each side, in an order that changes from turn to turn.
///
/// # Errors
/// Those of the work.
pub(super) fn turns(
    count: u64,
    mut work: impl FnMut(usize, u64) -> Result<()>,
) -> Result<Vec<Turn>> {
    let mut turns = Vec::new();
    let mut left = count;
    while left > 0 {
        let count = left.min(TURN);
        let mut spent = [0; SIDES];
        for step in 0..SIDES {
            let side = (turns.len() + step) % SIDES;
            let before = process_cpu_ns();
            work(side, count)?;
            spent[side] = process_cpu_ns() - before;
        }
        let [watched_ns, beside_ns, again_ns] = spent;
        turns.push(Turn {
            count,
            watched_ns,
            beside_ns,
            again_ns,
        });
        left -= count;
    }
    Ok(turns)
}

/// Ratios, turn by turn.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Beside {
    /// CPU time of the watched container's sockets to that of the others beside.
    pub(super) ratio: Spread,
    /// That of the others to that of those beside.
    pub(super) noise: Spread,
}

impl Beside {
    /// Of any turns but none.
    pub(super) fn of<'a>(turns: impl Iterator<Item = &'a Turn> + Clone) -> Option<Self> {
        let to_beside = |ns: fn(&Turn) -> u64| {
            let turns = turns.clone().filter(|turn| turn.beside_ns > 0);
            Spread::of(turns.map(move |turn| per(ns(turn), turn.beside_ns)))
        };
        Some(Self {
            ratio: to_beside(|turn| turn.watched_ns)?,
            noise: to_beside(|turn| turn.again_ns)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Beside, SIDES, TURN, Turn, turns};

    #[test]
    fn each_side_does_all_and_every_order_comes() {
        let (mut done, mut order) = ([0; SIDES], Vec::new());
        let turns = turns(2 * TURN + 1, |side, count| {
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
        let turn = |watched_ns, beside_ns, again_ns| Turn {
            count: 1,
            watched_ns,
            beside_ns,
            again_ns,
        };
        // The machine is half as fast in the second turn.
        let turns = [turn(110, 100, 100), turn(220, 200, 202), turn(105, 100, 99)];
        let beside = Beside::of(turns.iter()).unwrap();
        assert_eq!((beside.ratio.median, beside.noise.median), (1.1, 1.0));
        assert!(Beside::of([].iter()).is_none());
    }
}
