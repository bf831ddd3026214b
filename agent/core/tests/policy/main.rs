//! The evaluator of policies against a naive model of the API's text, on generated clusters.
//!
//! The model in `naive` was written from the documentation of the API and shares no code with the evaluator: it keeps the
//! declared objects as they are and, where something is not known, tries every way in which it may be.
//!
//! `PLUMBLINE_TEST_TIER=full` generates ten times as many, and forty times as many crowded ones.
#![expect(clippy::unwrap_used, reason = "a test")]

mod naive;
#[path = "../churn/random.rs"]
mod random;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use plumbline_core::policy::{End, Flow, Policies, Side, SideVerdict};

use naive::Who;
use random::Random;
use world::World;

/// Small clusters, and crowded ones.
fn clusters() -> (u64, u64) {
    match std::env::var("PLUMBLINE_TEST_TIER").as_deref() {
        Ok("full") => (20_000, 200),
        _ => (2_000, 5),
    }
}

#[test]
fn the_evaluator_agrees_with_the_naive_model() {
    let (count, _) = clusters();
    let mut seen = Seen::default();
    for seed in 0..count {
        let mut random = Random(seed);
        let world = World::new(&mut random);
        agree(seed, &world, &mut random, 25, &mut seen);
    }
    println!("{count} clusters, {seen:?}");
    // A generator that makes one kind of flow only would show nothing.
    assert!(
        seen.verdicts.len() == 4 && seen.verdicts.values().all(|flows| *flows > count),
        "{seen:?}"
    );
    assert!(seen.rules > count, "{seen:?}");
}

#[test]
fn the_evaluator_agrees_with_the_naive_model_where_thousands_of_rules_are_asked() {
    let (_, count) = clusters();
    let mut seen = Seen::default();
    for (seed, share) in (0..count).zip([1, 10, 100].into_iter().cycle()) {
        let mut random = Random(seed);
        let world = World::crowded(&mut random, share);
        agree(seed, &world, &mut random, 100, &mut seen);
    }
    println!("{count} crowded clusters, {seen:?}");
    // Without many rules for each flow it would be the other test.
    assert!(seen.rules > count * 1_000, "{seen:?}");
}

/// What was met: flows by verdict, and rules that matched.
#[derive(Debug, Default)]
struct Seen {
    verdicts: BTreeMap<&'static str, u64>,
    rules: u64,
}

/// Asks both about so many flows.
fn agree(seed: u64, world: &World, random: &mut Random, flows: usize, seen: &mut Seen) {
    let policies = Policies::new(&world.declared);
    let endpoints: Vec<_> = world
        .pods
        .iter()
        .map(|pod| policies.endpoint(pod))
        .collect();
    let end = |who: &Who| match who {
        Who::Pod(index) => End::Pod(&endpoints[*index]),
        Who::Node { own, address } => End::Node {
            own: *own,
            address: *address,
        },
        Who::Outside(address) => End::Outside(*address),
        Who::Unknown => End::Unknown,
    };
    for _ in 0..flows {
        let (from, to, transport, port) = world.flow(random);
        let judgement = policies.judge(&Flow {
            from: end(&from),
            to: end(&to),
            transport,
            port,
        });
        let found = judgement.verdict.as_str();
        let expected = naive::verdict(world, &from, &to, transport, port);
        assert_eq!(
            found, expected,
            "seed {seed}: {from:?} to {to:?} {transport:?} {port}\n{:#?}",
            world.declared
        );
        *seen.verdicts.entry(found).or_default() += 1;
        if !world.declared.admin_policies.is_empty() {
            continue;
        }
        for (side, ingress) in [(&judgement.egress, false), (&judgement.ingress, true)] {
            if !by_rules(side) {
                continue;
            }
            let keys = side.rules.iter().map(|rule| policies.key(*rule).unwrap());
            let found: Vec<_> = keys.map(|(policy, _, index)| (policy, index)).collect();
            let expected = naive::matching(world, &from, &to, (transport, port), ingress);
            seen.rules += expected.len() as u64;
            assert_eq!(
                found.len(),
                expected.len(),
                "seed {seed}: twice, or missing"
            );
            assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
        }
    }
}

/// Rules were asked: the verdict of this end is not one of those that come before them.
fn by_rules(side: &Side) -> bool {
    use SideVerdict::{Matched, MayMatch, NoneMatches};
    matches!(side.why, Matched | NoneMatches | MayMatch)
}
