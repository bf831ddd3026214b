//! The join of a container's cgroup with its declaration: by container id, else by pod UID.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::declared::{Declared, DeclaredPod};
use crate::id::{ContainerId, PodUid};

/// Declared pods by what a cgroup path tells.
#[derive(Clone, Debug, Default)]
pub(super) struct DeclaredIndex {
    by_container: BTreeMap<ContainerId, (Arc<DeclaredPod>, usize)>,
    by_pod: BTreeMap<PodUid, Arc<DeclaredPod>>,
}

impl DeclaredIndex {
    pub(super) fn new(declared: &Declared) -> Self {
        let mut index = Self::default();
        for pod in &declared.pods {
            // The kubelet names a static pod's cgroup by the hash of its configuration; the API's UID is the mirror's.
            for uid in pod.uid.iter().chain(&pod.config_hash) {
                index.by_pod.insert(uid.clone(), Arc::clone(pod));
            }
            for (position, container) in pod.containers.iter().enumerate() {
                if let Some(id) = &container.container_id {
                    index
                        .by_container
                        .insert(id.clone(), (Arc::clone(pod), position));
                }
            }
        }
        index
    }

    /// Whether such a pod is declared.
    pub(super) fn has_pod(&self, pod: &PodUid) -> bool {
        self.by_pod.contains_key(pod)
    }

    /// The pod, and which of its containers; the pod alone when the container's id is not declared.
    pub(super) fn find(
        &self,
        pod: &PodUid,
        container: &ContainerId,
    ) -> (Option<&Arc<DeclaredPod>>, Option<usize>) {
        match self.by_container.get(container) {
            Some((pod, position)) => (Some(pod), Some(*position)),
            None => (self.by_pod.get(pod), None),
        }
    }
}
