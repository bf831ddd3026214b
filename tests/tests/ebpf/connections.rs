//! Bytes of connections while they are open: told with each reading, and at the end exactly once, whatever closes when.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::thread;

use plumbline_core::observation::{Fact, Health, ProbeStatus, Role};
use plumbline_tests::pods::{Container, Pod, Sandbox};
use plumbline_tests::traffic::{Endpoint, Long, Plan, Tally, Worker};
use plumbline_tests::wait::{PATIENCE, poll};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::observer::{Flow, Observer, sandbox};

const PORT: u16 = 7_100;

/// Bytes sent and received by flow.
type Bytes = BTreeMap<Flow, (u64, u64)>;

/// A server, and a client with connections to it over IPv4, IPv6 and IPv4-mapped addresses.
struct Pair {
    server: (Pod, Container),
    client: (Pod, Container),
    asking: Worker,
    _answering: Worker,
}

impl Pair {
    /// Opens `connections` long ones.
    fn open(sandbox: &Sandbox, connections: usize, short: usize) -> Self {
        let server = sandbox.solo("server").unwrap();
        let client = sandbox.solo("client").unwrap();
        Self::between(server, client, connections, short)
    }

    fn between(
        server: (Pod, Container),
        client: (Pod, Container),
        connections: usize,
        short: usize,
    ) -> Self {
        let any: SocketAddr = (Ipv6Addr::UNSPECIFIED, PORT).into();
        let endpoint = Endpoint::tcp(any);
        let answering = Worker::ready(server.1.place(), &Plan::Answer { endpoint }).unwrap();
        let targets = server.0.notations();
        let plan = Plan::Long(Long {
            targets: targets.into_iter().map(|ip| (ip, PORT).into()).collect(),
            connections,
            short,
            seed: 2_027,
        });
        let asking = Worker::ready(client.1.place(), &plan).unwrap();
        Self {
            server,
            client,
            asking,
            _answering: answering,
        }
    }

    /// Has the client do something; what it has moved in all.
    fn command(&mut self, command: &str) -> Tally {
        serde_json::from_str(&self.asking.command(command).unwrap()).unwrap()
    }

    /// Waits until both ends are told to have moved what the client counted after `before`. Never may it be more.
    fn expect(&self, observer: &Observer, what: &str, before: &Tally, now: &Tally) {
        let (asked, served) = self.both_ends(before, now);
        for (container, wanted) in [(&self.client.1, asked), (&self.server.1, served)] {
            poll(PATIENCE, || {
                let told = told(observer, container);
                for (flow, bytes) in &told {
                    let most = wanted.get(flow).copied().unwrap_or_default();
                    assert!(
                        bytes.0 <= most.0 && bytes.1 <= most.1,
                        "{what}: {flow:?}: told {bytes:?} of {most:?}"
                    );
                }
                (told == wanted).then_some(())
            });
            let name = container.name();
            assert_eq!(
                told(observer, container),
                wanted,
                "{what}: {name}: told (left) and counted by itself (right)"
            );
        }
    }

    fn both_ends(&self, before: &Tally, now: &Tally) -> (Bytes, Bytes) {
        let (mut asked, mut served) = (Bytes::new(), Bytes::new());
        let before = before.by_key();
        for (key, counts) in now.by_key() {
            let old = before.get(&key).copied().unwrap_or_default();
            let sent = counts.sent_bytes - old.sent_bytes;
            let received = counts.received_bytes - old.received_bytes;
            if (sent, received) == (0, 0) {
                continue;
            }
            asked.insert((Role::Client, Some(key.peer), PORT), (sent, received));
            let client = &self.client.0;
            let own = if key.peer.is_ipv4() {
                client.ipv4()
            } else {
                client.ipv6()
            };
            served.insert((Role::Server, Some(own), PORT), (received, sent));
        }
        (asked, served)
    }
}

fn told(observer: &Observer, container: &Container) -> Bytes {
    let flows = observer.flows(container).into_iter();
    flows
        .map(|(flow, counts)| (flow, (counts.sent_bytes, counts.received_bytes)))
        .filter(|(_, bytes)| *bytes != (0, 0))
        .collect()
}

/// What a reading could not account for.
fn unseen(observer: &Observer) -> BTreeMap<(String, String), u64> {
    let mut dropped = observer.dropped();
    dropped.retain(|(place, _), _| place == "ebpf.connections");
    dropped
}

#[test]
fn long_and_short_connections_are_told_while_open_and_once_in_all() {
    let Some(sandbox) = sandbox() else { return };
    let Some(observer) = Observer::start(&sandbox) else {
        return;
    };
    let (server, client) = (
        sandbox.solo("server").unwrap(),
        sandbox.solo("client").unwrap(),
    );
    observer.attached(&server.1);
    observer.attached(&client.1);
    let mut pair = Pair::between(server, client, 30, 60);
    let nothing = Tally::default();
    for round in 0..3 {
        let moved = pair.command("move");
        pair.expect(&observer, &format!("open, round {round}"), &nothing, &moved);
    }
    // Some 480 connections that live up to 120 ms each: most readings find some that close before the next.
    let moved = pair.command("churn");
    pair.expect(
        &observer,
        "short ones closed, long ones open",
        &nothing,
        &moved,
    );
    pair.command("move");
    let all = pair.command("close");
    pair.expect(&observer, "all closed", &nothing, &all);
    assert_eq!(observer.dropped(), [].into());
    let total = all.total();
    println!(
        "{} connections, {} B sent, {} B received: error 0",
        total.connections, total.sent_bytes, total.received_bytes
    );
}

#[test]
fn connections_older_than_the_agent_are_told_from_its_start() {
    let Some(sandbox) = sandbox() else { return };
    let mut pair = Pair::open(&sandbox, 9, 0);
    let before = pair.command("move");
    let Some(observer) = Observer::start(&sandbox) else {
        return;
    };
    let mut moved = pair.command("move");
    pair.expect(&observer, "since the start", &before, &moved);
    moved = pair.command("move");
    pair.expect(&observer, "and on", &before, &moved);
    // No program saw them begin, so that none is told of their end: what was read last stands, and the ends are counted.
    pair.command("close");
    let ends = [(
        ("ebpf.connections".to_owned(), "unseen_close".to_owned()),
        18,
    )];
    poll(PATIENCE, || {
        (unseen(&observer) == ends.clone().into()).then_some(())
    });
    assert_eq!(unseen(&observer), ends.into(), "ends that nobody told of");
    pair.expect(&observer, "after the end", &before, &moved);
}

/// Namespaces with more connections than a reading looks at: of those that it meets every byte is told, also of new ones.
#[test]
fn a_namespace_that_is_not_read_to_its_end_loses_no_bytes() {
    let Some(sandbox) = sandbox() else { return };
    let (server, client) = (
        sandbox.solo("server").unwrap(),
        sandbox.solo("client").unwrap(),
    );
    let Some(observer) = Observer::limited(&sandbox, 6) else {
        return;
    };
    observer.attached(&server.1);
    observer.attached(&client.1);
    let mut pair = Pair::between(server, client, 12, 60);
    pair.command("move");
    let told = observer.expect("what is not read", |seen| {
        let mut told = seen.facts.iter().filter_map(|seen| match &seen.fact {
            Fact::Probe(status) if status.probe == "connections" => Some(status),
            _ => None,
        });
        let is_cut = |reason: &str| reason.contains("more connections than a reading looks at");
        told.find(|status| status.reason.as_deref().is_some_and(is_cut))
            .cloned()
    });
    assert_eq!(told.health, Health::Broken, "{told:?}");
    pair.command("churn");
    let all = pair.command("close");
    pair.expect(&observer, "all closed", &Tally::default(), &all);
    let cut = (("ebpf.connections".to_owned()), "cut".to_owned());
    let unseen = unseen(&observer);
    assert!(unseen.get(&cut).is_some_and(|cut| *cut > 0), "{unseen:?}");
}

#[test]
fn a_restart_neither_loses_nor_repeats_bytes() {
    let Some(sandbox) = sandbox() else { return };
    let (server, client) = (
        sandbox.solo("server").unwrap(),
        sandbox.solo("client").unwrap(),
    );
    let Some(first) = Observer::start(&sandbox) else {
        return;
    };
    first.attached(&server.1);
    first.attached(&client.1);
    let mut pair = Pair::between(server, client, 12, 0);
    let moved = pair.command("move");
    pair.expect(&first, "before the restart", &Tally::default(), &moved);
    drop(first);
    let before = pair.command("move");
    let Some(second) = Observer::start(&sandbox) else {
        return;
    };
    let moved = pair.command("move");
    pair.expect(&second, "after the restart", &before, &moved);
    pair.command("move");
    let all = pair.command("close");
    pair.expect(&second, "closed after the restart", &before, &all);
    assert_eq!(unseen(&second), [].into());
}

/// The last that a probe said about itself.
fn verdict(observer: &Observer, probe: &str) -> ProbeStatus {
    observer.expect(probe, |seen| {
        seen.facts.iter().rev().find_map(|seen| match &seen.fact {
            Fact::Probe(status) if status.probe == probe => Some(status.clone()),
            _ => None,
        })
    })
}

/// As under the shipped manifest. The right is named, listeners come from procfs, and bytes when a connection closes.
#[test]
fn without_sys_admin_the_missing_right_is_named_and_the_rest_works() {
    let Some(sandbox) = sandbox() else { return };
    let mut pair = Pair::open(&sandbox, 3, 5);
    // Rights are a thread's own and those of the threads that it starts.
    let watching = || {
        let mut rights = capabilities(None).unwrap();
        for set in [&mut rights.effective, &mut rights.permitted] {
            set.remove(CapabilitySet::SYS_ADMIN);
        }
        rights.inheritable = CapabilitySet::empty();
        set_capabilities(None, rights).unwrap();
        let observer = Observer::unjudged(&sandbox);
        for probe in ["tcp", "udp", "cgroups"] {
            let status = verdict(&observer, probe);
            assert_eq!(status.health, Health::Ok, "{probe}: {:?}", status.reason);
        }
        // Debian's kernels give perf events to nobody else, which is told apart from a fault.
        let cpu = verdict(&observer, "cpu_windows");
        let reason = cpu.reason.unwrap_or_default();
        let named = cpu.health == Health::Unsupported && reason.contains("missing CAP_SYS_ADMIN");
        assert!(
            cpu.health == Health::Ok || named,
            "{:?}: {reason}",
            cpu.health
        );
        let (connections, listeners) = ["connections", "listeners"]
            .map(|probe| verdict(&observer, probe))
            .into();
        assert_eq!(connections.health, Health::Unsupported);
        let reason = connections.reason.unwrap();
        assert!(reason.contains("missing CAP_SYS_ADMIN"), "{reason}");
        let reason = listeners.reason.unwrap();
        assert!(reason.contains("procfs"), "{reason}");
        observer
    };
    let observer = thread::scope(|scope| scope.spawn(watching).join()).unwrap();
    for (_, container) in [&pair.server, &pair.client] {
        observer.attached(container);
    }
    let before = pair.command("move");
    let all = pair.command("churn");
    pair.expect(&observer, "closed ones", &before, &all);
}
