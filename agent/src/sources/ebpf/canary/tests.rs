use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use plumbline_core::id::CgroupId;
use plumbline_core::observation::{FlowCounts, Health, ProbeStatus};
use plumbline_core::time::Timestamp;

use super::{CGROUPS, CPU_WINDOWS, Canary, HANGS, Round, SETTLE, Seen, Step, TCP, UDP};

const ALL: [&str; 4] = [TCP, UDP, CPU_WINDOWS, CGROUPS];
const START: Timestamp = Timestamp(1_000_000_000);
const MINUTE: Duration = Duration::from_secs(60);

fn canary() -> Canary {
    Canary {
        interval: MINUTE,
        directory: PathBuf::from("/nonexistent/plumbline-canary-1"),
        path: "/plumbline-canary-1".into(),
        placed: true,
        cgroup: CgroupId(7),
        next: START,
        round: None,
        hanging: None,
        misses: BTreeMap::new(),
        verdicts: BTreeMap::new(),
        trouble: None,
    }
}

fn everything() -> Seen {
    let counts = FlowCounts {
        connections: 1,
        closed: 1,
        sent_bytes: super::PAYLOAD,
        received_bytes: super::PAYLOAD,
        ..FlowCounts::default()
    };
    Seen {
        opened: true,
        closed: true,
        client: counts,
        server: counts,
        bound: true,
        unbound: true,
        udp_client: counts.connections,
        udp_server: counts.connections,
        hears: true,
        made: true,
        removed: true,
        cpu_us: u64::try_from(super::BURN.as_micros()).unwrap(),
    }
}

/// A round in which this was done and seen.
fn round(canary: &mut Canary, at: Timestamp, done: Result<(), String>, seen: Seen) {
    canary.round = Some(Round {
        begun: at,
        thread: None,
        done: Some((at, done)),
        seen,
    });
}

fn ok(probe: &str) -> ProbeStatus {
    ProbeStatus {
        probe: probe.into(),
        health: Health::Ok,
        reason: None,
    }
}

#[test]
fn rounds_come_and_are_judged_when_all_could_be_told() {
    let mut canary = canary();
    assert_eq!(canary.step(START), Step::Begin);
    round(&mut canary, START, Ok(()), everything());
    assert_eq!(canary.step(START.plus(SETTLE / 2)), Step::Wait);
    let end = START.plus(SETTLE);
    assert_eq!(canary.step(end), Step::Judge);
    assert!(canary.judge(&ALL, end).is_empty());
    assert_eq!(canary.step(end.plus(MINUTE / 2)), Step::Wait);
    assert_eq!(canary.step(end.plus(MINUTE)), Step::Begin);
    assert_eq!(canary.judged(&ok(TCP)), ok(TCP));
}

#[test]
fn what_is_missed_twice_breaks_the_probe_until_it_is_seen() {
    let mut canary = canary();
    let deaf = Seen {
        client: FlowCounts {
            connections: 1,
            ..FlowCounts::default()
        },
        ..everything()
    };
    round(&mut canary, START, Ok(()), deaf.clone());
    assert!(canary.judge(&ALL, START).is_empty(), "once may be chance");
    assert_eq!(
        canary.step(START),
        Step::Begin,
        "but is tried again at once"
    );
    round(&mut canary, START, Ok(()), deaf.clone());
    assert_eq!(canary.judge(&ALL, START), [TCP]);
    canary.explain(TCP, "it is one of: foreign (id 7)");
    let said = canary.judged(&ok(TCP));
    assert_eq!(said.health, Health::Broken);
    assert_eq!(
        said.reason.as_deref(),
        Some(
            "the canary was not seen: the client's close with its bytes missed; it is one of: foreign (id 7)"
        )
    );
    assert_eq!(canary.judged(&ok(CGROUPS)), ok(CGROUPS), "others are well");
    round(&mut canary, START, Ok(()), everything());
    assert!(canary.judge(&ALL, START).is_empty());
    assert_eq!(canary.judged(&ok(TCP)), ok(TCP));
}

#[test]
fn a_probe_is_judged_by_what_is_its_own() {
    for (probe, blind) in [
        (
            UDP,
            Seen {
                unbound: false,
                ..everything()
            },
        ),
        (
            UDP,
            Seen {
                udp_server: 0,
                ..everything()
            },
        ),
        (
            CPU_WINDOWS,
            Seen {
                cpu_us: 0,
                ..everything()
            },
        ),
    ] {
        let mut canary = canary();
        for broken in [&[][..], &[probe]] {
            round(&mut canary, START, Ok(()), blind.clone());
            assert_eq!(canary.judge(&ALL, START), broken);
        }
    }
}

/// No container chose a port: then nobody looks at what is received, the canary's neither.
#[test]
fn what_could_not_be_heard_is_not_missed() {
    let mut canary = canary();
    let deaf = Seen {
        udp_server: 0,
        hears: false,
        ..everything()
    };
    for _ in 0..3 {
        round(&mut canary, START, Ok(()), deaf.clone());
        assert!(canary.judge(&ALL, START).is_empty());
    }
}

#[test]
fn no_round_begins_while_another_hangs() {
    let mut canary = canary();
    let (release, released) = std::sync::mpsc::sync_channel::<()>(0);
    let thread = std::thread::spawn(move || {
        released.recv().ok();
        Ok(())
    });
    canary.round = Some(Round {
        begun: START,
        thread: Some(thread),
        done: None,
        seen: Seen::default(),
    });
    let late = START.plus(HANGS);
    assert_eq!(canary.step(late), Step::Judge);
    assert!(canary.judge(&ALL, late).is_empty(), "no probe is blamed");
    assert_eq!(canary.status().health, Health::Broken);
    for rounds in 1..4 {
        assert_eq!(canary.step(late.plus(rounds * MINUTE)), Step::Wait);
    }
    drop(release);
    while canary
        .hanging
        .as_ref()
        .is_some_and(|thread| !thread.is_finished())
    {
        std::thread::yield_now();
    }
    assert_eq!(canary.step(late.plus(5 * MINUTE)), Step::Begin);
}

#[test]
fn probes_that_are_not_there_are_not_waited_for() {
    let mut canary = canary();
    for _ in 0..3 {
        round(&mut canary, START, Ok(()), Seen::default());
        assert!(canary.judge(&[], START).is_empty());
    }
    canary.placed = false;
    for _ in 0..3 {
        round(&mut canary, START, Ok(()), Seen::default());
        assert!(canary.judge(&[CGROUPS], START).is_empty());
    }
}

#[test]
fn a_canary_that_cannot_act_says_so_and_blames_no_probe() {
    let mut canary = canary();
    for _ in 0..3 {
        round(
            &mut canary,
            START,
            Err("no loopback".into()),
            Seen::default(),
        );
        assert!(canary.judge(&ALL, START).is_empty());
    }
    assert_eq!(canary.status().health, Health::Broken);
    assert!(canary.status().reason.unwrap().contains("no loopback"));
    assert_eq!(canary.judged(&ok(TCP)), ok(TCP));
}

#[test]
fn only_its_own_directories_are_its_own() {
    let canary = canary();
    assert!(canary.is_own("/plumbline-canary-1"));
    assert!(canary.is_own("/plumbline-canary-1/probe"));
    assert!(!canary.is_own("/plumbline-canary-12"));
    assert!(!canary.is_own("/kubepods"));
}
