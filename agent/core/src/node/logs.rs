//! Whose the container logs are.

use std::collections::BTreeMap;

use crate::declared::WorkloadRef;
use crate::finding::Subject;
use crate::node::NodeState;
use crate::observation::LogRow;
use crate::snapshot::{ContainerView, LogView};
use crate::time::Timestamp;

impl NodeState {
    pub(super) fn log_views(&self, now: Timestamp, containers: &[ContainerView]) -> Vec<LogView> {
        let mut known: BTreeMap<(&str, &str), &Subject> = BTreeMap::new();
        for container in containers.iter().filter(|container| !container.gone) {
            let subject = &container.subject;
            if let (Some(pod), Some(name)) = (&subject.pod_uid, &subject.container) {
                known.insert((pod, name), subject);
            }
        }
        let subject = |row: &LogRow| {
            let known = known.get(&(row.pod_uid.as_str(), row.container.as_str()));
            known.map_or_else(|| by_path(row), |subject| (*subject).clone())
        };
        self.logs.views(&self.settings, now, subject)
    }
}

/// What the log's path tells. The pod stands for its owner, so that those of two pods are not one finding.
fn by_path(row: &LogRow) -> Subject {
    Subject {
        namespace: Some(row.namespace.clone()),
        owner: Some(WorkloadRef {
            kind: "Pod".into(),
            name: row.pod.clone(),
        }),
        pod: Some(row.pod.clone()),
        pod_uid: Some(row.pod_uid.clone()),
        container: Some(row.container.clone()),
        ..Subject::default()
    }
}
