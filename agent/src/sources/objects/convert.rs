//! One object of any kind to what it says.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::net::SocketAddr;

use plumbline_core::declared::{
    DeclaredAdminPolicy, DeclaredEndpoints, DeclaredNamespace, DeclaredNode, DeclaredPod,
    DeclaredPolicy, DeclaredRoute, DeclaredService, ForeignPolicies,
};
use serde_json::Value;

use super::{
    ObjectError, adminpolicy, api_servers, endpoints, namespace, networkpolicy, node, owner, pod,
    route, service, value,
};

pub(super) enum Converted {
    /// A pod, or the template of a workload's pods.
    Pod(DeclaredPod),
    Service(DeclaredService),
    Node(DeclaredNode),
    ApiServers(Vec<SocketAddr>),
    Endpoints(DeclaredEndpoints),
    Namespace(DeclaredNamespace),
    Policy(DeclaredPolicy),
    AdminPolicy(DeclaredAdminPolicy),
    Foreign(ForeignPolicies),
    Route(DeclaredRoute),
    /// A workload from which no pod comes now.
    NoPods,
    OtherKind(String),
}

/// A policy, in case it cannot be read: without it nothing can be said of the pods that it may be about.
pub(super) fn policy_namespace(value: &Value) -> Option<ForeignPolicies> {
    let text = |path: &str| value.pointer(path).and_then(Value::as_str);
    let kind = text("/kind").filter(|kind| kind.ends_with("NetworkPolicy"))?;
    let namespaced = text("/apiVersion") == Some("networking.k8s.io/v1");
    let namespace = text("/metadata/namespace").unwrap_or("default");
    Some(ForeignPolicies {
        kind: format!("{kind} that cannot be read"),
        namespace: namespaced.then(|| namespace.to_owned()),
    })
}

/// One object of any kind.
pub(super) fn object(mut value: Value) -> Result<Converted, ObjectError> {
    let Value::Object(fields) = &value else {
        return Err(ObjectError::new(
            "",
            "not a Kubernetes object: expected a mapping with apiVersion and kind",
        ));
    };
    let missing = |field| ObjectError::new(field, "missing: not a Kubernetes object");
    let kind = value::text(fields, "kind").ok_or_else(|| missing("kind"))?;
    let version = value::text(fields, "apiVersion").ok_or_else(|| missing("apiVersion"))?;
    let group = version.split_once('/').map_or("", |(group, _)| group);
    if let Some(converted) = of_network(group, kind, version, &value) {
        return converted;
    }
    match (group, kind) {
        ("", "Pod") => pod_value(value).map(Converted::Pod),
        ("", "Service") => service_value(value).map(Converted::Service),
        ("", "Node") => node_value(value).map(Converted::Node),
        ("", "Namespace") => namespace_value(value).map(Converted::Namespace),
        ("networking.k8s.io", "NetworkPolicy") => policy_value(value).map(Converted::Policy),
        ("apps" | "extensions", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch", "Job") => {
            let kind = kind.to_owned();
            workload(&mut value, &kind, &["spec", "template"])
        }
        ("batch", "CronJob") => workload(
            &mut value,
            "CronJob",
            &["spec", "jobTemplate", "spec", "template"],
        ),
        _ => Ok(Converted::OtherKind(kind.to_owned())),
    }
}

/// What is told of the network by objects that are not typed as a whole.
fn of_network(
    group: &str,
    kind: &str,
    version: &str,
    value: &Value,
) -> Option<Result<Converted, ObjectError>> {
    match (group, kind) {
        ("", "Endpoints") | ("discovery.k8s.io", "EndpointSlice") => {
            Some(of_endpoints(value, kind))
        }
        ("networking.k8s.io" | "extensions", "Ingress") => {
            Some(route::ingress(value).map(Converted::Route))
        }
        ("gateway.networking.k8s.io", kind) if kind.ends_with("Route") => {
            Some(route::gateway_route(kind, value).map(Converted::Route))
        }
        (_, "AdminNetworkPolicy" | "BaselineAdminNetworkPolicy")
            if version == "policy.networking.k8s.io/v1alpha1" =>
        {
            Some(admin_policy_value(value.clone()).map(Converted::AdminPolicy))
        }
        _ => adminpolicy::foreign(group, kind, value).map(|found| Ok(Converted::Foreign(found))),
    }
}

fn of_endpoints(value: &Value, kind: &str) -> Result<Converted, ObjectError> {
    if let Some(servers) = api_servers(value)? {
        return Ok(Converted::ApiServers(servers));
    }
    let other = || Converted::OtherKind(kind.to_owned());
    Ok(endpoints(value)?.map_or_else(other, Converted::Endpoints))
}

/// A Namespace as the API or a file gives it.
///
/// # Errors
/// The path of the first mistake in a field that is used.
pub fn namespace_value(mut value: Value) -> Result<DeclaredNamespace, ObjectError> {
    value::trim_namespace(&mut value);
    namespace::namespace(&value::typed(value)?)
}

/// A NetworkPolicy as the API or a file gives it.
///
/// # Errors
/// The path of the first mistake.
pub fn policy_value(mut value: Value) -> Result<DeclaredPolicy, ObjectError> {
    value::trim_policy(&mut value);
    networkpolicy::policy(&value::typed(value)?)
}

/// An AdminNetworkPolicy or the BaselineAdminNetworkPolicy as the API or a file gives it.
///
/// # Errors
/// The path of the first mistake.
pub fn admin_policy_value(mut value: Value) -> Result<DeclaredAdminPolicy, ObjectError> {
    value::trim_policy(&mut value);
    adminpolicy::policy(value)
}

/// A Pod as the API or a file gives it.
///
/// # Errors
/// The path of the first mistake in a field that is used.
pub fn pod_value(mut value: Value) -> Result<DeclaredPod, ObjectError> {
    value::trim_pod(&mut value);
    pod(&value::typed(value)?)
}

/// A Service as the API or a file gives it.
///
/// # Errors
/// The path of the first mistake in a field that is used.
pub fn service_value(mut value: Value) -> Result<DeclaredService, ObjectError> {
    value::trim_service(&mut value);
    service(&value::typed(value)?)
}

/// A Node as the API or a file gives it.
///
/// # Errors
/// The path of the first mistake in a field that is used.
pub fn node_value(mut value: Value) -> Result<DeclaredNode, ObjectError> {
    value::trim_node(&mut value);
    node::node(&value::typed(value)?)
}

fn workload(value: &mut Value, kind: &str, template_at: &[&str]) -> Result<Converted, ObjectError> {
    value::trim_meta(value);
    let metadata = value
        .get_mut("metadata")
        .map(Value::take)
        .unwrap_or_default();
    let meta: Option<ObjectMeta> =
        value::typed(metadata).map_err(|error| error.under("metadata"))?;
    let meta = meta.unwrap_or_default();
    let name = pod::name(&meta)?;
    let scaled_to_zero = value.pointer("/spec/replicas").and_then(Value::as_i64) == Some(0);
    let owner = match owner::controller(&meta) {
        // What a Deployment leaves behind of its former revisions.
        Some(_) if scaled_to_zero => return Ok(Converted::NoPods),
        Some(controller) => owner::workload(&controller.kind, &controller.name),
        None => owner::workload(kind, &name),
    };
    let mut template = Value::Null;
    if let Some(found) = template_at
        .iter()
        .try_fold(value, |value, key| value.get_mut(key))
    {
        template = found.take();
    }
    value::trim_template(&mut template);
    let template_at = template_at.join(".");
    let template: Option<PodTemplateSpec> =
        value::typed(template).map_err(|error| error.under(&template_at))?;
    let template = template.ok_or_else(|| ObjectError::new(template_at.as_str(), "missing"))?;
    let declared = pod::template(&template).map_err(|error| error.under(&template_at))?;
    Ok(Converted::Pod(DeclaredPod {
        name,
        namespace: pod::namespace(&meta),
        owner,
        ..declared
    }))
}
