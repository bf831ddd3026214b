//! From declared policies to what is quick to judge by: each distinct peer once, policies by namespace.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Admin, Namespaces, Peer, PodPeer, Policies, Policy, Rule};
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
        let mut peers = Peers::default();
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
        for policy in standing.chain(candidates) {
            let index = number(all.policies.len());
            let of_namespace = all.of_namespace.entry(policy.namespace.clone());
            of_namespace.or_default().push(index);
            all.policies.push(network(policy, &mut peers));
        }
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
        all.peers = peers.all;
        all
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
