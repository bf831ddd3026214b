//! Rotation, as fast as it can come, while the reader runs and while it does not.

use std::fs::{self, OpenOptions};
use std::io::Write as _;

use super::kubelet::Kubelet;
use super::oracle::{Verdict, judge};
use super::{Arrived, Random, full, seed, settings, start, until};

#[test]
fn nothing_is_lost_or_doubled_while_files_are_rotated() {
    let (seed, rounds) = (seed(), if full() { 300 } else { 40 });
    let (root, arrived) = (tempfile::tempdir().unwrap(), Arrived::default());
    let mut kubelets: Vec<_> = (0..3)
        .map(|number| Kubelet::new(root.path(), number, seed))
        .collect();
    let reader = start(settings(root.path()), &arrived);
    let mut random = Random::new(seed);
    for _ in 0..rounds {
        let which = usize::try_from(random.below(3)).unwrap();
        let kubelet = &mut kubelets[which];
        kubelet.write(random.below(200));
        match random.below(5) {
            0 => kubelet.write_across_rotation(),
            1 => {
                // Back to back, so that two may fall between two looks.
                kubelet.rotate();
                kubelet.write(1);
                kubelet.rotate();
            }
            2 => kubelet.tidy(),
            3 => kubelet.restart(),
            _ => kubelet.rotate(),
        }
        // What the kubelet deletes before anyone could look is lost to all.
        let written: u64 = kubelets.iter().map(|kubelet| kubelet.written).sum();
        until("the reader to keep up", || arrived.len() as u64 >= written);
    }
    let stats = reader.join();
    let verdict = judge(&kubelets.iter().collect::<Vec<_>>(), &arrived.all());
    assert_eq!(verdict, Verdict::default(), "{stats:#?}");
    assert!(
        stats
            .containers
            .iter()
            .all(|container| container.counts.lost.is_empty()),
        "{stats:#?}"
    );
}

/// F52: what was rotated and compressed meanwhile is read from inside; a clean restart doubles nothing.
#[test]
fn after_a_pause_of_some_rotations_it_goes_on_where_it_was() {
    let seed = seed();
    let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let arrived = Arrived::default();
    let mut settings = settings(root.path());
    settings.state = Some(state.path().to_owned());
    let mut kubelet = Kubelet::new(root.path(), 0, seed);
    let mut random = Random::new(seed);
    for round in 0..if full() { 100 } else { 12 } {
        kubelet.write(100 + random.below(300));
        let written = kubelet.written;
        let reader = start(settings.clone(), &arrived);
        // All but what comes now: what is rotated away more than three times is deleted unread.
        until("what was rotated", || arrived.len() as u64 >= written);
        kubelet.write(random.below(300));
        reader.join();
        // Three more files than the live one are kept.
        for _ in 0..round % 4 {
            kubelet.write(random.below(100));
            kubelet.rotate();
        }
    }
    let reader = start(settings, &arrived);
    until("the rest", || arrived.len() as u64 >= kubelet.written);
    let stats = reader.join();
    let verdict = judge(&[&kubelet], &arrived.all());
    assert_eq!(verdict, Verdict::default(), "{stats:#?}");
}

/// The middle of a line is in no batch when the agent ends: it must be read again, though all of its file was read.
#[test]
fn a_line_over_two_rotations_survives_a_restart() {
    let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let arrived = Arrived::default();
    let mut settings = settings(root.path());
    settings.state = Some(state.path().to_owned());
    let directory = root.path().join("shop_web_uid/app");
    fs::create_dir_all(&directory).unwrap();
    let line = |number: u32, rest: &str| format!("2026-11-25T10:00:0{number}Z stdout {rest}\n");
    let old = line(1, "F a") + &line(2, "P one ");
    // A line of the other stream between them is delivered, and is a reason to note the place.
    let live = line(3, "P two ") + "2026-11-25T10:00:04Z stderr F b\n";
    fs::write(directory.join("0.log.20261125-100002"), &old).unwrap();
    fs::write(directory.join("0.log"), &live).unwrap();
    let reader = start(settings.clone(), &arrived);
    let all = (old.len() + live.len()) as u64;
    until("both files to be read", || {
        let stats = reader.stats().read();
        let read = |container: &crate::stats::ContainerStats| container.counts.bytes;
        stats.containers.iter().flat_map(read).sum::<u64>() == all
    });
    reader.join();
    assert_eq!(arrived.bodies(), ["a", "b"]);
    let mut file = OpenOptions::new()
        .append(true)
        .open(directory.join("0.log"))
        .unwrap();
    file.write_all(line(5, "F three").as_bytes()).unwrap();
    let reader = start(settings, &arrived);
    let whole = "one two three".to_owned();
    until("the line's end", || {
        arrived.bodies().iter().any(|body| body.contains("three"))
    });
    assert!(arrived.bodies().contains(&whole), "{:?}", arrived.bodies());
    // Once it is whole all places are told, though nothing more comes.
    until("all to be committed", || {
        let stats = reader.stats().read();
        stats.containers.iter().all(|container| container.lag == 0) && !stats.containers.is_empty()
    });
    reader.join();
}
