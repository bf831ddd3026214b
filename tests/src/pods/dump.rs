//! Pods as the API server shows them, from what really runs. Pure.

use std::net::IpAddr;
use std::sync::PoisonError;

use serde_json::{Map, Value, json};

use super::spec::{
    ContainerSpec, Handler, Kind, PodSpec, PortRef, PortSpec, ProbeKind, ProbeSpec, Qos,
    ServiceSpec, scheme,
};
use super::text::mixed;
use super::{Container, Pod};
use crate::netns::Addresses;

/// A List as `kubectl get -o json` prints it.
pub(super) fn list(items: Vec<Value>) -> Value {
    json!({ "apiVersion": "v1", "kind": "List", "metadata": { "resourceVersion": "" }, "items": items })
}

/// A Service. The address is made up from its place in the list.
pub(super) fn service(service: &ServiceSpec, nth: usize) -> Value {
    let address = format!("10.96.0.{}", nth % 250 + 2);
    let ports: Vec<Value> = service
        .ports
        .iter()
        .map(|(port, target)| json!({ "name": format!("p{port}"), "port": port, "protocol": "TCP", "targetPort": port_ref(target) }))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": service.name, "namespace": or(&service.namespace, "default") },
        "spec": {
            "clusterIP": address,
            "clusterIPs": [address],
            "ports": ports,
            "selector": service.selector,
            "type": or(&service.service_type, "ClusterIP"),
        },
    })
}

/// A pod with its status.
pub(super) fn pod(pod: &Pod) -> Value {
    let parts = &pod.0;
    let containers = parts
        .containers
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let of = |kinds: &[Kind]| -> Vec<&Container> {
        containers
            .iter()
            .filter(|c| kinds.contains(&c.spec.kind))
            .collect()
    };
    let (regular, init, ephemeral) = (
        of(&[Kind::Regular]),
        of(&[Kind::Init, Kind::Sidecar]),
        of(&[Kind::Ephemeral]),
    );
    let mut spec = json!({
        "containers": specs(&regular, parts.spec.host_network),
        "nodeName": "node-1",
        "restartPolicy": "Always",
    });
    let mut status = json!({
        "phase": "Running",
        "qosClass": qos(parts.spec.qos),
        "hostIP": Addresses::nth(1).ipv4,
        "startTime": parts.started,
        "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": parts.started }],
        "containerStatuses": statuses(&regular, &parts.spec),
    });
    let ips: Vec<IpAddr> = match parts.addresses {
        Some(own) => vec![own.ipv4.into(), own.ipv6.into()],
        None => vec![Addresses::nth(1).ipv4.into()],
    };
    status["podIP"] = json!(ips.first());
    status["podIPs"] = ips.iter().map(|ip| json!({ "ip": ip })).collect();
    if parts.spec.host_network {
        spec["hostNetwork"] = json!(true);
    }
    for (list, field, status_field) in [
        (&init, "initContainers", "initContainerStatuses"),
        (
            &ephemeral,
            "ephemeralContainers",
            "ephemeralContainerStatuses",
        ),
    ] {
        if !list.is_empty() {
            spec[field] = json!(specs(list, parts.spec.host_network));
            status[status_field] = json!(statuses(list, &parts.spec));
        }
    }
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata(pod), "spec": spec, "status": status })
}

fn metadata(pod: &Pod) -> Value {
    let parts = &pod.0;
    let mut labels = parts.spec.labels.clone();
    let mut metadata = json!({
        "name": pod.name(),
        "namespace": pod.namespace(),
        "uid": pod.uid(),
        "creationTimestamp": parts.started,
    });
    if let Some((kind, name)) = &parts.spec.owner {
        let suffix = format!(
            "{:x}",
            mixed(
                name.bytes()
                    .fold(0, |state, byte| mixed(state ^ u64::from(byte)))
            ) >> 24
        );
        let (version, kind, name) = match kind.as_str() {
            "Deployment" => {
                labels.insert("pod-template-hash".to_owned(), suffix.clone());
                ("apps/v1", "ReplicaSet", format!("{name}-{suffix}"))
            }
            "CronJob" => ("batch/v1", "Job", format!("{name}-29400000")),
            "Job" => ("batch/v1", "Job", name.clone()),
            other => ("apps/v1", other, name.clone()),
        };
        metadata["ownerReferences"] = json!([
            { "apiVersion": version, "kind": kind, "name": name, "uid": pod.uid(), "controller": true, "blockOwnerDeletion": true }
        ]);
    }
    if let Some(hash) = &parts.config_hash {
        metadata["annotations"] =
            json!({ "kubernetes.io/config.hash": hash, "kubernetes.io/config.source": "file" });
    }
    if !labels.is_empty() {
        metadata["labels"] = json!(labels);
    }
    metadata
}

fn specs(containers: &[&Container], host_network: bool) -> Vec<Value> {
    containers
        .iter()
        .map(|container| container_spec(&container.spec, host_network))
        .collect()
}

fn container_spec(spec: &ContainerSpec, host_network: bool) -> Value {
    let mut value = Map::new();
    value.insert("name".to_owned(), json!(spec.name));
    value.insert("image".to_owned(), json!(image(spec)));
    if spec.kind == Kind::Sidecar {
        value.insert("restartPolicy".to_owned(), json!("Always"));
    }
    if !spec.ports.is_empty() {
        value.insert(
            "ports".to_owned(),
            spec.ports
                .iter()
                .map(|port| container_port(port, host_network))
                .collect(),
        );
    }
    for probe in &spec.probes {
        value.insert(probe_field(probe.kind).to_owned(), probe_value(probe));
    }
    let mut resources = json!({});
    if let Some(limit) = &spec.cpu_limit {
        resources["limits"] = json!({ "cpu": limit });
    }
    if let Some(request) = spec.cpu_request.as_ref().or(spec.cpu_limit.as_ref()) {
        resources["requests"] = json!({ "cpu": request });
    }
    value.insert("resources".to_owned(), resources);
    value.into()
}

fn container_port(port: &PortSpec, host_network: bool) -> Value {
    let mut value =
        json!({ "containerPort": port.port, "protocol": if port.udp { "UDP" } else { "TCP" } });
    if let Some(name) = &port.name {
        value["name"] = json!(name);
    }
    if let Some(host_port) = port.host_port.or(host_network.then_some(port.port)) {
        value["hostPort"] = json!(host_port);
    }
    value
}

fn probe_field(kind: ProbeKind) -> &'static str {
    match kind {
        ProbeKind::Liveness => "livenessProbe",
        ProbeKind::Readiness => "readinessProbe",
        ProbeKind::Startup => "startupProbe",
    }
}

fn probe_value(probe: &ProbeSpec) -> Value {
    let mut value = json!({ "periodSeconds": 10, "timeoutSeconds": 1, "failureThreshold": 3, "successThreshold": 1 });
    match &probe.handler {
        Handler::Http(port) => {
            value["httpGet"] =
                json!({ "path": "/healthz", "port": port_ref(port), "scheme": "HTTP" })
        }
        Handler::Tcp(port) => value["tcpSocket"] = json!({ "port": port_ref(port) }),
        Handler::Grpc(port) => value["grpc"] = json!({ "port": port, "service": "" }),
    }
    value
}

fn statuses(containers: &[&Container], pod: &PodSpec) -> Vec<Value> {
    containers
        .iter()
        .map(|container| {
            json!({
                "name": container.spec.name,
                "image": image(&container.spec),
                "imageID": image_id(&container.spec, &container.id),
                "containerID": format!("{}://{}", scheme(pod.runtime), container.id),
                "ready": true,
                "started": true,
                "restartCount": 0,
                "state": { "running": { "startedAt": container.started } },
            })
        })
        .collect()
}

fn image(spec: &ContainerSpec) -> String {
    if spec.image.is_empty() {
        format!(
            "registry.example/{}:1.0@sha256:{}",
            spec.name,
            digest(&spec.name)
        )
    } else {
        spec.image.clone()
    }
}

/// What a runtime says that runs: the digest by which the image was pulled.
fn image_id(spec: &ContainerSpec, id: &str) -> String {
    if spec.image.is_empty() {
        return format!(
            "registry.example/{}@sha256:{}",
            spec.name,
            digest(&spec.name)
        );
    }
    format!("{}@sha256:{id}", spec.image)
}

/// 64 hex digits that are the same for the same name.
fn digest(name: &str) -> String {
    let hex = name.bytes().map(|byte| format!("{byte:02x}"));
    let hex: String = hex.take(32).collect();
    format!("{hex:0>64}")
}

fn port_ref(port: &PortRef) -> Value {
    match port {
        PortRef::Number(number) => json!(number),
        PortRef::Name(name) => json!(name),
    }
}

fn qos(qos: Qos) -> &'static str {
    match qos {
        Qos::Guaranteed => "Guaranteed",
        Qos::Burstable => "Burstable",
        Qos::BestEffort => "BestEffort",
    }
}

fn or<'a>(text: &'a str, fallback: &'a str) -> &'a str {
    if text.is_empty() { fallback } else { text }
}
