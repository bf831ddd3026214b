//! How the declared side follows files that change, vanish and come back.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use plumbline::sources::manifests::{Manifests, spawn, spawn_candidates};
use plumbline::sources::{CHANNEL_CAPACITY, Sink};
use plumbline_core::declared::Declared;
use plumbline_core::observation::{Fact, Health, Observation, ProbeStatus};
use plumbline_core::time::Timestamp;
use tokio::sync::mpsc::Receiver;

fn pod(name: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n")
}

fn names(declared: &Declared) -> Vec<&str> {
    declared.pods.iter().map(|pod| pod.name.as_str()).collect()
}

/// As many looks as a change needs: one to see it, one to see that it stands still.
fn settle(manifests: &mut Manifests) -> Declared {
    manifests.refresh();
    manifests.refresh();
    manifests.declared()
}

fn problems(declared: &Declared) -> Vec<String> {
    declared
        .problems
        .iter()
        .map(|problem| format!("{}: {}", problem.at, problem.message))
        .collect()
}

#[test]
fn a_rewritten_file_is_read_once_it_stands_still() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("pods.yaml");
    fs::write(&file, pod("first")).unwrap();
    let mut manifests = Manifests::open(&file).unwrap();
    assert_eq!(names(&manifests.declared()), ["first"]);
    assert!(!manifests.refresh());
    fs::write(&file, pod("half-written")).unwrap();
    assert!(!manifests.refresh());
    fs::write(&file, pod("second-pod")).unwrap();
    assert!(!manifests.refresh(), "it changed again");
    assert!(manifests.refresh());
    assert_eq!(names(&manifests.declared()), ["second-pod"]);
    assert!(!manifests.refresh());
}

#[test]
fn a_file_that_never_stands_still_is_read_all_the_same() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("pods.yaml");
    fs::write(&file, pod("x")).unwrap();
    let mut manifests = Manifests::open(&file).unwrap();
    let looks = (1..100).find(|length| {
        fs::write(&file, pod(&"y".repeat(*length))).unwrap();
        manifests.refresh()
    });
    assert!(looks.is_some_and(|looks| looks <= 20), "{looks:?}");
}

#[test]
fn the_swap_of_a_config_map_is_seen() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path();
    for (version, name) in [("..1", "old"), ("..2", "new")] {
        fs::create_dir(root.join(version)).unwrap();
        fs::write(root.join(version).join("pods.yaml"), pod(name)).unwrap();
    }
    symlink("..1", root.join("..data")).unwrap();
    symlink("..data/pods.yaml", root.join("pods.yaml")).unwrap();
    let mut manifests = Manifests::open(root).unwrap();
    assert_eq!(
        names(&manifests.declared()),
        ["old"],
        "hidden directories are not read beside the links"
    );
    symlink("..2", root.join("..tmp")).unwrap();
    fs::rename(root.join("..tmp"), root.join("..data")).unwrap();
    assert_eq!(names(&settle(&mut manifests)), ["new"]);
}

#[test]
fn what_cannot_be_read_leaves_its_last_good_contents() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("pods.json");
    fs::write(
        &file,
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"good"}}"#,
    )
    .unwrap();
    let mut manifests = Manifests::open(&file).unwrap();
    assert_eq!(manifests.status().health, Health::Ok);
    fs::write(&file, r#"{"apiVersion":"v1","kind":"Po"#).unwrap();
    let declared = settle(&mut manifests);
    assert_eq!(names(&declared), ["good"]);
    assert_eq!(
        problems(&declared),
        ["pods.json: not JSON: EOF while parsing a string at line 1 column 29"]
    );
    let status = manifests.status();
    assert_eq!(status.health, Health::Broken);
    assert!(status.reason.unwrap().contains("pods.json: not JSON"));
    fs::write(
        &file,
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"better"}}"#,
    )
    .unwrap();
    let declared = settle(&mut manifests);
    assert_eq!(
        (
            names(&declared),
            declared.problems.len(),
            declared.problems_total
        ),
        (vec!["better"], 0, 1)
    );
    assert_eq!(manifests.status().health, Health::Ok);
}

#[test]
fn a_path_that_vanishes_leaves_the_last_state_and_says_so() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("declared");
    let away = scratch.path().join("away");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("pods.yaml"), pod("kept")).unwrap();
    let mut manifests = Manifests::open(&root).unwrap();
    let before = manifests.declared();
    fs::rename(&root, &away).unwrap();
    assert!(manifests.refresh());
    assert!(!manifests.refresh(), "told once");
    let status = manifests.status();
    assert_eq!(
        (status.health, manifests.declared()),
        (Health::Broken, before.clone())
    );
    assert!(
        status
            .reason
            .as_ref()
            .is_some_and(|reason| reason.contains("No such file")),
        "{status:?}"
    );
    // What an unmounted volume leaves: the empty directory it was mounted on.
    fs::create_dir(&root).unwrap();
    assert!(manifests.refresh());
    assert_eq!(
        (manifests.status().health, manifests.declared()),
        (Health::Broken, before.clone())
    );
    fs::remove_dir(&root).unwrap();
    fs::rename(&away, &root).unwrap();
    assert!(manifests.refresh());
    assert_eq!(
        (manifests.status().health, manifests.declared()),
        (Health::Ok, before)
    );
}

#[test]
fn files_of_a_directory_come_and_go() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path();
    fs::write(root.join("a.yaml"), pod("a")).unwrap();
    let mut manifests = Manifests::open(root).unwrap();
    fs::create_dir(root.join("more")).unwrap();
    fs::write(
        root.join("more/b.json"),
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b"}}"#,
    )
    .unwrap();
    fs::write(root.join("notes.txt"), "not a manifest").unwrap();
    fs::write(root.join(".hidden.yaml"), pod("hidden")).unwrap();
    assert_eq!(names(&settle(&mut manifests)), ["a", "b"]);
    fs::remove_file(root.join("more/b.json")).unwrap();
    // Out of sight is not gone: the link still says that there is such a file.
    symlink("nowhere", root.join("more/b.json")).unwrap();
    let declared = settle(&mut manifests);
    assert_eq!(names(&declared), ["a", "b"]);
    assert_eq!(
        problems(&declared),
        ["more/b.json: cannot be read: No such file or directory (os error 2)"]
    );
    assert_eq!(
        settle(&mut manifests).problems_total,
        1,
        "the same problem counts once"
    );
    fs::remove_file(root.join("more/b.json")).unwrap();
    let declared = settle(&mut manifests);
    assert_eq!(
        (
            names(&declared),
            declared.problems.len(),
            declared.problems_total
        ),
        (vec!["a"], 0, 1)
    );
}

#[test]
fn directories_are_bounded_and_loops_end() {
    let scratch = tempfile::tempdir().unwrap();
    let root = &scratch.path().join("root");
    fs::create_dir(root).unwrap();
    fs::write(root.join("a.yaml"), pod("a")).unwrap();
    symlink(root, root.join("loop")).unwrap();
    symlink("..", root.join("up")).unwrap();
    let mut deep = root.join("d");
    for depth in 1..=17 {
        fs::create_dir(&deep).unwrap();
        fs::write(deep.join("p.yaml"), pod(&format!("depth-{depth:02}"))).unwrap();
        deep.push("d");
    }
    let large = fs::File::create(root.join("large.yaml")).unwrap();
    large.set_len((64 << 20) + 1).unwrap();
    let declared = Manifests::open(root).unwrap().declared();
    let names = names(&declared);
    assert!(
        names.contains(&"a") && names.contains(&"depth-16") && !names.contains(&"depth-17"),
        "{names:?}"
    );
    let problems = problems(&declared);
    assert!(
        problems
            .iter()
            .any(|problem| problem.contains("more than 16 directories deep")),
        "{problems:?}"
    );
    assert!(
        problems
            .iter()
            .any(|problem| problem.contains("large.yaml: larger than 64 MiB")),
        "{problems:?}"
    );
    assert_eq!(declared.problems_total, 2);
}

#[test]
fn files_are_bounded() {
    let scratch = tempfile::tempdir().unwrap();
    for number in 0..10_003 {
        fs::write(
            scratch.path().join(format!("{number:05}.yaml")),
            "# nothing\n",
        )
        .unwrap();
    }
    let declared = Manifests::open(scratch.path()).unwrap().declared();
    assert_eq!(
        problems(&declared),
        [".: more than 10000 manifests: the rest is not read"]
    );
}

/// Polls the channel until `wanted` gives something.
fn wait_for<T>(
    receiver: &mut Receiver<Observation>,
    mut wanted: impl FnMut(Fact) -> Option<T>,
) -> T {
    for _ in 0..600 {
        while let Ok(observation) = receiver.try_recv() {
            if let Some(found) = wanted(observation.fact) {
                return found;
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("nothing in a minute");
}

fn declared(fact: Fact) -> Option<Declared> {
    if let Fact::Declared(declared) = fact {
        Some(declared)
    } else {
        None
    }
}

fn status(fact: Fact) -> Option<ProbeStatus> {
    if let Fact::Probe(status) = fact {
        Some(status)
    } else {
        None
    }
}

struct Watch {
    receiver: Receiver<Observation>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watch {
    fn start(path: &Path, full: bool) -> Self {
        let (sink, receiver) = Sink::new();
        if full {
            for _ in 0..CHANNEL_CAPACITY {
                assert!(sink.send(Timestamp(0), Fact::Clock { unix_ns: 0 }));
            }
        }
        let stop = Arc::new(AtomicBool::new(false));
        let thread = spawn(Manifests::open(path).unwrap(), sink, Arc::clone(&stop)).unwrap();
        Self {
            receiver,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().unwrap();
        thread.thread().unpark();
        thread.join().unwrap();
    }
}

#[test]
fn the_thread_sends_at_once_then_only_what_changed() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("pods.yaml");
    fs::write(&file, pod("first")).unwrap();
    let mut watch = Watch::start(&file, false);
    let first = declared(watch.receiver.try_recv().unwrap().fact).unwrap();
    assert_eq!(
        (names(&first), first.source.clone()),
        (vec!["first"], format!("files:{}", file.display()))
    );
    assert_eq!(
        status(watch.receiver.try_recv().unwrap().fact)
            .unwrap()
            .health,
        Health::Ok
    );
    // The same contents in other words, then other contents: only these arrive.
    fs::write(&file, format!("# new\n---\n{}", pod("first"))).unwrap();
    std::thread::sleep(Duration::from_secs(4));
    fs::write(&file, pod("second")).unwrap();
    assert_eq!(names(&wait_for(&mut watch.receiver, declared)), ["second"]);
    fs::remove_file(&file).unwrap();
    assert_eq!(wait_for(&mut watch.receiver, status).health, Health::Broken);
    fs::write(&file, pod("third")).unwrap();
    assert_eq!(wait_for(&mut watch.receiver, status).health, Health::Ok);
    assert_eq!(names(&wait_for(&mut watch.receiver, declared)), ["third"]);
}

#[test]
fn what_found_no_room_in_the_channel_is_sent_again() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("pods.yaml");
    fs::write(&file, pod("late")).unwrap();
    let mut watch = Watch::start(&file, true);
    assert_eq!(names(&wait_for(&mut watch.receiver, declared)), ["late"]);
    assert_eq!(wait_for(&mut watch.receiver, status).health, Health::Ok);
}

fn policy(name: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{podSelector: {{}}, policyTypes: [Ingress]}}\n"
    )
}

/// The names of the candidates and the probe's health, as last told.
fn told(receiver: &mut Receiver<Observation>) -> (Option<Vec<String>>, Option<ProbeStatus>) {
    let (mut policies, mut status) = (None, None);
    while let Ok(observation) = receiver.try_recv() {
        if let Fact::CandidatePolicies { policies: now } = observation.fact {
            policies = Some(now.into_iter().map(|policy| policy.name).collect());
        } else if let Fact::Probe(now) = observation.fact {
            status = Some(now);
        }
    }
    (policies, status)
}

#[test]
fn candidate_policies_are_told_and_what_is_none_of_them_is_said() {
    let scratch = tempfile::tempdir().unwrap();
    let file = |name: &str| scratch.path().join(name);
    fs::write(file("b.yaml"), policy("b")).unwrap();
    fs::write(file("a.yaml"), policy("a")).unwrap();
    let (sink, mut receiver) = Sink::new();
    let stop = Arc::new(AtomicBool::new(false));
    let manifests = Manifests::of_flag("--candidate-policies", scratch.path()).unwrap();
    let thread = spawn_candidates(manifests, sink, Arc::clone(&stop)).unwrap();
    let (policies, status) = told(&mut receiver);
    assert_eq!(policies.unwrap(), ["a", "b"]);
    assert_eq!(status.unwrap().health, Health::Ok);

    fs::write(
        file("c.yaml"),
        "kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nspec: 7\n",
    )
    .unwrap();
    fs::remove_file(file("b.yaml")).unwrap();
    let (mut policies, mut status) = (None, None);
    for _ in 0..100 {
        thread.thread().unpark();
        std::thread::sleep(Duration::from_millis(100));
        let now = told(&mut receiver);
        policies = now.0.or(policies);
        status = now.1.or(status);
        if policies.is_some() && status.is_some() {
            break;
        }
    }
    assert_eq!(policies.unwrap(), ["a"]);
    let status = status.unwrap();
    assert_eq!(status.health, Health::Broken);
    assert!(
        status.reason.clone().unwrap().contains("c.yaml"),
        "{status:?}"
    );
    stop.store(true, Ordering::Relaxed);
    thread.thread().unpark();
    thread.join().unwrap();
}

#[test]
fn candidate_policies_that_are_not_there_name_their_flag() {
    let error = Manifests::of_flag("--candidate-policies", Path::new("/nonexistent")).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("--candidate-policies /nonexistent:"),
        "{error}"
    );
}
