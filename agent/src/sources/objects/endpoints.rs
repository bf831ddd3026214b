//! Where the API server answers: the endpoints of the Service `default/kubernetes`, which the API server itself writes.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::ObjectError;
use super::container::port_number;

/// Label of an EndpointSlice with the name of its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Endpoints of an `EndpointSlice` or of `Endpoints`; `None` for those of any other Service.
///
/// # Errors
/// An address or a port that is none: nothing of the object is used.
pub fn api_servers(object: &Value) -> Result<Option<Vec<SocketAddr>>, ObjectError> {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str);
    let labels = object.pointer("/metadata/labels");
    let service = match text("/kind") {
        Some("Endpoints") => text("/metadata/name"),
        _ => labels.and_then(|labels| labels.get(SERVICE_NAME)?.as_str()),
    };
    if (text("/metadata/namespace"), service) != (Some("default"), Some("kubernetes")) {
        return Ok(None);
    }
    let mut all = Vec::new();
    match object.get("subsets") {
        Some(subsets) => {
            for (index, subset) in items(Some(subsets)).enumerate() {
                let of = items(subset.get("addresses")).map(|address| address.get("ip"));
                pairs(of, subset, &mut all)
                    .map_err(|error| error.under(&format!("subsets[{index}]")))?;
            }
        }
        None => {
            let endpoints = items(object.get("endpoints"));
            let of = endpoints.flat_map(|endpoint| items(endpoint.get("addresses")).map(Some));
            pairs(of, object, &mut all)?;
        }
    }
    all.sort_unstable();
    all.dedup();
    Ok(Some(all))
}

/// Each address with each of `of.ports`.
fn pairs<'a>(
    addresses: impl Iterator<Item = Option<&'a Value>>,
    of: &Value,
    all: &mut Vec<SocketAddr>,
) -> Result<(), ObjectError> {
    let mut ports = Vec::new();
    for (index, port) in items(of.get("ports")).enumerate() {
        let number = port.get("port").and_then(Value::as_i64);
        let number = number
            .and_then(|number| i32::try_from(number).ok())
            .unwrap_or(0);
        let path = format!("ports[{index}].port");
        ports.push(port_number(number).map_err(|message| ObjectError::new(path, message))?);
    }
    for address in addresses {
        let text = address.and_then(Value::as_str).unwrap_or_default();
        let ip: IpAddr = text.parse().map_err(|error| {
            ObjectError::new("addresses", format!("{text:?} is no address: {error}"))
        })?;
        all.extend(ports.iter().map(|port| SocketAddr::new(ip, *port)));
    }
    Ok(())
}

fn items(list: Option<&Value>) -> impl Iterator<Item = &Value> {
    list.and_then(Value::as_array).into_iter().flatten()
}
