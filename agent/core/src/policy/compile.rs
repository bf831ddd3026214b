//! From declared policies to what is quick to judge by: each distinct peer once, policies by namespace.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::index::{IndexedPeer, Ports};
use super::rules::Both;
use super::{Admin, Direction, Namespaces, OfNamespace, Peer, PodPeer, Policies, Policy, Rule};
use crate::declared::{
    AdminPeer, Declared, DeclaredAdminPolicy, DeclaredPolicy, PolicyPeer, PolicyRule,
};

/// Peers as they are met.
#[derive(Default)]
struct Peers {
    all: Vec<PodPeer>,
    index: BTreeMap<PodPeer, u32>,
}

impl Peers {
    fn intern(&mut self, peer: PodPeer) -> u32 {
        if let Some(index) = self.index.get(&peer) {
            return *index;
        }
        let index = number(self.all.len());
        self.all.push(peer.clone());
        self.index.insert(peer, index);
        index
    }
}

impl Policies {
    /// What the declared side says, compiled.
    #[must_use]
    pub fn new(declared: &Declared) -> Self {
        Self::with(declared, &[])
    }

    /// Likewise, as it would be with these policies: one of the same namespace and name takes the place of what is there.
    #[must_use]
    pub fn with(declared: &Declared, candidates: &[DeclaredPolicy]) -> Self {
        let mut all = Self {
            known: declared.policies_known,
            ..Self::default()
        };
        for namespace in &declared.namespaces {
            let name = namespace.name.clone();
            all.namespaces.insert(name, Arc::new(namespace.clone()));
        }
        let replaced = |policy: &&DeclaredPolicy| {
            !candidates.iter().any(|candidate| {
                (&candidate.namespace, &candidate.name) == (&policy.namespace, &policy.name)
            })
        };
        let standing = declared.policies.iter().filter(replaced);
        let mut policies: Vec<&DeclaredPolicy> = standing.chain(candidates).collect();
        // Rules of a namespace are numbered in a row: a pod is selected by those of its own only.
        policies.sort_by_key(|policy| &policy.namespace);
        all.add(&policies);
        let mut peers = Peers::default();
        all.admin = declared
            .admin_policies
            .iter()
            .map(|policy| admin(policy, &mut peers))
            .collect();
        all.admin
            .sort_by_key(|policy| (policy.priority.is_none(), policy.priority));
        for foreign in &declared.foreign_policies {
            match &foreign.namespace {
                Some(namespace) => {
                    let kind = foreign.kind.clone();
                    all.foreign.entry(namespace.clone()).or_insert(kind);
                }
                None => all.foreign_everywhere = Some(foreign.kind.clone()),
            }
        }
        all.admin_peers = peers.all;
        all
    }
}

impl Policies {
    /// NetworkPolicies, sorted by namespace.
    fn add(&mut self, policies: &[&DeclaredPolicy]) {
        let mut peers = Peers::default();
        for of_namespace in policies.chunk_by(|one, next| one.namespace == next.namespace) {
            let mut here = OfNamespace::default();
            let mut ports = Both::<Ports>::default();
            for policy in of_namespace {
                let number = number(self.policies.len());
                let compiled = network(policy, &mut peers);
                let known = peers.all.iter().skip(self.index.peers.len());
                let known = known.map(|peer| (peer.clone(), Both::default()));
                self.index.peers.extend(known);
                here.policies.push(number);
                self.policies.push(compiled);
                self.add_rules(number, &mut ports);
            }
            ports.ingress.finish();
            ports.egress.finish();
            here.ports = Arc::new(ports);
            let namespace = of_namespace[0].namespace.clone();
            self.of_namespace.insert(namespace, here);
        }
    }

    /// Numbers the rules of a policy, and enters what they name.
    fn add_rules(&mut self, number: u32, ports: &mut Both<Ports>) {
        let Self {
            policies, index, ..
        } = self;
        let policy = &mut policies[number as usize];
        for direction in [Direction::Ingress, Direction::Egress] {
            let mut numbers = 0..0;
            let rules = policy.rules(direction).unwrap_or_default();
            for (place, rule) in (0..).zip(rules) {
                let rule_number = index.number(direction, number, place);
                numbers = if place == 0 {
                    rule_number
                } else {
                    numbers.start
                }..rule_number + 1;
                ports.of_mut(direction).add(rule_number, &rule.ports);
                let Some(peers) = &rule.peers else {
                    index.everybody(direction, rule_number);
                    continue;
                };
                for peer in peers {
                    let peer = match peer {
                        Peer::Pods(peer) => IndexedPeer::Pods(*peer),
                        Peer::Block { cidr, except } => IndexedPeer::Block(*cidr, except),
                        // Only admin policies have others.
                        Peer::Other => continue,
                    };
                    index.peer(direction, rule_number, &peer);
                }
            }
            *policy.numbers.of_mut(direction) = numbers;
        }
    }
}

fn network(policy: &DeclaredPolicy, peers: &mut Peers) -> Policy {
    let mut rules = |given: &Option<Vec<PolicyRule>>| {
        let given = given.as_ref()?;
        let rule = |rule: &PolicyRule| self::rule(&policy.namespace, rule, peers);
        Some(given.iter().map(rule).collect())
    };
    Policy {
        name: format!("{}/{}", policy.namespace, policy.name),
        selector: policy.selector.clone(),
        numbers: Both::default(),
        ingress: rules(&policy.ingress),
        egress: rules(&policy.egress),
    }
}

fn rule(namespace: &str, rule: &PolicyRule, peers: &mut Peers) -> Rule {
    let mut peer = |peer: &PolicyPeer| match peer {
        PolicyPeer::Block { cidr, except } => Peer::Block {
            cidr: *cidr,
            except: except.clone(),
        },
        PolicyPeer::Pods { namespaces, pods } => Peer::Pods(peers.intern(PodPeer {
            namespaces: match namespaces {
                Some(selector) => Namespaces::Selected(selector.clone()),
                None => Namespaces::Own(namespace.to_owned()),
            },
            pods: pods.clone().unwrap_or_default(),
        })),
    };
    Rule {
        peers: (!rule.peers.is_empty()).then(|| rule.peers.iter().map(&mut peer).collect()),
        ports: rule.ports.clone(),
    }
}

fn admin(policy: &DeclaredAdminPolicy, peers: &mut Peers) -> Admin {
    let mut rules = |given: &[crate::declared::AdminRule]| {
        let rule = |rule: &crate::declared::AdminRule| {
            let all = rule.peers.iter().flat_map(|peer| admin_peer(peer, peers));
            let compiled = Rule {
                peers: Some(all.collect()),
                ports: rule.ports.clone(),
            };
            (rule.action, compiled)
        };
        given.iter().map(rule).collect()
    };
    Admin {
        name: policy.name.clone(),
        priority: policy.priority,
        subject: policy.subject.clone(),
        ingress: rules(&policy.ingress),
        egress: rules(&policy.egress),
    }
}

fn admin_peer(peer: &AdminPeer, peers: &mut Peers) -> Vec<Peer> {
    match peer {
        AdminPeer::Pods(pods) => vec![Peer::Pods(peers.intern(PodPeer {
            namespaces: Namespaces::Selected(pods.namespaces.clone()),
            pods: pods.pods.clone(),
        }))],
        AdminPeer::Networks(blocks) => {
            let block = |cidr| Peer::Block {
                cidr,
                except: Vec::new(),
            };
            blocks.iter().copied().map(block).collect()
        }
        AdminPeer::Other(_) => vec![Peer::Other],
    }
}

/// A source gives at most 100,000 objects, so that numbers of policies and peers fit.
fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
