//! Routes from outside of the cluster to Services: Ingresses, and the routes of the Gateway API.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use plumbline_core::declared::{DeclaredRoute, RouteBackend};
use serde_json::Value;

use super::ObjectError;
use super::container::port_number;
use super::pod::{name, namespace};
use super::value;

/// Backends of one route. Further ones are not used.
const BACKENDS_MAX: usize = 1_000;

/// An `Ingress`.
///
/// # Errors
/// No name, or a port that is none: the Ingress is then not used at all.
pub(super) fn ingress(object: &Value) -> Result<DeclaredRoute, ObjectError> {
    let route = Route::new("Ingress", object)?;
    let mut backends = BTreeSet::new();
    let by_default = object.pointer("/spec/defaultBackend");
    let paths = items(object.pointer("/spec/rules"))
        .flat_map(|rule| items(rule.pointer("/http/paths")))
        .filter_map(|path| path.get("backend"));
    for backend in by_default.into_iter().chain(paths).take(BACKENDS_MAX) {
        let Some(service) = backend.pointer("/service/name").and_then(Value::as_str) else {
            continue;
        };
        backends.insert(RouteBackend {
            namespace: route.namespace.clone(),
            service: service.to_owned(),
            port: port(backend.pointer("/service/port/number"))?,
        });
    }
    Ok(route.to(backends))
}

/// An `HTTPRoute`, `GRPCRoute`, `TLSRoute`, `TCPRoute` or `UDPRoute`.
///
/// # Errors
/// As for [`ingress`].
pub(super) fn gateway_route(kind: &str, object: &Value) -> Result<DeclaredRoute, ObjectError> {
    let route = Route::new(kind, object)?;
    let mut backends = BTreeSet::new();
    let references =
        items(object.pointer("/spec/rules")).flat_map(|rule| items(rule.get("backendRefs")));
    for reference in references.take(BACKENDS_MAX) {
        let text = |field: &str| reference.get(field).and_then(Value::as_str);
        let (Some(service), "Service") = (text("name"), text("kind").unwrap_or("Service")) else {
            continue;
        };
        backends.insert(RouteBackend {
            namespace: text("namespace").unwrap_or(&route.namespace).to_owned(),
            service: service.to_owned(),
            port: port(reference.get("port"))?,
        });
    }
    Ok(route.to(backends))
}

/// What names a route.
struct Route {
    kind: String,
    namespace: String,
    name: String,
}

impl Route {
    fn new(kind: &str, object: &Value) -> Result<Self, ObjectError> {
        let mut metadata = serde_json::json!({"metadata": object.get("metadata")});
        value::trim_meta(&mut metadata);
        let metadata: Option<ObjectMeta> =
            value::typed(metadata["metadata"].take()).map_err(|error| error.under("metadata"))?;
        let metadata = metadata.unwrap_or_default();
        Ok(Self {
            kind: kind.to_owned(),
            namespace: namespace(&metadata),
            name: name(&metadata)?,
        })
    }

    fn to(self, backends: BTreeSet<RouteBackend>) -> DeclaredRoute {
        DeclaredRoute {
            kind: self.kind,
            namespace: self.namespace,
            name: self.name,
            backends: backends.into_iter().collect(),
        }
    }
}

fn port(given: Option<&Value>) -> Result<Option<u16>, ObjectError> {
    let Some(number) = given.filter(|given| !given.is_null()) else {
        return Ok(None);
    };
    let number = number
        .as_i64()
        .and_then(|number| i32::try_from(number).ok());
    port_number(number.unwrap_or(0))
        .map(Some)
        .map_err(|message| ObjectError::new("port", message))
}

fn items(list: Option<&Value>) -> impl Iterator<Item = &Value> {
    list.and_then(Value::as_array).into_iter().flatten()
}
