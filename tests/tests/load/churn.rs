//! Pods of the same name that come and go, with connections whose number and port tell whose they are. In a guest their pids
//! come again as well.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread;

use plumbline_core::id::CgroupId;
use plumbline_tests::pods::Container;
use plumbline_tests::scale::{Tier, scale};
use plumbline_tests::traffic::{Lanes, Order, Plan, Tally, Worker};

use super::node::Node;

/// Pods that live at the same time.
const AT_ONCE: u16 = 4;

/// As few as will do, of which the kernel keeps the first 300 for its own start; only a guest is ours to narrow so.
const GUEST_PID_MAX: &str = "420";

/// What one pod did.
struct Talked {
    container: Container,
    tally: Tally,
    pids: [u32; 2],
}

/// Talks to itself over loopback, on a port that only this pod's number gives, with that many connections.
fn talk(container: &Container, number: u16) -> Talked {
    let plan = |address: IpAddr| Lanes {
        addresses: vec![address],
        first_port: 20_000 + number,
        lanes: 1,
        connections: scale().churned_connections + u32::from(number % 10),
        seed: number.into(),
        framed: false,
        orders: vec![Order::ClientFirst, Order::ServerFirst],
        payload_max: Some(4_096),
        mptcp: false,
    };
    let any = plan(Ipv6Addr::UNSPECIFIED.into());
    let here = plan(Ipv4Addr::LOCALHOST.into());
    let serving = Worker::ready(container.place(), &Plan::Serve(any)).unwrap();
    let asking = Worker::start(container.place(), &Plan::Connect(here)).unwrap();
    let pids = [serving.pid(), asking.pid()];
    let mut tally: Tally = asking.finish().unwrap();
    tally.add(&serving.finish().unwrap());
    Talked {
        container: container.clone(),
        tally,
        pids,
    }
}

#[test]
fn connections_of_pods_that_come_and_go_are_credited_right() {
    let Some(mut node) = Node::start() else {
        return;
    };
    if scale().tier == Tier::Guest {
        fs::write("/proc/sys/kernel/pid_max", GUEST_PID_MAX).unwrap();
    }
    let pods = scale().churned_pods;
    let (talked, quiet) = node.disturb(|node| {
        let mut talked: Vec<Talked> = Vec::new();
        for first in (0..pods).step_by(AT_ONCE.into()) {
            // Always the same name, as a workload's pods that crash have.
            let alive: Vec<_> = (first..first + AT_ONCE)
                .map(|number| (number, node.sandbox.alone("again").unwrap()))
                .collect();
            // Each has a pause container as well.
            node.covered(2 * u64::from(AT_ONCE));
            talked.extend(thread::scope(|scope| {
                let talking: Vec<_> = alive
                    .iter()
                    .map(|(number, (_, container))| scope.spawn(|| talk(container, *number)))
                    .collect();
                talking
                    .into_iter()
                    .map(|talk| talk.join().unwrap())
                    .collect::<Vec<_>>()
            }));
            for (_, (pod, _)) in alive {
                pod.delete(&node.sandbox).unwrap();
            }
            node.covered(0);
        }
        talked
    });
    node.calm("churn of pods");
    let recording = node.end(&quiet);
    let mut connections = 0;
    let (mut pids, mut reused) = (BTreeSet::new(), 0);
    for pod in &talked {
        recording.assert_exact(&pod.container, &pod.tally);
        connections += pod.tally.total().connections;
        reused += pod.pids.iter().filter(|pid| !pids.insert(**pid)).count();
    }
    let known: Vec<CgroupId> = talked
        .iter()
        .map(|pod| CgroupId(pod.container.cgroup_id()))
        .collect();
    let owners = recording.owners();
    let others = owners.iter().filter(|owner| !known.contains(owner)).count();
    assert_eq!(others, 2, "the victims, and nobody else: {owners:?}");
    println!(
        "{connections} connections of {} pods, {reused} pids used again: 0 errors",
        known.len()
    );
    if scale().tier == Tier::Guest {
        assert!(reused > 0, "no pid came again: {pids:?}");
    }
}
