//! Containers of a pod: ports, the ports of probes, CPU, and what the status says of each.

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ContainerStatus, EphemeralContainer, Lifecycle, LifecycleHandler,
    PodSpec, PodStatus, Probe, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use plumbline_core::declared::{ContainerKind, DeclaredContainer, DeclaredPort, Transport};
use plumbline_core::id::ContainerId;

use super::ObjectError;
use super::quantity::cpu_millis;

/// All containers of a pod in the order of the spec: init containers and sidecars, then regular, then ephemeral ones.
pub(super) fn containers(
    spec: &PodSpec,
    status: Option<&PodStatus>,
) -> Result<Vec<DeclaredContainer>, ObjectError> {
    let host_network = spec.host_network == Some(true);
    let mut all = Vec::new();
    for (index, container) in spec.init_containers.iter().flatten().enumerate() {
        let sidecar = container.restart_policy.as_deref() == Some("Always");
        let kind = if sidecar {
            ContainerKind::Sidecar
        } else {
            ContainerKind::Init
        };
        all.push(
            declared(container, kind, host_network)
                .map_err(|error| error.under(&format!("initContainers[{index}]")))?,
        );
    }
    for (index, container) in spec.containers.iter().enumerate() {
        let kind = ContainerKind::Regular;
        all.push(
            declared(container, kind, host_network)
                .map_err(|error| error.under(&format!("containers[{index}]")))?,
        );
    }
    all.extend(spec.ephemeral_containers.iter().flatten().map(ephemeral));
    if let Some(status) = status {
        for container in &mut all {
            add_status(container, status);
        }
    }
    Ok(all)
}

/// `requests.cpu` and `limits.cpu` in thousandths of a CPU, as written.
pub(super) fn cpu(
    resources: Option<&ResourceRequirements>,
) -> Result<(Option<u64>, Option<u64>), ObjectError> {
    let Some(resources) = resources else {
        return Ok((None, None));
    };
    let read = |list: &str, quantities: Option<&std::collections::BTreeMap<String, _>>| {
        let quantity = quantities.and_then(|quantities| quantities.get("cpu"));
        let error = |message| ObjectError::new(format!("resources.{list}.cpu"), message);
        quantity.map(cpu_millis).transpose().map_err(error)
    };
    Ok((
        read("requests", resources.requests.as_ref())?,
        read("limits", resources.limits.as_ref())?,
    ))
}

/// A port number, 1 to 65535.
pub(super) fn port_number(number: i32) -> Result<u16, String> {
    u16::try_from(number)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| format!("{number} is not a port: 1 to 65535"))
}

/// `protocol`; TCP when absent.
pub(super) fn transport(protocol: Option<&str>) -> Result<Transport, ObjectError> {
    match protocol {
        None | Some("" | "TCP") => Ok(Transport::Tcp),
        Some("UDP") => Ok(Transport::Udp),
        Some("SCTP") => Ok(Transport::Sctp),
        Some(other) => Err(ObjectError::new(
            "protocol",
            format!("{other:?} is none of TCP, UDP, SCTP"),
        )),
    }
}

fn declared(
    container: &Container,
    kind: ContainerKind,
    host_network: bool,
) -> Result<DeclaredContainer, ObjectError> {
    let mut ports = Vec::new();
    for (index, port) in container.ports.iter().flatten().enumerate() {
        ports.push(
            declared_port(port, host_network)
                .map_err(|error| error.under(&format!("ports[{index}]")))?,
        );
    }
    let probe_ports = probe_ports(container, &ports)?;
    let (request, limit) = cpu(container.resources.as_ref())?;
    Ok(DeclaredContainer {
        name: container.name.clone(),
        kind,
        image: container.image.clone().unwrap_or_default(),
        ports,
        probe_ports,
        // The API server writes this default into applied objects; a manifest that was never applied lacks it.
        cpu_request_millis: request.or(limit),
        cpu_limit_millis: limit,
        ..DeclaredContainer::default()
    })
}

/// Kubernetes takes neither ports nor probes nor resources of an ephemeral container.
fn ephemeral(container: &EphemeralContainer) -> DeclaredContainer {
    DeclaredContainer {
        name: container.name.clone(),
        kind: ContainerKind::Ephemeral,
        image: container.image.clone().unwrap_or_default(),
        ..DeclaredContainer::default()
    }
}

fn declared_port(port: &ContainerPort, host_network: bool) -> Result<DeclaredPort, ObjectError> {
    let number = port_number(port.container_port)
        .map_err(|message| ObjectError::new("containerPort", message))?;
    let host_port = match port.host_port {
        None | Some(0) => host_network.then_some(number),
        Some(host_port) => {
            Some(port_number(host_port).map_err(|message| ObjectError::new("hostPort", message))?)
        }
    };
    Ok(DeclaredPort {
        name: port.name.clone().filter(|name| !name.is_empty()),
        port: number,
        host_port,
        transport: transport(port.protocol.as_deref())?,
    })
}

/// Ports that the kubelet dials: sorted, each once.
fn probe_ports(container: &Container, ports: &[DeclaredPort]) -> Result<Vec<u16>, ObjectError> {
    let mut found = Vec::new();
    for (field, probe) in [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ] {
        if let Some(probe) = probe {
            found.extend(probe_port(probe, ports).map_err(|error| error.under(field))?);
        }
    }
    if let Some(Lifecycle {
        post_start,
        pre_stop,
        ..
    }) = &container.lifecycle
    {
        for (field, handler) in [
            ("lifecycle.postStart", post_start),
            ("lifecycle.preStop", pre_stop),
        ] {
            if let Some(handler) = handler {
                found.extend(handler_port(handler, ports).map_err(|error| error.under(field))?);
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn probe_port(probe: &Probe, ports: &[DeclaredPort]) -> Result<Option<u16>, ObjectError> {
    if let Some(get) = &probe.http_get {
        return resolved(&get.port, ports)
            .map_err(|message| ObjectError::new("httpGet.port", message));
    }
    if let Some(socket) = &probe.tcp_socket {
        return resolved(&socket.port, ports)
            .map_err(|message| ObjectError::new("tcpSocket.port", message));
    }
    let Some(grpc) = &probe.grpc else {
        return Ok(None);
    };
    port_number(grpc.port)
        .map(Some)
        .map_err(|message| ObjectError::new("grpc.port", message))
}

fn handler_port(
    handler: &LifecycleHandler,
    ports: &[DeclaredPort],
) -> Result<Option<u16>, ObjectError> {
    if let Some(get) = &handler.http_get {
        return resolved(&get.port, ports)
            .map_err(|message| ObjectError::new("httpGet.port", message));
    }
    let Some(socket) = &handler.tcp_socket else {
        return Ok(None);
    };
    resolved(&socket.port, ports).map_err(|message| ObjectError::new("tcpSocket.port", message))
}

/// As the kubelet does: a name of the container's own ports, or a number written as text. A name that no port bears
/// resolves to nothing: such a probe dials nothing.
fn resolved(port: &IntOrString, ports: &[DeclaredPort]) -> Result<Option<u16>, String> {
    match port {
        IntOrString::Int(number) => port_number(*number).map(Some),
        IntOrString::String(name) => {
            let named = ports
                .iter()
                .find(|port| port.name.as_deref() == Some(name))
                .map(|port| port.port);
            Ok(named.or_else(|| name.parse().ok().filter(|number| *number != 0)))
        }
    }
}

fn add_status(container: &mut DeclaredContainer, status: &PodStatus) {
    let statuses = match container.kind {
        ContainerKind::Regular => &status.container_statuses,
        ContainerKind::Init | ContainerKind::Sidecar => &status.init_container_statuses,
        ContainerKind::Ephemeral => &status.ephemeral_container_statuses,
    };
    let Some(status) = statuses
        .iter()
        .flatten()
        .find(|status| status.name == container.name)
    else {
        return;
    };
    container.container_id = status.container_id.as_deref().and_then(bare_id);
    let scheme = |id: &String| Some(id.split_once("://")?.0.to_owned());
    container.runtime = status.container_id.as_ref().and_then(scheme);
    container.image_id = Some(status.image_id.clone()).filter(|id| !id.is_empty());
    container.started_unix_ns = started(status);
    container.restart_count = u64::try_from(status.restart_count).ok();
    // What a status says wrongly is not known; the pod itself stands.
    let (request, limit) = cpu(status.resources.as_ref()).unwrap_or_default();
    container.cpu_request_current_millis = request;
    container.cpu_limit_current_millis = limit;
    container.cpu_allocated_millis = status
        .allocated_resources
        .as_ref()
        .and_then(|resources| cpu_millis(resources.get("cpu")?).ok());
}

/// `containerd://0123` is `0123`.
fn bare_id(id: &str) -> Option<ContainerId> {
    let bare = id.split_once("://").map_or(id, |(_, bare)| bare);
    (!bare.is_empty()).then(|| ContainerId::new(bare))
}

fn started(status: &ContainerStatus) -> Option<u64> {
    let running = status.state.as_ref()?.running.as_ref()?;
    u64::try_from(running.started_at.as_ref()?.0.as_nanosecond()).ok()
}
