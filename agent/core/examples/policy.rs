//! How fast policies are judged: prints verdicts per second of one core, with all rules that match. Clusters of 500 policies and
//! 5,000 pods; each question is another one, and each is asked once.
#![expect(clippy::print_stdout, reason = "figures are what it is for")]
#![expect(
    clippy::unwrap_used,
    reason = "a bench that cannot go on should say where"
)]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]
#![expect(clippy::disallowed_methods, reason = "it measures time")]

#[path = "../tests/churn/random.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use plumbline_core::declared::{
    Declared, DeclaredNamespace, DeclaredPolicy, LabelSelector, PeerPod, PolicyPeer, PolicyPort,
    PolicyPorts, PolicyRule, Transport,
};
use plumbline_core::policy::{End, Endpoint, Flow, Policies};
use random::Random;

const POLICIES: usize = 500;
const PODS: usize = 5_000;
/// No more, so that also a slow evaluator ends within a minute.
const QUESTIONS: usize = 500_000;

/// What rules look like.
#[derive(Clone, Copy, PartialEq)]
enum Shape {
    /// Many name the same peers and ports, as they do.
    Alike,
    /// Each names peers, blocks and overlapping ranges of ports that no other names.
    Distinct,
    /// Each lets everybody in from everywhere, so that all of them match.
    Open,
}

fn main() {
    for (namespaces, shape, what) in [
        (50, Shape::Alike, "in 50 namespaces"),
        (1, Shape::Alike, "all about every pod"),
        (1, Shape::Distinct, "all about every pod, no two alike"),
        (1, Shape::Open, "all about every pod, all rules match"),
    ] {
        let (declared, pods) = cluster(namespaces, shape);
        let begun = Instant::now();
        let policies = Policies::new(&declared);
        let compiled = begun.elapsed();
        let begun = Instant::now();
        let endpoints: Vec<Endpoint> = pods.iter().map(|pod| policies.endpoint(pod)).collect();
        let prepared = begun.elapsed();
        let bytes: usize = endpoints.iter().map(Endpoint::bytes).sum();
        let questions = questions();
        let (spent, allowed, rules) = judge(&policies, &endpoints, &questions);
        println!(
            "{POLICIES} policies {what}: {:.0} verdicts/s, {} questions, {allowed} allowed by {:.1} rules each; compiled in {compiled:.1?}, {PODS} pods prepared in {prepared:.1?}, {} B each",
            questions.len() as f64 / spent.as_secs_f64(),
            questions.len(),
            rules as f64 / allowed.max(1) as f64,
            bytes / PODS
        );
    }
}

/// Who asks whom for which port: pods by number, or an address from outside.
type Question = (Result<usize, [u8; 4]>, usize, u16);

/// Distinct ones, in no order.
fn questions() -> Vec<Question> {
    let mut random = Random(7);
    let (mut known, mut all) = (BTreeSet::new(), Vec::new());
    while all.len() < QUESTIONS {
        let mut pod = || usize::try_from(random.below(PODS as u64)).unwrap();
        let (from, to) = (pod(), pod());
        let [a, b, c, _, ..] = random.next().to_le_bytes();
        let from = if random.percent(12) {
            // Some in the blocks that rules name.
            Err([if a % 2 == 0 { 10 } else { 203 }, b, c, a])
        } else {
            Ok(from)
        };
        let port = match random.percent(50) {
            true => 8_080,
            false => u16::try_from(random.below(65_536)).unwrap(),
        };
        if known.insert((from, to, port)) {
            all.push((from, to, port));
        }
    }
    all
}

/// Asks each once.
fn judge(
    policies: &Policies,
    endpoints: &[Endpoint],
    questions: &[Question],
) -> (Duration, u64, u64) {
    let (mut allowed, mut rules) = (0_u64, 0_u64);
    let begun = Instant::now();
    for (from, to, port) in questions {
        let judgement = policies.judge(&Flow {
            from: match from {
                Ok(pod) => End::Pod(&endpoints[*pod]),
                Err(address) => End::Outside(IpAddr::from(*address)),
            },
            to: End::Pod(&endpoints[*to]),
            transport: Transport::Tcp,
            port: *port,
        });
        if judgement.verdict.as_str() == "allow" {
            allowed += 1;
            rules += (judgement.egress.rules.len() + judgement.ingress.rules.len()) as u64;
        }
    }
    (begun.elapsed(), allowed, rules)
}

fn cluster(namespaces: usize, shape: Shape) -> (Declared, Vec<PeerPod>) {
    let name = |index: usize| format!("ns-{}", index % namespaces);
    let namespace = |index: usize| DeclaredNamespace {
        name: name(index),
        labels: labels(&[("team", format!("team-{}", index % 7))]),
        ..DeclaredNamespace::default()
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
            .map(|index| policy(index, name(index), shape))
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

fn policy(index: usize, namespace: String, shape: Shape) -> DeclaredPolicy {
    // Of what is not alike, as many as there are policies; of what is, some.
    let of = |some: usize| match shape {
        Shape::Alike | Shape::Open => index % some,
        Shape::Distinct => index,
    };
    let peers = vec![
        PolicyPeer::Pods {
            namespaces: None,
            pods: Some(equal(&[("app", format!("app-{}", of(40)))])),
        },
        PolicyPeer::Pods {
            namespaces: Some(equal(&[("team", format!("team-{}", index % 7))])),
            pods: Some(equal(&[("tier", format!("tier-{}", of(5)))])),
        },
        PolicyPeer::Block {
            cidr: format!("10.{}.0.0/{}", of(200) % 256, 16 + of(1) % 9)
                .parse()
                .unwrap(),
            except: Vec::new(),
        },
    ];
    let shift = u16::try_from(of(1)).unwrap();
    let rule = |transport, ports| match shape {
        Shape::Open => PolicyRule::default(),
        Shape::Alike | Shape::Distinct => PolicyRule {
            peers: peers.clone(),
            ports: vec![PolicyPort { transport, ports }],
        },
    };
    let rules = vec![
        rule(
            Transport::Tcp,
            PolicyPorts::Range(8_080 - shift, 8_080 + shift),
        ),
        match shape {
            Shape::Distinct => rule(Transport::Tcp, PolicyPorts::Range(shift, 40_000 + shift)),
            Shape::Alike | Shape::Open => rule(Transport::Udp, PolicyPorts::All),
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
