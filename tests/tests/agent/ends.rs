//! Containers that end before their time.

use std::fs;
use std::process::{Command, Stdio};

use plumbline_tests::agent::{get, get_json};
use plumbline_tests::cgroup;
use plumbline_tests::skip::{skipped, without_root};
use plumbline_tests::wait::{PATIENCE, poll};

use super::Scene;

#[test]
fn a_container_that_runs_out_of_memory_is_counted() {
    if without_root() {
        return;
    }
    let scene = Scene::new(&[], &[]);
    scene.ready();
    let place = scene.container.place();
    let directory = place.cgroup_path();
    if !cgroup::enable("memory", scene.sandbox.root(), directory) {
        return skipped("the memory controller is not in cgroup v2 here");
    }
    fs::write(directory.join("memory.max"), "32M").unwrap();
    // Without the swap controller the rest would be swapped out, where there is swap.
    fs::write(directory.join("memory.swap.max"), "0").ok();
    let mut hungry = Command::new("dd");
    hungry
        .args(["if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"])
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let status = place.spawn(&mut hungry).unwrap().wait().unwrap();
    assert!(!status.success(), "the kernel killed it: {status}");
    let kills = fs::read_to_string(directory.join("memory.events")).unwrap();
    let kills: u64 = kills
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .unwrap()
        .parse()
        .unwrap();
    assert!(kills > 0, "memory ran out");
    let socket = scene.path("socket");
    let told = poll(PATIENCE, || {
        let status = get_json(&socket, "/status").ok()?;
        let rows = status["ended"].as_array()?.clone();
        let row = rows
            .into_iter()
            .find(|row| row["container"] == "shop/web-0/web")?;
        (row["oom_kills"] == kills).then_some(())
    });
    assert!(told.is_some(), "{kills}: {:?}", get(&socket, "/status"));
}
