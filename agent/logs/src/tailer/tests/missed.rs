//! Pods that others saw end and that no file was found of are counted.

use std::fs;
use std::sync::{Arc, Mutex};

use super::{Arrived, Collect, settings, until};
use crate::otlp::Envelope;
use crate::select::Select;
use crate::source::Source;
use crate::tailer::{EndedPod, Resources, Settings, spawn};
use crate::watch::Waker;

#[derive(Clone, Default)]
struct Ended(Arc<Mutex<Arc<[EndedPod]>>>);

impl Resources for Ended {
    fn generation(&self) -> u64 {
        0
    }

    fn envelope(&self, source: &Source) -> Envelope {
        Envelope::new(b"", &source.directory(), "", "")
    }

    fn ended_pods(&self) -> Arc<[EndedPod]> {
        Arc::clone(&self.0.lock().unwrap())
    }
}

#[test]
fn pods_that_were_gone_before_they_were_found_are_counted() {
    let root = tempfile::tempdir().unwrap();
    for directory in [
        "job_read_uid-read/app",
        "job_own_uid-own/app",
        "quiet_a_uid-quiet/app",
        "job_bare_uid-bare",
        "job_sandbox_uid-sandbox",
    ] {
        fs::create_dir_all(root.path().join(directory)).unwrap();
    }
    fs::write(root.path().join("job_read_uid-read/app/0.log"), "").unwrap();
    let settings = Settings {
        exclude_uids: vec!["uid-own".into()],
        select: Select {
            exclude_namespaces: vec!["quiet".into()],
            ..Select::default()
        },
        ..settings(root.path())
    };
    let ended = Ended::default();
    let sink = Collect {
        arrived: Arrived::default(),
        answers: Vec::new(),
    };
    let waker = Waker::new().unwrap();
    let reader = spawn(settings, Box::new(sink), Box::new(ended.clone()), waker).unwrap();
    until("the file to be open", || {
        reader.stats().read().files_open == 1
    });
    let pod = |uid: &str, namespace: Option<&str>| EndedPod {
        uid: uid.into(),
        namespace: namespace.map(str::to_owned),
        containers: 2,
    };
    *ended.0.lock().unwrap() = Arc::new([
        pod("uid-read", Some("job")),
        pod("uid-own", Some("job")),
        pod("uid-quiet", Some("quiet")),
        pod("uid-never-seen-and-quiet", Some("quiet")),
        // With a namespace left out it may have been in that one.
        pod("uid-unknown", None),
        EndedPod {
            containers: 1,
            ..pod("uid-sandbox", Some("job"))
        },
        pod("uid-bare", Some("job")),
        pod("uid-never-seen", Some("job")),
    ]);
    until("two pods to be counted", || {
        reader.stats().read().missed_pods == 2
    });
    assert_eq!(reader.join().missed_pods, 2, "each is counted once");
}
