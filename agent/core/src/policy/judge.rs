//! The verdict of one flow.

use super::rules::Meeting;
use super::{Direction, End, Endpoint, Flow, Match, Peer, Policies, Rule, RuleRef, Verdict};
use crate::declared::{PolicyPort, PolicyPorts};

/// What the policies say of a flow, and by which rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// The flow.
    pub verdict: Verdict,
    /// The client's end.
    pub egress: Side,
    /// The server's end.
    pub ingress: Side,
}

/// What the policies of one end say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// In a word.
    pub verdict: Verdict,
    /// Why.
    pub why: SideVerdict,
    /// Every rule that matches, also where the first one decides.
    pub rules: Vec<RuleRef>,
}

/// How a verdict came about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SideVerdict {
    /// Not judged.
    #[default]
    NotJudged,
    /// That end is no pod, so that no policy is about it.
    NoPod,
    /// No policy selects the pod for this direction.
    NotSelected,
    /// Rules match.
    Matched,
    /// Policies select the pod, and no rule of them matches.
    NoneMatches,
    /// The node of a pod always reaches it.
    OwnNode,
    /// A pod always reaches itself.
    Itself,
    /// The pod is in the network of its node, where policies are undefined.
    HostNetwork,
    /// Policies of a kind that is not understood are about the pod.
    Foreign,
    /// The source does not tell of all policies.
    PoliciesUnknown,
    /// A rule may match, for something is not known of the other end.
    MayMatch,
    /// That end is not known.
    EndUnknown,
    /// Its endpoints do not agree, or not all of them are known.
    Endpoints,
}

impl Side {
    pub(super) fn new(verdict: Verdict, why: SideVerdict) -> Self {
        Self {
            verdict,
            why,
            rules: Vec::new(),
        }
    }
}

impl Policies {
    /// What the policies say of a flow.
    #[must_use]
    pub fn judge(&self, flow: &Flow<'_>) -> Judgement {
        let egress = self.side(flow, Direction::Egress);
        let ingress = self.side(flow, Direction::Ingress);
        Judgement {
            verdict: Verdict::of_both(egress.verdict, ingress.verdict),
            egress,
            ingress,
        }
    }

    /// What the policies of one end say.
    #[must_use]
    pub fn side(&self, flow: &Flow<'_>, direction: Direction) -> Side {
        let (own, other) = match direction {
            Direction::Egress => (flow.from, flow.to),
            Direction::Ingress => (flow.to, flow.from),
        };
        let pod = match own {
            End::Pod(pod) => pod,
            End::Node { .. } | End::Outside(_) => {
                return Side::new(Verdict::None, SideVerdict::NoPod);
            }
            End::Unknown => return Side::new(Verdict::Unknown, SideVerdict::EndUnknown),
        };
        let unknown = |why| Side::new(Verdict::Unknown, why);
        if !self.known {
            return unknown(SideVerdict::PoliciesUnknown);
        }
        if self.foreign(&pod.namespace).is_some() {
            return unknown(SideVerdict::Foreign);
        }
        let isolated = !pod.policies(direction).is_empty();
        if !isolated && pod.admin.is_empty() {
            return Side::new(Verdict::None, SideVerdict::NotSelected);
        }
        if pod.host_network {
            return unknown(SideVerdict::HostNetwork);
        }
        let always = match other {
            End::Pod(other) if other.is(pod) => Some(SideVerdict::Itself),
            End::Node { own: true, .. } if direction == Direction::Ingress => {
                Some(SideVerdict::OwnNode)
            }
            End::Pod(_) | End::Node { .. } | End::Outside(_) | End::Unknown => None,
        };
        let side = match always {
            Some(why) if isolated => Side::new(Verdict::Allow, why),
            Some(why) => Side::new(Verdict::None, why),
            None if pod.admin.is_empty() => self.by_network(pod, &other, flow, direction),
            None => self.by_admin(pod, &other, flow, direction),
        };
        // It may be on the pod's own node, which always reaches it.
        let host = matches!(other, End::Pod(other) if other.host_network);
        if host && direction == Direction::Ingress && side.verdict == Verdict::Deny {
            return unknown(SideVerdict::HostNetwork);
        }
        side
    }

    /// By the NetworkPolicies that select the pod.
    pub(super) fn by_network(
        &self,
        pod: &Endpoint,
        other: &End<'_>,
        flow: &Flow<'_>,
        direction: Direction,
    ) -> Side {
        if pod.policies(direction).is_empty() {
            return Side::new(Verdict::None, SideVerdict::NotSelected);
        }
        let (mut best, mut rules) = (Match::No, Vec::new());
        let of_namespace = pod.rule_ports.of(direction);
        Meeting::of(pod.selected.of(direction)).each(
            |ports, peers| self.fill((ports, peers), of_namespace, other, flow, direction),
            |met| {
                if met.yes != 0 {
                    best = Match::Yes;
                    rules.reserve(met.yes.count_ones() as usize);
                    let found = met.numbers();
                    rules.extend(found.map(|number| self.index.rule(direction, number)));
                } else if met.possible != 0 {
                    best = best.max(Match::Maybe);
                }
            },
        );
        let (verdict, why) = match best {
            Match::Yes => (Verdict::Allow, SideVerdict::Matched),
            Match::Maybe => (Verdict::Unknown, SideVerdict::MayMatch),
            Match::No => (Verdict::Deny, SideVerdict::NoneMatches),
        };
        Side {
            verdict,
            why,
            rules,
        }
    }

    /// Names of the NetworkPolicies that select a pod for one direction.
    #[must_use]
    pub fn selecting_endpoint(&self, pod: &Endpoint, direction: Direction) -> Vec<String> {
        let names = pod.policies(direction).iter();
        names
            .map(|index| self.policies[*index as usize].name.clone())
            .collect()
    }
}

/// Whether a rule matches a flow; `other` is the end that its peers are about. Ports first: they are quicker to tell.
pub(super) fn matches(rule: &Rule, other: &End<'_>, flow: &Flow<'_>) -> Match {
    let ports = if rule.ports.is_empty() {
        Match::Yes
    } else {
        best(rule.ports.iter().map(|port| is_port(port, flow)))
    };
    match &rule.peers {
        Some(peers) if ports != Match::No => {
            ports.and(best(peers.iter().map(|peer| is_peer(peer, other))))
        }
        Some(_) | None => ports,
    }
}

/// The best of them; no more are asked once one matches.
fn best(all: impl Iterator<Item = Match>) -> Match {
    let mut best = Match::No;
    for one in all {
        best = best.max(one);
        if best == Match::Yes {
            break;
        }
    }
    best
}

fn is_peer(peer: &Peer, other: &End<'_>) -> Match {
    match (peer, other) {
        (_, End::Unknown) | (Peer::Other, _) => Match::Maybe,
        // Some CNIs know a pod in its node's network, and some see the node.
        (Peer::Pods(_), End::Node { .. }) => Match::Maybe,
        (Peer::Pods(_), End::Outside(_)) => Match::No,
        (Peer::Pods(peer), End::Pod(pod)) if pod.host_network => {
            pod.is_peer(*peer).and(Match::Maybe)
        }
        (Peer::Pods(peer), End::Pod(pod)) => pod.is_peer(*peer),
        (Peer::Block { cidr, except }, End::Outside(address) | End::Node { address, .. }) => {
            let excepted = except.iter().any(|except| except.contains(*address));
            Match::of(cidr.contains(*address) && !excepted)
        }
        // The API means blocks for what is outside; whether they hold pods too is the CNI's choice.
        (Peer::Block { cidr, except }, End::Pod(pod)) => {
            let within = pod
                .ips
                .iter()
                .any(|ip| cidr.contains(*ip) && !except.iter().any(|except| except.contains(*ip)));
            if within || pod.ips.is_empty() {
                Match::Maybe
            } else {
                Match::No
            }
        }
    }
}

fn is_port(port: &PolicyPort, flow: &Flow<'_>) -> Match {
    if port.transport != flow.transport {
        return Match::No;
    }
    match &port.ports {
        PolicyPorts::All => Match::Yes,
        PolicyPorts::Range(first, last) => Match::of((*first..=*last).contains(&flow.port)),
        PolicyPorts::Name(name) => match flow.to {
            End::Pod(pod) => Match::of(pod.is_named(name, flow.transport, flow.port)),
            // A name is a pod's.
            End::Outside(_) => Match::No,
            End::Node { .. } | End::Unknown => Match::Maybe,
        },
    }
}
