//! Services.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort as ApiPort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use plumbline_core::declared::{DeclaredService, ServicePort, TargetPort};

use super::ObjectError;
use super::container::{port_number, transport};
use super::pod::{name, namespace};

/// What a Service declares.
///
/// # Errors
/// A port out of range, an address that is none, no name: the Service is then not used at all.
pub fn service(service: &Service) -> Result<DeclaredService, ObjectError> {
    let meta = &service.metadata;
    let empty = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&empty);
    let mut ports = Vec::new();
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        ports.push(
            service_port(port).map_err(|error| error.under(&format!("spec.ports[{index}]")))?,
        );
    }
    Ok(DeclaredService {
        namespace: namespace(meta),
        name: name(meta)?,
        selector: spec.selector.clone().unwrap_or_default(),
        cluster_ips: cluster_ips(spec)?,
        external_ips: external_ips(spec)?,
        load_balancer_ips: load_balancer_ips(service)?,
        service_type: spec.type_.clone().unwrap_or_else(|| "ClusterIP".to_owned()),
        keeps_source: spec.external_traffic_policy.as_deref() == Some("Local"),
        ports,
    })
}

fn service_port(port: &ApiPort) -> Result<ServicePort, ObjectError> {
    let number = port_number(port.port).map_err(|message| ObjectError::new("port", message))?;
    let target = match &port.target_port {
        // The API server writes the port itself in place of these.
        None | Some(IntOrString::Int(0)) => TargetPort::Number(number),
        Some(IntOrString::String(name)) if name.is_empty() => TargetPort::Number(number),
        Some(IntOrString::String(name)) => TargetPort::Name(name.clone()),
        Some(IntOrString::Int(target)) => TargetPort::Number(
            port_number(*target).map_err(|message| ObjectError::new("targetPort", message))?,
        ),
    };
    let node_port = port
        .node_port
        .filter(|node_port| *node_port != 0)
        .map(port_number)
        .transpose();
    Ok(ServicePort {
        port: number,
        target,
        node_port: node_port.map_err(|message| ObjectError::new("nodePort", message))?,
        transport: transport(port.protocol.as_deref())?,
    })
}

/// `clusterIPs`, or `clusterIP` where the server or the manifest has only that. `None` marks a headless Service.
fn cluster_ips(spec: &ServiceSpec) -> Result<Vec<IpAddr>, ObjectError> {
    let all = spec
        .cluster_ips
        .iter()
        .flatten()
        .enumerate()
        .map(|(index, ip)| (format!("spec.clusterIPs[{index}]"), ip));
    let single = spec
        .cluster_ip
        .iter()
        .map(|ip| ("spec.clusterIP".to_owned(), ip));
    let given: Vec<_> = if spec.cluster_ips.as_ref().is_some_and(|ips| !ips.is_empty()) {
        all.collect()
    } else {
        single.collect()
    };
    let given = given.into_iter();
    given
        .filter(|(_, ip)| !ip.is_empty() && *ip != "None")
        .map(|(path, ip)| address(path, ip))
        .collect()
}

fn external_ips(spec: &ServiceSpec) -> Result<Vec<IpAddr>, ObjectError> {
    let given = spec.external_ips.iter().flatten().enumerate();
    given
        .map(|(index, ip)| address(format!("spec.externalIPs[{index}]"), ip))
        .collect()
}

/// What has only a host name has no address yet.
fn load_balancer_ips(service: &Service) -> Result<Vec<IpAddr>, ObjectError> {
    let status = service.status.as_ref();
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    let given = balancer.and_then(|balancer| balancer.ingress.as_ref());
    let given = given.into_iter().flatten().enumerate();
    let with_ip = given.filter_map(|(index, ingress)| Some((index, ingress.ip.as_ref()?)));
    with_ip
        .filter(|(_, ip)| !ip.is_empty())
        .map(|(index, ip)| address(format!("status.loadBalancer.ingress[{index}].ip"), ip))
        .collect()
}

fn address(path: String, ip: &str) -> Result<IpAddr, ObjectError> {
    ip.parse()
        .map_err(|error| ObjectError::new(path, format!("{ip:?} is no address: {error}")))
}
