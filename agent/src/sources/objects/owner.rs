//! Which workload a pod belongs to, as far as the pod itself tells: no other object is looked up.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use plumbline_core::declared::WorkloadRef;

/// Marks the API server's copy of a static pod.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The kind and name that stay the same when the pod is replaced.
pub(super) fn owner(meta: &ObjectMeta, node: Option<&str>) -> WorkloadRef {
    let name = meta.name.as_deref().unwrap_or_default();
    let mirror = meta
        .annotations
        .as_ref()
        .is_some_and(|annotations| annotations.contains_key(MIRROR));
    match controller(meta) {
        Some(controller) if controller.kind == "Node" => {
            workload("Pod", static_name(name, node.unwrap_or(&controller.name)))
        }
        None if mirror => workload("Pod", static_name(name, node.unwrap_or_default())),
        None => workload("Pod", name),
        Some(controller) if controller.kind == "ReplicaSet" => {
            let hash = meta
                .labels
                .as_ref()
                .and_then(|labels| labels.get("pod-template-hash"));
            match hash.and_then(|hash| without_suffix(&controller.name, hash)) {
                Some(deployment) => workload("Deployment", deployment),
                None => workload("ReplicaSet", &controller.name),
            }
        }
        Some(controller) if controller.kind == "Job" => job(&controller.name),
        Some(controller) => workload(&controller.kind, &controller.name),
    }
}

/// The owner reference of the controller.
pub(super) fn controller(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references
        .iter()
        .flatten()
        .find(|reference| reference.controller == Some(true))
}

/// A `WorkloadRef`.
pub(super) fn workload(kind: &str, name: &str) -> WorkloadRef {
    WorkloadRef {
        kind: kind.to_owned(),
        name: name.to_owned(),
    }
}

/// A CronJob names its Jobs `NAME-MINUTES`, minutes since 1970. The range is 2021 (when that began) to 2084 and holds no
/// date of the form 20261122, so that a Job named for a day stays a Job.
fn job(name: &str) -> WorkloadRef {
    const MINUTES: std::ops::Range<u32> = 26_800_000..60_000_000;
    match name.rsplit_once('-') {
        Some((cron_job, minutes))
            if !cron_job.is_empty()
                && minutes.len() == 8
                && minutes.parse().is_ok_and(|m| MINUTES.contains(&m)) =>
        {
            workload("CronJob", cron_job)
        }
        _ => workload("Job", name),
    }
}

/// The kubelet names a static pod `NAME-NODE`, the node's name in lower case.
fn static_name<'a>(name: &'a str, node: &str) -> &'a str {
    without_suffix(name, &node.to_lowercase()).unwrap_or(name)
}

/// `web-5d4f` without `5d4f` is `web`.
fn without_suffix<'a>(name: &'a str, suffix: &str) -> Option<&'a str> {
    let rest = name
        .strip_suffix(suffix)
        .filter(|_| !suffix.is_empty())?
        .strip_suffix('-')?;
    (!rest.is_empty()).then_some(rest)
}
