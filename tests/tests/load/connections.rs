//! A flood of short connections, each to another peer: more flows than the tables have room for.

use plumbline_core::observation::Role;
use plumbline_tests::scale::scale;
use plumbline_tests::traffic::flood::{Flood, Flooded};
use plumbline_tests::traffic::{Plan, Worker};

use super::node::Node;

#[test]
fn a_flood_of_connections_is_accounted_for() {
    let Some(mut node) = Node::start() else {
        return;
    };
    let plan = Flood {
        connections: scale().flood_connections,
        wall_ms: scale().load_ms,
        first_port: 9_000,
    };
    let (flooded, quiet) = node.disturb(|node| -> Flooded {
        Worker::ready(node.noisy.place(), &Plan::Flood(plan))
            .unwrap()
            .finish()
            .unwrap()
    });
    println!("{flooded:?}");
    assert_eq!(flooded.client.connections, u64::from(plan.connections));
    node.calm("flood of connections");
    let noisy = node.noisy.clone();
    let recording = node.end(&quiet);
    // Rows that lost their peer count as well: every connection is in one of them, with its bytes.
    let told = [Role::Client, Role::Server].map(|role| recording.total(&noisy, role));
    assert_eq!(told, [flooded.client, flooded.server]);
}
