//! How fast policies are judged: prints verdicts per second of one core. Two clusters of 500 policies: spread over 50 namespaces,
//! and all in one namespace, each selecting the pod that is judged.
#![expect(clippy::print_stdout, reason = "figures are what it is for")]
#![expect(
    clippy::unwrap_used,
    reason = "a bench that cannot go on should say where"
)]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use plumbline_core::declared::{
    Declared, DeclaredNamespace, DeclaredPolicy, LabelSelector, PeerPod, PolicyPeer, PolicyPort,
    PolicyPorts, PolicyRule, Transport,
};
use plumbline_core::policy::{End, Endpoint, Flow, Policies};

const POLICIES: usize = 500;
const PODS: usize = 5_000;

fn main() {
    for (namespaces, what) in [(50, "in 50 namespaces"), (1, "all about every pod")] {
        let (declared, pods) = cluster(namespaces);
        let begun = Instant::now();
        let policies = Policies::new(&declared);
        let compiled = begun.elapsed();
        let begun = Instant::now();
        let endpoints: Vec<Endpoint> = pods.iter().map(|pod| policies.endpoint(pod)).collect();
        let prepared = begun.elapsed();
        let (count, spent, allowed) = judge(&policies, &endpoints);
        println!(
            "{POLICIES} policies {what}: {:.0} verdicts/s, {allowed} of {count} allowed; compiled in {compiled:.1?}, {PODS} pods prepared in {prepared:.1?}",
            count as f64 / spent.as_secs_f64()
        );
    }
}

/// Flows between all sorts of pods and from outside, for three seconds.
fn judge(policies: &Policies, endpoints: &[Endpoint]) -> (u64, Duration, u64) {
    let outside = IpAddr::from([203, 0, 113, 7]);
    let (mut count, mut allowed) = (0_u64, 0_u64);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        for step in 0..1_000_usize {
            let number = usize::try_from(count).unwrap() + step;
            let to = &endpoints[number * 7 % endpoints.len()];
            let from = match number % 8 {
                0 => End::Outside(outside),
                _ => End::Pod(&endpoints[number * 13 % endpoints.len()]),
            };
            let port = if number.is_multiple_of(3) {
                9_999
            } else {
                8_080
            };
            let judgement = policies.judge(&Flow {
                from,
                to: End::Pod(to),
                transport: Transport::Tcp,
                port,
            });
            allowed += u64::from(judgement.verdict.as_str() == "allow");
        }
        count += 1_000;
    }
    (count, begun.elapsed(), allowed)
}

fn cluster(namespaces: usize) -> (Declared, Vec<PeerPod>) {
    let name = |index: usize| format!("ns-{}", index % namespaces);
    let namespace = |index: usize| DeclaredNamespace {
        name: name(index),
        labels: labels(&[("team", format!("team-{}", index % 7))]),
    };
    let pod = |index: usize| {
        let [_, _, high, low] = u32::try_from(index).unwrap().to_be_bytes();
        PeerPod {
            namespace: name(index),
            name: format!("pod-{index}"),
            labels: labels(&[
                ("app", format!("app-{}", index % 60)),
                ("tier", format!("tier-{}", index % 6)),
            ]),
            ips: vec![IpAddr::from([172, 16, high, low])],
            ..PeerPod::default()
        }
    };
    let declared = Declared {
        namespaces: (0..namespaces).map(namespace).collect(),
        policies_known: true,
        policies: (0..POLICIES)
            .map(|index| policy(index, name(index)))
            .collect(),
        ..Declared::default()
    };
    (declared, (0..PODS).map(pod).collect())
}

type Labels = BTreeMap<String, String>;

fn labels(pairs: &[(&str, String)]) -> Labels {
    let owned = |(key, value): &(&str, String)| ((*key).to_owned(), value.clone());
    pairs.iter().map(owned).collect()
}

fn equal(pairs: &[(&str, String)]) -> LabelSelector {
    LabelSelector {
        labels: labels(pairs),
        ..LabelSelector::default()
    }
}

fn policy(index: usize, namespace: String) -> DeclaredPolicy {
    let ports = vec![PolicyPort {
        transport: Transport::Tcp,
        ports: PolicyPorts::Range(8_080, 8_080),
    }];
    let peers = vec![
        PolicyPeer::Pods {
            namespaces: None,
            pods: Some(equal(&[("app", format!("app-{}", index % 40))])),
        },
        PolicyPeer::Pods {
            namespaces: Some(equal(&[("team", format!("team-{}", index % 7))])),
            pods: Some(equal(&[("tier", format!("tier-{}", index % 5))])),
        },
        PolicyPeer::Block {
            cidr: format!("10.{}.0.0/16", index % 200).parse().unwrap(),
            except: Vec::new(),
        },
    ];
    let rules = vec![
        PolicyRule {
            peers: peers.clone(),
            ports,
        },
        PolicyRule {
            peers,
            ports: vec![PolicyPort {
                transport: Transport::Udp,
                ports: PolicyPorts::All,
            }],
        },
    ];
    DeclaredPolicy {
        namespace,
        name: format!("policy-{index}"),
        selector: LabelSelector::default(),
        ingress: Some(rules.clone()),
        egress: Some(rules),
    }
}
