//! Endpoints of Services; those of `default/kubernetes`, which the API server itself writes, say where it answers.

use std::net::SocketAddr;

use plumbline_core::declared::{DeclaredEndpoints, Transport};
use serde_json::Value;

use super::ObjectError;
use super::container::{port_number, transport};

/// Label of an EndpointSlice with the name of its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Endpoints of the API server in an `EndpointSlice` or in `Endpoints`; `None` for those of any other Service.
///
/// # Errors
/// An address or a port that is none: nothing of the object is used.
pub fn api_servers(object: &Value) -> Result<Option<Vec<SocketAddr>>, ObjectError> {
    let all = endpoints(object)?.filter(|endpoints| {
        (endpoints.namespace.as_str(), endpoints.service.as_str()) == ("default", "kubernetes")
    });
    Ok(all.map(|all| {
        let mut servers = Vec::new();
        for ip in &all.addresses {
            let ports = all.ports.iter();
            servers.extend(ports.map(|(_, port)| SocketAddr::new(*ip, *port)));
        }
        servers.sort_unstable();
        servers.dedup();
        servers
    }))
}

/// What an `EndpointSlice` or `Endpoints` say; `None` where they are no Service's, or name no addresses but hosts.
///
/// # Errors
/// An address or a port that is none: nothing of the object is used.
pub fn endpoints(object: &Value) -> Result<Option<DeclaredEndpoints>, ObjectError> {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str);
    let labels = object.pointer("/metadata/labels");
    let service = match text("/kind") {
        Some("Endpoints") => text("/metadata/name"),
        _ => labels.and_then(|labels| labels.get(SERVICE_NAME)?.as_str()),
    };
    let (Some(service), false) = (service, text("/addressType") == Some("FQDN")) else {
        return Ok(None);
    };
    let mut all = DeclaredEndpoints {
        namespace: text("/metadata/namespace").unwrap_or("default").to_owned(),
        name: text("/metadata/name").unwrap_or(service).to_owned(),
        service: service.to_owned(),
        ..DeclaredEndpoints::default()
    };
    match object.get("subsets") {
        Some(subsets) => {
            for (index, subset) in items(Some(subsets)).enumerate() {
                let both =
                    items(subset.get("addresses")).chain(items(subset.get("notReadyAddresses")));
                add(both.map(|address| address.get("ip")), subset, &mut all)
                    .map_err(|error| error.under(&format!("subsets[{index}]")))?;
            }
        }
        None => {
            let endpoints = items(object.get("endpoints"));
            let of = endpoints.flat_map(|endpoint| items(endpoint.get("addresses")).map(Some));
            add(of, object, &mut all)?;
        }
    }
    all.addresses.sort_unstable();
    all.addresses.dedup();
    all.ports.sort_unstable();
    all.ports.dedup();
    Ok(Some(all))
}

/// Adds the addresses, and the ports of `of.ports`.
fn add<'a>(
    addresses: impl Iterator<Item = Option<&'a Value>>,
    of: &Value,
    all: &mut DeclaredEndpoints,
) -> Result<(), ObjectError> {
    for (index, port) in items(of.get("ports")).enumerate() {
        let at = |error: ObjectError| error.under(&format!("ports[{index}]"));
        all.ports.push(port_of(port).map_err(at)?);
    }
    for address in addresses {
        let text = address.and_then(Value::as_str).unwrap_or_default();
        all.addresses.push(text.parse().map_err(|error| {
            ObjectError::new("addresses", format!("{text:?} is no address: {error}"))
        })?);
    }
    Ok(())
}

fn port_of(port: &Value) -> Result<(Transport, u16), ObjectError> {
    let number = port.get("port").and_then(Value::as_i64);
    let number = number
        .and_then(|number| i32::try_from(number).ok())
        .unwrap_or(0);
    let number = port_number(number).map_err(|message| ObjectError::new("port", message))?;
    let protocol = port.get("protocol").and_then(Value::as_str);
    Ok((transport(protocol)?, number))
}

fn items(list: Option<&Value>) -> impl Iterator<Item = &Value> {
    list.and_then(Value::as_array).into_iter().flatten()
}
