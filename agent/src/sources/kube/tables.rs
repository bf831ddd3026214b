//! What is watched, and what all of it says together.

use std::net::SocketAddr;

use plumbline_core::declared::{
    DeclaredAdminPolicy, DeclaredEndpoints, DeclaredNamespace, DeclaredNode, DeclaredPod,
    DeclaredPolicy, DeclaredRoute, DeclaredService, ForeignPolicies, PeerPod,
};
use serde_json::Value;

use super::super::objects::{
    OBJECTS_MAX, ObjectError, Objects, admin_policy_value, api_servers, endpoints, gateway_route,
    ingress, namespace_value, node_value, pod_value, policy_value, service_value,
};
use super::member::Of;
use super::watch::{Resource, Shared};
use super::{Peers, Watches};

/// Kinds that decide about traffic and are not understood: group and version, resource, and kind. Where one of them is
/// there, nothing is judged that it may be about.
const FOREIGN: [(&str, &str, &str); 8] = [
    (
        "cilium.io/v2",
        "ciliumnetworkpolicies",
        "CiliumNetworkPolicy",
    ),
    (
        "cilium.io/v2",
        "ciliumclusterwidenetworkpolicies",
        "CiliumClusterwideNetworkPolicy",
    ),
    (
        "crd.projectcalico.org/v1",
        "networkpolicies",
        "NetworkPolicy",
    ),
    (
        "crd.projectcalico.org/v1",
        "globalnetworkpolicies",
        "GlobalNetworkPolicy",
    ),
    ("crd.antrea.io/v1beta1", "networkpolicies", "NetworkPolicy"),
    (
        "crd.antrea.io/v1beta1",
        "clusternetworkpolicies",
        "ClusterNetworkPolicy",
    ),
    (
        "policy.networking.k8s.io/v1alpha2",
        "clusternetworkpolicies",
        "ClusterNetworkPolicy",
    ),
    ("k8s.ovn.org/v1", "egressfirewalls", "EgressFirewall"),
];

/// Policies of the administrators.
const ADMIN: [(&str, &str, &str); 2] = [
    (
        "policy.networking.k8s.io/v1alpha1",
        "adminnetworkpolicies",
        "AdminNetworkPolicy",
    ),
    (
        "policy.networking.k8s.io/v1alpha1",
        "baselineadminnetworkpolicies",
        "BaselineAdminNetworkPolicy",
    ),
];

/// What each watch knows.
pub(super) struct Tables {
    pods: Shared<DeclaredPod>,
    services: Shared<DeclaredService>,
    nodes: Shared<DeclaredNode>,
    cluster: Option<Cluster>,
    others: Option<Shared<PeerPod>>,
}

/// What is watched of the cluster for judging.
struct Cluster {
    slices: Shared<Slice>,
    namespaces: Shared<DeclaredNamespace>,
    policies: Shared<DeclaredPolicy>,
    /// With kind and group.
    admin: Vec<(Shared<DeclaredAdminPolicy>, String)>,
    /// Likewise.
    foreign: Vec<(Shared<ForeignPolicies>, String)>,
    routes: Vec<Shared<DeclaredRoute>>,
}

/// An EndpointSlice.
#[derive(Debug, PartialEq)]
pub(super) enum Slice {
    /// Of the API server.
    Servers(Vec<SocketAddr>),
    /// Of another Service; `None`: of none.
    Other(Option<DeclaredEndpoints>),
}

fn core(name: &str) -> Resource {
    Resource {
        name: name.to_owned(),
        path: format!("/api/v1/{name}"),
        fields: None,
    }
}

fn grouped(version: &str, name: &str) -> Resource {
    Resource {
        name: name.to_owned(),
        path: format!("/apis/{version}/{name}"),
        fields: None,
    }
}

/// Of a group that the cluster may not have; its name tells it from others' resources of the same name.
fn optional(version: &str, name: &str) -> Resource {
    let group = version.split('/').next().unwrap_or_default();
    Resource {
        name: format!("{name}.{group}"),
        ..grouped(version, name)
    }
}

impl Resource {
    fn of(self, field: &str, node: &str) -> Self {
        Self {
            fields: Some(format!("{field}{node}")),
            ..self
        }
    }
}

impl Tables {
    pub(super) fn start(watches: &mut Watches, node: &str, peers: Peers) -> Self {
        let own_pods = core("pods").of("spec.nodeName=", node);
        let nodes = match peers {
            Peers::Cluster => core("nodes"),
            Peers::Node | Peers::Off => core("nodes").of("metadata.name=", node),
        };
        let others = || Resource {
            name: "peers".to_owned(),
            ..core("pods").of("spec.nodeName!=", node)
        };
        Self {
            pods: watches.start(Of::Declared, own_pods, pod_value),
            services: watches.start(Of::Declared, core("services"), service_value),
            nodes: watches.start(Of::Probe("peers.nodes"), nodes, node_value),
            cluster: (peers != Peers::Off).then(|| Cluster::start(watches)),
            others: (peers == Peers::Cluster)
                .then(|| watches.start(Of::Far("peers.pods"), others(), peer_value)),
        }
    }

    /// Whether enough is known to compare with.
    pub(super) fn synced(&self) -> bool {
        self.pods.lock().table.synced() && self.services.lock().table.synced()
    }

    /// Everything that is known, in no order.
    pub(super) fn all(&self) -> Objects {
        let mut all = Objects::new(OBJECTS_MAX);
        all.pods.extend(self.pods.lock().table.values().cloned());
        add(&mut all.services, &self.services);
        add(&mut all.nodes, &self.nodes);
        if let Some(others) = &self.others {
            all.peer_pods.extend(others.lock().table.values().cloned());
        }
        if let Some(cluster) = &self.cluster {
            cluster.add(&mut all);
        }
        all
    }
}

impl Cluster {
    fn start(watches: &mut Watches) -> Self {
        let slices = grouped("discovery.k8s.io/v1", "endpointslices");
        let policies = grouped("networking.k8s.io/v1", "networkpolicies");
        let kind = |version: &str, kind: &str| {
            let group = version.split('/').next().unwrap_or_default();
            format!("{kind}.{group}")
        };
        let admin = ADMIN.map(|(version, name, of)| {
            let resource = optional(version, name);
            let convert = if name.starts_with("baseline") {
                baseline_value
            } else {
                admin_value
            };
            (
                watches.start(Of::Optional, resource, convert),
                kind(version, of),
            )
        });
        let foreign = FOREIGN.map(|(version, name, of)| {
            let resource = optional(version, name);
            (
                watches.start(Of::Optional, resource, foreign_value),
                kind(version, of),
            )
        });
        let ingresses = grouped("networking.k8s.io/v1", "ingresses");
        let http = optional("gateway.networking.k8s.io/v1", "httproutes");
        let grpc = optional("gateway.networking.k8s.io/v1", "grpcroutes");
        let routes = vec![
            watches.start(Of::Optional, ingresses, ingress_value),
            watches.start(Of::Optional, http, http_route_value),
            watches.start(Of::Optional, grpc, grpc_route_value),
        ];
        Self {
            slices: watches.start(Of::Probe("peers.endpointslices"), slices, slice_value),
            namespaces: watches.start(
                Of::Probe("policies.namespaces"),
                core("namespaces"),
                namespace_value,
            ),
            policies: watches.start(
                Of::Probe("policies.networkpolicies"),
                policies,
                policy_value,
            ),
            admin: admin.into(),
            foreign: foreign.into(),
            routes,
        }
    }

    fn add(&self, all: &mut Objects) {
        for slice in self.slices.lock().table.values() {
            match &**slice {
                Slice::Servers(servers) => all.api_servers.extend(servers),
                Slice::Other(endpoints) => all.endpoints.extend(endpoints.clone()),
            }
        }
        add(&mut all.namespaces, &self.namespaces);
        add(&mut all.policies, &self.policies);
        all.policies_known =
            self.policies.lock().table.synced() && self.namespaces.lock().table.synced();
        for (policies, kind) in &self.admin {
            add(&mut all.admin_policies, policies);
            all.foreign_policies.extend(unless_known(policies, kind));
        }
        for (policies, kind) in &self.foreign {
            let seen = policies.lock();
            let of = seen.table.values().map(|found| ForeignPolicies {
                kind: kind.clone(),
                namespace: found.namespace.clone(),
            });
            all.foreign_policies.extend(of);
            drop(seen);
            all.foreign_policies.extend(unless_known(policies, kind));
        }
        for routes in &self.routes {
            add(&mut all.routes, routes);
        }
    }
}

/// Policies that may be there and cannot be read may be about everybody.
fn unless_known<T: PartialEq>(policies: &Shared<T>, kind: &str) -> Option<ForeignPolicies> {
    let store = policies.lock();
    (!store.table.synced() && !store.absent).then(|| ForeignPolicies {
        kind: kind.to_owned(),
        namespace: None,
    })
}

fn add<T: Clone + PartialEq>(to: &mut Vec<T>, from: &Shared<T>) {
    to.extend(from.lock().table.values().map(|object| T::clone(object)));
}

fn peer_value(value: Value) -> Result<PeerPod, ObjectError> {
    pod_value(value).map(|pod| PeerPod::from(&pod))
}

fn slice_value(value: Value) -> Result<Slice, ObjectError> {
    if let Some(servers) = api_servers(&value)? {
        return Ok(Slice::Servers(servers));
    }
    endpoints(&value).map(Slice::Other)
}

fn admin_value(value: Value) -> Result<DeclaredAdminPolicy, ObjectError> {
    admin_policy_value(named(value, "AdminNetworkPolicy"))
}

fn baseline_value(value: Value) -> Result<DeclaredAdminPolicy, ObjectError> {
    admin_policy_value(named(value, "BaselineAdminNetworkPolicy"))
}

/// The items of a list do not say what they are.
fn named(mut value: Value, kind: &str) -> Value {
    if let Value::Object(fields) = &mut value {
        fields.insert("kind".to_owned(), kind.into());
    }
    value
}

fn ingress_value(value: Value) -> Result<DeclaredRoute, ObjectError> {
    ingress(&value)
}

fn http_route_value(value: Value) -> Result<DeclaredRoute, ObjectError> {
    gateway_route("HTTPRoute", &value)
}

fn grpc_route_value(value: Value) -> Result<DeclaredRoute, ObjectError> {
    gateway_route("GRPCRoute", &value)
}

/// Where it is, is all that is known of it.
fn foreign_value(value: Value) -> Result<ForeignPolicies, ObjectError> {
    let namespace = value.pointer("/metadata/namespace").and_then(Value::as_str);
    Ok(ForeignPolicies {
        kind: String::new(),
        namespace: namespace
            .filter(|namespace| !namespace.is_empty())
            .map(str::to_owned),
    })
}
