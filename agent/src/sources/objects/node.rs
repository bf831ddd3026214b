//! Nodes: their addresses.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Node;
use plumbline_core::declared::DeclaredNode;

use super::ObjectError;
use super::pod::name;

/// What a Node says.
///
/// # Errors
/// An address that is none, no name: the Node is then not used at all.
pub(super) fn node(node: &Node) -> Result<DeclaredNode, ObjectError> {
    Ok(DeclaredNode {
        name: name(&node.metadata)?,
        addresses: addresses(node)?,
    })
}

/// Host names are no addresses.
fn addresses(node: &Node) -> Result<Vec<IpAddr>, ObjectError> {
    let all = node
        .status
        .iter()
        .filter_map(|status| status.addresses.as_ref());
    let of_type = all
        .flatten()
        .enumerate()
        .filter(|(_, address)| ["InternalIP", "ExternalIP"].contains(&address.type_.as_str()));
    of_type
        .map(|(index, address)| {
            let text = &address.address;
            text.parse().map_err(|error| {
                let path = format!("status.addresses[{index}].address");
                ObjectError::new(path, format!("{text:?} is no address: {error}"))
            })
        })
        .collect()
}
