//! From declared policies to what is quick to judge by: each distinct peer once with the rules that name it, policies by
//! namespace, and rules side by side.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{
    Admin, Block, Namespaces, Peer, PodPeer, Policies, Policy, PolicyRef, Rule, Span, Spans,
};
use crate::declared::{
    AdminPeer, AdminRule, Declared, DeclaredAdminPolicy, DeclaredPolicy, PolicyPeer, PolicyPort,
    PolicyRule,
};

/// Rules and what they name, as they are met.
#[derive(Default)]
struct Rules {
    all: Vec<Rule>,
    peers: BTreeMap<PodPeer, Vec<u32>>,
    blocks: BTreeMap<Block, Vec<u32>>,
    vague: Vec<u32>,
    everybody: Vec<u32>,
}

impl Rules {
    /// Takes in a rule and returns its place. No peers are everybody.
    fn add(
        &mut self,
        (policy, index): (PolicyRef, u32),
        peers: Option<Vec<Named>>,
        ports: &[PolicyPort],
    ) -> u32 {
        let place = number(self.all.len());
        if peers.is_none() {
            self.everybody.push(place);
        }
        let mut peer = |peer| match peer {
            Named::Pods(pods) => {
                self.peers.entry(pods).or_default().push(place);
                Peer::Pods
            }
            Named::Block(block) => {
                self.blocks.entry(block.clone()).or_default().push(place);
                Peer::Block(block)
            }
            Named::Other => {
                self.vague.push(place);
                Peer::Other
            }
        };
        let peers = peers.map(|peers| peers.into_iter().map(&mut peer).collect());
        self.all.push(Rule {
            policy,
            index,
            peers,
            ports: ports.to_vec(),
        });
        place
    }
}

/// Whom a rule names.
enum Named {
    Pods(PodPeer),
    Block(Block),
    Other,
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
        let mut rules = Rules::default();
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
            all.spans.push(Spans {
                ingress: span(index, policy, policy.ingress.as_deref(), &mut rules),
                egress: span(index, policy, policy.egress.as_deref(), &mut rules),
            });
            all.policies.push(Policy {
                name: format!("{}/{}", policy.namespace, policy.name),
                selector: policy.selector.clone(),
            });
        }
        let mut admins: Vec<&DeclaredAdminPolicy> = declared.admin_policies.iter().collect();
        admins.sort_by_key(|policy| (policy.priority.is_none(), policy.priority));
        let admins = (0..).zip(admins);
        all.admin = admins
            .map(|(index, policy)| admin(index, policy, &mut rules))
            .collect();
        for foreign in &declared.foreign_policies {
            match &foreign.namespace {
                Some(namespace) => {
                    let kind = foreign.kind.clone();
                    all.foreign.entry(namespace.clone()).or_insert(kind);
                }
                None => all.foreign_everywhere = Some(foreign.kind.clone()),
            }
        }
        all.rules = rules.all;
        all.peers = rules.peers.into_iter().collect();
        all.blocks = rules.blocks.into_iter().collect();
        all.vague = rules.vague;
        all.everybody = rules.everybody;
        all
    }
}

fn span(
    number_of_policy: u32,
    policy: &DeclaredPolicy,
    given: Option<&[PolicyRule]>,
    rules: &mut Rules,
) -> Option<Span> {
    let first = number(rules.all.len());
    for (index, rule) in (0..).zip(given?) {
        let peers = rule.peers.iter().map(|peer| named(&policy.namespace, peer));
        let peers = (!rule.peers.is_empty()).then(|| peers.collect());
        let of = (PolicyRef::Network(number_of_policy), index);
        rules.add(of, peers, &rule.ports);
    }
    let end = number(rules.all.len());
    Some(Span { first, end })
}

fn named(namespace: &str, peer: &PolicyPeer) -> Named {
    match peer {
        PolicyPeer::Block { cidr, except } => Named::Block(Block {
            cidr: *cidr,
            except: except.clone(),
        }),
        PolicyPeer::Pods { namespaces, pods } => Named::Pods(PodPeer {
            namespaces: match namespaces {
                Some(selector) => Namespaces::Selected(selector.clone()),
                None => Namespaces::Own(namespace.to_owned()),
            },
            pods: pods.clone().unwrap_or_default(),
        }),
    }
}

fn admin(number_of_policy: u32, policy: &DeclaredAdminPolicy, rules: &mut Rules) -> Admin {
    let mut places = |given: &[AdminRule]| {
        let place = |(index, rule): (u32, &AdminRule)| {
            let peers = rule.peers.iter().flat_map(admin_named).collect();
            let of = (PolicyRef::Admin(number_of_policy), index);
            (rule.action, rules.add(of, Some(peers), &rule.ports))
        };
        (0..).zip(given).map(place).collect()
    };
    Admin {
        name: policy.name.clone(),
        priority: policy.priority,
        subject: policy.subject.clone(),
        ingress: places(&policy.ingress),
        egress: places(&policy.egress),
    }
}

fn admin_named(peer: &AdminPeer) -> Vec<Named> {
    match peer {
        AdminPeer::Pods(pods) => vec![Named::Pods(PodPeer {
            namespaces: Namespaces::Selected(pods.namespaces.clone()),
            pods: pods.pods.clone(),
        })],
        AdminPeer::Networks(blocks) => {
            let block = |cidr| Block {
                cidr,
                except: Vec::new(),
            };
            let blocks = blocks.iter().copied().map(block);
            blocks.map(Named::Block).collect()
        }
        AdminPeer::Other(_) => vec![Named::Other],
    }
}

/// A source gives at most 100,000 objects, so that numbers of policies and rules fit.
pub(super) fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
