//! Datagrams from ever new ports to ever new addresses: more clients and peers than anyone can keep.

use plumbline_core::observation::Role;
use plumbline_tests::scale::scale;
use plumbline_tests::skip::skipped;
use plumbline_tests::traffic::flood::{Spray, Sprayed};
use plumbline_tests::traffic::{Plan, Worker};

use super::node::Node;

const PORT: u16 = 9_100;

#[test]
fn a_spray_of_datagrams_is_one_server_and_no_more() {
    let Some(mut node) = Node::start() else {
        return;
    };
    if !node.measures("udp") {
        return skipped("the agent does not measure UDP here");
    }
    let plan = Spray {
        per_second: scale().datagrams_per_second,
        seconds: u32::try_from(scale().load_ms / 1_000).unwrap(),
        port: PORT,
    };
    let (sprayed, quiet) = node.disturb(|node| -> Sprayed {
        let spraying = Worker::ready(node.noisy.place(), &Plan::Spray(plan)).unwrap();
        let sprayed = serde_json::from_str(&spraying.line().unwrap()).unwrap();
        // The server is found, and none of the ports that clients sent from.
        let found = node.finds(&node.noisy);
        assert!(found.contains(&format!("udp/{PORT} listens")), "{found}");
        assert_eq!(
            found.matches("udp/").count(),
            found.matches(&format!("udp/{PORT}")).count(),
            "{found}"
        );
        spraying.end().unwrap();
        sprayed
    });
    println!("{sprayed:?}");
    assert_eq!(sprayed.sent, u64::from(plan.per_second * plan.seconds));
    node.calm("spray of datagrams");
    let noisy = node.noisy.clone();
    let recording = node.end(&quiet);
    // Each datagram came from a new socket: an association of the client that began, with or without its peer.
    let begun: u64 = recording
        .flows(&noisy)
        .iter()
        .filter(|((role, ..), _)| *role == Role::Client)
        .map(|(_, counts)| counts.connections)
        .sum();
    assert_eq!(begun, sprayed.sent, "begun (left), sent (right)");
}
