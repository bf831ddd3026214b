//! Whose rows a scan leaves out when it has more than it may tell: those of the owners that have most. One pod that opens sockets
//! without end hides its own, and nobody else's.

use std::collections::{BTreeMap, BTreeSet};

use plumbline_core::id::CgroupId;
use plumbline_core::observation::ListenerRow;

/// What was left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Cut {
    /// How many rows.
    pub(super) rows: u32,
    /// Whose: what is not among the rows may be there all the same.
    pub(super) owners: BTreeSet<CgroupId>,
}

/// Leaves the first `most` rows, as equally among owners as they have them.
pub(super) fn out(rows: &mut Vec<ListenerRow>, most: usize) -> Cut {
    let mut cut = Cut::default();
    if rows.len() <= most {
        return cut;
    }
    let mut of: BTreeMap<CgroupId, usize> = BTreeMap::new();
    for row in rows.iter() {
        *of.entry(row.owner).or_default() += 1;
    }
    let each = allowance(of.into_values().collect(), most);
    let mut told: BTreeMap<CgroupId, usize> = BTreeMap::new();
    rows.retain(|row| {
        let told = told.entry(row.owner).or_default();
        *told += 1;
        let kept = *told <= each;
        if !kept {
            cut.rows = cut.rows.saturating_add(1);
            cut.owners.insert(row.owner);
        }
        kept
    });
    cut
}

/// How many each may have, so that all together have at most so many: who has fewer leaves the rest to the others.
fn allowance(mut counts: Vec<usize>, most: usize) -> usize {
    counts.sort_unstable();
    let (mut left, mut owners) = (most, counts.len());
    for count in counts {
        let share = left / owners;
        if count > share {
            return share;
        }
        (left, owners) = (left - count, owners - 1);
    }
    usize::MAX
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use plumbline_core::declared::Transport;
    use proptest::prelude::*;

    use super::*;

    fn rows(counts: &[(u64, u64)]) -> Vec<ListenerRow> {
        let row = |owner, inode| ListenerRow {
            owner: CgroupId(owner),
            creator: None,
            transport: Transport::Tcp,
            v6only: None,
            cookie: None,
            address: IpAddr::from([0, 0, 0, 0]),
            port: 80,
            inode,
            netns: 1,
            host_netns: false,
            foreign_netns: false,
            holders: vec![],
        };
        let of = |&(owner, count): &(u64, u64)| (0..count).map(move |inode| row(owner, inode));
        counts.iter().flat_map(of).collect()
    }

    fn left(counts: &[(u64, u64)], most: usize) -> (Vec<usize>, Cut) {
        let mut rows = rows(counts);
        let cut = out(&mut rows, most);
        let of = |owner| {
            rows.iter()
                .filter(|row| row.owner == CgroupId(owner))
                .count()
        };
        (counts.iter().map(|(owner, _)| of(*owner)).collect(), cut)
    }

    #[test]
    fn who_has_most_loses_and_nobody_else() {
        // The greedy one comes first.
        let (left, cut) = left(&[(1, 1_000), (2, 3), (3, 40), (4, 60)], 100);
        assert_eq!(left, [32, 3, 32, 32]);
        assert_eq!(cut.owners, [1, 3, 4].map(CgroupId).into());
        assert_eq!(cut.rows, 968 + 8 + 28);
    }

    #[test]
    fn what_fits_is_told() {
        assert_eq!(
            left(&[(1, 90), (2, 10)], 100),
            (vec![90, 10], Cut::default())
        );
        let (left, cut) = left(&[(1, 1_000), (2, 3), (3, 40)], 100);
        assert_eq!((left, cut.owners), (vec![57, 3, 40], [CgroupId(1)].into()));
    }

    proptest! {
        #[test]
        fn it_is_fair(counts in prop::collection::vec(0_u64..50, 1..20), most in 1_usize..300) {
            let counts: Vec<(u64, u64)> = (0..).zip(counts).collect();
            let all: u64 = counts.iter().map(|(_, count)| count).sum();
            let (left, cut) = left(&counts, most);
            let told: usize = left.iter().sum();
            prop_assert!(told <= most);
            prop_assert_eq!(told as u64 + u64::from(cut.rows), all);
            let most_told = left.iter().copied().max().unwrap_or(0);
            for ((owner, had), told) in counts.iter().zip(&left) {
                let lost = *had > *told as u64;
                prop_assert_eq!(lost, cut.owners.contains(&CgroupId(*owner)));
                // Nobody lost anything to one that has more.
                prop_assert!(!lost || *told == most_told);
            }
            // No more than the division leaves over is given away.
            prop_assert!(cut.rows == 0 || most - told < counts.len());
        }
    }
}
