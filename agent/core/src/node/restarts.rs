//! Restarts of containers: a new container of the same pod and name.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{CgroupId, ContainerId, PodUid};
use crate::node::NodeState;
use crate::settings::CONTAINERS_MAX;
use crate::time::Timestamp;

/// Containers by pod and name. At most [`CONTAINERS_MAX`]; the restarts of further ones are not counted, which is counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Restarts(BTreeMap<(PodUid, String), Latest>);

/// The container that has a pod and name now.
#[derive(Clone, Debug)]
struct Latest {
    id: ContainerId,
    first_seen: Timestamp,
    /// How often another one took its place.
    restarts: u64,
}

impl Restarts {
    /// Restarts so far, if this container is the latest of its pod and name.
    pub(super) fn of(&self, pod: &PodUid, name: &str, id: &ContainerId) -> Option<u64> {
        let latest = self.0.get(&(pod.clone(), name.to_owned()))?;
        (latest.id == *id).then_some(latest.restarts)
    }

    /// A container of that pod and name was seen. `false` when there is no room for it.
    fn note(&mut self, key: (PodUid, String), id: &ContainerId, first_seen: Timestamp) -> bool {
        if let Some(latest) = self.0.get_mut(&key) {
            // The declared side may name the one before for a while.
            if latest.id != *id && first_seen > latest.first_seen {
                latest.id = id.clone();
                latest.first_seen = first_seen;
                latest.restarts += 1;
            }
            return true;
        }
        if self.0.len() >= CONTAINERS_MAX {
            return false;
        }
        let latest = Latest {
            id: id.clone(),
            first_seen,
            restarts: 0,
        };
        self.0.insert(key, latest);
        true
    }
}

impl NodeState {
    /// Looks whether a container takes the place of another one.
    pub(super) fn note_restart(&mut self, cgroup: CgroupId) {
        let Some(container) = self.containers.get(&cgroup) else {
            return;
        };
        let (Some(pod), Some(index)) = self.index.find(&container.pod_uid, &container.container_id)
        else {
            return;
        };
        let Some(declared) = pod.containers.get(index) else {
            return;
        };
        let key = (container.pod_uid.clone(), declared.name.clone());
        if !self
            .restarts
            .note(key, &container.container_id, container.first_seen)
        {
            self.count("restarts", "full", 1);
        }
    }

    /// Looks at all containers, after the declared side has told their names anew. Forgets pods that are neither running nor
    /// declared: a container that waits for its next start is still declared.
    pub(super) fn note_restarts(&mut self) {
        let cgroups: Vec<CgroupId> = self.containers.keys().copied().collect();
        cgroups.into_iter().for_each(|id| self.note_restart(id));
        let declared = self.declared.iter().flat_map(|declared| &declared.pods);
        let declared = declared.flat_map(|pod| pod.uid.iter().chain(&pod.config_hash));
        let running = self.containers.values().map(|container| &container.pod_uid);
        let known: BTreeSet<&PodUid> = declared.chain(running).collect();
        self.restarts.0.retain(|(pod, _), _| known.contains(pod));
    }
}
