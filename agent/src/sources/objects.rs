//! Kubernetes objects to what the core calls declared. Pure: no files, no network, no clock.
//!
//! Both declared sources end here, so equal objects give equal results wherever they came from. An object that makes no
//! sense is skipped as a whole and told with the path of the mistake: half a pod would make findings that nobody caused.

mod adminpolicy;
mod container;
mod convert;
mod endpoints;
mod error;
mod namespace;
mod networkpolicy;
mod node;
mod owner;
mod pod;
mod quantity;
mod route;
mod service;
mod value;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use plumbline_core::declared::{
    Declared, DeclaredAdminPolicy, DeclaredEndpoints, DeclaredNamespace, DeclaredNode, DeclaredPod,
    DeclaredPolicy, DeclaredProblem, DeclaredRoute, DeclaredService, ForeignPolicies,
};
use serde_json::Value;

use convert::{Converted, object};
pub use convert::{
    admin_policy_value, namespace_value, node_value, pod_value, policy_value, service_value,
};
pub use endpoints::{api_servers, endpoints};
pub use error::ObjectError;
pub use pod::pod;
pub use service::service;

/// Objects read from one source. Further ones are not used, and that is told once.
pub const OBJECTS_MAX: usize = 100_000;
/// Problems kept with their text. Further ones are counted only.
pub const PROBLEMS_MAX: usize = 1_000;
/// Kinds counted by name. Further ones are counted together.
const IGNORED_KINDS_MAX: usize = 100;
/// Lists inside lists. `kubectl` makes one.
const LIST_DEPTH_MAX: usize = 4;

/// What a set of objects says, and what could not be used of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// In the order of reading.
    pub pods: Vec<Arc<DeclaredPod>>,
    /// In the order of reading.
    pub services: Vec<DeclaredService>,
    /// In the order of reading.
    pub nodes: Vec<DeclaredNode>,
    /// Endpoints of the API server, in the order of reading.
    pub api_servers: Vec<SocketAddr>,
    /// In the order of reading.
    pub namespaces: Vec<DeclaredNamespace>,
    /// A list of NetworkPolicies was among the objects, or a policy: an empty list is an answer too.
    pub policies_known: bool,
    /// In the order of reading.
    pub policies: Vec<DeclaredPolicy>,
    /// In the order of reading.
    pub admin_policies: Vec<DeclaredAdminPolicy>,
    /// In the order of reading.
    pub foreign_policies: Vec<ForeignPolicies>,
    /// In the order of reading.
    pub endpoints: Vec<DeclaredEndpoints>,
    /// In the order of reading.
    pub routes: Vec<DeclaredRoute>,
    /// The first [`PROBLEMS_MAX`].
    pub problems: Vec<DeclaredProblem>,
    /// All, those without text too.
    pub problems_total: u64,
    /// Objects of other kinds, by kind.
    pub ignored: BTreeMap<String, u64>,
    /// Objects of all kinds, usable or not; those over the room too.
    pub seen: usize,
    room: usize,
}

impl Objects {
    /// Nothing yet, with room for this many objects.
    #[must_use]
    pub fn new(room: usize) -> Self {
        Self {
            room,
            ..Self::default()
        }
    }

    /// Takes in one document: an object, or a list of them. `at` names the document, `path` the place of `value` in it.
    pub fn add(&mut self, at: &str, path: &str, value: Value) {
        self.add_nested(at, path, value, 0);
    }

    /// Counts one object that could not be used.
    pub fn problem(&mut self, at: &str, error: &ObjectError) {
        self.problems_total += 1;
        if self.problems.len() < PROBLEMS_MAX {
            let at = if error.path.is_empty() {
                at.to_owned()
            } else {
                format!("{at}: {}", error.path)
            };
            self.problems.push(DeclaredProblem {
                at,
                message: error.message.clone(),
            });
        }
    }

    fn add_nested(&mut self, at: &str, path: &str, mut value: Value, depth: usize) {
        if let Some((item_kind, items)) = take_items(&mut value) {
            self.policies_known |= item_kind.kind == "NetworkPolicy";
            let Some(items) = items else {
                return self.problem(
                    at,
                    &ObjectError::new(error::join(path, "items"), "expected a list"),
                );
            };
            if depth == LIST_DEPTH_MAX {
                return self.problem(
                    at,
                    &ObjectError::new(path, "more than four lists inside each other"),
                );
            }
            for (index, mut item) in items.into_iter().enumerate() {
                item_kind.name(&mut item);
                self.add_nested(
                    at,
                    &error::join(path, &format!("items[{index}]")),
                    item,
                    depth + 1,
                );
            }
            return;
        }
        if value.is_null() {
            return;
        }
        self.seen += 1;
        if self.seen > self.room {
            if self.seen == self.room + 1 {
                let message = format!(
                    "more than {OBJECTS_MAX} objects: the rest is not used; give a smaller dump"
                );
                self.problem(at, &ObjectError::new(path, message));
            }
            return;
        }
        let unread = convert::policy_namespace(&value);
        match object(value) {
            Ok(converted) => self.take(converted),
            Err(error) => {
                self.foreign_policies.extend(unread);
                self.problem(at, &error.under(path));
            }
        }
    }

    fn take(&mut self, converted: Converted) {
        match converted {
            Converted::Pod(pod) => self.pods.push(Arc::new(pod)),
            Converted::Service(service) => self.services.push(service),
            Converted::Node(node) => self.nodes.push(node),
            Converted::ApiServers(servers) => self.api_servers.extend(servers),
            Converted::Endpoints(endpoints) => self.endpoints.push(endpoints),
            Converted::Namespace(namespace) => self.namespaces.push(namespace),
            Converted::Policy(policy) => {
                self.policies_known = true;
                self.policies.push(policy);
            }
            Converted::AdminPolicy(policy) => self.admin_policies.push(policy),
            Converted::Foreign(policies) => self.foreign_policies.push(policies),
            Converted::Route(route) => self.routes.push(route),
            Converted::OtherKind(kind) => self.ignore(kind),
            Converted::NoPods => {}
        }
    }

    fn ignore(&mut self, kind: String) {
        let room = self.ignored.len() < IGNORED_KINDS_MAX || self.ignored.contains_key(&kind);
        *self
            .ignored
            .entry(if room { kind } else { "other".to_owned() })
            .or_default() += 1;
    }

    /// Takes in what another set says.
    pub fn append(&mut self, other: &Self) {
        self.pods.extend(other.pods.iter().cloned());
        self.services.extend(other.services.iter().cloned());
        self.nodes.extend(other.nodes.iter().cloned());
        self.api_servers.extend(&other.api_servers);
        self.namespaces.extend(other.namespaces.iter().cloned());
        self.policies_known |= other.policies_known;
        self.policies.extend(other.policies.iter().cloned());
        self.admin_policies
            .extend(other.admin_policies.iter().cloned());
        self.foreign_policies
            .extend(other.foreign_policies.iter().cloned());
        self.endpoints.extend(other.endpoints.iter().cloned());
        self.routes.extend(other.routes.iter().cloned());
        let room = PROBLEMS_MAX.saturating_sub(self.problems.len());
        self.problems
            .extend(other.problems.iter().take(room).cloned());
        self.problems_total += other.problems_total;
        self.seen += other.seen;
        for (kind, count) in &other.ignored {
            *self.ignored.entry(kind.clone()).or_default() += count;
        }
    }

    /// Everything in the order the core wants, each pod and Service once: of two with one identity the later stands.
    #[must_use]
    pub fn into_declared(mut self, source: String) -> Declared {
        keep_last(&mut self.pods, |pod| {
            (
                pod.namespace.clone(),
                pod.name.clone(),
                pod.uid.clone(),
                pod.owner.clone(),
            )
        });
        keep_last(&mut self.services, |service| {
            (service.namespace.clone(), service.name.clone())
        });
        keep_last(&mut self.nodes, |node| node.name.clone());
        self.api_servers.sort_unstable();
        self.api_servers.dedup();
        keep_last(&mut self.namespaces, |namespace| namespace.name.clone());
        keep_last(&mut self.policies, |policy| {
            (policy.namespace.clone(), policy.name.clone())
        });
        keep_last(&mut self.admin_policies, |policy| {
            (policy.name.clone(), policy.priority.is_none())
        });
        keep_last(&mut self.endpoints, |endpoints| {
            (endpoints.namespace.clone(), endpoints.name.clone())
        });
        keep_last(&mut self.routes, |route| {
            (
                route.kind.clone(),
                route.namespace.clone(),
                route.name.clone(),
            )
        });
        self.foreign_policies.sort();
        self.foreign_policies.dedup();
        Declared {
            source,
            pods: self.pods,
            services: self.services,
            nodes: self.nodes,
            api_servers: self.api_servers,
            peer_pods: Vec::new(),
            namespaces: self.namespaces,
            policies_known: self.policies_known,
            policies: self.policies,
            admin_policies: self.admin_policies,
            foreign_policies: self.foreign_policies,
            endpoints: self.endpoints,
            routes: self.routes,
            problems: self.problems,
            problems_total: self.problems_total,
        }
    }
}

/// Sorts by `key`; of equal keys only the last one in the former order is kept.
fn keep_last<T, K: Ord>(all: &mut Vec<T>, key: impl Fn(&T) -> K) {
    all.reverse();
    all.sort_by_cached_key(&key);
    all.dedup_by(|later, earlier| key(later) == key(earlier));
}

/// Kind and version that the items of a `PodList` do not repeat.
pub(super) struct ItemKind {
    kind: String,
    version: Option<String>,
}

impl ItemKind {
    /// For the items of a list of this kind; `None` when that is no kind of list.
    pub(super) fn of(list_kind: &str, version: Option<&str>) -> Option<Self> {
        let kind = list_kind.strip_suffix("List")?.to_owned();
        Some(Self {
            kind,
            version: version.map(str::to_owned),
        })
    }

    /// Names an item that does not name itself. The items of a plain `List` must.
    pub(super) fn name(&self, item: &mut Value) {
        if let Value::Object(item) = item
            && !self.kind.is_empty()
        {
            item.entry("kind")
                .or_insert_with(|| self.kind.as_str().into());
            if let Some(version) = &self.version {
                item.entry("apiVersion")
                    .or_insert_with(|| version.as_str().into());
            }
        }
    }
}

/// The items of a list; `None` inside when they are something else.
fn take_items(value: &mut Value) -> Option<(ItemKind, Option<Vec<Value>>)> {
    let list = value.as_object_mut()?;
    let item_kind = ItemKind::of(value::text(list, "kind")?, value::text(list, "apiVersion"))?;
    let items = match list.get_mut("items") {
        Some(Value::Array(items)) => Some(std::mem::take(items)),
        Some(Value::Null) | None => Some(Vec::new()),
        Some(_) => None,
    };
    Some((item_kind, items))
}
