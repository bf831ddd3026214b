//! What one watch knows: changed only by its events, replaced as a whole when it begins anew. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::objects::{OBJECTS_MAX, ObjectError, Objects};

/// Namespace and name.
pub(super) type Key = (String, String);
/// The object as far as it is needed, or why it is not used.
pub(super) type Entry<T> = Result<Arc<T>, ObjectError>;

/// Converted objects of one resource by namespace and name.
#[derive(Debug)]
pub(super) struct Table<T> {
    resource: &'static str,
    objects: BTreeMap<Key, Entry<T>>,
    /// A list that is not complete yet.
    listing: BTreeMap<Key, Entry<T>>,
    synced: bool,
    /// Objects over [`OBJECTS_MAX`] in the last list and since.
    over: u64,
    problems_total: u64,
}

impl<T: PartialEq> Table<T> {
    pub(super) fn new(resource: &'static str) -> Self {
        Self {
            resource,
            objects: BTreeMap::new(),
            listing: BTreeMap::new(),
            synced: false,
            over: 0,
            problems_total: 0,
        }
    }

    /// A list begins; what is known stands until it is complete.
    pub(super) fn begin(&mut self) {
        self.listing.clear();
        self.over = 0;
    }

    /// An object of the list.
    pub(super) fn listed(&mut self, key: Key, entry: Entry<T>) {
        // Of what is known already, one copy is enough.
        let entry = match (self.objects.get(&key), entry) {
            (Some(known), entry) if *known == entry => known.clone(),
            (_, entry) => {
                self.problems_total += u64::from(entry.is_err());
                entry
            }
        };
        if self.listing.len() < OBJECTS_MAX || self.listing.contains_key(&key) {
            self.listing.insert(key, entry);
        } else {
            self.over += 1;
            self.problems_total += 1;
        }
    }

    /// The list is complete and replaces everything. `true` if that changes anything.
    pub(super) fn done(&mut self) -> bool {
        let listing = std::mem::take(&mut self.listing);
        let first = !std::mem::replace(&mut self.synced, true);
        let changed = self.objects != listing;
        self.objects = listing;
        first || changed
    }

    /// An object is new, or changed. `true` if that changes anything.
    pub(super) fn apply(&mut self, key: Key, entry: Entry<T>) -> bool {
        if self.objects.get(&key) == Some(&entry) {
            return false;
        }
        self.problems_total += u64::from(entry.is_err());
        if self.objects.len() < OBJECTS_MAX || self.objects.contains_key(&key) {
            self.objects.insert(key, entry);
        } else {
            self.over += 1;
        }
        true
    }

    /// An object is gone. `true` if it was known.
    pub(super) fn delete(&mut self, key: &Key) -> bool {
        self.objects.remove(key).is_some()
    }

    /// Something came that names no object.
    pub(super) fn count_problem(&mut self) {
        self.problems_total += 1;
    }

    /// What is in it.
    pub(super) fn resource(&self) -> &'static str {
        self.resource
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
                let slash = if namespace.is_empty() { "" } else { "/" };
                all.problem(
                    &format!("{} {namespace}{slash}{name}", self.resource),
                    error,
                );
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
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Entry, Key, Table};
    use crate::sources::objects::{ObjectError, Objects};

    fn key(name: &str) -> Key {
        ("n".to_owned(), name.to_owned())
    }

    fn good(port: u16) -> Entry<u16> {
        Ok(Arc::new(port))
    }

    fn bad() -> Entry<u16> {
        Err(ObjectError::new("spec", "bad"))
    }

    fn shown(table: &Table<u16>) -> String {
        let mut all = Objects::new(10);
        table.report(&mut all);
        let values = table.values().map(|value| value.to_string());
        let problems = all.problems.iter().map(|problem| problem.at.clone());
        values.chain(problems).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn events_build_the_table_and_a_new_list_replaces_it_at_once() {
        let mut table = Table::new("pods");
        table.begin();
        table.listed(key("a"), good(1));
        table.listed(key("b"), good(2));
        assert_eq!((shown(&table).as_str(), table.synced()), ("", false));
        assert!(table.done());
        assert_eq!((shown(&table).as_str(), table.synced()), ("1 2", true));
        assert!(!table.apply(key("a"), good(1)));
        assert!(table.apply(key("a"), good(3)));
        assert!(table.apply(key("c"), bad()));
        assert_eq!(shown(&table), "3 2 pods n/c: spec");
        assert!(table.delete(&key("b")) && !table.delete(&key("b")));
        table.begin();
        table.listed(key("c"), bad());
        assert_eq!(
            shown(&table),
            "3 pods n/c: spec",
            "an incomplete list changes nothing"
        );
        assert!(table.done());
        assert_eq!(shown(&table), "pods n/c: spec");
        assert!(table.apply(key("c"), good(4)));
        assert_eq!((shown(&table).as_str(), table.problems_total()), ("4", 1));
        table.begin();
        table.listed(key("c"), good(4));
        assert!(!table.done(), "the same again");
    }

    #[test]
    fn an_empty_list_is_news_once() {
        let mut table = Table::<u16>::new("pods");
        for first in [true, false] {
            table.begin();
            assert_eq!(table.done(), first);
        }
    }

    #[test]
    fn a_list_that_breaks_off_changes_nothing() {
        let mut table = Table::new("pods");
        table.begin();
        table.listed(key("a"), good(1));
        table.begin();
        table.listed(key("b"), good(2));
        table.done();
        assert_eq!(shown(&table), "2");
    }

    #[test]
    fn a_list_again_keeps_one_copy_of_what_is_known() {
        let mut table = Table::new("pods");
        table.apply(key("a"), good(1));
        let known = table.values().next().map(Arc::clone).unwrap();
        table.begin();
        table.listed(key("a"), good(1));
        table.done();
        assert!(Arc::ptr_eq(&known, table.values().next().unwrap()));
    }
}
