//! More listening ports than anyone declares, opened and closed at once.

use plumbline_core::id::CgroupId;
use plumbline_core::observation::Fact;
use plumbline_tests::scale::scale;
use plumbline_tests::traffic::flood::Ports;
use plumbline_tests::traffic::{Plan, Worker};

use super::node::Node;
use super::recording::Recording;

/// The first port that is opened.
const FIRST: u16 = 10_000;

/// Ports of one process: some machines let nobody have many more open files.
const PER_PROCESS: u16 = 3_000;

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

#[test]
fn a_flood_of_listening_ports_is_accounted_for_and_forgotten() {
    let Some(mut node) = Node::start() else {
        return;
    };
    let count = scale().listening_ports;
    let ((), quiet) = node.disturb(|node| {
        let mut workers: Vec<Worker> = (0..count)
            .step_by(PER_PROCESS.into())
            .map(|first| Ports {
                first: FIRST + first,
                count: PER_PROCESS.min(count - first),
            })
            .map(|plan| Worker::ready(node.noisy.place(), &Plan::Ports(plan)).unwrap())
            .collect();
        for worker in &mut workers {
            worker.command("open").unwrap();
        }
        node.finds(&node.noisy);
        for mut worker in workers {
            worker.command("close").unwrap();
            worker.end().unwrap();
        }
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
