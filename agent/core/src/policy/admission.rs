//! Whom the policies let in to one port of a pod: what exposure needs to know, without a peer at hand.

use super::{Direction, Peer, Policies, PolicyRef, Rule, RuleRef};
use crate::declared::{DeclaredPod, PolicyPort, PolicyPorts, Transport};
use crate::peers::METADATA;

/// Who is let in to a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It cannot be told: why.
    Unknown(String),
    /// No policy selects the pod for ingress: everybody.
    Open,
    /// Policies select the pod: whom their rules name. The pod's own node in any case.
    Isolated {
        /// Names of the policies.
        policies: Vec<String>,
        /// Names of the rules that let somebody in.
        rules: Vec<String>,
        /// Pods of the cluster are among those let in.
        cluster: bool,
        /// Addresses outside are.
        outside: bool,
    },
}

impl Policies {
    /// Who is let in to a port of a pod.
    #[must_use]
    pub fn admission(&self, pod: &DeclaredPod, transport: Transport, port: u16) -> Admission {
        if !self.known {
            return Admission::Unknown("NetworkPolicies are not known".into());
        }
        if let Some(kind) = self.foreign(&pod.namespace) {
            return Admission::Unknown(format!("{kind} is not evaluated"));
        }
        if self.has_admin(&pod.namespace, &pod.labels) {
            return Admission::Unknown("admin policies are about the pod".into());
        }
        let (mut policies, mut rules) = (Vec::new(), Vec::new());
        let (mut cluster, mut outside) = (false, false);
        for index in self.policies_in(&pod.namespace) {
            let policy = &self.policies[*index as usize];
            let Some(all) = policy.rules(Direction::Ingress) else {
                continue;
            };
            if !policy.selector.selects(&pod.labels) {
                continue;
            }
            policies.push(policy.name.clone());
            for (place, rule) in (0..).zip(all) {
                if !admits(rule, pod, transport, port) {
                    continue;
                }
                let (pods, blocks) = whom(rule);
                cluster |= pods;
                outside |= blocks;
                rules.push(self.name(RuleRef {
                    policy: PolicyRef::Network(*index),
                    direction: Direction::Ingress,
                    index: place,
                }));
            }
        }
        if policies.is_empty() {
            return Admission::Open;
        }
        Admission::Isolated {
            policies,
            rules,
            cluster,
            outside,
        }
    }
}

impl Policies {
    /// Whether an egress policy of the pod names the cloud's metadata service: a block of link-local addresses, or of that
    /// one address.
    #[must_use]
    pub fn allows_metadata(&self, pod: &DeclaredPod) -> bool {
        let here = self.policies_in(&pod.namespace).iter();
        let selecting = here
            .map(|index| &self.policies[*index as usize])
            .filter(|policy| policy.selector.selects(&pod.labels));
        let rules =
            selecting.flat_map(|policy| policy.rules(Direction::Egress).unwrap_or_default());
        let mut peers = rules.flat_map(|rule| rule.peers.iter().flatten());
        peers.any(|peer| match peer {
            Peer::Block { cidr, .. } => {
                let narrow = cidr.prefix() >= 16;
                narrow && METADATA.iter().any(|address| cidr.contains(*address))
            }
            Peer::Pods(_) | Peer::Other => false,
        })
    }
}

fn admits(rule: &Rule, pod: &DeclaredPod, transport: Transport, port: u16) -> bool {
    let is = |of: &PolicyPort| {
        of.transport == transport
            && match &of.ports {
                PolicyPorts::All => true,
                PolicyPorts::Range(first, last) => (*first..=*last).contains(&port),
                PolicyPorts::Name(name) => {
                    let mut ports = pod.containers.iter().flat_map(|one| &one.ports);
                    ports.any(|declared| {
                        declared.name.as_ref() == Some(name)
                            && (declared.transport, declared.port) == (transport, port)
                    })
                }
            }
    };
    rule.ports.is_empty() || rule.ports.iter().any(is)
}

/// Whether a rule names pods, and whether it names addresses.
fn whom(rule: &Rule) -> (bool, bool) {
    let Some(peers) = &rule.peers else {
        return (true, true);
    };
    let blocks = peers.iter().any(|peer| matches!(peer, Peer::Block { .. }));
    let pods = peers
        .iter()
        .any(|peer| matches!(peer, Peer::Pods(_) | Peer::Other));
    (pods, blocks)
}
