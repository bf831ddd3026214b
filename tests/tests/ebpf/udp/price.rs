//! What the hooks of UDP cost TCP, in runs.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use plumbline_core::declared::Transport;
use plumbline_core::observation::{Fact, Observation};
use plumbline_tests::traffic::{Lanes, Plan, Tally, Worker};
use plumbline_tests::wait::poll;

use super::super::observer::{Observer, sandbox};
use super::{NEVER, SIGHT};

/// The hooks of UDP also run for TCP: once per `connect` and once per socket that closes, and each returns at once.
#[test]
fn a_tcp_connection_costs_three_runs_and_is_no_flow_of_udp() {
    let Some(sandbox) = sandbox() else { return };
    let Some(observer) = Observer::scanning(&sandbox, NEVER) else {
        return;
    };
    let (server, serving) = sandbox.solo("server").unwrap();
    let (_, asking) = sandbox.solo("client").unwrap();
    observer.attached(&serving);
    observer.attached(&asking);
    let Ok(_counting) = aya::sys::enable_stats(aya::sys::Stats::RunTime) else {
        return plumbline_tests::skip::skipped("the kernel does not count runs");
    };
    let lanes = |addresses| Lanes {
        addresses,
        first_port: 7_100,
        lanes: 2,
        connections: 50,
        seed: 7,
        framed: false,
        orders: Vec::new(),
        payload_max: Some(2_000),
        mptcp: false,
    };
    let any = vec![Ipv6Addr::UNSPECIFIED.into()];
    let answering = Worker::ready(serving.place(), &Plan::Serve(lanes(any))).unwrap();
    let before = runs(&observer);
    let connect = Plan::Connect(lanes(server.notations()));
    let asked: Tally = Worker::start(asking.place(), &connect)
        .unwrap()
        .finish()
        .unwrap();
    let served: Tally = answering.finish().unwrap();
    assert_eq!(asked.total().connections, 100);
    assert_eq!(served.total().connections, 100);
    let mut after = BTreeMap::new();
    let all_closed = || {
        after = runs(&observer);
        (after["plumb_close"] - before["plumb_close"] >= 200).then_some(())
    };
    assert!(poll(SIGHT, all_closed).is_some(), "{before:?} {after:?}");
    let ran = |name: &str| after[name] - before[name];
    assert_eq!(ran("plumb_conn4") + ran("plumb_conn6"), 100);
    // Both ends of each connection, and the two listeners.
    assert!((200..=202).contains(&ran("plumb_close")), "{after:?}");
    for name in ["plumb_send4", "plumb_send6", "plumb_recv4", "plumb_recv6"] {
        assert_eq!(ran(name), 0, "{name}");
    }
    let of_udp = |seen: &Observation| match &seen.fact {
        Fact::Flows { rows, .. } => rows.iter().any(|row| row.transport == Transport::Udp),
        _ => false,
    };
    assert!(!observer.seen().facts.iter().any(of_udp));
}

/// Runs of each program so far.
fn runs(observer: &Observer) -> BTreeMap<String, u64> {
    // Figures are of the last tick: what ran before is in those of the one after the next.
    let ticks = |observer: &Observer| {
        let seen = observer.seen();
        let windows = |seen: &&Observation| matches!(seen.fact, Fact::CpuWindows { .. });
        seen.facts.iter().filter(windows).count()
    };
    let now = ticks(observer);
    poll(SIGHT, || (ticks(observer) >= now + 2).then_some(())).expect("the source ticks");
    let programs = observer.kernel.stats().programs.into_iter();
    programs
        .map(|program| (program.name, program.run_count))
        .collect()
}
