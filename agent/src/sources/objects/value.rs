//! A generic document to a typed object: what is not needed is dropped first, so that a mistake in a field that nobody
//! reads does not cost the pod; what remains is deserialized with the path of the first mistake.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::ObjectError;

const META: [&str; 7] = [
    "name",
    "generateName",
    "namespace",
    "uid",
    "labels",
    "annotations",
    "ownerReferences",
];
const POD_SPEC: [&str; 8] = [
    "volumes",
    "containers",
    "initContainers",
    "ephemeralContainers",
    "hostNetwork",
    "runtimeClassName",
    "nodeName",
    "resources",
];
const CONTAINER: [&str; 10] = [
    "volumeMounts",
    "name",
    "image",
    "ports",
    "resources",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
    "restartPolicy",
];
const CONTAINER_LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];
const POD_STATUS: [&str; 6] = [
    "phase",
    "podIP",
    "podIPs",
    "containerStatuses",
    "initContainerStatuses",
    "ephemeralContainerStatuses",
];
const CONTAINER_STATUS_LISTS: [&str; 3] = [
    "containerStatuses",
    "initContainerStatuses",
    "ephemeralContainerStatuses",
];
const CONTAINER_STATUS: [&str; 7] = [
    "name",
    "containerID",
    "imageID",
    "restartCount",
    "state",
    "resources",
    "allocatedResources",
];
const SERVICE_SPEC: [&str; 7] = [
    "externalIPs",
    "selector",
    "clusterIP",
    "clusterIPs",
    "externalTrafficPolicy",
    "type",
    "ports",
];

/// Drops what is not needed of `metadata`.
pub(super) fn trim_meta(object: &mut Value) {
    keep(object.get_mut("metadata"), &META);
}

/// Drops what is not needed of a pod.
pub(super) fn trim_pod(pod: &mut Value) {
    trim_meta(pod);
    if let Some(spec) = pod.get_mut("spec") {
        trim_pod_spec(spec);
    }
    keep(pod.get_mut("status"), &POD_STATUS);
    for list in CONTAINER_STATUS_LISTS {
        for status in elements(
            pod.get_mut("status")
                .and_then(|status| status.get_mut(list)),
        ) {
            keep(Some(&mut *status), &CONTAINER_STATUS);
            keep(status.get_mut("state"), &["running"]);
            trim_resources(status.get_mut("resources"));
            trim_list(status.get_mut("allocatedResources"));
        }
    }
}

/// Drops what is not needed of a pod template.
pub(super) fn trim_template(template: &mut Value) {
    trim_meta(template);
    if let Some(spec) = template.get_mut("spec") {
        trim_pod_spec(spec);
    }
}

/// Drops what is not needed of a Node.
pub(super) fn trim_node(node: &mut Value) {
    trim_meta(node);
    if let Value::Object(object) = node {
        object.remove("spec");
    }
    keep(node.get_mut("status"), &["addresses", "allocatable"]);
    trim_list(
        node.get_mut("status")
            .and_then(|status| status.get_mut("allocatable")),
    );
}

/// Drops what is not needed of a Service.
pub(super) fn trim_service(service: &mut Value) {
    trim_meta(service);
    keep(service.get_mut("spec"), &SERVICE_SPEC);
    keep(service.get_mut("status"), &["loadBalancer"]);
    let balancer = service
        .get_mut("status")
        .and_then(|status| status.get_mut("loadBalancer"));
    if let Some(balancer) = balancer {
        keep(Some(&mut *balancer), &["ingress"]);
        for ingress in elements(balancer.get_mut("ingress")) {
            keep(Some(ingress), &["ip"]);
        }
    }
}

/// Drops what is not needed of a Namespace.
pub(super) fn trim_namespace(namespace: &mut Value) {
    trim_meta(namespace);
    if let Value::Object(object) = namespace {
        object.remove("spec");
        object.remove("status");
    }
}

/// Drops what is not needed of a NetworkPolicy.
pub(super) fn trim_policy(policy: &mut Value) {
    trim_meta(policy);
    if let Value::Object(object) = policy {
        object.remove("status");
    }
}

/// Deserializes `value`; a mistake is told with its path.
pub(super) fn typed<T: DeserializeOwned>(value: Value) -> Result<T, ObjectError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        ObjectError::new(
            if path == "." { String::new() } else { path },
            error.into_inner().to_string(),
        )
    })
}

fn trim_pod_spec(spec: &mut Value) {
    keep(Some(&mut *spec), &POD_SPEC);
    trim_resources(spec.get_mut("resources"));
    for list in CONTAINER_LISTS {
        for container in elements(spec.get_mut(list)) {
            keep(Some(&mut *container), &CONTAINER);
            trim_resources(container.get_mut("resources"));
            for mount in elements(container.get_mut("volumeMounts")) {
                keep(Some(mount), &["name", "mountPath"]);
            }
        }
    }
    for volume in elements(spec.get_mut("volumes")) {
        keep(Some(&mut *volume), &["name", "projected"]);
        let projected = volume
            .get_mut("projected")
            .filter(|projected| projected.is_object());
        let Some(projected) = projected else { continue };
        keep(Some(&mut *projected), &["sources"]);
        for source in elements(projected.get_mut("sources")) {
            keep(Some(source), &["serviceAccountToken"]);
        }
    }
}

/// Keeps CPU only. Kubernetes takes `cpu: 2` and `cpu: 0.5` without quotes, its published types do not.
fn trim_resources(resources: Option<&mut Value>) {
    let Some(resources) = resources else { return };
    keep(Some(&mut *resources), &["requests", "limits"]);
    for list in ["requests", "limits"] {
        trim_list(resources.get_mut(list));
    }
}

fn trim_list(list: Option<&mut Value>) {
    let Some(list) = list else { return };
    keep(Some(&mut *list), &["cpu"]);
    if let Some(cpu @ Value::Number(_)) = list.get_mut("cpu") {
        *cpu = Value::String(cpu.to_string());
    }
}

fn keep(value: Option<&mut Value>, keys: &[&str]) {
    if let Some(Value::Object(object)) = value {
        object.retain(|key, _| keys.contains(&key.as_str()));
    }
}

fn elements(list: Option<&mut Value>) -> impl Iterator<Item = &mut Value> {
    list.and_then(Value::as_array_mut).into_iter().flatten()
}

/// The object's own text fields, for what is decided before it is typed.
pub(super) fn text<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    object.get(key).and_then(Value::as_str)
}
