//! Small clusters in which everything that policies can say is likely to matter.

use std::collections::BTreeMap;
use std::net::IpAddr;

use plumbline_core::declared::{
    AdminAction, AdminPeer, AdminPods, AdminRule, Cidr, Declared, DeclaredAdminPolicy,
    DeclaredNamespace, DeclaredPolicy, ForeignPolicies, LabelExpression, LabelOperator,
    LabelSelector, NamedPort, PeerPod, PolicyPeer, PolicyPort, PolicyPorts, PolicyRule, Transport,
};

use crate::naive::Who;
use crate::random::Random;

const NAMESPACES: [&str; 4] = ["a", "b", "c", "d"];
const KEYS: [&str; 3] = ["app", "tier", "env"];
const VALUES: [&str; 3] = ["x", "y", "z"];
const PORTS: [u16; 4] = [80, 443, 8080, 9000];
const NAMES: [&str; 3] = ["http", "https", "dns"];
const TRANSPORTS: [Transport; 3] = [Transport::Tcp, Transport::Udp, Transport::Sctp];
const OUTSIDE: [&str; 5] = [
    "1.2.3.4",
    "1.2.4.4",
    "8.8.8.8",
    "2001:db8::1",
    "2001:db8:1::1",
];
const BLOCKS: [&str; 9] = [
    "0.0.0.0/0",
    "::/0",
    "1.2.0.0/16",
    "1.2.3.0/24",
    "10.0.0.0/8",
    "10.0.0.2/32",
    "2001:db8::/32",
    "192.168.0.0/24",
    "8.8.8.8/32",
];
const NODES: [&str; 2] = ["192.168.0.1", "192.168.1.1"];

pub(crate) struct World {
    pub(crate) declared: Declared,
    pub(crate) pods: Vec<PeerPod>,
}

impl World {
    pub(crate) fn new(random: &mut Random) -> Self {
        let mut namespaces = Vec::new();
        for name in NAMESPACES {
            // Some have no object.
            if random.percent(80) {
                let mut labels = labels(random);
                labels.insert("kubernetes.io/metadata.name".into(), name.into());
                namespaces.push(DeclaredNamespace {
                    name: name.into(),
                    labels,
                    meshed: false,
                });
            }
        }
        let pods = (1..=6).map(|number| pod(random, number)).collect();
        let (policies, admins) = (random.below(7), random.below(4));
        let policies = (0..policies).map(|number| policy(random, number)).collect();
        let mut admin_policies: Vec<_> = if random.percent(40) {
            (0..admins).map(|number| admin(random, number)).collect()
        } else {
            Vec::new()
        };
        let mut baselines = 0;
        admin_policies.retain(|policy| {
            baselines += u32::from(policy.priority.is_none());
            policy.priority.is_some() || baselines == 1
        });
        let mut foreign_policies = Vec::new();
        if random.percent(5) {
            foreign_policies.push(ForeignPolicies {
                kind: "CiliumNetworkPolicy.cilium.io".into(),
                namespace: random.percent(80).then(|| word(random, &NAMESPACES)),
            });
        }
        Self {
            declared: Declared {
                namespaces,
                policies_known: true,
                policies,
                admin_policies,
                foreign_policies,
                ..Declared::default()
            },
            pods,
        }
    }

    /// With thousands of policies, most in one namespace, and this share of their rules in percent.
    pub(crate) fn crowded(random: &mut Random, share: u64) -> Self {
        let mut world = Self::new(random);
        world.declared.admin_policies.clear();
        world.declared.foreign_policies.clear();
        world.declared.policies = (0..5_000)
            .map(|number| {
                let mut policy = policy(random, number);
                if random.percent(70) {
                    policy.namespace = NAMESPACES[0].into();
                }
                // Rules for everybody make all verdicts the same.
                let rules = policy.ingress.iter_mut().chain(&mut policy.egress);
                for rules in rules {
                    rules.retain(|rule| !rule.peers.is_empty() && !rule.ports.is_empty());
                    rules.retain(|_| random.percent(share));
                }
                policy
            })
            .collect();
        for pod in &mut world.pods[..4] {
            pod.namespace = NAMESPACES[0].into();
        }
        world
    }

    pub(crate) fn is_foreign(&self, namespace: &str) -> bool {
        self.declared.foreign_policies.iter().any(|foreign| {
            foreign
                .namespace
                .as_deref()
                .is_none_or(|of| of == namespace)
        })
    }

    pub(crate) fn flow(&self, random: &mut Random) -> (Who, Who, Transport, u16) {
        let (one, mut other) = (self.pod(random), self.pod(random));
        if random.percent(40) {
            other = match random.below(8) {
                0 => Who::Unknown,
                1 | 2 => Who::Node {
                    own: random.percent(50),
                    address: address(random, &NODES),
                },
                _ => Who::Outside(address(random, &OUTSIDE)),
            };
        }
        let (from, to) = if random.percent(50) {
            (one, other)
        } else {
            (other, one)
        };
        let transport = *random.pick(&TRANSPORTS).unwrap();
        (from, to, transport, *random.pick(&PORTS).unwrap())
    }

    fn pod(&self, random: &mut Random) -> Who {
        Who::Pod(usize::try_from(random.below(self.pods.len() as u64)).unwrap())
    }
}

fn word(random: &mut Random, of: &[&str]) -> String {
    (*random.pick(of).unwrap()).to_owned()
}

fn address(random: &mut Random, of: &[&str]) -> IpAddr {
    word(random, of).parse().unwrap()
}

fn labels(random: &mut Random) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for key in KEYS {
        if random.percent(60) {
            labels.insert(key.into(), word(random, &VALUES));
        }
    }
    labels
}

fn selector(random: &mut Random) -> LabelSelector {
    use LabelOperator::{DoesNotExist, Exists, In, NotIn};
    let mut selector = LabelSelector::default();
    if random.percent(25) {
        return selector;
    }
    if random.percent(60) {
        selector
            .labels
            .insert(word(random, &KEYS), word(random, &VALUES));
    }
    if random.percent(40) {
        let operator = *random.pick(&[In, NotIn, Exists, DoesNotExist]).unwrap();
        let takes = matches!(operator, In | NotIn);
        let count = if takes { 1 + random.below(2) } else { 0 };
        let by_name = random.percent(15);
        selector.expressions.push(LabelExpression {
            key: if by_name {
                "kubernetes.io/metadata.name".into()
            } else {
                word(random, &KEYS)
            },
            operator,
            values: (0..count)
                .map(|_| word(random, if by_name { &NAMESPACES } else { &VALUES }))
                .collect(),
        });
    }
    if random.percent(15) {
        let name = word(random, &NAMESPACES);
        selector
            .labels
            .insert("kubernetes.io/metadata.name".into(), name);
    }
    selector
}

fn pod(random: &mut Random, number: u8) -> PeerPod {
    let mut ports = Vec::new();
    for name in NAMES {
        if random.percent(60) {
            ports.push(NamedPort {
                name: name.into(),
                port: *random.pick(&PORTS).unwrap(),
                transport: *random.pick(&TRANSPORTS).unwrap(),
            });
        }
    }
    let mut ips: Vec<IpAddr> = vec![IpAddr::from([10, 0, 0, number])];
    if random.percent(20) {
        ips.push("2001:db8::99".parse().unwrap());
    }
    if random.percent(5) {
        ips.clear();
    }
    PeerPod {
        namespace: word(random, &NAMESPACES),
        name: format!("pod-{number}"),
        labels: labels(random),
        host_network: random.percent(8),
        ips,
        ports,
        ..PeerPod::default()
    }
}

fn policy(random: &mut Random, number: u64) -> DeclaredPolicy {
    DeclaredPolicy {
        namespace: word(random, &NAMESPACES),
        name: format!("policy-{number}"),
        selector: selector(random),
        ingress: random.percent(75).then(|| rules(random)),
        egress: random.percent(60).then(|| rules(random)),
    }
}

fn rules(random: &mut Random) -> Vec<PolicyRule> {
    (0..random.below(4)).map(|_| rule(random)).collect()
}

fn rule(random: &mut Random) -> PolicyRule {
    let (peers, ports) = (random.below(4), random.below(3));
    PolicyRule {
        peers: (0..peers).map(|_| peer(random)).collect(),
        ports: (0..ports).map(|_| port(random)).collect(),
    }
}

fn peer(random: &mut Random) -> PolicyPeer {
    if random.percent(30) {
        let cidr = block(random);
        let except = [block(random), block(random)];
        let inside = |except: &Cidr| cidr.covers(except) && except.prefix() > cidr.prefix();
        return PolicyPeer::Block {
            cidr,
            except: except.into_iter().filter(inside).collect(),
        };
    }
    let namespaces = random.percent(55).then(|| selector(random));
    let pods = (namespaces.is_none() || random.percent(50)).then(|| selector(random));
    PolicyPeer::Pods { namespaces, pods }
}

fn block(random: &mut Random) -> Cidr {
    word(random, &BLOCKS).parse().unwrap()
}

fn port(random: &mut Random) -> PolicyPort {
    let first = *random.pick(&PORTS).unwrap();
    PolicyPort {
        transport: *random.pick(&TRANSPORTS).unwrap(),
        ports: match random.below(4) {
            0 => PolicyPorts::All,
            1 => PolicyPorts::Range(first, first),
            2 => PolicyPorts::Range(
                first - random.pick(&[0, 1, 80]).unwrap(),
                first + random.pick(&[0, 363, 920, 1_000]).unwrap(),
            ),
            _ => PolicyPorts::Name(word(random, &NAMES)),
        },
    }
}

fn admin(random: &mut Random, number: u64) -> DeclaredAdminPolicy {
    let baseline = random.percent(25);
    DeclaredAdminPolicy {
        name: format!("admin-{number}"),
        priority: (!baseline).then(|| i32::try_from(random.below(3)).unwrap()),
        subject: AdminPods {
            namespaces: selector(random),
            pods: selector(random),
        },
        ingress: admin_rules(random, baseline),
        egress: admin_rules(random, baseline),
    }
}

fn admin_rules(random: &mut Random, baseline: bool) -> Vec<AdminRule> {
    use AdminAction::{Allow, Deny, Pass};
    let actions: &[AdminAction] = if baseline {
        &[Allow, Deny]
    } else {
        &[Allow, Deny, Pass]
    };
    (0..random.below(4))
        .map(|_| AdminRule {
            name: None,
            action: *random.pick(actions).unwrap(),
            peers: (0..=random.below(2)).map(|_| admin_peer(random)).collect(),
            ports: (0..random.below(2)).map(|_| port(random)).collect(),
        })
        .collect()
}

fn admin_peer(random: &mut Random) -> AdminPeer {
    match random.below(10) {
        0 => AdminPeer::Other("domainNames".into()),
        1 | 2 => AdminPeer::Networks(vec![block(random), block(random)]),
        _ => AdminPeer::Pods(AdminPods {
            namespaces: selector(random),
            pods: selector(random),
        }),
    }
}
