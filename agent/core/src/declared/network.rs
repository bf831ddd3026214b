//! What the network of a cluster was told to let through: namespaces, policies, endpoints and routes from outside.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{DeclaredPod, DeclaredPort, Transport, WorkloadRef};
use crate::id::PodUid;

/// A pod that is only somebody's peer: what policies and names need of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerPod {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: Option<PodUid>,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// The workload that owns the pod.
    pub owner: WorkloadRef,
    /// `spec.nodeName`.
    pub node: Option<String>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// `status.podIPs`.
    pub ips: Vec<IpAddr>,
    /// Container ports with a name, of all containers.
    pub ports: Vec<NamedPort>,
    /// `status.phase` is `Succeeded` or `Failed`.
    pub finished: bool,
}

/// A container port with a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedPort {
    /// `name`.
    pub name: String,
    /// `containerPort`.
    pub port: u16,
    /// `protocol`.
    pub transport: Transport,
}

impl From<&DeclaredPod> for PeerPod {
    fn from(pod: &DeclaredPod) -> Self {
        let ports = pod.containers.iter().flat_map(|container| &container.ports);
        let named = |port: &DeclaredPort| {
            Some(NamedPort {
                name: port.name.clone()?,
                port: port.port,
                transport: port.transport,
            })
        };
        Self {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            labels: pod.labels.clone(),
            owner: pod.owner.clone(),
            node: pod.node.clone(),
            host_network: pod.host_network,
            ips: pod.ips.clone(),
            ports: ports.filter_map(named).collect(),
            finished: pod.finished,
        }
    }
}

/// A label selector. Everything in it must hold; an empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct LabelSelector {
    /// `matchLabels`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// `matchExpressions`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expressions: Vec<LabelExpression>,
}

impl LabelSelector {
    /// Whether these labels are selected.
    #[must_use]
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        let equal = |(key, value): (&String, &String)| labels.get(key) == Some(value);
        self.labels.iter().all(equal)
            && self
                .expressions
                .iter()
                .all(|expression| expression.holds(labels.get(&expression.key)))
    }

    /// Whether it selects whatever there is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.expressions.is_empty()
    }
}

/// One of `matchExpressions`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LabelExpression {
    /// `key`.
    pub key: String,
    /// `operator`.
    pub operator: LabelOperator,
    /// `values`; empty for the operators that take none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

impl LabelExpression {
    /// Whether it holds for the value of its key. A label that is absent is in no set.
    #[must_use]
    pub fn holds(&self, value: Option<&String>) -> bool {
        let within = || value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            LabelOperator::In => within(),
            LabelOperator::NotIn => !within(),
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        }
    }
}

/// `operator` of a label expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LabelOperator {
    /// The label is there, with one of the values.
    In,
    /// The label is absent, or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

/// A `NetworkPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeclaredPolicy {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `spec.podSelector`.
    pub selector: LabelSelector,
    /// Rules of `spec.ingress`; `None` where the policy is not about ingress. An empty list lets nothing in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<PolicyRule>>,
    /// Rules of `spec.egress`, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<PolicyRule>>,
}

/// One rule of a policy: lets through what matches one of the peers and one of the ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyRule {
    /// `from` or `to`; empty is everybody.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<PolicyPeer>,
    /// `ports`; empty is all ports of all protocols.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PolicyPort>,
}

/// One peer of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyPeer {
    /// Pods by their namespace and labels.
    Pods {
        /// `namespaceSelector`; without one, the policy's own namespace.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespaces: Option<LabelSelector>,
        /// `podSelector`; without one, all pods of the namespaces.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pods: Option<LabelSelector>,
    },
    /// `ipBlock`.
    Block {
        /// `cidr`.
        cidr: Cidr,
        /// `except`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        except: Vec<Cidr>,
    },
}

/// One entry of `ports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyPort {
    /// `protocol`.
    pub transport: Transport,
    /// `port` and `endPort`.
    pub ports: PolicyPorts,
}

/// Which ports of a protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyPorts {
    /// No `port`: all.
    All,
    /// From the first to the last; one alone is both.
    Range(u16, u16),
    /// A container port of this name, of the pod that is dialed.
    Name(String),
}

/// `AdminNetworkPolicy` or `BaselineAdminNetworkPolicy` of `policy.networking.k8s.io/v1alpha1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredAdminPolicy {
    /// `metadata.name`.
    pub name: String,
    /// `spec.priority`: the lowest goes first. `None` is the baseline, after all NetworkPolicies.
    pub priority: Option<i32>,
    /// `spec.subject`.
    pub subject: AdminPods,
    /// `spec.ingress`, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<AdminRule>,
    /// `spec.egress`, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<AdminRule>,
}

/// Pods of the cluster by namespace and labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdminPods {
    /// `namespaces` or `namespaceSelector`.
    pub namespaces: LabelSelector,
    /// `podSelector`; empty is all.
    pub pods: LabelSelector,
}

/// One rule of an admin policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminRule {
    /// `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `action`.
    pub action: AdminAction,
    /// `from` or `to`; never empty.
    pub peers: Vec<AdminPeer>,
    /// `ports`; empty is all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PolicyPort>,
}

/// `action` of an admin rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminAction {
    /// Let through, whatever comes after.
    Allow,
    /// Do not let through, whatever comes after.
    Deny,
    /// Leave it to the NetworkPolicies.
    Pass,
}

/// One peer of an admin rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminPeer {
    /// `namespaces` or `pods`.
    Pods(AdminPods),
    /// `networks`.
    Networks(Vec<Cidr>),
    /// Peers that are not evaluated: `nodes`, `domainNames`. Whether they match is unknown.
    Other(String),
}

/// Objects of a kind that also decides about traffic and is not understood here: whom they may be about is not judged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ForeignPolicies {
    /// Kind and group: `CiliumNetworkPolicy.cilium.io`.
    pub kind: String,
    /// Their namespace; `None` where they may be about every pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// An `EndpointSlice` of a Service, or its `Endpoints`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct DeclaredEndpoints {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// The Service.
    pub service: String,
    /// Addresses of endpoints, those not ready too: Kubernetes sends to those that still serve.
    pub addresses: Vec<IpAddr>,
    /// Where the endpoints listen.
    pub ports: Vec<(Transport, u16)>,
}

/// A route from outside of the cluster to Services: an `Ingress`, or a route of the Gateway API.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct DeclaredRoute {
    /// `Ingress`, `HTTPRoute` and the like.
    pub kind: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// Services that it leads to.
    pub backends: Vec<RouteBackend>,
}

/// A Service at the end of a route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RouteBackend {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub service: String,
    /// Number of the Service's port; `None` where it is given by name or not at all: then any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// A block of addresses: `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    first: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// The block of this length around an address. `None` where the address has fewer bits.
    #[must_use]
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let first = masked(address, prefix)?;
        Some(Self { first, prefix })
    }

    /// How many leading bits its addresses share.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether the address is in it. An IPv4-mapped address is one of IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let rest = |bits: u32| bits.saturating_sub(u32::from(self.prefix));
        // A shift by all bits there are leaves nothing to differ in.
        match (address.to_canonical(), self.first) {
            (IpAddr::V4(address), IpAddr::V4(first)) => {
                let differs = address.to_bits() ^ first.to_bits();
                differs.checked_shr(rest(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(address), IpAddr::V6(first)) => {
                let differs = address.to_bits() ^ first.to_bits();
                differs.checked_shr(rest(128)).unwrap_or(0) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    /// Whether all of the other block is in it.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.prefix <= other.prefix && self.contains(other.first)
    }
}

/// The address with all bits after the first `prefix` cleared.
fn masked(address: IpAddr, prefix: u8) -> Option<IpAddr> {
    let prefix = u32::from(prefix);
    match address {
        IpAddr::V4(v4) => {
            let rest = 32_u32.checked_sub(prefix)?;
            let bits = u32::from(v4);
            let kept = bits.checked_shr(rest).unwrap_or(0);
            Some(IpAddr::V4(kept.checked_shl(rest).unwrap_or(0).into()))
        }
        IpAddr::V6(v6) => {
            let rest = 128_u32.checked_sub(prefix)?;
            let bits = u128::from(v6);
            let kept = bits.checked_shr(rest).unwrap_or(0);
            Some(IpAddr::V6(kept.checked_shl(rest).unwrap_or(0).into()))
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

/// A text is no block of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no block of addresses, such as 10.0.0.0/8 or fd00::/64")]
pub struct CidrError(String);

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let parsed = text.split_once('/').and_then(|(address, prefix)| {
            let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
            let prefix = digits.then(|| prefix.parse().ok())??;
            Self::new(address.parse().ok()?, prefix)
        });
        parsed.ok_or_else(|| CidrError(text.to_owned()))
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::Cidr;

    #[test]
    fn blocks_hold_their_own_family_only() {
        for (block, address, within) in [
            ("10.0.0.0/8", "10.255.255.255", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.1.2.3/8", "10.9.9.9", true),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("0.0.0.0/0", "::1", false),
            ("0.0.0.0/0", "::ffff:1.2.3.4", true),
            ("::/0", "1.2.3.4", false),
            ("::/0", "fd00::1", true),
            ("fd00::/64", "fd00::ffff", true),
            ("fd00::/64", "fd00:0:0:1::", false),
            ("1.2.3.4/32", "1.2.3.4", true),
            ("1.2.3.4/32", "1.2.3.5", false),
            ("fd00::1/128", "fd00::1", true),
        ] {
            let parsed: Cidr = block.parse().unwrap();
            assert_eq!(
                parsed.contains(address.parse().unwrap()),
                within,
                "{block} {address}"
            );
        }
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/",
            "fd00::/129",
            "10.0.0/8",
            "x/8",
            "10.0.0.0/8/8",
        ] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
        let parsed: Cidr = "10.1.2.3/8".parse().unwrap();
        assert_eq!(
            serde_json::to_string(&parsed).unwrap(),
            "\"10.0.0.0/8\"",
            "as the API shows it"
        );
    }
}
