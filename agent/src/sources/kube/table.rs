//! What one watch knows: changed only by its events, replaced as a whole when it begins anew. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::api::DynamicObject;
use kube::runtime::watcher::Event;
use serde_json::Value;

use super::super::objects::{OBJECTS_MAX, ObjectError, Objects};

type Key = (String, String);
type Entry<T> = Result<Arc<T>, ObjectError>;

/// Converted objects of one resource by namespace and name.
#[derive(Debug)]
pub(super) struct Table<T> {
    resource: &'static str,
    objects: BTreeMap<Key, Entry<T>>,
    /// A list that is not complete yet.
    listing: Option<BTreeMap<Key, Entry<T>>>,
    synced: bool,
    /// Objects over [`OBJECTS_MAX`] in the last list and since.
    over: u64,
    problems_total: u64,
}

impl<T: PartialEq> Table<T> {
    pub(super) fn new(resource: &'static str) -> Self {
        let (objects, listing) = (BTreeMap::new(), None);
        Self {
            resource,
            objects,
            listing,
            synced: false,
            over: 0,
            problems_total: 0,
        }
    }

    /// Takes in one event. `true` if what the table says may have changed.
    pub(super) fn apply(
        &mut self,
        event: Event<DynamicObject>,
        convert: impl Fn(Value) -> Result<T, ObjectError>,
    ) -> bool {
        match event {
            Event::Init => {
                self.listing = Some(BTreeMap::new());
                self.over = 0;
                false
            }
            Event::InitApply(object) => {
                let (key, entry) = converted(object, convert);
                self.insert(key, entry, true);
                false
            }
            Event::InitDone => {
                self.objects = self.listing.take().unwrap_or_default();
                self.synced = true;
                true
            }
            Event::Apply(object) => {
                let (key, entry) = converted(object, convert);
                self.insert(key, entry, false)
            }
            Event::Delete(object) => self.objects.remove(&key(&object)).is_some(),
        }
    }

    /// Whether a list was complete once.
    pub(super) fn synced(&self) -> bool {
        self.synced
    }

    /// The objects that make sense.
    pub(super) fn values(&self) -> impl Iterator<Item = &Arc<T>> {
        self.objects
            .values()
            .filter_map(|entry| entry.as_ref().ok())
    }

    /// Adds what does not.
    pub(super) fn report(&self, all: &mut Objects) {
        for ((namespace, name), entry) in &self.objects {
            if let Err(error) = entry {
                all.problem(&format!("{} {namespace}/{name}", self.resource), error);
            }
        }
        if self.over > 0 {
            all.problem(
                self.resource,
                &ObjectError::new("", format!("{} over {OBJECTS_MAX} are not used", self.over)),
            );
        }
    }

    /// Objects that made no sense when they came, since the beginning.
    pub(super) fn problems_total(&self) -> u64 {
        self.problems_total
    }

    fn insert(&mut self, key: Key, entry: Entry<T>, listed: bool) -> bool {
        let known = self.objects.get(&key) == Some(&entry);
        if known && !listed {
            return false;
        }
        let room = if listed {
            self.listing.get_or_insert_default()
        } else {
            &mut self.objects
        };
        if room.len() >= OBJECTS_MAX && !room.contains_key(&key) {
            self.over += 1;
            self.problems_total += 1;
            return true;
        }
        // The same mistake, listed again, counts once.
        self.problems_total += u64::from(entry.is_err() && !known);
        room.insert(key, entry);
        true
    }
}

fn key(object: &DynamicObject) -> Key {
    let metadata = &object.metadata;
    (
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}

fn converted<T>(
    object: DynamicObject,
    convert: impl Fn(Value) -> Result<T, ObjectError>,
) -> (Key, Entry<T>) {
    let key = key(&object);
    let value =
        serde_json::to_value(object).map_err(|error| ObjectError::new("", error.to_string()));
    (key, value.and_then(convert).map(Arc::new))
}

#[cfg(test)]
mod tests {
    use kube::api::DynamicObject;
    use kube::runtime::watcher::Event;
    use plumbline_core::declared::DeclaredPod;
    use serde_json::json;

    use super::super::super::objects::{Objects, pod_value};
    use super::Table;

    fn pod(name: &str, port: i32) -> DynamicObject {
        let containers = json!([{"name": "c", "ports": [{"containerPort": port}]}]);
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "n"}, "spec": {"containers": containers}});
        serde_json::from_value(object).unwrap()
    }

    fn shown(table: &Table<DeclaredPod>) -> String {
        let mut all = Objects::new(10);
        table.report(&mut all);
        let pods = table
            .values()
            .map(|pod| format!("{}:{}", pod.name, pod.containers[0].ports[0].port));
        let problems = all.problems.iter().map(|problem| problem.at.clone());
        pods.chain(problems).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn events_build_the_table_and_a_new_list_replaces_it_at_once() {
        let mut table = Table::new("pods");
        for (event, changed, after) in [
            (Event::Init, false, ""),
            (Event::InitApply(pod("a", 1)), false, ""),
            (Event::InitApply(pod("b", 2)), false, ""),
            (Event::InitDone, true, "a:1 b:2"),
            (Event::Apply(pod("a", 1)), false, "a:1 b:2"),
            (Event::Apply(pod("a", 3)), true, "a:3 b:2"),
            (
                Event::Apply(pod("c", 0)),
                true,
                "a:3 b:2 pods n/c: spec.containers[0].ports[0].containerPort",
            ),
            (
                Event::Delete(pod("b", 2)),
                true,
                "a:3 pods n/c: spec.containers[0].ports[0].containerPort",
            ),
            (
                Event::Delete(pod("b", 2)),
                false,
                "a:3 pods n/c: spec.containers[0].ports[0].containerPort",
            ),
            (
                Event::Init,
                false,
                "a:3 pods n/c: spec.containers[0].ports[0].containerPort",
            ),
            (
                Event::InitApply(pod("c", 0)),
                false,
                "a:3 pods n/c: spec.containers[0].ports[0].containerPort",
            ),
            (
                Event::InitDone,
                true,
                "pods n/c: spec.containers[0].ports[0].containerPort",
            ),
            (Event::Apply(pod("c", 4)), true, "c:4"),
        ] {
            let name = format!("{event}");
            assert_eq!(table.apply(event, pod_value), changed, "{name}");
            assert_eq!(shown(&table), after, "{name}");
        }
        assert_eq!(table.problems_total(), 1);
    }

    #[test]
    fn a_list_that_breaks_off_changes_nothing() {
        let mut table = Table::new("pods");
        assert!(!table.synced());
        for event in [
            Event::Init,
            Event::InitApply(pod("a", 1)),
            Event::Init,
            Event::InitApply(pod("b", 1)),
        ] {
            table.apply(event, pod_value);
        }
        assert!(!table.synced());
        table.apply(Event::InitDone, pod_value);
        assert!(table.synced());
        assert_eq!(shown(&table), "b:1");
    }
}
