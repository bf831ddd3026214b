//! The eBPF source against real processes: what the kernel tells is compared with what this process did.
//!
//! The process moves itself into pod-shaped cgroups of its own, so that one test runs at a time. Needs root and cgroup v2.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "in a test a panic is the message, and a new fact is none of its business"
)]

mod kernel {
    pub(crate) mod sandbox;
    pub(crate) mod traffic;
    pub(crate) mod watch;
}

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::time::Duration;

use plumbline::sources::ebpf::Settings;
use plumbline_core::id::CgroupId;
use plumbline_core::observation::{Fact, FlowCounts, Health, Role};
use plumbline_ebpf::owner::FLOWS_PER_EPOCH;
use plumbline_tests::scale::scale;
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use kernel::sandbox::{Sandbox, burn, usage_us};
use kernel::traffic::{CLOSINGS, Expected, exchange, refused, timed_out};
use kernel::watch::{Stopped, Watch};

const LOOPBACK4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LOOPBACK6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

#[test]
fn probes_attach_and_containers_get_programs() {
    let sandbox = Sandbox::new();
    let before = sandbox.container(1, 1);
    let mut watch = Watch::start(Settings::new(sandbox.root()));
    for probe in ["tcp", "cpu_windows", "cgroups"] {
        let status = watch.until(|fact| match fact {
            Fact::Probe(status) if status.probe == probe => Some(status.clone()),
            _ => None,
        });
        assert_eq!(
            (status.health, status.reason),
            (Health::Ok, None),
            "{probe}"
        );
    }
    let attached = |watch: &mut Watch, id| {
        watch.until(|fact| match fact {
            Fact::Attached {
                cgroup,
                error,
                pre_existing,
            } if *cgroup == id => Some((error.clone(), *pre_existing)),
            _ => None,
        })
    };
    assert_eq!(attached(&mut watch, before.id), (None, true));
    let after = sandbox.container(1, 2);
    assert_eq!(attached(&mut watch, after.id), (None, false));
    let nested = after.nested("system.slice");
    watch.until(|fact| {
        matches!(fact, Fact::CgroupSeen(row) if row.cgroup == nested.id).then_some(())
    });
    nested.remove();
    watch.until(|fact| {
        matches!(fact, Fact::CgroupGone { cgroup } if *cgroup == nested.id).then_some(())
    });
    let stopped = watch.stop();
    let pods = |fact: &Fact| matches!(fact, Fact::Attached { .. }).then_some(());
    assert_eq!(
        stopped.facts.iter().filter_map(pods).count(),
        2,
        "neither the pod nor a nested cgroup has a program"
    );
    stopped.nothing_is_left();
}

/// Capabilities are a thread's own, and the threads that it starts inherit them.
#[test]
fn without_cap_perfmon_tcp_is_still_seen() {
    let sandbox = Sandbox::new();
    let rights = CapabilitySet::BPF | CapabilitySet::NET_ADMIN;
    let start = || {
        let rights = CapabilitySets {
            effective: rights,
            permitted: rights,
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, rights).unwrap();
        Watch::start(Settings::new(sandbox.root()))
    };
    let mut watch = std::thread::scope(|scope| scope.spawn(start).join().unwrap());
    let why = "missing CAP_PERFMON";
    for (probe, health, why) in [
        ("tcp", Health::Ok, ""),
        ("cpu_windows", Health::Unsupported, why),
        ("cgroups", Health::Unsupported, why),
    ] {
        let status = watch.until(|fact| match fact {
            Fact::Probe(status) if status.probe == probe => Some(status.clone()),
            _ => None,
        });
        assert_eq!(status.health, health, "{probe}: {:?}", status.reason);
        assert!(status.reason.unwrap_or_default().starts_with(why));
    }
    // Without events it is found by the next walk.
    let container = sandbox.container(1, 1);
    watch.until(|fact| matches!(fact, Fact::Attached { error: None, .. }).then_some(()));
    let listener = container.inside(|| TcpListener::bind((LOOPBACK4, 0)).unwrap());
    let port = listener.local_addr().unwrap().port();
    watch.until(|fact| {
        matches!(fact, Fact::ListenerOpened(event) if event.port == port).then_some(())
    });
}

#[test]
fn churn_is_followed_and_leaves_nothing_in_the_tables() {
    let containers = scale().churned_containers;
    let sandbox = Sandbox::new();
    let mut watch = Watch::start(Settings::new(sandbox.root()));
    for n in 0..containers {
        sandbox.container(1, n).remove();
    }
    let last = sandbox.container(2, 1);
    watch
        .until(|fact| matches!(fact, Fact::CgroupSeen(row) if row.cgroup == last.id).then_some(()));
    // The last container, and those whose sockets may still close.
    watch.until_last(|fact| match fact {
        Fact::Occupancy { place, entries, .. } if place == "ebpf.cpu_windows" => {
            Some(*entries == 1)
        }
        _ => None,
    });
    watch.until_last(|fact| match fact {
        Fact::Occupancy { place, entries, .. } if place == "ebpf.containers" => {
            Some(*entries <= 257)
        }
        _ => None,
    });
    let stopped = watch.stop();
    let mut there = BTreeSet::new();
    for fact in &stopped.facts {
        match fact {
            Fact::CgroupSeen(row) => drop(there.insert(row.cgroup)),
            Fact::CgroupGone { cgroup } => drop(there.remove(cgroup)),
            Fact::CgroupTree { rows } => there = rows.iter().map(|row| row.cgroup).collect(),
            _ => {}
        }
    }
    assert!(there.contains(&last.id));
    // The root, kubepods, its class, two pods, the last container.
    assert_eq!(there.len(), 6, "{there:?}");
    stopped.nothing_is_left();
}

#[test]
fn listeners_come_and_go_once() {
    let sandbox = Sandbox::new();
    let container = sandbox.container(1, 1);
    let nested = container.nested("inner");
    let mut watch = Watch::start(Settings::new(sandbox.root()));
    let listen = |address: IpAddr| TcpListener::bind((address, 0)).unwrap();
    let mut expected = Vec::new();
    container.inside(|| {
        for address in [
            LOOPBACK4,
            LOOPBACK6,
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ] {
            let listener = listen(address);
            expected.push((address, listener.local_addr().unwrap().port()));
        }
        if let Some(listener) = kernel::traffic::mptcp_listener() {
            expected.push((LOOPBACK4, listener.local_addr().unwrap().port()));
        } else {
            println!("no MPTCP on this kernel");
        }
    });
    nested.inside(|| expected.push((LOOPBACK4, listen(LOOPBACK4).local_addr().unwrap().port())));
    expected.sort_unstable();
    for _ in 0..2 * expected.len() {
        watch.until(|fact| {
            matches!(fact, Fact::ListenerOpened(_) | Fact::ListenerClosed(_)).then_some(())
        });
    }
    let stopped = watch.stop();
    let mut opened = Vec::new();
    let mut closed = Vec::new();
    for fact in &stopped.facts {
        let (list, event) = match fact {
            Fact::ListenerOpened(event) => (&mut opened, event),
            Fact::ListenerClosed(event) => (&mut closed, event),
            _ => continue,
        };
        assert_eq!(event.owner, container.id, "also of a nested cgroup");
        assert_ne!(event.cookie, 0);
        list.push((event.address, event.port));
    }
    opened.sort_unstable();
    closed.sort_unstable();
    assert_eq!((&opened, &closed), (&expected, &expected));
}

#[test]
fn connections_and_bytes_are_exact_in_every_closing_order() {
    let sandbox = Sandbox::new();
    let (server, client) = (sandbox.container(1, 1), sandbox.container(2, 1));
    let settings = Settings {
        flow_interval: Duration::from_millis(200),
        ..Settings::new(sandbox.root())
    };
    let mut watch = Watch::start(settings);
    let mut expected = Expected::default();
    // A dual-stack server, which sees IPv4 clients as mapped addresses.
    for (bind, peer) in [
        (LOOPBACK4, LOOPBACK4),
        (LOOPBACK6, LOOPBACK6),
        (IpAddr::V6(Ipv6Addr::UNSPECIFIED), LOOPBACK4),
        (IpAddr::V6(Ipv6Addr::UNSPECIFIED), LOOPBACK6),
    ] {
        let listener = server.inside(|| TcpListener::bind((bind, 0)).unwrap());
        let port = listener.local_addr().unwrap().port();
        client.inside(|| {
            for closing in CLOSINGS {
                for (up, down) in [(0, 0), (1, 0), (0, 1), (1_000, 70_000), (300_000, 17)] {
                    let bytes = exchange(&listener, (peer, port), closing, up, down);
                    expected.connection(client.id, server.id, peer, port, bytes);
                }
            }
        });
    }
    watch.until_flows(|flows| {
        flows.values().map(|counts| counts.closed).sum::<u64>() >= expected.closed()
    });
    let stopped = watch.stop();
    expected.compare(&stopped.flows());
    assert_eq!(stopped.dropped("ebpf.tcp", "unattributed"), 0);
}

#[test]
fn failed_connects_are_counted_and_timeouts_told_from_refusals() {
    let sandbox = Sandbox::new();
    let client = sandbox.container(1, 1);
    let watch = Watch::start(Settings::new(sandbox.root()));
    let (refused_port, stuck_port) = client.inside(|| (refused(LOOPBACK4, 50), timed_out()));
    let stopped = watch.stop();
    let flows = stopped.flows();
    let counts = |role, port| {
        flows
            .get(&(client.id, role, Some(LOOPBACK4), port))
            .copied()
            .unwrap_or_default()
    };
    let refusals = FlowCounts {
        failures: 50,
        ..FlowCounts::default()
    };
    assert_eq!(counts(Role::Client, refused_port), refusals);
    let stuck = counts(Role::Client, stuck_port);
    assert_eq!(
        (stuck.connections, stuck.failures, stuck.timeouts),
        (1, 1, 1)
    );
}

#[test]
fn a_full_flow_table_keeps_the_counts_and_loses_the_peer() {
    const CONNECTIONS: usize = 40;
    let sandbox = Sandbox::new();
    let container = sandbox.container(1, 1);
    let settings = Settings {
        flow_interval: Duration::from_secs(600),
        flows_max: 8,
        ..Settings::new(sandbox.root())
    };
    let watch = Watch::start(settings);
    container.inside(|| {
        for _ in 0..CONNECTIONS {
            let listener = TcpListener::bind((LOOPBACK4, 0)).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            drop((client, listener.accept().unwrap()));
        }
    });
    let stopped = watch.stop();
    let flows = stopped.flows();
    for role in [Role::Client, Role::Server] {
        let sum = |peer: bool| {
            let rows = flows
                .iter()
                .filter(|((_, r, p, _), _)| *r == role && p.is_some() == peer);
            rows.map(|(_, counts)| counts.connections).sum::<u64>()
        };
        assert_eq!(sum(true) + sum(false), CONNECTIONS as u64, "{role:?}");
        assert!(sum(false) > 0, "{role:?} overflowed");
    }
    assert!(stopped.dropped("ebpf.flows", "full") > 0);
    assert_eq!(stopped.dropped("ebpf.flows_overflow", "full"), 0);
}

/// Records of a container's listeners that arrived.
fn told(stopped: &Stopped, owner: CgroupId) -> u64 {
    let of = |fact: &&Fact| {
        matches!(fact, Fact::ListenerOpened(event) | Fact::ListenerClosed(event)
            if event.owner == owner)
    };
    stopped.facts.iter().filter(of).count() as u64
}

/// Connections of a container with a peer, and those without.
fn connections(stopped: &Stopped, owner: CgroupId) -> (u64, u64) {
    let (mut named, mut unnamed) = (0, 0);
    for ((id, _, peer, _), counts) in stopped.flows() {
        let sum = if peer.is_some() {
            &mut named
        } else {
            &mut unnamed
        };
        *sum += if id == owner { counts.connections } else { 0 };
    }
    (named, unnamed)
}

#[test]
fn a_noisy_container_spends_its_own_share_and_nothing_goes_uncounted() {
    const LISTENERS: u64 = 1_000;
    const CONNECTIONS: u64 = 700;
    let sandbox = Sandbox::new();
    let (noisy, quiet) = (sandbox.container(1, 1), sandbox.container(2, 1));
    let settings = Settings {
        // One epoch for all: what the noisy one may have in it is all that it gets.
        flow_interval: Duration::from_secs(600),
        ..Settings::new(sandbox.root())
    };
    let watch = Watch::start(settings);
    let connect = |times: u64| {
        for _ in 0..times {
            let listener = TcpListener::bind((LOOPBACK4, 0)).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            drop((client, listener.accept().unwrap()));
        }
    };
    noisy.inside(|| {
        for _ in 0..LISTENERS {
            TcpListener::bind((LOOPBACK4, 0)).unwrap();
        }
        connect(CONNECTIONS);
    });
    quiet.inside(|| connect(20));
    let stopped = watch.stop();

    // Listeners: each told of twice, or counted as lost.
    let lost = |reason| stopped.dropped("ebpf.listener_events", reason);
    let (of_noisy, of_quiet) = (told(&stopped, noisy.id), told(&stopped, quiet.id));
    assert_eq!(of_quiet, 40, "the quiet one is heard in full");
    assert!(lost("budget") > 0, "the noisy one is not");
    let generated = 2 * (LISTENERS + CONNECTIONS);
    assert_eq!(of_noisy + lost("budget") + lost("full"), generated);
    assert_eq!(
        stopped.delivered("ebpf.listener_events"),
        of_noisy + of_quiet
    );

    // Flows: each connection counted once an end, with its peer or without.
    let beyond = stopped.dropped("ebpf.flows", "budget");
    assert_eq!(connections(&stopped, quiet.id), (40, 0));
    let (named, unnamed) = connections(&stopped, noisy.id);
    assert_eq!(named + unnamed, 2 * CONNECTIONS);
    assert!(named >= FLOWS_PER_EPOCH && unnamed > 0, "{named} {unnamed}");
    assert!(beyond >= unnamed, "{beyond} {unnamed}");
    for (place, reason) in [("ebpf.flows", "full"), ("ebpf.flows_overflow", "full")] {
        assert_eq!(stopped.dropped(place, reason), 0, "{place} {reason}");
    }
    let flows = stopped.flows();
    let changes: u64 = flows
        .values()
        .map(|counts| counts.connections + counts.failures + counts.closed)
        .sum();
    assert_eq!(stopped.delivered("ebpf.flows"), changes);
    let refused = stopped.facts.iter().rev().find_map(|fact| match fact {
        Fact::Refused(told) => Some((told.cgroup, told.flows, told.listeners)),
        _ => None,
    });
    assert_eq!(refused, Some((noisy.id, beyond, lost("budget"))));
}

#[test]
fn cpu_windows_agree_with_cpu_stat() {
    let sandbox = Sandbox::new();
    let container = sandbox.container(1, 1);
    let nested = container.nested("inner");
    let mut watch = Watch::start(Settings::new(sandbox.root()));
    // The window in which the programs were attached is not told.
    watch.until(|fact| matches!(fact, Fact::CpuWindows { .. }).then_some(()));
    let (usage, steal) = (usage_us(&container), kernel::sandbox::steal_us());
    // One task that never sleeps, in the container and in a cgroup below it.
    burn(&[&container, &nested], Duration::from_secs(3));
    let (usage, steal) = (
        usage_us(&container) - usage,
        kernel::sandbox::steal_us() - steal,
    );
    // The readings of these three seconds still wait to be taken: only one that reaches beyond them has the last windows.
    let over = plumbline_tests::wait::monotonic_ns();
    watch.until(|fact| match fact {
        Fact::CpuWindows { start, windows, .. } => {
            (start.0 + 100_000_000 * u64::from(*windows) >= over).then_some(())
        }
        _ => None,
    });
    let stopped = watch.stop();
    let (mut seen_us, mut lost_windows) = (0, 0);
    let mut previous_end = None;
    for fact in &stopped.facts {
        let Fact::CpuWindows {
            start,
            windows,
            lost,
            rows,
            ..
        } = fact
        else {
            continue;
        };
        assert_eq!(start.0 % 100_000_000, 0);
        let first = start.0 / 100_000_000;
        assert_eq!(
            *previous_end.get_or_insert(first),
            first - u64::from(*lost),
            "no window twice, none left out"
        );
        previous_end = Some(first + u64::from(*windows));
        lost_windows += u64::from(*lost);
        for row in rows {
            assert_eq!(row.busy_us.len(), usize::from(*windows));
            assert!(
                [container.id, nested.id].contains(&row.cgroup),
                "only what is in containers is told"
            );
            seen_us += row.busy_us.iter().map(|us| u64::from(*us)).sum::<u64>();
        }
    }
    let told = format!(
        "cpu.stat {usage} us, windows {seen_us} us, steal {steal} us, {lost_windows} windows lost"
    );
    println!("{told}");
    // On a busy machine the reader may come too late for a window, and says so: both tasks may have run in all of it.
    let lost_us = 2 * 100_000 * lost_windows;
    let tolerance = usage / 100 + steal + lost_us;
    assert!(seen_us.abs_diff(usage) <= tolerance, "{told}");
    let cpu = stopped.stats.cpu.as_ref().expect("attached");
    assert!(cpu.cgroups.values().sum::<u64>() <= cpu.busy_ns, "{cpu:?}");
    assert!(cpu.busy_ns <= cpu.watched_ns, "{cpu:?}");
}
