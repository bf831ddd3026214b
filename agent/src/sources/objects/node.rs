//! Nodes: their addresses, and what their pods may request together.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Node;
use plumbline_core::declared::DeclaredNode;

use super::ObjectError;
use super::pod::name;
use super::quantity::cpu_millis;

/// What a Node says.
///
/// # Errors
/// An address or a quantity that is none, no name: the Node is then not used at all.
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
        addresses: addresses(node, &["InternalIP", "ExternalIP"])?,
        external: addresses(node, &["ExternalIP"])?,
        cpu_allocatable_millis: allocatable,
    })
}

/// Host names are no addresses.
fn addresses(node: &Node, types: &[&str]) -> Result<Vec<IpAddr>, ObjectError> {
    let all = node
        .status
        .iter()
        .filter_map(|status| status.addresses.as_ref());
    let of_type = all
        .flatten()
        .enumerate()
        .filter(|(_, address)| types.contains(&address.type_.as_str()));
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::sources::objects::Objects;

    #[test]
    fn a_node_says_what_its_pods_may_request() {
        let mut objects = Objects::new(10);
        let node = |name: &str, allocatable| {
            json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name },
                    "spec": { "taints": 7 }, "status": { "allocatable": allocatable, "images": 7 } })
        };
        objects.add(
            "dump",
            "",
            node("b", json!({ "cpu": "1930m", "memory": "much" })),
        );
        objects.add("dump", "", node("a", json!({ "cpu": 2 })));
        objects.add("dump", "", node("c", json!({})));
        objects.add("dump", "", node("d", json!({ "cpu": "many" })));
        assert_eq!(objects.problems.len(), 1, "{:?}", objects.problems);
        assert!(objects.problems[0].at.ends_with("status.allocatable.cpu"));
        let nodes = objects.into_declared("test".into()).nodes;
        let nodes: Vec<_> = nodes
            .iter()
            .map(|node| (node.name.as_str(), node.cpu_allocatable_millis))
            .collect();
        assert_eq!(nodes, [("a", Some(2_000)), ("b", Some(1_930)), ("c", None)]);
    }

    #[test]
    fn what_is_in_force_comes_from_the_status() {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" },
            "spec": { "containers": [{ "name": "a", "resources": { "limits": { "cpu": 1 } } }, { "name": "b" }] },
            "status": { "containerStatuses": [
                { "name": "a", "resources": { "requests": { "cpu": "250m" }, "limits": { "cpu": "0.5" } },
                  "allocatedResources": { "cpu": "250m", "memory": "1Gi" } },
                { "name": "b", "resources": { "requests": { "cpu": "nonsense" } } },
            ] },
        });
        let mut objects = Objects::new(10);
        objects.add("dump", "", pod);
        assert_eq!(objects.problems, []);
        let of = |index: usize| {
            let container = &objects.pods[0].containers[index];
            (
                container.cpu_limit_millis,
                container.cpu_request_current_millis,
                container.cpu_limit_current_millis,
                container.cpu_allocated_millis,
            )
        };
        assert_eq!(of(0), (Some(1_000), Some(250), Some(500), Some(250)));
        assert_eq!(of(1), (None, None, None, None));
    }
}
