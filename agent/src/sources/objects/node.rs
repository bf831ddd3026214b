//! Nodes: what their pods may request together.

use k8s_openapi::api::core::v1::Node;
use plumbline_core::declared::DeclaredNode;

use super::ObjectError;
use super::pod::name;
use super::quantity::cpu_millis;

/// What a Node says.
///
/// # Errors
/// A quantity that is none, no name: the Node is then not used at all.
pub(super) fn node(node: &Node) -> Result<DeclaredNode, ObjectError> {
    let allocatable = node
        .status
        .as_ref()
        .and_then(|status| status.allocatable.as_ref()?.get("cpu"));
    let allocatable = allocatable
        .map(cpu_millis)
        .transpose()
        .map_err(|message| ObjectError::new("status.allocatable.cpu", message))?;
    Ok(DeclaredNode {
        name: name(&node.metadata)?,
        cpu_allocatable_millis: allocatable,
    })
}
