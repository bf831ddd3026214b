//! NetworkPolicy and AdminNetworkPolicy as their documentation puts them, without any preparation.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use plumbline_core::declared::{
    AdminAction, AdminPeer, AdminPods, AdminRule, Cidr, DeclaredAdminPolicy, LabelOperator,
    LabelSelector, PeerPod, PolicyPeer, PolicyPort, PolicyPorts, PolicyRule, Transport,
};

use crate::world::World;

/// An end of a flow.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Who {
    Pod(usize),
    Node { own: bool, address: IpAddr },
    Outside(IpAddr),
    Unknown,
}

/// A fact; `None` where the API or the cluster leaves it open.
type Fact = Option<bool>;

/// Results that are possible.
type Possible = BTreeSet<&'static str>;

pub(crate) fn verdict(
    world: &World,
    from: &Who,
    to: &Who,
    transport: Transport,
    port: u16,
) -> &'static str {
    let about = About {
        world,
        to: to.clone(),
        transport,
        port,
    };
    let leaving = about.end(from, to, false);
    let arriving = about.end(to, from, true);
    let either = |word: &str| leaving == word || arriving == word;
    ["deny", "unknown", "allow"]
        .into_iter()
        .find(|word| either(word))
        .unwrap_or("none")
}

/// Rules of NetworkPolicies that match the flow at one of its ends, which is a pod: policy and place.
pub(crate) fn matching(
    world: &World,
    from: &Who,
    to: &Who,
    (transport, port): (Transport, u16),
    ingress: bool,
) -> BTreeSet<(String, u32)> {
    let about = About {
        world,
        to: to.clone(),
        transport,
        port,
    };
    let (this, other) = if ingress { (to, from) } else { (from, to) };
    let Who::Pod(index) = this else {
        return BTreeSet::new();
    };
    let pod = &world.pods[*index];
    let mut found = BTreeSet::new();
    for policy in &world.declared.policies {
        let rules = if ingress {
            &policy.ingress
        } else {
            &policy.egress
        };
        if policy.namespace != pod.namespace || !holds(&policy.selector, &pod.labels) {
            continue;
        }
        for (place, rule) in (0..).zip(rules.iter().flatten()) {
            if about.rule(&policy.namespace, rule, other) == Some(true) {
                found.insert((format!("{}/{}", policy.namespace, policy.name), place));
            }
        }
    }
    found
}

struct About<'a> {
    world: &'a World,
    to: Who,
    transport: Transport,
    port: u16,
}

impl About<'_> {
    fn end(&self, this: &Who, other: &Who, ingress: bool) -> &'static str {
        let index = match this {
            Who::Pod(index) => *index,
            Who::Unknown => return "unknown",
            Who::Node { .. } | Who::Outside(_) => return "none",
        };
        let pod = &self.world.pods[index];
        if self.world.is_foreign(&pod.namespace) {
            return "unknown";
        }
        let networks = self.network(pod, other, ingress);
        let admins = self.selecting_admins(pod);
        if networks.is_none() && admins.is_empty() {
            return "none";
        }
        if pod.host_network {
            return "unknown";
        }
        let itself = *other == Who::Pod(index);
        let own_node = ingress && matches!(other, Who::Node { own: true, .. });
        if itself || own_node {
            return if networks.is_some() { "allow" } else { "none" };
        }
        let mut possible = Possible::new();
        // An uncertain subject: with the policy and without. Orders of equal priority: all of them.
        for chain in chains(&admins) {
            self.walk(&chain, networks.as_ref(), other, ingress, &mut possible);
        }
        // A pod in its node's network may be on this very node, which always reaches its pods.
        let host = matches!(other, Who::Pod(other) if self.world.pods[*other].host_network);
        match possible.len() {
            1 if ingress && host && possible.contains("deny") => "unknown",
            1 => possible.first().unwrap(),
            _ => "unknown",
        }
    }

    /// What the NetworkPolicies may say; `None` where none selects the pod for this direction.
    fn network(&self, pod: &PeerPod, other: &Who, ingress: bool) -> Option<Possible> {
        let mut selected = false;
        let mut certain = false;
        let mut uncertain = false;
        for policy in &self.world.declared.policies {
            let rules = if ingress {
                &policy.ingress
            } else {
                &policy.egress
            };
            let Some(rules) = rules else { continue };
            if policy.namespace != pod.namespace || !holds(&policy.selector, &pod.labels) {
                continue;
            }
            selected = true;
            for rule in rules {
                match self.rule(&policy.namespace, rule, other) {
                    Some(true) => certain = true,
                    None => uncertain = true,
                    Some(false) => {}
                }
            }
        }
        let possible = match (certain, uncertain) {
            (true, _) => vec!["allow"],
            (false, true) => vec!["allow", "deny"],
            (false, false) => vec!["deny"],
        };
        selected.then(|| possible.into_iter().collect())
    }

    fn rule(&self, namespace: &str, rule: &PolicyRule, other: &Who) -> Fact {
        let peers = any(
            rule.peers.is_empty(),
            rule.peers
                .iter()
                .map(|peer| self.network_peer(namespace, peer, other)),
        );
        both(peers, self.ports(&rule.ports))
    }

    /// Admin policies whose subject is, or may be, the pod, with the tier and certainty of each.
    fn selecting_admins(&self, pod: &PeerPod) -> Vec<(&DeclaredAdminPolicy, bool)> {
        let all = self.world.declared.admin_policies.iter();
        all.filter_map(|policy| match self.is_of(pod, &policy.subject) {
            Some(true) => Some((policy, true)),
            Some(false) => None,
            None => Some((policy, false)),
        })
        .collect()
    }

    /// Follows one order of admin policies, the baseline last.
    fn walk(
        &self,
        chain: &[&DeclaredAdminPolicy],
        networks: Option<&Possible>,
        other: &Who,
        ingress: bool,
        possible: &mut Possible,
    ) {
        let tier = |baseline: bool| {
            let of_tier = chain
                .iter()
                .filter(move |p| p.priority.is_none() == baseline);
            of_tier.flat_map(|policy| {
                if ingress {
                    &policy.ingress
                } else {
                    &policy.egress
                }
            })
        };
        for result in self.first_match(tier(false).collect(), other) {
            match (result, networks) {
                (Some(AdminAction::Allow), _) => drop(possible.insert("allow")),
                (Some(AdminAction::Deny), _) => drop(possible.insert("deny")),
                (Some(AdminAction::Pass) | None, Some(networks)) => possible.extend(networks),
                (Some(AdminAction::Pass) | None, None) => {
                    for result in self.first_match(tier(true).collect(), other) {
                        possible.insert(match result {
                            Some(AdminAction::Allow) => "allow",
                            Some(AdminAction::Deny) => "deny",
                            Some(AdminAction::Pass) | None => "none",
                        });
                    }
                }
            }
        }
    }

    /// The action of the first rule that matches, in every way in which open facts may be.
    fn first_match(&self, rules: Vec<&AdminRule>, other: &Who) -> Vec<Option<AdminAction>> {
        let Some((first, rest)) = rules.split_first() else {
            return vec![None];
        };
        let peers = any(
            false,
            first.peers.iter().map(|peer| self.admin_peer(peer, other)),
        );
        match both(peers, self.ports(&first.ports)) {
            Some(true) => vec![Some(first.action)],
            Some(false) => self.first_match(rest.to_vec(), other),
            None => {
                let mut all = self.first_match(rest.to_vec(), other);
                all.push(Some(first.action));
                all
            }
        }
    }

    fn network_peer(&self, namespace: &str, peer: &PolicyPeer, other: &Who) -> Fact {
        match peer {
            PolicyPeer::Block { cidr, except } => self.block(cidr, except, other),
            PolicyPeer::Pods { namespaces, pods } => self.pod_peer(other, |pod| {
                let here = match namespaces {
                    None => Some(pod.namespace == namespace),
                    Some(selector) => self.namespace_holds(selector, &pod.namespace),
                };
                both(
                    here,
                    Some(pods.as_ref().is_none_or(|pods| holds(pods, &pod.labels))),
                )
            }),
        }
    }

    fn admin_peer(&self, peer: &AdminPeer, other: &Who) -> Fact {
        match peer {
            AdminPeer::Other(_) => None,
            AdminPeer::Networks(blocks) => any(
                false,
                blocks.iter().map(|cidr| self.block(cidr, &[], other)),
            ),
            AdminPeer::Pods(pods) => self.pod_peer(other, |pod| self.is_of(pod, pods)),
        }
    }

    fn is_of(&self, pod: &PeerPod, pods: &AdminPods) -> Fact {
        let namespace = self.namespace_holds(&pods.namespaces, &pod.namespace);
        both(namespace, Some(holds(&pods.pods, &pod.labels)))
    }

    fn pod_peer(&self, other: &Who, of: impl Fn(&PeerPod) -> Fact) -> Fact {
        match other {
            Who::Pod(index) => {
                let pod = &self.world.pods[*index];
                match of(pod) {
                    Some(false) => Some(false),
                    // In its node's network: a CNI may or may not know it by its labels.
                    _ if pod.host_network => None,
                    fact => fact,
                }
            }
            Who::Outside(_) => Some(false),
            Who::Node { .. } | Who::Unknown => None,
        }
    }

    fn block(&self, cidr: &Cidr, except: &[Cidr], other: &Who) -> Fact {
        let within = |address: IpAddr| {
            in_block(cidr, address) && except.iter().all(|except| !in_block(except, address))
        };
        match other {
            Who::Outside(address) | Who::Node { address, .. } => Some(within(*address)),
            Who::Pod(index) => {
                let ips = &self.world.pods[*index].ips;
                let none = !ips.is_empty() && !ips.iter().any(|ip| within(*ip));
                if none { Some(false) } else { None }
            }
            Who::Unknown => None,
        }
    }

    fn ports(&self, ports: &[PolicyPort]) -> Fact {
        let fact = |port: &PolicyPort| {
            if port.transport != self.transport {
                return Some(false);
            }
            match (&port.ports, &self.to) {
                (PolicyPorts::All, _) => Some(true),
                (PolicyPorts::Range(a, b), _) => Some(*a <= self.port && self.port <= *b),
                (PolicyPorts::Name(name), Who::Pod(index)) => {
                    let named = &self.world.pods[*index].ports;
                    let wanted = (name, self.transport, self.port);
                    Some(
                        named
                            .iter()
                            .any(|p| (&p.name, p.transport, p.port) == wanted),
                    )
                }
                (PolicyPorts::Name(_), Who::Outside(_)) => Some(false),
                (PolicyPorts::Name(_), Who::Node { .. } | Who::Unknown) => None,
            }
        };
        any(ports.is_empty(), ports.iter().map(fact))
    }

    fn namespace_holds(&self, selector: &LabelSelector, name: &str) -> Fact {
        let namespaces = &self.world.declared.namespaces;
        if let Some(namespace) = namespaces.iter().find(|namespace| namespace.name == name) {
            return Some(holds(selector, &namespace.labels));
        }
        // Of a namespace without an object only the label with its name is sure.
        let own: BTreeMap<String, String> =
            [("kubernetes.io/metadata.name".to_owned(), name.to_owned())].into();
        let sure = |key: &String| own.contains_key(key);
        let mut certain = selector.clone();
        certain.labels.retain(|key, _| sure(key));
        certain
            .expressions
            .retain(|expression| sure(&expression.key));
        let open = certain != *selector;
        match (holds(&certain, &own), open) {
            (false, _) => Some(false),
            (true, true) => None,
            (true, false) => Some(true),
        }
    }
}

/// Every order of admin policies that the API allows, with and without those that may not be about the pod.
fn chains<'a>(admins: &[(&'a DeclaredAdminPolicy, bool)]) -> Vec<Vec<&'a DeclaredAdminPolicy>> {
    let Some((&(first, sure), rest)) = admins.split_first() else {
        return vec![Vec::new()];
    };
    let mut all = Vec::new();
    for chain in chains(rest) {
        if !sure {
            all.push(chain.clone());
        }
        let rank = |policy: &DeclaredAdminPolicy| (policy.priority.is_none(), policy.priority);
        for place in 0..=chain.len() {
            let before = chain[..place]
                .iter()
                .all(|other| rank(other) <= rank(first));
            let after = chain[place..]
                .iter()
                .all(|other| rank(first) <= rank(other));
            if before && after {
                let mut chain = chain.clone();
                chain.insert(place, first);
                all.push(chain);
            }
        }
    }
    all
}

fn any(all: bool, facts: impl Iterator<Item = Fact>) -> Fact {
    if all {
        return Some(true);
    }
    let facts: Vec<Fact> = facts.collect();
    if facts.contains(&Some(true)) {
        Some(true)
    } else if facts.contains(&None) {
        None
    } else {
        Some(false)
    }
}

fn both(a: Fact, b: Fact) -> Fact {
    match (a, b) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

fn holds(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    for (key, value) in &selector.labels {
        if labels.get(key) != Some(value) {
            return false;
        }
    }
    for expression in &selector.expressions {
        let value = labels.get(&expression.key);
        let listed = value.is_some_and(|value| expression.values.iter().any(|v| v == value));
        let holds = match expression.operator {
            LabelOperator::In => value.is_some() && listed,
            LabelOperator::NotIn => value.is_none() || !listed,
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        };
        if !holds {
            return false;
        }
    }
    true
}

/// By the text of the block, bit by bit.
fn in_block(cidr: &Cidr, address: IpAddr) -> bool {
    let text = cidr.to_string();
    let (first, prefix) = text.split_once('/').unwrap();
    let bits = |address: IpAddr| -> Vec<u8> {
        let bytes = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        bytes
            .iter()
            .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1))
            .collect()
    };
    let (first, address) = (bits(first.parse().unwrap()), bits(address));
    let prefix: usize = prefix.parse().unwrap();
    first.len() == address.len() && first[..prefix] == address[..prefix]
}
