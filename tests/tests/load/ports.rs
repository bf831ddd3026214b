//! More listening ports than anyone declares, opened and closed at once.

use std::net::Ipv4Addr;

use plumbline_core::id::CgroupId;
use plumbline_core::observation::Fact;
use plumbline_tests::pods::Container;
use plumbline_tests::scale::scale;
use plumbline_tests::traffic::flood::Ports;
use plumbline_tests::traffic::{Endpoint, Plan, Worker};
use plumbline_tests::wait::{PATIENCE, poll};

use super::node::Node;
use super::recording::Recording;

/// The first port that is opened.
const FIRST: u16 = 10_000;

/// Ports of one process: some machines let nobody have many more open files.
const PER_PROCESS: u16 = 3_000;

/// Two containers with so many ports each have more sockets than a scan's 32,768 rows.
const EACH: u16 = 20_000;

/// A port that the victim does not declare, opened after all of these.
const LATE: u16 = 6_062;

/// Records of a container's listeners that arrived: opened, closed.
pub(crate) fn arrived(recording: &Recording, owner: CgroupId) -> (u64, u64) {
    let mut arrived = (0, 0);
    for observation in &recording.0 {
        match &observation.fact {
            Fact::ListenerOpened(event) if event.owner == owner => arrived.0 += 1,
            Fact::ListenerClosed(event) if event.owner == owner => arrived.1 += 1,
            _ => {}
        }
    }
    arrived
}

/// Processes of a container that listen on so many ports.
fn opened(container: &Container, address: Ipv4Addr, count: u16) -> Vec<Worker> {
    let mut workers: Vec<Worker> = (0..count)
        .step_by(PER_PROCESS.into())
        .map(|first| Ports {
            address,
            first: FIRST + first,
            count: PER_PROCESS.min(count - first),
        })
        .map(|plan| Worker::ready(container.place(), &Plan::Ports(plan)).unwrap())
        .collect();
    for worker in &mut workers {
        worker.command("open").unwrap();
    }
    workers
}

fn close(workers: Vec<Worker>) {
    for mut worker in workers {
        worker.command("close").unwrap();
        worker.end().unwrap();
    }
}

#[test]
fn a_flood_of_listening_ports_is_accounted_for_and_forgotten() {
    let Some(mut node) = Node::start() else {
        return;
    };
    let count = scale().listening_ports;
    let ((), quiet) = node.disturb(|node| {
        let workers = opened(&node.noisy, Ipv4Addr::UNSPECIFIED, count);
        node.finds(&node.noisy);
        close(workers);
    });
    node.calm("flood of listening ports");
    let owner = CgroupId(node.noisy.cgroup_id());
    let lost_on_the_way = node.lost("observations");
    let recording = node.end(&quiet);
    let (opened, closed) = arrived(&recording, owner);
    let dropped: u64 = recording
        .dropped()
        .into_iter()
        .filter(|((place, reason), _)| {
            // Listeners share their ring with cgroups, of which nothing happens here.
            (place == "ebpf.events" || place == "ebpf.listener_events") && reason != "decode"
        })
        .map(|(_, count)| count)
        .sum();
    let generated = 2 * u64::from(count);
    println!(
        "{generated} records: {opened} opened and {closed} closed arrived, {dropped} dropped in the kernel, \
         {lost_on_the_way} on the way to the loop"
    );
    assert_eq!(generated, opened + closed + dropped + lost_on_the_way);
}

/// More listening sockets than a scan tells of: the two containers that have them hide their own. What another opens after them,
/// which the scan meets last, stays known, and so does the finding about it.
#[test]
fn more_sockets_than_a_scan_tells_of_hide_nobody_elses() {
    let Some(mut node) = Node::start() else {
        return;
    };
    let ((), quiet) = node.disturb(|node| {
        let mut workers = opened(&node.noisy, Ipv4Addr::LOCALHOST, EACH);
        workers.extend(opened(node.client(), Ipv4Addr::LOCALHOST, EACH));
        let endpoint = Endpoint::tcp((Ipv4Addr::UNSPECIFIED, LATE).into());
        let plan = Plan::Listen {
            endpoints: vec![endpoint],
        };
        let mut late = Worker::ready(node.server().place(), &plan).unwrap();
        late.command("open").unwrap();
        let cut = poll(PATIENCE, || {
            let probe = node.probe("listeners")?;
            let reason = probe["reason"].as_str()?;
            reason
                .contains("beyond the limit of a scan")
                .then(|| probe.clone())
        });
        let cut = cut.unwrap_or_else(|| panic!("{:#}", node.status()));
        assert_eq!(cut["health"], "broken", "{cut}");
        let key = format!("tcp/{LATE}");
        let is_open = || node.finding("P001", &key).is_some();
        assert!(poll(PATIENCE, || is_open().then_some(())).is_some());
        let scans = || node.status()["scans"].as_u64().unwrap();
        let until = scans() + 3;
        let scanned = poll(PATIENCE, || {
            assert!(is_open(), "{:#}", node.status());
            (scans() >= until).then_some(())
        });
        assert!(scanned.is_some(), "no more scans: {:#}", node.status());
        late.end().unwrap();
        close(workers);
    });
    node.calm("more sockets than a scan tells of");
    let well = poll(PATIENCE, || node.measures("listeners").then_some(()));
    assert!(well.is_some(), "{:#}", node.status());
    node.end(&quiet);
}
