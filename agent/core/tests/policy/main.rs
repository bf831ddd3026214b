//! The evaluator of policies against a naive model of the API's text, on generated clusters.
//!
//! The model in `naive` was written from the documentation of the API and shares no code with the evaluator: it keeps the
//! declared objects as they are and, where something is not known, tries every way in which it may be.
//!
//! `PLUMBLINE_TEST_TIER=full` generates ten times as many.
#![expect(clippy::unwrap_used, reason = "a test")]

mod naive;
#[path = "../churn/random.rs"]
mod random;
mod world;

use std::collections::BTreeMap;

use plumbline_core::policy::{End, Flow, Policies};

use naive::Who;
use random::Random;
use world::World;

fn clusters() -> u64 {
    match std::env::var("PLUMBLINE_TEST_TIER").as_deref() {
        Ok("full") => 20_000,
        _ => 2_000,
    }
}

#[test]
fn the_evaluator_agrees_with_the_naive_model() {
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..clusters() {
        let mut random = Random(seed);
        let world = World::new(&mut random);
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
        for _ in 0..25 {
            let (from, to, transport, port) = world.flow(&mut random);
            let flow = Flow {
                from: end(&from),
                to: end(&to),
                transport,
                port,
            };
            let found = policies.judge(&flow).verdict.as_str();
            let expected = naive::verdict(&world, &from, &to, transport, port);
            assert_eq!(
                found, expected,
                "seed {seed}: {from:?} to {to:?} {transport:?} {port}\n{:#?}",
                world.declared
            );
            *seen.entry(found).or_default() += 1;
        }
    }
    println!("{} clusters, flows by verdict: {seen:?}", clusters());
    // A generator that makes one kind of flow only would show nothing.
    assert!(
        seen.len() == 4 && seen.values().all(|count| *count > clusters()),
        "{seen:?}"
    );
}
