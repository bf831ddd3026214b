//! Containers that come and go faster than anyone can look at them.

use std::fs;
use std::thread;
use std::time::Duration;

use plumbline_tests::scale::scale;
use plumbline_tests::wait::{PATIENCE, monotonic_ns, poll};
use serde_json::Value;

use super::node::Node;

/// Containers of the node, pause containers and the agent's canary among them.
const ALIVE: u64 = 7;

/// Containers that are gone and keep their program for their last sockets: a constant of the agent.
const LINGERING_MAX: u64 = 256;

/// The directory of a container that the runtime makes and removes at once, number `n`.
fn directory(n: u32) -> String {
    format!(
        "kubepods.slice/kubepods-burstable.slice/\
         kubepods-burstable-podc0ffee00_0000_4000_8000_000000000000.slice/cri-containerd-{n:064x}.scope"
    )
}

#[test]
fn a_storm_of_cgroups_passes() {
    let Some(mut node) = Node::start() else {
        return;
    };
    let (per_second, wall_ms) = (scale().cgroups_per_second, scale().load_ms);
    let count = per_second * u32::try_from(wall_ms / 1_000).unwrap();
    let (took_ms, quiet) = node.disturb(|node| {
        let begun = monotonic_ns();
        for n in 0..count {
            let due = begun + u64::from(n) * 1_000_000_000 / u64::from(per_second);
            thread::sleep(Duration::from_nanos(due.saturating_sub(monotonic_ns())));
            let path = node.sandbox.root().join(directory(n));
            fs::create_dir_all(&path).unwrap();
            fs::remove_dir(&path).unwrap();
        }
        (monotonic_ns() - begun) / 1_000_000
    });
    println!("{count} cgroups made and removed in {took_ms} ms");
    fs::remove_dir(node.sandbox.root().join(directory(0)).parent().unwrap()).unwrap();
    node.calm("storm of cgroups");
    // What is kept of those that are gone is bounded: the tables have room for the living.
    let kept = poll(PATIENCE, || {
        let tables = node.status()["tables"].as_array()?.clone();
        let place = |table: &Value| table["place"] == "ebpf.containers";
        let kept = tables.into_iter().find(place)?["entries"].as_u64()?;
        (kept <= ALIVE + LINGERING_MAX).then_some(kept)
    });
    println!("{kept:?} containers are kept");
    assert!(kept.is_some(), "{:#}", node.status()["tables"]);
    node.end(&quiet);
}
