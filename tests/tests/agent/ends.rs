//! Ends: of containers before their time, and of an agent that cannot end in order.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use plumbline_tests::agent::{get, get_json};
use plumbline_tests::cgroup;
use plumbline_tests::skip::{skipped, without_root};
use plumbline_tests::wait::{PATIENCE, poll};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;

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

/// A network namespace that hangs whoever enters it: the last reading does not come to its end, and the end not to its own.
#[test]
fn a_second_signal_is_heard_while_the_first_one_ends_the_agent() {
    if without_root() {
        return;
    }
    let files = tempfile::tempdir().unwrap();
    let proc_root = files.path().join("proc");
    let hanging = proc_root.join("4194304/ns");
    fs::create_dir_all(&hanging).unwrap();
    // Opening it waits for somebody who writes.
    mknodat(CWD, hanging.join("net"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    for name in ["1", "stat", "self", "pressure"] {
        symlink(format!("/proc/{name}"), proc_root.join(name)).unwrap();
    }
    let mut scene = Scene::without_agent(&["--proc-root", proc_root.to_str().unwrap()]);
    let log = files.path().join("log");
    scene.start_logging(&[], File::create(&log).unwrap());
    scene.ready();
    scene.agent().signal(Signal::TERM).unwrap();
    let text = || fs::read_to_string(&log).unwrap();
    let ending = poll(PATIENCE, || {
        text().contains("a second signal ends").then_some(())
    });
    assert!(ending.is_some(), "{}", text());
    scene.agent().signal(Signal::TERM).unwrap();
    assert!(scene.agent().wait(PATIENCE).is_some(), "{}", text());
    assert!(text().contains("ended by a second signal"), "{}", text());
}
