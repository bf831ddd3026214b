//! Would the policies of the cluster let a flow through? A pure function of the declared side.
//!
//! A flow passes if the client's end may send it and the server's end may take it. Each end is judged by itself:
//!
//! 1. AdminNetworkPolicies that select the pod, lowest priority first: the first rule that matches decides, `Pass` leaves it to
//!    the next step.
//! 2. NetworkPolicies that select the pod, for this direction: one matching rule of any of them lets the flow through, and
//!    when none matches it is denied. There is no order and no rule that denies.
//! 3. Where none selects the pod: the BaselineAdminNetworkPolicy, likewise by its first matching rule.
//! 4. Else nothing is decided: `none`, which passes.
//!
//! A reply belongs to its connection: who dialed is the client, and only that direction is asked. What the API leaves open is
//! `unknown`, never guessed: pods in the network of their node, an `ipBlock` that holds an address of a pod, a namespace that
//! is not known, a peer that is not known, admin policies of equal priority that disagree, policies of kinds that are not
//! understood. `unknown` gives way only where every possible answer is the same.

mod admin;
mod admission;
mod compile;
mod endpoint;
mod index;
mod judge;
mod rules;
mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::declared::{
    AdminAction, AdminPods, Cidr, DeclaredNamespace, LabelSelector, PeerPod, PolicyPort, Transport,
};
pub use admission::Admission;
pub use endpoint::Endpoint;
use index::{Index, Ports};
pub use judge::{Judgement, Side, SideVerdict};
use rules::Both;
pub use service::Backend;

/// What the policies say of a flow, or of one end of it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// A policy decides, and lets it through.
    Allow,
    /// A policy decides, and does not let it through.
    Deny,
    /// No policy decides: it passes.
    None,
    /// It cannot be told.
    #[default]
    Unknown,
}

impl Verdict {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Allow, Self::Deny, Self::None, Self::Unknown];

    /// The lower-case word used in JSON and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::None => "none",
            Self::Unknown => "unknown",
        }
    }

    /// Of a flow, from the verdicts of its ends: either may stop it, and what one leaves open is open.
    #[must_use]
    pub fn of_both(egress: Self, ingress: Self) -> Self {
        match (egress, ingress) {
            (Self::Deny, _) | (_, Self::Deny) => Self::Deny,
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::Allow, _) | (_, Self::Allow) => Self::Allow,
            (Self::None, Self::None) => Self::None,
        }
    }
}

/// Which way a policy looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Connections to the pod.
    Ingress,
    /// Connections from the pod.
    Egress,
}

impl Direction {
    /// The word of the API, in lower case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// One end of a flow.
#[derive(Clone, Copy, Debug)]
pub enum End<'a> {
    /// A pod with a network of its own, or one in the network of its node.
    Pod(&'a Endpoint),
    /// A node of the cluster, or a pod in its network.
    Node {
        /// It is the node of the pod at the other end.
        own: bool,
        /// Its address.
        address: IpAddr,
    },
    /// Surely nobody of the cluster.
    Outside(IpAddr),
    /// Not known.
    Unknown,
}

/// A flow, as it is when every translation of addresses is done: to the pod's own address and port.
#[derive(Clone, Copy, Debug)]
pub struct Flow<'a> {
    /// Who dialed.
    pub from: End<'a>,
    /// Who was dialed.
    pub to: End<'a>,
    /// Its protocol.
    pub transport: Transport,
    /// The server's port.
    pub port: u16,
}

/// A rule that matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleRef {
    /// Of which policy.
    policy: PolicyRef,
    direction: Direction,
    index: u32,
}

/// One policy, by its place in [`Policies`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum PolicyRef {
    Network(u32),
    Admin(u32),
}

/// All policies, compiled.
#[derive(Debug, Default)]
pub struct Policies {
    /// The source tells of all policies.
    known: bool,
    namespaces: BTreeMap<String, Arc<DeclaredNamespace>>,
    policies: Vec<Policy>,
    of_namespace: BTreeMap<String, OfNamespace>,
    /// Rules of NetworkPolicies by what they name.
    index: Index,
    /// Lowest priority first, the baseline last.
    admin: Vec<Admin>,
    /// Distinct peers of rules of admin policies.
    admin_peers: Vec<PodPeer>,
    /// Namespaces with policies that are not understood, and what these are called.
    foreign: BTreeMap<String, String>,
    /// Likewise for policies that may be about any pod.
    foreign_everywhere: Option<String>,
}

/// NetworkPolicies of one namespace.
#[derive(Debug, Default)]
struct OfNamespace {
    policies: Vec<u32>,
    ports: Arc<Both<Ports>>,
}

/// A NetworkPolicy.
#[derive(Debug)]
struct Policy {
    name: String,
    selector: LabelSelector,
    /// The numbers of its rules.
    numbers: Both<Range<u32>>,
    ingress: Option<Vec<Rule>>,
    egress: Option<Vec<Rule>>,
}

impl Policy {
    fn keys(&self) -> Vec<(String, Direction, u32)> {
        let of = |direction| {
            let rules = (0..).zip(self.rules(direction).unwrap_or_default());
            rules.map(move |(index, _)| (self.name.clone(), direction, index))
        };
        of(Direction::Ingress)
            .chain(of(Direction::Egress))
            .collect()
    }

    fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

/// An AdminNetworkPolicy, or the baseline.
#[derive(Debug)]
struct Admin {
    name: String,
    /// `None` is the baseline.
    priority: Option<i32>,
    subject: AdminPods,
    ingress: Vec<(AdminAction, Rule)>,
    egress: Vec<(AdminAction, Rule)>,
}

impl Admin {
    fn rules(&self, direction: Direction) -> &[(AdminAction, Rule)] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

#[derive(Debug)]
struct Rule {
    /// `None` is everybody.
    peers: Option<Vec<Peer>>,
    /// Empty is all.
    ports: Vec<PolicyPort>,
}

#[derive(Debug)]
enum Peer {
    /// Index into [`Policies::admin_peers`], or for NetworkPolicies into the peers of [`Policies::index`].
    Pods(u32),
    Block {
        cidr: Cidr,
        except: Vec<Cidr>,
    },
    /// Of a kind that is not understood.
    Other,
}

/// Pods that a rule names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PodPeer {
    namespaces: Namespaces,
    pods: LabelSelector,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Namespaces {
    /// The policy's own.
    Own(String),
    Selected(LabelSelector),
}

/// Whether something matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Match {
    No,
    Maybe,
    Yes,
}

impl Match {
    fn of(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }

    fn and(self, other: Self) -> Self {
        self.min(other)
    }
}

impl Policies {
    /// Whether the source tells of all policies there are.
    #[must_use]
    pub fn are_known(&self) -> bool {
        self.known
    }

    /// `shop/web ingress[0]`: a rule by the name of its policy and its place there.
    #[must_use]
    pub fn name(&self, rule: RuleRef) -> String {
        let policy = match rule.policy {
            PolicyRef::Network(index) => self.policies[index as usize].name.clone(),
            PolicyRef::Admin(index) => self.admin[index as usize].title(),
        };
        format!("{policy} {}[{}]", rule.direction.as_str(), rule.index)
    }

    /// What a rule of a NetworkPolicy is known by when the policies are compiled anew: policy, direction and place.
    #[must_use]
    pub fn key(&self, rule: RuleRef) -> Option<(String, Direction, u32)> {
        match rule.policy {
            PolicyRef::Network(index) => {
                let policy = self.policies.get(index as usize)?;
                Some((policy.name.clone(), rule.direction, rule.index))
            }
            PolicyRef::Admin(_) => None,
        }
    }

    /// The keys of all rules of NetworkPolicies.
    #[must_use]
    pub fn keys(&self) -> BTreeSet<(String, Direction, u32)> {
        self.policies.iter().flat_map(Policy::keys).collect()
    }

    /// Those of the NetworkPolicies that select one of these pods, of the directions for which they do.
    #[must_use]
    pub fn keys_about<'a>(
        &self,
        pods: impl Iterator<Item = &'a Arc<PeerPod>>,
    ) -> BTreeSet<(String, Direction, u32)> {
        let mut found = BTreeSet::new();
        for pod in pods {
            for index in self.policies_in(&pod.namespace) {
                let policy = &self.policies[*index as usize];
                if !found.contains(index) && policy.selector.selects(&pod.labels) {
                    found.insert(*index);
                }
            }
        }
        let found = found.into_iter();
        found
            .flat_map(|index| self.policies[index as usize].keys())
            .collect()
    }

    /// NetworkPolicies of a namespace.
    fn policies_in(&self, namespace: &str) -> &[u32] {
        let here = self.of_namespace.get(namespace);
        here.map_or(&[], |here| &here.policies)
    }

    /// Policies of a kind that is not understood and that may be about pods of this namespace.
    #[must_use]
    pub fn foreign(&self, namespace: &str) -> Option<&str> {
        let here = self.foreign.get(namespace);
        here.or(self.foreign_everywhere.as_ref())
            .map(String::as_str)
    }

    /// A namespace, where it is known.
    #[must_use]
    pub fn namespace(&self, namespace: &str) -> Option<&DeclaredNamespace> {
        self.namespaces.get(namespace).map(Arc::as_ref)
    }

    /// Its labels.
    #[must_use]
    pub fn namespace_labels(&self, namespace: &str) -> Option<&BTreeMap<String, String>> {
        self.namespace(namespace).map(|namespace| &namespace.labels)
    }
}

impl Admin {
    fn title(&self) -> String {
        match self.priority {
            Some(priority) => format!("AdminNetworkPolicy {} (priority {priority})", self.name),
            None => format!("BaselineAdminNetworkPolicy {}", self.name),
        }
    }
}

#[cfg(test)]
mod tests;
