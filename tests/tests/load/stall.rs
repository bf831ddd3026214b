//! An agent that does not get to run for a while: what it could not be told is counted, and the rest is exact.

use std::thread;
use std::time::Duration;

use plumbline_core::id::CgroupId;
use plumbline_core::observation::Role;
use plumbline_tests::scale::scale;
use plumbline_tests::traffic::flood::{Flood, Flooded, Ports};
use plumbline_tests::traffic::{Plan, Worker};
use plumbline_tests::wait::monotonic_ns;
use rustix::process::Signal;

use super::node::Node;
use super::ports::arrived;

/// How long it stands still.
const STALL: Duration = Duration::from_secs(5);

#[test]
fn an_agent_that_stands_still_for_five_seconds_has_an_exact_ledger() {
    let Some(mut node) = Node::start() else {
        return;
    };
    let flood = Flood {
        connections: scale().flood_connections,
        wall_ms: 4_000,
        first_port: 9_000,
    };
    // More than one container's share of the ring in that time.
    let ports = Ports {
        first: 20_000,
        count: scale().stalled_ports,
    };
    let (flooded, quiet) = node.disturb(|node| -> Flooded {
        node.signal(Signal::STOP);
        let begun = monotonic_ns();
        let mut listening = Worker::ready(node.noisy.place(), &Plan::Ports(ports)).unwrap();
        listening.command("open").unwrap();
        listening.command("close").unwrap();
        listening.end().unwrap();
        let flooding = Worker::ready(node.noisy.place(), &Plan::Flood(flood)).unwrap();
        let flooded = flooding.finish().unwrap();
        let stood = Duration::from_nanos(monotonic_ns() - begun);
        thread::sleep(STALL.saturating_sub(stood));
        node.signal(Signal::CONT);
        println!("stood still while {flooded:?}");
        flooded
    });
    node.calm("standing still");
    let noisy = node.noisy.clone();
    let lost_on_the_way = node.lost("observations");
    let recording = node.end(&quiet);
    let told = [Role::Client, Role::Server].map(|role| recording.total(&noisy, role));
    assert_eq!(told, [flooded.client, flooded.server]);

    let (opened, closed) = arrived(&recording, CgroupId(noisy.cgroup_id()));
    let dropped = |reason: &str| {
        let key = ("ebpf.listener_events".to_owned(), reason.to_owned());
        recording.dropped().get(&key).copied().unwrap_or(0)
    };
    let (budget, full) = (dropped("budget"), dropped("full"));
    let generated = 2 * (u64::from(ports.count) + u64::from(Flood::PORTS));
    println!(
        "{generated} records: {} arrived, {budget} beyond the container's share, {full} without room, \
         {lost_on_the_way} on the way to the loop",
        opened + closed
    );
    assert_eq!(generated, opened + closed + budget + full + lost_on_the_way);
    assert!(budget > 0, "the container had more than its share");
}
