//! Who a container is, by the names that its log directory has: what the core knows, else the names themselves.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use plumbline_core::finding::Subject;
use plumbline_core::settings::NodeIdentity;
use plumbline_core::snapshot::{ContainerView, Snapshot};
use plumbline_logs::otlp::Envelope;
use plumbline_logs::source::Source;
use plumbline_logs::tailer::{EndedPod, Resources, Wanted};
use prost::Message as _;

use super::options::LabelRule;
use crate::clock;
use crate::export::encode::resource;
use crate::export::semconv::SCHEMA_URL;

/// A pod whose labels matter and are not known is not read for so long.
const LABELS_MAX: Duration = Duration::from_secs(60);
/// Pods that are waited for; beyond it new ones are read at once.
const WAITING_MAX: usize = 4_096;

/// Containers by pod UID and name, as the core knows them.
#[derive(Debug)]
pub(super) struct Index {
    node: NodeIdentity,
    generation: AtomicU64,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    subjects: HashMap<(String, String), Subject>,
    ended: Arc<[EndedPod]>,
    /// By pod UID; kept only where labels matter.
    labels: HashMap<String, BTreeMap<String, String>>,
}

impl Index {
    pub(super) fn new(node: NodeIdentity) -> Self {
        Self {
            node,
            generation: AtomicU64::new(0),
            known: Mutex::default(),
        }
    }

    /// Takes over who is who.
    pub(super) fn learn(&self, snapshot: &Snapshot, with_labels: bool) {
        let present = || {
            snapshot
                .containers
                .iter()
                .filter(|container| !container.gone)
        };
        let subjects: HashMap<_, _> = present()
            .filter_map(|container| {
                let subject = &container.subject;
                let key = (subject.pod_uid.clone()?, subject.container.clone()?);
                Some((key, subject.clone()))
            })
            .collect();
        let labels = |of: &ContainerView| {
            let pod = of.pod.as_ref()?;
            Some((of.pod_uid.to_string(), pod.labels.clone()))
        };
        let ended = ended_pods(snapshot);
        let mut known = self.known();
        if *known.ended != *ended {
            known.ended = ended.into();
        }
        if with_labels {
            known.labels = present().filter_map(labels).collect();
        }
        if known.subjects != subjects {
            known.subjects = subjects;
            drop(known);
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    pub(super) fn subject(&self, source: &Source) -> Subject {
        let key = (source.pod.uid.clone(), source.container.clone());
        let known = self.known().subjects.get(&key).cloned();
        // The path says it too. A pod that runs as declared has the same names there.
        known.unwrap_or_else(|| Subject {
            namespace: Some(source.pod.namespace.clone()),
            pod: Some(source.pod.pod.clone()),
            pod_uid: Some(source.pod.uid.clone()),
            container: Some(source.container.clone()),
            ..Subject::default()
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same for the reader.
pub(super) struct Names {
    pub(super) index: Arc<Index>,
    pub(super) labels: Vec<LabelRule>,
    /// Since when pods are waited for.
    pub(super) waiting: Mutex<HashMap<String, Instant>>,
}

impl Resources for Names {
    fn generation(&self) -> u64 {
        self.index.generation.load(Ordering::Acquire)
    }

    fn envelope(&self, source: &Source) -> Envelope {
        let node = &self.index.node;
        let resource = resource(&self.index.subject(source), node).encode_to_vec();
        Envelope::new(&resource, "plumbline", &node.agent_version, SCHEMA_URL)
    }

    fn is_wanted(&self, source: &Source) -> Wanted {
        let about = |rule: &&LabelRule| rule.is_about(&source.pod.namespace);
        let mut rules = self.labels.iter().filter(about).peekable();
        if rules.peek().is_none() {
            return Wanted::Yes;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(labels) = self.index.known().labels.get(&source.pod.uid) {
            waiting.remove(&source.pod.uid);
            let left_out = rules.any(|rule| labels.get(&rule.key) == Some(&rule.value));
            return if left_out { Wanted::No } else { Wanted::Yes };
        }
        if !waiting.contains_key(&source.pod.uid) && waiting.len() >= WAITING_MAX {
            return Wanted::Yes;
        }
        let now = clock::instant();
        let since = *waiting.entry(source.pod.uid.clone()).or_insert(now);
        if now.duration_since(since) >= LABELS_MAX {
            Wanted::Yes
        } else {
            Wanted::NotYet
        }
    }

    fn ended_pods(&self) -> Arc<[EndedPod]> {
        Arc::clone(&self.index.known().ended)
    }
}

/// Pods of which all containers are gone, by UID. The core tells of such containers for a while.
fn ended_pods(snapshot: &Snapshot) -> Vec<EndedPod> {
    let mut pods: BTreeMap<&str, Vec<&ContainerView>> = BTreeMap::new();
    for container in &snapshot.containers {
        pods.entry(container.pod_uid.as_str())
            .or_default()
            .push(container);
    }
    pods.retain(|_, containers| containers.iter().all(|container| container.gone));
    let ended = pods.into_iter().map(|(uid, containers)| EndedPod {
        uid: uid.to_owned(),
        namespace: containers
            .iter()
            .find_map(|container| container.subject.namespace.clone()),
        containers: containers.len(),
    });
    ended.collect()
}

#[cfg(test)]
mod tests {
    use plumbline_core::id::CgroupId;
    use plumbline_core::node::NodeState;
    use plumbline_core::observation::{CgroupRow, Fact, Observation};
    use plumbline_core::settings::CoreSettings;
    use plumbline_core::time::Timestamp;

    use super::*;

    fn names(labels: &[&str]) -> Names {
        Names {
            index: Arc::new(Index::new(NodeIdentity::default())),
            labels: labels.iter().map(|label| label.parse().unwrap()).collect(),
            waiting: Mutex::default(),
        }
    }

    fn source(namespace: &str) -> Source {
        Source::parse(format!("{namespace}_web_u").as_bytes(), b"app").unwrap()
    }

    #[test]
    fn labels_count_only_where_the_operator_lets_them() {
        let names = names(&["shop:quiet=yes"]);
        let quiet = BTreeMap::from([("quiet".to_owned(), "yes".to_owned())]);
        names.index.known().labels.insert("u".into(), quiet);
        assert_eq!(names.is_wanted(&source("shop")), Wanted::No);
        let elsewhere = names.is_wanted(&source("bank"));
        assert_eq!(elsewhere, Wanted::Yes, "the same label elsewhere");
        let loud = BTreeMap::from([("quiet".to_owned(), "no".to_owned())]);
        names.index.known().labels.insert("u".into(), loud);
        assert_eq!(names.is_wanted(&source("shop")), Wanted::Yes);
    }

    #[test]
    fn a_pod_whose_labels_are_not_known_is_waited_for() {
        let names = names(&["*:quiet=yes"]);
        assert_eq!(names.is_wanted(&source("shop")), Wanted::NotYet);
        let long_ago = clock::instant().checked_sub(LABELS_MAX).unwrap();
        let mut waiting = names.waiting.lock().unwrap();
        waiting.insert("u".into(), long_ago);
        drop(waiting);
        assert_eq!(names.is_wanted(&source("shop")), Wanted::Yes);
    }

    #[test]
    fn a_pod_has_ended_when_all_its_containers_are_gone() {
        let mut state = NodeState::new(NodeIdentity::default(), CoreSettings::default());
        let mut at = 0;
        let mut tell = |fact| {
            at += 1;
            state.apply(Observation {
                at: Timestamp(at),
                fact,
            });
            let ended = ended_pods(&state.snapshot(Timestamp(at))).into_iter();
            ended
                .map(|pod| (pod.uid, pod.containers))
                .collect::<Vec<_>>()
        };
        let uid = "00000000-0000-4000-8000-00000000000a";
        for cgroup in [7, 8] {
            let path = format!("/kubepods/pod{uid}/{cgroup:064x}");
            let cgroup = CgroupId(cgroup);
            assert_eq!(tell(Fact::CgroupSeen(CgroupRow { cgroup, path })), []);
        }
        let gone = |cgroup| Fact::CgroupGone {
            cgroup: CgroupId(cgroup),
        };
        assert_eq!(tell(gone(7)), [], "one is there");
        assert_eq!(tell(gone(8)), [(uid.to_owned(), 2)]);
    }

    #[test]
    fn what_is_learned_is_a_new_generation_once() {
        let names = names(&[]);
        let state = NodeState::new(NodeIdentity::default(), CoreSettings::default());
        let snapshot = state.snapshot(Timestamp(1));
        names.index.learn(&snapshot, true);
        assert_eq!(names.generation(), 0, "nothing was learned");
        let subject = names.index.subject(&source("shop"));
        assert_eq!(subject.namespace.as_deref(), Some("shop"));
    }
}
