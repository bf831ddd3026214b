//! What policies say of the flows of this node's pods.

mod other;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::declared::{Declared, DeclaredPolicy, DeclaredService, PeerPod};
use crate::id::PodUid;
use crate::node::NodeState;
use crate::node::peers::Waiting;
use crate::observation::Role;
use crate::observed::verdicts::Judged;
use crate::policy::{
    Backend, Direction, End, Endpoint, Flow, Judgement, Policies, RuleRef, Side, SideVerdict,
    Verdict,
};
use crate::settings::{DECLARED_AGE_MAX, ENDPOINTS_BYTES_MAX, ENDPOINTS_MAX, Grace};
use crate::snapshot::Peer;
use crate::time::Timestamp;
use other::Other;

/// Endpoints of a Service that are asked. With more the verdict is unknown.
const BACKENDS_MAX: usize = 256;

/// Policies, and what was prepared and counted by them.
#[derive(Clone, Debug, Default)]
pub(super) struct Verdicts {
    compiled: Arc<Policies>,
    /// The policies as they would be with the candidates; `None` without candidates.
    shadow: Option<Arc<Policies>>,
    candidates: Vec<DeclaredPolicy>,
    /// When the policies were last told to be others than before.
    since: Timestamp,
    /// Likewise Services and their endpoints.
    services_since: Timestamp,
    /// The labels of own pods, and when they were last told to be others.
    pods: BTreeMap<PodUid, (Arc<PeerPod>, Timestamp)>,
    prepared: Prepared,
    shadows: Prepared,
    hits: BTreeMap<RuleRef, u64>,
    /// Of former states of the policies, by policy, direction and place.
    former: BTreeMap<(String, Direction, u32), u64>,
}

/// Pods prepared by name. What is full is emptied: it fills again with those that are met.
#[derive(Clone, Debug, Default)]
struct Prepared {
    pods: BTreeMap<(String, String), (Arc<PeerPod>, Arc<Endpoint>)>,
    bytes: usize,
}

impl Prepared {
    fn get(&mut self, policies: &Policies, pod: &Arc<PeerPod>) -> Arc<Endpoint> {
        self.within(ENDPOINTS_BYTES_MAX, policies, pod)
    }

    fn within(&mut self, max: usize, policies: &Policies, pod: &Arc<PeerPod>) -> Arc<Endpoint> {
        let key = (pod.namespace.clone(), pod.name.clone());
        if let Some((known, endpoint)) = self.pods.get(&key)
            && Arc::ptr_eq(known, pod)
        {
            return Arc::clone(endpoint);
        }
        let endpoint = Arc::new(policies.endpoint(pod));
        if self.pods.len() >= ENDPOINTS_MAX || self.bytes + endpoint.bytes() > max {
            *self = Self::default();
        }
        self.bytes += endpoint.bytes();
        let prepared = (Arc::clone(pod), Arc::clone(&endpoint));
        if let Some((_, former)) = self.pods.insert(key, prepared) {
            self.bytes -= former.bytes();
        }
        endpoint
    }
}

impl Verdicts {
    pub(super) fn policies(&self) -> &Arc<Policies> {
        &self.compiled
    }

    /// The declared side as of `at`; `before` is the former one.
    pub(super) fn declared(&mut self, before: Option<&Declared>, now: &Declared, at: Timestamp) {
        let same = before.is_some_and(|before| {
            before.policies_known == now.policies_known
                && before.policies == now.policies
                && before.admin_policies == now.admin_policies
                && before.foreign_policies == now.foreign_policies
                && before.namespaces == now.namespaces
        });
        let same_services = before.is_some_and(|before| {
            before.services == now.services && before.endpoints == now.endpoints
        });
        if !same_services {
            self.services_since = at;
        }
        if !same {
            self.since = at;
            self.compile(now);
        }
    }

    /// Other candidate policies.
    pub(super) fn candidates(&mut self, candidates: Vec<DeclaredPolicy>, now: Option<&Declared>) {
        self.candidates = candidates;
        if let Some(now) = now {
            self.compile(now);
        }
    }

    fn compile(&mut self, now: &Declared) {
        for (rule, count) in std::mem::take(&mut self.hits) {
            if let Some(key) = self.compiled.key(rule) {
                *self.former.entry(key).or_default() += count;
            }
        }
        self.compiled = Arc::new(Policies::new(now));
        let shadow = || Arc::new(Policies::with(now, &self.candidates));
        self.shadow = (!self.candidates.is_empty()).then(shadow);
        self.prepared = Prepared::default();
        self.shadows = Prepared::default();
        let standing = self.compiled.keys();
        self.former.retain(|key, _| standing.contains(key));
    }

    /// Notes the labels of the pods that run here.
    pub(super) fn note_pods(
        &mut self,
        pods: impl Iterator<Item = (PodUid, Arc<PeerPod>)>,
        at: Timestamp,
    ) {
        let mut before = std::mem::take(&mut self.pods);
        for (uid, pod) in pods {
            let changed = match before.remove(&uid) {
                Some((known, since)) if known == pod => since,
                _ => at,
            };
            self.pods.insert(uid, (pod, changed));
        }
    }

    /// Connections that rules about these pods matched, those that matched none too.
    pub(super) fn rule_hits(&self, pods: &BTreeSet<&PodUid>) -> Vec<(String, Direction, u32, u64)> {
        let mut hits: BTreeMap<(String, Direction, u32), u64> = BTreeMap::new();
        let pods = pods.iter().filter_map(|uid| self.pods.get(uid));
        let pods = pods.map(|(pod, _)| pod);
        for key in self.compiled.keys_about(pods) {
            let former = self.former.get(&key).copied().unwrap_or(0);
            hits.insert(key, former);
        }
        for (rule, count) in &self.hits {
            if let Some(key) = self.compiled.key(*rule)
                && let Some(hits) = hits.get_mut(&key)
            {
                *hits += count;
            }
        }
        let flat = |((policy, direction, index), count)| (policy, direction, index, count);
        hits.into_iter().map(flat).collect()
    }
}

impl NodeState {
    /// What policies say of a row whose peer has its name.
    pub(super) fn judge(&mut self, waiting: &Waiting, peer: &Peer) -> Judged {
        let Some((own, changed)) = self.own_pod(waiting) else {
            return Judged::default();
        };
        let (other, peer_changed) = self.other(waiting, peer);
        if matches!(other, Other::Same) {
            return Judged {
                verdict: Verdict::None,
                ..Judged::default()
            };
        }
        let policies = Arc::clone(&self.verdicts.compiled);
        let judgement = self.judgement(&policies, waiting, &own, &other, false);
        let direction = match waiting.row.role {
            Role::Client => Direction::Egress,
            Role::Server => Direction::Ingress,
        };
        self.count_hits(waiting, &judgement, direction);
        // A CNI follows a change with a delay, and connections that stand may survive it (trap 18).
        let settled = self.verdicts.since.max(changed).max(peer_changed);
        let young = waiting.since < settled.plus(self.policy_lag()) || self.is_stale(waiting.at);
        let unnamed = matches!(other, Other::Unknown);
        let mut judged = Judged {
            verdict: judgement.verdict,
            ..Judged::default()
        };
        if judged.verdict == Verdict::Deny {
            if young || unnamed || self.is_meshed(waiting) {
                judged.verdict = Verdict::Unknown;
            } else {
                let text = |side: &Side| self.denial(&policies, side, waiting, &own, direction);
                let (mine, theirs) = sides(&judgement, direction);
                judged.own_denial = (mine.verdict == Verdict::Deny).then(|| text(mine));
                judged.denial = judged
                    .own_denial
                    .clone()
                    .or_else(|| Some(self.peer_denial(&policies, theirs, direction)));
            }
        }
        if let Some(shadow) = self.verdicts.shadow.clone()
            && !unnamed
            && judgement.verdict != Verdict::Deny
        {
            let would = self.judgement(&shadow, waiting, &own, &other, true);
            let (mine, _) = sides(&would, direction);
            judged.candidate = (mine.verdict == Verdict::Deny)
                .then(|| self.denial(&shadow, mine, waiting, &own, direction));
        }
        judged
    }

    fn judgement(
        &mut self,
        policies: &Policies,
        waiting: &Waiting,
        own: &Arc<PeerPod>,
        other: &Other,
        shadow: bool,
    ) -> Judgement {
        let mut prepare = |pod: &Arc<PeerPod>| {
            let prepared = if shadow {
                &mut self.verdicts.shadows
            } else {
                &mut self.verdicts.prepared
            };
            prepared.get(policies, pod)
        };
        let own = prepare(own);
        let end = match other {
            Other::Pods(pods) => {
                let pods: Vec<_> = pods.iter().map(&mut prepare).collect();
                let each = pods
                    .iter()
                    .map(|pod| one(policies, waiting, &own, End::Pod(pod)));
                return agreed(each);
            }
            Other::Service(index) => {
                return self.of_service(policies, waiting, &own, *index, shadow);
            }
            Other::Node { own, address } => End::Node {
                own: *own,
                address: *address,
            },
            Other::Outside(address) => End::Outside(*address),
            Other::Unknown | Other::Same => End::Unknown,
        };
        one(policies, waiting, &own, end)
    }

    /// A flow to a Service is judged against its endpoints.
    fn of_service(
        &mut self,
        policies: &Policies,
        waiting: &Waiting,
        own: &Endpoint,
        index: usize,
        shadow: bool,
    ) -> Judgement {
        let unknown = Judgement::default;
        let Some(declared) = self.declared.clone() else {
            return unknown();
        };
        let Some(service) = declared.services.get(index) else {
            return unknown();
        };
        let row = &waiting.row;
        let mut ports = service.ports.iter();
        let port =
            ports.find(|port| port.transport == row.transport && port.port == row.server_port);
        let (Some(port), Some(backends)) = (port, backends(&declared, service)) else {
            return unknown();
        };
        let mut found = Vec::new();
        for address in backends {
            let pods = self.peers.pods_at(address, waiting.since, waiting.at);
            found.push(match pods.as_slice() {
                [only] if !only.pod.host_network => {
                    let prepared = if shadow {
                        &mut self.verdicts.shadows
                    } else {
                        &mut self.verdicts.prepared
                    };
                    Ok(prepared.get(policies, &only.pod))
                }
                [only] => Err(End::Node {
                    own: only.pod.node == self.identity.node,
                    address,
                }),
                _ => Err(End::Unknown),
            });
        }
        let backends: Vec<Backend<'_>> = found
            .iter()
            .map(|found| match found {
                Ok(pod) => Backend::Pod(pod),
                Err(end) => Backend::Other(*end),
            })
            .collect();
        policies.judge_service(End::Pod(own), row.transport, &port.target, &backends, true)
    }

    /// What was declared by then may be another thing than what is held (M003).
    fn is_stale(&self, at: Timestamp) -> bool {
        let mut sources = self.sources.iter();
        sources.any(|row| at.since(row.as_of) > DECLARED_AGE_MAX)
    }

    /// How long after a change a denial is not believed.
    fn policy_lag(&self) -> Duration {
        match self.settings.grace {
            Grace::Time(grace) => grace,
            Grace::Scans(_) => Duration::ZERO,
        }
    }

    fn count_hits(&mut self, waiting: &Waiting, judgement: &Judgement, direction: Direction) {
        let (mine, _) = sides(judgement, direction);
        for rule in &mine.rules {
            let hits = self.verdicts.hits.entry(*rule).or_default();
            *hits = hits.saturating_add(waiting.row.counts.connections);
        }
    }

    fn denial(
        &self,
        policies: &Policies,
        side: &Side,
        waiting: &Waiting,
        own: &PeerPod,
        direction: Direction,
    ) -> Arc<str> {
        let row = &waiting.row;
        let port = format!("{}/{}", row.transport.as_str(), row.server_port);
        let way = direction.as_str();
        let text = if side.why == SideVerdict::NoneMatches {
            let selecting = policies.selecting(&own.namespace, &own.labels, direction);
            let names = selecting.join(", ");
            format!("{way} to {port}: selected by {names}, and no rule of them matches")
        } else {
            let rules = side.rules.iter().map(|rule| policies.name(*rule));
            let rules: Vec<String> = rules.collect();
            format!("{way} to {port}: denied by {}", rules.join(", "))
        };
        text.into()
    }

    fn peer_denial(&self, policies: &Policies, side: &Side, own: Direction) -> Arc<str> {
        let way = match own {
            Direction::Egress => "the peer's ingress",
            Direction::Ingress => "the peer's egress",
        };
        let rules: Vec<String> = side.rules.iter().map(|rule| policies.name(*rule)).collect();
        match rules.is_empty() {
            true => format!("{way}: its policies have no rule that matches").into(),
            false => format!("{way}: denied by {}", rules.join(", ")).into(),
        }
    }
}

fn sides(judgement: &Judgement, own: Direction) -> (&Side, &Side) {
    match own {
        Direction::Egress => (&judgement.egress, &judgement.ingress),
        Direction::Ingress => (&judgement.ingress, &judgement.egress),
    }
}

fn one(policies: &Policies, waiting: &Waiting, own: &Endpoint, other: End<'_>) -> Judgement {
    let row = &waiting.row;
    let (from, to) = match row.role {
        Role::Client => (End::Pod(own), other),
        Role::Server => (other, End::Pod(own)),
    };
    policies.judge(&Flow {
        from,
        to,
        transport: row.transport,
        port: row.server_port,
    })
}

/// What all of them say; unknown where they do not say the same.
fn agreed(mut all: impl Iterator<Item = Judgement>) -> Judgement {
    let first = all.next().unwrap_or_default();
    let same = |other: Judgement| {
        let verdicts = |of: &Judgement| (of.verdict, of.egress.verdict, of.ingress.verdict);
        verdicts(&other) == verdicts(&first)
    };
    if all.all(same) {
        first
    } else {
        Judgement::default()
    }
}

/// Addresses of all endpoints of a Service; `None` where they are not known, or too many.
fn backends(declared: &Declared, service: &DeclaredService) -> Option<Vec<IpAddr>> {
    if (service.namespace.as_str(), service.name.as_str()) == ("default", "kubernetes") {
        let servers = declared.api_servers.iter().map(std::net::SocketAddr::ip);
        let servers: Vec<IpAddr> = servers.collect();
        return (!servers.is_empty()).then_some(servers);
    }
    let of = declared.endpoints.iter().filter(|endpoints| {
        (&endpoints.namespace, &endpoints.service) == (&service.namespace, &service.name)
    });
    let mut addresses: Vec<IpAddr> = of
        .flat_map(|endpoints| &endpoints.addresses)
        .map(IpAddr::to_canonical)
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    (!addresses.is_empty() && addresses.len() <= BACKENDS_MAX).then_some(addresses)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Prepared;
    use crate::declared::PeerPod;
    use crate::policy::Policies;

    #[test]
    fn prepared_pods_take_no_more_memory_than_they_may() {
        let policies = Policies::default();
        let pod = |number: u32| {
            Arc::new(PeerPod {
                name: format!("pod-{number}"),
                ..PeerPod::default()
            })
        };
        let max = 10 * policies.endpoint(&pod(0)).bytes();
        let mut prepared = Prepared::default();
        let first = pod(0);
        for number in 0..1_000 {
            // Known again, known anew, and new.
            prepared.within(max, &policies, &first);
            prepared.within(max, &policies, &pod(1));
            prepared.within(max, &policies, &pod(number));
            let held = prepared.pods.values().map(|(_, endpoint)| endpoint.bytes());
            assert_eq!(prepared.bytes, held.sum::<usize>());
            assert!(prepared.bytes <= max, "{}", prepared.bytes);
        }
        assert!(prepared.pods.len() > 2);
    }
}
