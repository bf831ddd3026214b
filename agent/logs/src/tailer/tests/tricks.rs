//! What someone with access to the log directory may try: no byte of another file leaves, and nothing hangs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Arrived, full, settings, start, until};

const SECRET: &str = "2026-11-25T10:00:00Z stdout F secret\n";

fn innocent(directory: &Path, number: usize) {
    fs::create_dir_all(directory).unwrap();
    fs::write(
        directory.join("0.log"),
        format!("2026-11-25T10:00:00.{number:09}Z stdout F innocent\n"),
    )
    .unwrap();
}

#[test]
fn links_pipes_and_foreign_directories() {
    let (root, outside, arrived) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
        Arrived::default(),
    );
    let secret = outside.path().join("0.log");
    fs::write(&secret, SECRET).unwrap();
    let pod = |name: &str| root.path().join(format!("shop_{name}_uid"));
    // A link to a file, from inside and by name; links on the way; a second name of a file; a pipe; a directory.
    fs::create_dir_all(pod("link").join("app")).unwrap();
    symlink(&secret, pod("link").join("app/0.log")).unwrap();
    symlink("../../../outside", pod("link").join("app/1.log")).unwrap();
    symlink("/proc/self/root/etc/passwd", pod("link").join("app/2.log")).unwrap();
    fs::create_dir_all(pod("container")).unwrap();
    symlink(outside.path(), pod("container").join("app")).unwrap();
    symlink(outside.path(), pod("pod")).unwrap();
    fs::create_dir_all(pod("hard").join("app")).unwrap();
    fs::hard_link(&secret, pod("hard").join("app/0.log")).unwrap();
    fs::create_dir_all(pod("pipe").join("app")).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(
        rustix::fs::CWD,
        pod("pipe").join("app/0.log"),
        fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    fs::create_dir_all(pod("directory").join("app/0.log")).unwrap();
    fs::create_dir_all(root.path().join("not a pod/app")).unwrap();
    fs::write(root.path().join("not a pod/app/0.log"), SECRET).unwrap();
    innocent(&pod("good").join("app"), 1);
    let reader = start(settings(root.path()), &arrived);
    until("the innocent record", || arrived.len() == 1);
    until("all to be looked at", || {
        let refused = reader.stats().read().refused;
        ["link", "hard_link", "no_file", "name"]
            .iter()
            .all(|reason| refused.contains_key(reason))
    });
    reader.join();
    assert_eq!(arrived.bodies(), ["innocent"]);
}

/// Names change their meaning between any two of the reader's steps.
#[test]
fn swapped_while_it_looks() {
    let (root, outside, arrived) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
        Arrived::default(),
    );
    fs::create_dir_all(outside.path().join("app")).unwrap();
    fs::write(outside.path().join("app/0.log"), SECRET).unwrap();
    let pods = root.path().to_owned();
    let swap = |number: usize| {
        let pod = pods.join(format!("shop_swap-{}_uid", number % 5));
        let other = pods.join("other");
        innocent(&pod.join("app"), number);
        match number % 3 {
            0 => {
                // The pod becomes a link.
                fs::rename(&pod, &other).unwrap();
                symlink(outside.path(), &pod).unwrap();
                fs::remove_file(&pod).unwrap();
            }
            1 => {
                fs::rename(pod.join("app"), &other).unwrap();
                symlink(outside.path().join("app"), pod.join("app")).unwrap();
                fs::remove_file(pod.join("app")).unwrap();
            }
            _ => {
                fs::remove_file(pod.join("app/0.log")).unwrap();
                symlink(outside.path().join("app/0.log"), pod.join("app/0.log")).unwrap();
                fs::remove_file(pod.join("app/0.log")).unwrap();
            }
        }
        drop(fs::remove_dir_all(&other));
    };
    let mut quick = settings(root.path());
    quick.scan_interval = std::time::Duration::from_millis(1);
    let done = Arc::new(AtomicBool::new(false));
    let reader = start(quick, &arrived);
    let rounds = if full() { 20_000 } else { 2_000 };
    for number in 0..rounds {
        swap(number);
    }
    done.store(true, Ordering::Relaxed);
    innocent(&pods.join("shop_last_uid/app"), rounds);
    until("a fresh record after it all", || {
        arrived
            .all()
            .iter()
            .any(|(container, _)| container.contains("last"))
    });
    reader.join();
    assert!(
        arrived.bodies().iter().all(|body| body == "innocent"),
        "{:?}",
        arrived.bodies()
    );
}
