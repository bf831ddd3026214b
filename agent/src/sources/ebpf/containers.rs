//! Containers and whether they have their program. Those that are gone keep it for a while: their last sockets close
//! after them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use plumbline_core::id::CgroupId;
use plumbline_core::observation::Fact;
use plumbline_core::time::Timestamp;

/// How long sockets may live on without a process: `tcp_fin_timeout` is 60 s.
pub(super) const LINGER: Duration = Duration::from_secs(65);

/// Containers that are gone and keep their program. Under more churn the oldest lose it early.
const LINGERING_MAX: usize = 256;

/// The containers of the node.
#[derive(Debug, Default)]
pub(super) struct Containers {
    known: BTreeMap<CgroupId, Container>,
    lingering: VecDeque<(Timestamp, CgroupId)>,
}

#[derive(Debug)]
struct Container {
    path: String,
    pre_existing: bool,
    error: Option<String>,
    attached: bool,
    told: bool,
}

impl Containers {
    /// A container was found, for the first time or again: then it keeps its program.
    pub(super) fn insert(&mut self, cgroup: CgroupId, path: String, pre_existing: bool) {
        let container = Container {
            path,
            pre_existing,
            error: None,
            attached: false,
            told: false,
        };
        self.known.entry(cgroup).or_insert(container);
        self.lingering.retain(|(_, gone)| *gone != cgroup);
    }

    /// The program of a container was detached by someone else.
    pub(super) fn detached(&mut self, cgroup: CgroupId) {
        if let Some(container) = self.known.get_mut(&cgroup) {
            (container.attached, container.told) = (false, false);
        }
    }

    /// Where a container is; `None` when it is gone.
    pub(super) fn path(&self, cgroup: CgroupId) -> Option<&str> {
        let container = self.known.get(&cgroup)?;
        Some(&container.path)
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Whether this is one of them.
    pub(super) fn contains(&self, cgroup: CgroupId) -> bool {
        self.known.contains_key(&cgroup)
    }

    /// Whether it is one of them, or its last sockets are waited for.
    pub(super) fn keeps(&self, cgroup: CgroupId) -> bool {
        self.contains(cgroup) || self.lingering.iter().any(|(_, gone)| *gone == cgroup)
    }

    /// All of them, with their paths.
    pub(super) fn all(&self) -> Vec<(CgroupId, String)> {
        let known = self.known.iter();
        known
            .map(|(cgroup, container)| (*cgroup, container.path.clone()))
            .collect()
    }

    /// Those without a program, with their paths.
    pub(super) fn unattached(&self) -> Vec<(CgroupId, String)> {
        let open = self
            .known
            .iter()
            .filter(|(_, container)| !container.attached);
        open.map(|(cgroup, container)| (*cgroup, container.path.clone()))
            .collect()
    }

    /// What became of attaching the program.
    pub(super) fn attached(&mut self, cgroup: CgroupId, error: Option<String>) {
        if let Some(container) = self.known.get_mut(&cgroup)
            && !container.attached
        {
            container.attached = error.is_none();
            container.told &= container.error == error && error.is_some();
            container.error = error;
        }
    }

    /// Everything is told again: what it referred to may not have arrived.
    pub(super) fn forget_told(&mut self) {
        for container in self.known.values_mut() {
            container.told = false;
        }
    }

    /// Tells what was not told; `tell` returns whether it arrived.
    pub(super) fn tell(&mut self, mut tell: impl FnMut(Fact) -> bool) {
        for (cgroup, container) in &mut self.known {
            if !container.told && (container.attached || container.error.is_some()) {
                container.told = tell(Fact::Attached {
                    cgroup: *cgroup,
                    error: container.error.clone(),
                    pre_existing: container.pre_existing,
                });
            }
        }
    }

    /// A container went away.
    pub(super) fn remove(&mut self, cgroup: CgroupId, now: Timestamp) {
        if self.known.remove(&cgroup).is_some() {
            self.lingering.push_back((now.plus(LINGER), cgroup));
        }
    }

    /// Takes those that lose their program now.
    pub(super) fn expired(&mut self, now: Timestamp) -> Vec<CgroupId> {
        let due = self
            .lingering
            .iter()
            .take_while(|(until, _)| *until <= now)
            .count();
        let due = due.max(self.lingering.len().saturating_sub(LINGERING_MAX));
        self.lingering
            .drain(..due)
            .map(|(_, cgroup)| cgroup)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use plumbline_core::id::CgroupId;
    use plumbline_core::observation::Fact;
    use plumbline_core::time::Timestamp;

    use super::{Containers, LINGER, LINGERING_MAX};

    const ID: CgroupId = CgroupId(7);

    fn told(containers: &mut Containers) -> Vec<Option<String>> {
        let mut errors = Vec::new();
        containers.tell(|fact| {
            if let Fact::Attached { error, .. } = fact {
                errors.push(error);
            }
            true
        });
        errors
    }

    #[test]
    fn an_attachment_is_told_once_and_again_when_it_changes() {
        let mut containers = Containers::default();
        containers.insert(ID, "/a".into(), true);
        assert_eq!(told(&mut containers), [], "nothing is known yet");
        containers.attached(ID, Some("no".into()));
        assert_eq!(told(&mut containers), [Some("no".to_owned())]);
        containers.attached(ID, Some("no".into()));
        assert_eq!(told(&mut containers), [], "the same");
        assert_eq!(containers.unattached(), [(ID, "/a".to_owned())]);
        containers.attached(ID, None);
        assert_eq!(told(&mut containers), [None]);
        assert_eq!(
            (told(&mut containers), containers.unattached()),
            (vec![], vec![])
        );
    }

    #[test]
    fn what_did_not_arrive_is_told_again() {
        let mut containers = Containers::default();
        containers.insert(ID, "/a".into(), false);
        containers.attached(ID, None);
        containers.tell(|_| false);
        assert_eq!(told(&mut containers), [None]);
    }

    #[test]
    fn the_last_sockets_of_a_container_are_waited_for() {
        let mut containers = Containers::default();
        containers.insert(ID, "/a".into(), false);
        containers.attached(ID, None);
        containers.remove(ID, Timestamp(0));
        assert_eq!(containers.expired(Timestamp(1)), []);
        assert_eq!(containers.expired(Timestamp(0).plus(LINGER)), [ID]);
        assert_eq!(containers.expired(Timestamp(0).plus(LINGER)), []);
    }

    #[test]
    fn a_container_that_is_seen_again_keeps_its_program() {
        let mut containers = Containers::default();
        containers.insert(ID, "/a".into(), false);
        containers.attached(ID, None);
        containers.remove(ID, Timestamp(0));
        containers.insert(ID, "/a".into(), true);
        assert_eq!(containers.expired(Timestamp(0).plus(2 * LINGER)), []);
        assert_eq!(containers.unattached(), [(ID, "/a".to_owned())]);
    }

    #[test]
    fn everything_known_is_told_again_on_request() {
        let mut containers = Containers::default();
        containers.insert(ID, "/a".into(), false);
        containers.insert(CgroupId(8), "/b".into(), false);
        containers.attached(ID, None);
        assert_eq!(told(&mut containers), [None]);
        containers.forget_told();
        assert_eq!(told(&mut containers), [None], "the other is not known yet");
    }

    #[test]
    fn under_churn_the_oldest_go_early() {
        let mut containers = Containers::default();
        for id in 0..=u64::try_from(LINGERING_MAX).unwrap() {
            containers.insert(CgroupId(id), "/a".into(), false);
            containers.attached(CgroupId(id), None);
            containers.remove(CgroupId(id), Timestamp(0));
        }
        assert_eq!(containers.expired(Timestamp(0)), [CgroupId(0)]);
    }
}
