//! Who finds an entry, and what is remembered of those that find none.

use plumbline_core::id::CgroupId;
use plumbline_ebpf::connection::CONNECTIONS_MAX;

use super::super::SHARE;
use super::{NETNS, Node, OWNER, Socket};

#[test]
fn one_container_leaves_half_of_the_table_to_the_others() {
    let mut node = Node::default();
    let half = u64::from(CONNECTIONS_MAX / 2);
    let greedy: Vec<Socket> = (1..=half + 9).map(|n| Socket::new(n, true)).collect();
    for _ in 0..3 {
        node.read(&greedy, false);
    }
    assert_eq!(node.ledger.len(), half);
    assert_eq!(
        (node.ledger.refusals().budget, node.ledger.refusals().full),
        (9, 0)
    );
    assert_eq!(node.ledger.refused().collect::<Vec<_>>(), [(OWNER, 9)]);
    let other = CgroupId(6);
    let see = |node: &mut Node, cookie| {
        let socket = Socket::new(cookie, true);
        let before = node.ledger.len();
        node.ledger.see(
            &socket.entry(),
            socket.sample(),
            (other, NETNS, false),
            |_| true,
        );
        node.ledger.len() > before
    };
    for n in 0..u64::from(SHARE) {
        assert!(see(&mut node, 100_000 + n), "{n}: in its share");
    }
    assert!(!see(&mut node, 200_000), "beyond its share");
    let freed = u64::from(SHARE) + 1;
    for socket in &greedy[..usize::try_from(freed).unwrap()] {
        node.close(socket);
    }
    node.read(&greedy[usize::try_from(freed).unwrap()..], false);
    assert!(see(&mut node, 200_000), "there is room again");
}

/// It found no entry at first: still only what it moves from then on is told.
#[test]
fn an_old_connection_without_an_entry_stays_an_old_one() {
    let mut node = Node {
        capacity: Some(1),
        ..Node::default()
    };
    let (first, mut old) = (Socket::new(1, true), Socket::new(2, true));
    old.sent = 1_000;
    node.read(&[first, old], true);
    node.read(&[first, old], false);
    node.close(&first);
    node.read(&[old], false);
    node.read(&[old], false);
    old.sent = 1_005;
    node.read(&[old], false);
    assert_eq!(node.all(), (5, 0));
    assert_eq!(node.ledger.refusals().older, 0);
}
