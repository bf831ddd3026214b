//! One pod as the policies see it: who selects it, and which peers of rules it is.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Direction, Match, Namespaces, PodPeer, Policies, Span};
use crate::declared::{LabelOperator, LabelSelector, NamedPort, PeerPod, Transport};

/// The label that every namespace has with its own name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// A pod, prepared. It stands for one state of the pod and of the policies; when either changes, it is made anew.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) host_network: bool,
    pub(super) ips: Vec<IpAddr>,
    pub(super) ports: Vec<NamedPort>,
    pub(super) ingress: Isolation,
    pub(super) egress: Isolation,
    /// Admin policies that select it, or may.
    pub(super) admin: Vec<(u32, bool)>,
    /// Of 64 rules of [`Policies::rules`] each: those that surely name it, and those that may. Two bits a rule: with 5,000 pods
    /// and 2,000 rules 2.5 MB.
    named: Vec<Bits>,
}

/// The NetworkPolicies that select a pod for one direction.
#[derive(Clone, Debug, Default)]
pub(super) struct Isolation {
    pub(super) policies: Vec<u32>,
    /// Their rules, by 64: the number of the 64, and a bit for each.
    rules: Vec<(u32, u64)>,
}

impl Isolation {
    fn add(&mut self, policy: u32, span: Span) {
        self.policies.push(policy);
        for rule in span.first..span.end {
            let (word, bit) = (rule / 64, 1 << (rule % 64));
            match self.rules.last_mut().filter(|last| last.0 == word) {
                Some((_, bits)) => *bits |= bit,
                None => self.rules.push((word, bit)),
            }
        }
    }
}

/// One bit for each of 64 rules.
#[derive(Clone, Copy, Debug, Default)]
struct Bits {
    yes: u64,
    maybe: u64,
}

impl Bits {
    fn any(self) -> u64 {
        self.yes | self.maybe
    }
}

/// The numbers of the bits that are set.
struct Ones(u64);

impl Iterator for Ones {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let lowest = (self.0 != 0).then(|| self.0.trailing_zeros())?;
        self.0 &= self.0 - 1;
        Some(lowest)
    }
}

impl Endpoint {
    /// The NetworkPolicies that select the pod for this direction; without one it is not isolated.
    pub(super) fn isolation(&self, direction: Direction) -> &Isolation {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// Rules of the policies that select the pod, without those that surely do not name `other`.
    pub(super) fn rules<'a>(
        &'a self,
        direction: Direction,
        other: Option<&'a Self>,
    ) -> impl Iterator<Item = u32> + 'a {
        let words = self.isolation(direction).rules.iter();
        words.flat_map(move |(word, bits)| {
            let naming = other.map_or(u64::MAX, |other| other.bits(*word).any());
            Ones(bits & naming).map(move |bit| word * 64 + bit)
        })
    }

    /// Whether a rule is about it.
    pub(super) fn is_named(&self, rule: u32) -> Match {
        let (bits, bit) = (self.bits(rule / 64), 1_u64 << (rule % 64));
        if bits.yes & bit != 0 {
            Match::Yes
        } else if bits.maybe & bit != 0 {
            Match::Maybe
        } else {
            Match::No
        }
    }

    fn bits(&self, word: u32) -> Bits {
        let bits = self.named.get(word as usize).copied();
        bits.unwrap_or_default()
    }

    fn mark(&mut self, rules: &[u32], how: Match) {
        for rule in rules {
            let Some(bits) = self.named.get_mut(*rule as usize / 64) else {
                continue;
            };
            let bit = 1 << (rule % 64);
            match how {
                Match::Yes => bits.yes |= bit,
                Match::Maybe => bits.maybe |= bit,
                Match::No => {}
            }
        }
    }

    /// Whether it is the same pod.
    pub(super) fn is(&self, other: &Self) -> bool {
        (&self.namespace, &self.name) == (&other.namespace, &other.name)
    }

    /// The numbers that a name of a port has in this pod.
    pub(super) fn has_port(&self, name: &str, transport: Transport, port: u16) -> bool {
        self.ports
            .iter()
            .any(|named| named.name == name && named.transport == transport && named.port == port)
    }
}

impl Policies {
    /// Prepares a pod.
    #[must_use]
    pub fn endpoint(&self, pod: &PeerPod) -> Endpoint {
        let here = self.of_namespace.get(&pod.namespace);
        let (mut ingress, mut egress) = (Isolation::default(), Isolation::default());
        for index in here.into_iter().flatten() {
            let (policy, spans) = (&self.policies[*index as usize], self.spans[*index as usize]);
            if policy.selector.selects(&pod.labels) {
                for (isolation, span) in
                    [(&mut ingress, spans.ingress), (&mut egress, spans.egress)]
                {
                    if let Some(span) = span {
                        isolation.add(*index, span);
                    }
                }
            }
        }
        let mut endpoint = Endpoint {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            host_network: pod.host_network,
            ips: pod.ips.iter().map(IpAddr::to_canonical).collect(),
            ports: pod.ports.clone(),
            ingress,
            egress,
            admin: Vec::new(),
            named: vec![Bits::default(); self.rules.len().div_ceil(64)],
        };
        for (index, policy) in (0_u32..).zip(&self.admin) {
            let subject = &policy.subject;
            let selected = self
                .namespace_is(&pod.namespace, &subject.namespaces)
                .and(Match::of(subject.pods.selects(&pod.labels)));
            if selected != Match::No {
                endpoint.admin.push((index, selected == Match::Yes));
            }
        }
        self.mark(pod, &mut endpoint);
        endpoint
    }

    /// Notes which rules name the pod.
    fn mark(&self, pod: &PeerPod, endpoint: &mut Endpoint) {
        for (peer, rules) in &self.peers {
            let matches = self.is_peer(pod, peer);
            // Some CNIs know a pod in its node's network, and some see the node.
            let matches = match pod.host_network {
                true => matches.and(Match::Maybe),
                false => matches,
            };
            endpoint.mark(rules, matches);
        }
        for (block, rules) in &self.blocks {
            // The API means blocks for what is outside; whether they hold pods too is the CNI's choice.
            let within = endpoint.ips.iter().any(|ip| block.contains(*ip));
            if within || endpoint.ips.is_empty() {
                endpoint.mark(rules, Match::Maybe);
            }
        }
        endpoint.mark(&self.vague, Match::Maybe);
        endpoint.mark(&self.everybody, Match::Yes);
    }

    /// Names of the NetworkPolicies that select a pod with these labels, for one direction. Quicker than an [`Endpoint`].
    #[must_use]
    pub fn selecting(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
        direction: Direction,
    ) -> Vec<&str> {
        let here = self.of_namespace.get(namespace).into_iter().flatten();
        here.filter(|index| self.spans[**index as usize].of(direction).is_some())
            .map(|index| &self.policies[*index as usize])
            .filter(|policy| policy.selector.selects(labels))
            .map(|policy| policy.name.as_str())
            .collect()
    }

    /// Whether admin policies select a pod with these labels, or may.
    #[must_use]
    pub fn has_admin(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        self.admin.iter().any(|policy| {
            let subject = &policy.subject;
            self.namespace_is(namespace, &subject.namespaces) != Match::No
                && subject.pods.selects(labels)
        })
    }

    fn is_peer(&self, pod: &PeerPod, peer: &PodPeer) -> Match {
        let pods = Match::of(peer.pods.selects(&pod.labels));
        if pods == Match::No {
            return Match::No;
        }
        match &peer.namespaces {
            Namespaces::Own(name) => Match::of(*name == pod.namespace),
            Namespaces::Selected(selector) => self.namespace_is(&pod.namespace, selector),
        }
    }

    /// Whether a namespace is selected. Of one that is not known only its name is.
    fn namespace_is(&self, name: &str, selector: &LabelSelector) -> Match {
        if let Some(labels) = self.namespace_labels(name) {
            return Match::of(selector.selects(labels));
        }
        let name = name.to_owned();
        let equal = selector
            .labels
            .iter()
            .map(|(key, value)| match key.as_str() {
                NAME_LABEL => Match::of(*value == name),
                _ => Match::Maybe,
            });
        let expressions = selector.expressions.iter();
        let expressions = expressions.map(|expression| match expression.key.as_str() {
            NAME_LABEL => Match::of(expression.holds(Some(&name))),
            // Holds with the label and without.
            _ if expression.operator == LabelOperator::NotIn && expression.values.is_empty() => {
                Match::Yes
            }
            _ => Match::Maybe,
        });
        equal.chain(expressions).fold(Match::Yes, Match::and)
    }
}
