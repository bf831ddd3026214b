//! An agent that does not get to run for a while: what it could not be told is counted, and the rest is exact.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::thread;
use std::time::Duration;

use plumbline_core::id::CgroupId;
use plumbline_core::observation::Role;
use plumbline_tests::pods::Container;
use plumbline_tests::scale::scale;
use plumbline_tests::traffic::flood::{Flood, Flooded, Ports};
use plumbline_tests::traffic::{Plan, Worker};
use plumbline_tests::wait::{PATIENCE, monotonic_ns, poll};
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
        address: Ipv4Addr::UNSPECIFIED,
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

/// Directories made and removed while the agent stands still: their records fill the ring.
const CGROUPS: u32 = 600;

/// Ports of one container: within its share, so that only the ring is what has no room.
const QUIET_PORTS: u16 = 100;

/// Losses are judged once they were watched for a minute.
const JUDGED: Duration = Duration::from_secs(150);

#[test]
fn a_ring_without_room_loses_by_the_ledger_and_is_a_finding() {
    let Some(mut node) = Node::start() else {
        return;
    };
    let ports = Ports {
        address: Ipv4Addr::UNSPECIFIED,
        first: 20_000,
        count: QUIET_PORTS,
    };
    let ((), quiet) = node.disturb(|node| {
        node.signal(Signal::STOP);
        for n in 0..CGROUPS {
            let directory = node.sandbox.root().join(format!("fill-{n}"));
            fs::create_dir(&directory).unwrap();
            fs::remove_dir(&directory).unwrap();
        }
        let mut listening = Worker::ready(node.noisy.place(), &Plan::Ports(ports)).unwrap();
        listening.command("open").unwrap();
        listening.command("close").unwrap();
        listening.end().unwrap();
        node.signal(Signal::CONT);
    });
    let found = poll(JUDGED, || node.finding("M002", "ebpf.listener_events"));
    let found = found.unwrap_or_else(|| panic!("no M002: {:#}", node.status()));
    assert!(found.contains("\"medium\""), "{found}");
    node.calm("a full ring");
    let (noisy, server) = (node.noisy.clone(), node.server().clone());
    let on_the_way = node.lost("observations");
    let recording = node.end(&quiet);
    let sum = |container: &Container| {
        let (opened, closed) = arrived(&recording, CgroupId(container.cgroup_id()));
        opened + closed
    };
    let full = |place: &str| {
        let key = (place.to_owned(), "full".to_owned());
        recording.dropped().get(&key).copied().unwrap_or(0)
    };
    // The victim's listeners of this load, and those that it closes at the end.
    let generated = 2 * u64::from(QUIET_PORTS) + 2 * Node::LANES;
    let (of_noisy, of_server) = (sum(&noisy), sum(&server));
    println!(
        "{generated} records: {of_noisy} and {of_server} arrived, {} without room; of cgroups {}",
        full("ebpf.listener_events"),
        full("ebpf.cgroup_events"),
    );
    assert!(full("ebpf.listener_events") > 0 && full("ebpf.cgroup_events") > 0);
    assert_eq!(
        generated,
        of_noisy + of_server + full("ebpf.listener_events") + on_the_way
    );
}

/// F2: a request that waits for its answer keeps nobody else waiting. The rings hold six seconds of this load and a request
/// waits for ten, so that who reads the rings between requests only would lose some.
#[test]
fn a_collector_that_says_nothing_does_not_keep_the_rings_waiting() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let node = Node::start_with(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &url),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1000"),
    ]);
    let Some(mut node) = node else {
        return;
    };
    // From here on a request is always under way: nobody reads it.
    let asked = poll(PATIENCE, || silent.accept().ok());
    assert!(asked.is_some(), "nothing was sent");
    let ((), quiet) = node.disturb(|node| {
        for n in 0..4 * CGROUPS {
            let directory = node.sandbox.root().join(format!("fill-{n}"));
            fs::create_dir(&directory).unwrap();
            fs::remove_dir(&directory).unwrap();
            thread::sleep(Duration::from_millis(10));
        }
    });
    node.calm("a silent collector");
    let places = ["ebpf.cgroup_events", "ebpf.listener_events", "observations"];
    assert_eq!(places.map(|place| node.lost(place)), [0; 3]);
    drop(asked);
    node.end(&quiet);
}
