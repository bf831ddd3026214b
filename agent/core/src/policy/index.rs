//! What the rules of NetworkPolicies name, each thing once, with the rules that name it.
//!
//! Every list here grows with the entries of `ports`, `from` and `to` that were declared, never with their products.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::rules::{Both, Rules, Window};
use super::{Direction, End, Flow, Match, PodPeer, Policies, PolicyRef, RuleRef};
use crate::declared::{Cidr, PolicyPort, PolicyPorts, Transport};

/// Of all namespaces.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Where a rule stands, by its number: of which policy, and which of its rules for the direction.
    places: Both<Vec<(u32, u32)>>,
    /// Distinct pods that rules name.
    pub(super) peers: Vec<(PodPeer, Both<Rules>)>,
    /// Rules without peers.
    everybody: Both<Rules>,
    /// Rules that name pods.
    by_pods: Both<Rules>,
    /// Rules that name blocks of addresses.
    by_blocks: Both<Rules>,
    blocks: Blocks,
}

/// Distinct blocks of addresses.
#[derive(Debug, Default)]
struct Blocks {
    /// Their lengths, of which there are at most 129.
    prefixes: BTreeSet<u8>,
    /// With what is left out of them.
    all: BTreeMap<Cidr, BTreeMap<Vec<Cidr>, Both<Rules>>>,
}

/// Ports of the rules of one namespace, for one direction.
#[derive(Debug, Default)]
pub(super) struct Ports {
    /// Rules without ports.
    any: Rules,
    tcp: OfTransport,
    udp: OfTransport,
    sctp: OfTransport,
}

#[derive(Debug, Default)]
struct OfTransport {
    all: Rules,
    one: BTreeMap<u16, Rules>,
    /// By their first ports once all are there.
    ranges: Vec<PortRange>,
    names: BTreeMap<String, Rules>,
    /// Those of all names.
    named: Rules,
}

/// Rules of one word with the same range of ports. Many ranges may hold a port, so they lie close together.
#[derive(Clone, Copy, Debug)]
struct PortRange {
    first: u16,
    last: u16,
    word: u32,
    bits: u64,
}

/// One peer of a rule.
pub(super) enum IndexedPeer<'a> {
    /// Index into [`Index::peers`].
    Pods(u32),
    Block(Cidr, &'a [Cidr]),
}

impl Index {
    /// The number of a new rule.
    pub(super) fn number(&mut self, direction: Direction, policy: u32, index: u32) -> u32 {
        let places = self.places.of_mut(direction);
        places.push((policy, index));
        u32::try_from(places.len() - 1).unwrap_or(u32::MAX)
    }

    /// The rule is for everybody.
    pub(super) fn everybody(&mut self, direction: Direction, rule: u32) {
        self.everybody.of_mut(direction).insert(rule);
    }

    /// The rule is for this peer.
    pub(super) fn peer(&mut self, direction: Direction, rule: u32, peer: &IndexedPeer<'_>) {
        match peer {
            IndexedPeer::Pods(peer) => {
                self.by_pods.of_mut(direction).insert(rule);
                let (_, rules) = &mut self.peers[*peer as usize];
                rules.of_mut(direction).insert(rule);
            }
            IndexedPeer::Block(cidr, except) => {
                self.by_blocks.of_mut(direction).insert(rule);
                self.blocks.prefixes.insert(cidr.prefix());
                let of_cidr = self.blocks.all.entry(*cidr).or_default();
                let rules = of_cidr.entry(except.to_vec()).or_default();
                rules.of_mut(direction).insert(rule);
            }
        }
    }

    /// What a rule is called outside.
    pub(super) fn rule(&self, direction: Direction, number: usize) -> RuleRef {
        let (policy, index) = self.places.of(direction)[number];
        RuleRef {
            policy: PolicyRef::Network(policy),
            direction,
            index,
        }
    }

    /// Rules with a block that holds this address.
    fn holding(&self, address: IpAddr) -> impl Iterator<Item = &Both<Rules>> {
        let address = address.to_canonical();
        let blocks = self.blocks.prefixes.iter();
        let blocks = blocks.filter_map(move |prefix| {
            let block = Cidr::new(address, *prefix)?;
            self.blocks.all.get(&block)
        });
        let but = move |except: &[Cidr]| !except.iter().any(|except| except.contains(address));
        blocks
            .flatten()
            .filter_map(move |(except, rules)| but(except).then_some(rules))
    }

    /// Which rules match the other end, in a window.
    fn fill_peers(&self, window: &mut Window, other: &End<'_>, direction: Direction) {
        window.surely(self.everybody.of(direction));
        match other {
            End::Unknown => window.all_perhaps(),
            End::Outside(address) => {
                for rules in self.holding(*address) {
                    window.surely(rules.of(direction));
                }
            }
            End::Node { address, .. } => {
                // Some CNIs know a pod in its node's network, and some see the node.
                window.perhaps(self.by_pods.of(direction));
                for rules in self.holding(*address) {
                    window.surely(rules.of(direction));
                }
            }
            End::Pod(pod) => {
                window.surely(&pod.named.of(direction).yes);
                window.perhaps(&pod.named.of(direction).may);
                if pod.ips.is_empty() {
                    window.perhaps(self.by_blocks.of(direction));
                }
            }
        }
    }
}

impl Ports {
    pub(super) fn add(&mut self, rule: u32, ports: &[PolicyPort]) {
        if ports.is_empty() {
            self.any.insert(rule);
        }
        for port in ports {
            let of = match port.transport {
                Transport::Tcp => &mut self.tcp,
                Transport::Udp => &mut self.udp,
                Transport::Sctp => &mut self.sctp,
            };
            let rules = match &port.ports {
                PolicyPorts::All => &mut of.all,
                PolicyPorts::Range(first, last) if first == last => {
                    of.one.entry(*first).or_default()
                }
                PolicyPorts::Range(first, last) => {
                    of.ranges.push(PortRange {
                        first: *first,
                        last: *last,
                        word: rule / 64,
                        bits: 1 << (rule % 64),
                    });
                    continue;
                }
                PolicyPorts::Name(name) => {
                    of.named.insert(rule);
                    of.names.entry(name.clone()).or_default()
                }
            };
            rules.insert(rule);
        }
    }

    /// All rules are there.
    pub(super) fn finish(&mut self) {
        for of in [&mut self.tcp, &mut self.udp, &mut self.sctp] {
            let ranges = &mut of.ranges;
            ranges.sort_by_key(|range| (range.first, range.last, range.word));
            ranges.dedup_by(|next, kept| {
                let same = (next.first, next.last, next.word) == (kept.first, kept.last, kept.word);
                kept.bits |= if same { next.bits } else { 0 };
                same
            });
            ranges.shrink_to_fit();
        }
    }

    /// Which rules match the port of the flow, in a window.
    fn fill(&self, window: &mut Window, flow: &Flow<'_>) {
        let (of, port) = (self.of(flow.transport), flow.port);
        window.surely(&self.any);
        window.surely(&of.all);
        if let Some(rules) = of.one.get(&port) {
            window.surely(rules);
        }
        for range in of.ranges.iter().take_while(|range| range.first <= port) {
            if port <= range.last {
                window.surely_word(range.word, range.bits);
            }
        }
        match flow.to {
            End::Pod(pod) => {
                let is = |(transport, number)| (transport, number) == (flow.transport, port);
                let ports = pod.ports.iter();
                for named in ports.filter(|named| is((named.transport, named.port))) {
                    if let Some(rules) = of.names.get(&named.name) {
                        window.surely(rules);
                    }
                }
            }
            // A name is a pod's.
            End::Outside(_) => {}
            End::Node { .. } | End::Unknown => window.perhaps(&of.named),
        }
    }

    fn of(&self, transport: Transport) -> &OfTransport {
        match transport {
            Transport::Tcp => &self.tcp,
            Transport::Udp => &self.udp,
            Transport::Sctp => &self.sctp,
        }
    }
}

/// Rules of which a pod is a peer, and those of which it may be one.
#[derive(Clone, Debug, Default)]
pub(super) struct Named {
    pub(super) yes: Rules,
    pub(super) may: Rules,
}

impl Policies {
    /// Rules that name a pod with these addresses. `is` says whether it is a peer.
    pub(super) fn naming(&self, ips: &[IpAddr], is: impl Fn(&PodPeer) -> Match) -> Both<Named> {
        let mut found = Both::<Named>::default();
        let both = [Direction::Ingress, Direction::Egress];
        for (peer, rules) in &self.index.peers {
            let matches = is(peer);
            for direction in both {
                let (found, rules) = (found.of_mut(direction), rules.of(direction));
                match matches {
                    Match::Yes => found.yes.extend(rules),
                    Match::Maybe => found.may.extend(rules),
                    Match::No => {}
                }
            }
        }
        // The API means blocks for what is outside; whether they hold pods too is the CNI's choice.
        for rules in ips.iter().flat_map(|ip| self.index.holding(*ip)) {
            for direction in both {
                found.of_mut(direction).may.extend(rules.of(direction));
            }
        }
        for direction in both {
            found.of_mut(direction).yes.shrink();
            found.of_mut(direction).may.shrink();
        }
        found
    }

    /// Says of the rules of a window which match the flow by port, and which by peer.
    pub(super) fn fill(
        &self,
        (ports, peers): (&mut Window, &mut Window),
        of_namespace: &Ports,
        other: &End<'_>,
        flow: &Flow<'_>,
        direction: Direction,
    ) {
        of_namespace.fill(ports, flow);
        self.index.fill_peers(peers, other, direction);
    }
}
