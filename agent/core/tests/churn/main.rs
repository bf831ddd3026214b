//! Whose event, and whose peer: a seeded node whose pods come and go, with names, pids, addresses and container names used
//! again at once, containers and sandboxes made anew, events that get lost, and a declared side that is seconds behind.
//! Everything that the core credits to a container or a peer is compared with what the world of this test knows.
//!
//! `PLUMBLINE_TEST_TIER=full` runs a million events; do that with `--release`.
#![expect(clippy::unwrap_used, reason = "a test")]

mod random;
mod verdict;
mod world;

use verdict::Verdict;
use world::World;

/// Events of one run.
fn events() -> u64 {
    match std::env::var("PLUMBLINE_TEST_TIER").as_deref() {
        Ok("full") => 1_000_000,
        _ => 40_000,
    }
}

fn run(seed: u64, events: u64) -> Verdict {
    let mut world = World::new(seed);
    let mut verdict = Verdict::default();
    while world.events < events {
        world.step();
        if world.steps.is_multiple_of(40) {
            verdict.check(&world);
        }
        if world.steps.is_multiple_of(400) {
            world.export();
        }
    }
    world.quiet();
    verdict.check(&world);
    verdict.totals(&world);
    verdict
}

#[test]
fn nothing_is_credited_to_a_wrong_container_or_peer() {
    let seeds = [1, 0x5eed, 0xdead_beef, 20_261_125];
    let (mut named, mut unnamed) = (0, 0);
    for seed in seeds {
        let verdict = run(seed, events() / seeds.len() as u64);
        let first = verdict.wrong.first();
        assert_eq!(first, None, "of {}, seed {seed}", verdict.wrong.len());
        named += verdict.named;
        unnamed += verdict.unnamed;
        println!(
            "seed {seed}: {} containers, {} rows of pods named, {} not",
            verdict.containers.len(),
            verdict.named,
            verdict.unnamed
        );
        // A check that looks at nothing would find nothing.
        assert!(
            verdict.listeners > 100 && verdict.windows > 1_000,
            "seed {seed}"
        );
        assert!(verdict.containers.len() > 100, "seed {seed}");
    }
    // With churn this fast many rows are about two pods at once; most are not.
    assert!(named > unnamed, "{named} named, {unnamed} not");
}
