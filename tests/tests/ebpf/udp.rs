//! UDP: who is a server, who talks to whom, and on request every datagram and byte, against sockets that the tests drive.

mod attachments;
mod heard;
mod price;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use plumbline::sources::ebpf::UdpMode;
use plumbline_core::declared::Transport;
use plumbline_core::observation::{Fact, FlowCounts, Role};
use plumbline_core::snapshot::BindScope;
use plumbline_ebpf::udp::{FLOWS_MAX, FLOWS_PER_HOOK};
use plumbline_tests::foreign::{UDP4_RECVMSG, UDP6_RECVMSG, links_of};
use plumbline_tests::pods::Container;
use plumbline_tests::scale::{Tier, scale};
use plumbline_tests::traffic::{Plan, Worker};
use plumbline_tests::wait::poll;

use super::observer::{Flow, Observer, sandbox};

/// How long what was done may take to be told. Sources read every second; machines stall.
const SIGHT: Duration = Duration::from_secs(20);

/// Scans so rare that only events can tell.
const NEVER: Duration = Duration::from_secs(3_600);

/// A process with UDP sockets in a container.
struct Talker(Worker);

impl Talker {
    fn new(container: &Container) -> Self {
        Self(Worker::ready(container.place(), &Plan::Datagrams).unwrap())
    }

    fn tell(&mut self, command: &str) -> String {
        self.0.command(command).unwrap()
    }
}

/// The UDP servers of a container, by port, with their sockets and scope.
fn servers(observer: &Observer, container: &Container) -> Vec<(u16, u64, BindScope)> {
    let view = observer.seen().container(container);
    let listeners = view.map(|view| view.listeners).unwrap_or_default();
    listeners
        .iter()
        .filter(|listener| listener.transport == Transport::Udp)
        .map(|listener| (listener.port, listener.sockets, listener.scope))
        .collect()
}

fn expect_servers(
    observer: &Observer,
    container: &Container,
    what: &str,
    wanted: &[(u16, u64, BindScope)],
) {
    let mut last = Vec::new();
    let met = poll(SIGHT, || {
        last = servers(observer, container);
        (last == wanted).then_some(())
    });
    assert!(met.is_some(), "{what}: {last:?} and not {wanted:?}");
}

/// Whether programs see what a container receives.
fn is_heard(container: &Container) -> bool {
    let links = |hook| links_of(std::process::id(), container.cgroup_id(), hook).len();
    [UDP4_RECVMSG, UDP6_RECVMSG].map(links) == [1, 1]
}

/// Waits until they do: they come when a program has chosen a port.
fn expect_heard(container: &Container) {
    let heard = poll(SIGHT, || is_heard(container).then_some(()));
    assert!(heard.is_some(), "{} is not heard", container.name());
}

/// Waits until the flows of a container are these, by associations.
fn expect_peers(observer: &Observer, container: &Container, wanted: &[(Flow, u64)]) {
    let wanted: BTreeMap<Flow, u64> = wanted.iter().copied().collect();
    let mut last = BTreeMap::new();
    let met = poll(SIGHT, || {
        let flows = observer.flows(container).into_iter();
        last = flows
            .map(|(flow, counts)| (flow, counts.connections))
            .collect();
        (last == wanted).then_some(())
    });
    assert!(
        met.is_some(),
        "{}: {last:?} and not {wanted:?}",
        container.name()
    );
}

#[test]
fn peers_have_roles_by_the_state_of_sockets() {
    let Some(sandbox) = sandbox() else { return };
    let Some(observer) = Observer::scanning(&sandbox, NEVER) else {
        return;
    };
    let (pod, server) = sandbox.solo("server").unwrap();
    let (asking, client) = sandbox.solo("client").unwrap();
    observer.attached(&server);
    observer.attached(&client);
    let (mut serving, mut talking) = (Talker::new(&server), Talker::new(&client));
    let (v4, v6) = (pod.ipv4(), pod.ipv6());
    serving.tell("bind four 0.0.0.0:5300");
    serving.tell("bind six [::]:5301");
    // In the dynamic range, and asked before it sends: a server all the same.
    serving.tell("bind high 0.0.0.0:45300");
    expect_heard(&server);
    for (socket, version, to) in [
        ("a", 4, format!("{v4}:5300")),
        ("b", 6, format!("[::ffff:{v4}]:5300")),
        ("c", 6, format!("[{v6}]:5301")),
        ("d", 4, format!("{v4}:5301")),
        ("e", 4, format!("{v4}:45300")),
    ] {
        talking.tell(&format!("open {socket} {version}"));
        talking.tell(&format!("send {socket} {to} 20 3"));
    }
    talking.tell("open g 4");
    talking.tell(&format!("connect g {v4}:5300"));
    talking.tell("write g 20 3");
    talking.tell("open h 6");
    talking.tell(&format!("connect h [{v6}]:5301"));
    talking.tell("write h 20 3");
    // A resolver in its own words: connected to port 0 to learn a source address, which says nothing about a peer.
    talking.tell("open i 4");
    talking.tell(&format!("connect i {v4}:0"));
    assert_eq!(serving.tell("echo four 9"), "180");
    assert_eq!(serving.tell("echo six 9"), "180");
    assert_eq!(serving.tell("echo high 3"), "60");
    for socket in ["a", "b", "c", "d", "e", "g", "h"] {
        assert_eq!(talking.tell(&format!("take {socket} 3")), "60", "{socket}");
    }
    let to = |peer, port, count| ((Role::Client, Some(peer), port), count);
    expect_peers(
        &observer,
        &client,
        &[
            to(v4, 5300, 3),
            to(v6, 5301, 2),
            to(v4, 5301, 1),
            to(v4, 45_300, 1),
        ],
    );
    let from = |peer, port, count| ((Role::Server, Some(peer), port), count);
    expect_peers(
        &observer,
        &server,
        &[
            from(asking.ipv4(), 5300, 3),
            from(asking.ipv6(), 5301, 2),
            from(asking.ipv4(), 5301, 1),
            from(asking.ipv4(), 45_300, 1),
        ],
    );
    assert_eq!(observer.dropped(), [].into());
}

#[test]
fn servers_are_told_from_clients() {
    let Some(sandbox) = sandbox() else { return };
    let Some(observer) = Observer::scanning(&sandbox, NEVER) else {
        return;
    };
    let (pod, container) = sandbox.solo("both").unwrap();
    let (beside, other) = sandbox.solo("other").unwrap();
    observer.attached(&container);
    observer.attached(&other);
    let (mut here, mut there) = (Talker::new(&container), Talker::new(&other));
    let (v4, v6) = (pod.ipv4(), pod.ipv6());
    there.tell("bind peer [::]:5353");
    // Clients first: what comes later in the ring shows that they were told of, or not.
    here.tell("bind zero 0.0.0.0:0");
    here.tell("bind zero6 [::]:0");
    here.tell("open plain 4");
    here.tell("bind fixed 0.0.0.0:5390");
    here.tell("bind random 0.0.0.0:45390");
    let target = there.tell("bind answering 0.0.0.0:5391");
    let port = target.rsplit_once(':').unwrap().1;
    let other_v4 = beside.ipv4();
    for socket in ["zero", "plain", "random"] {
        here.tell(&format!("send {socket} {other_v4}:{port} 8 1"));
        there.tell("echo answering 1");
        here.tell(&format!("take {socket} 1"));
    }
    here.tell(&format!("connect fixed {other_v4}:{port}"));
    here.tell("bind dns 0.0.0.0:53");
    here.tell("bind six [::]:5393");
    here.tell("bind own 127.0.0.1:5394");
    here.tell(&format!("bind pod [{v6}]:5395"));
    here.tell("bind twin 0.0.0.0:5396 reuse");
    here.tell("bind twin2 0.0.0.0:5396 reuse");
    here.tell("bind high 0.0.0.0:45391");
    here.tell("bind higher 0.0.0.0:61000");
    expect_heard(&container);
    use BindScope::{Any, Loopback, Pod};
    let quiet = [
        (53, 1, Any),
        (5393, 1, Any),
        (5394, 1, Loopback),
        (5395, 1, Pod),
        (5396, 2, Any),
        (61_000, 1, Any),
    ];
    expect_servers(&observer, &container, "by bind alone", &quiet);
    there.tell("open asking 4");
    there.tell(&format!("send asking {v4}:45391 8 1"));
    here.tell("take high 1");
    let mut all = quiet.to_vec();
    all.insert(5, (45_391, 1, Any));
    expect_servers(&observer, &container, "asked first", &all);
    for socket in [
        "dns", "six", "own", "pod", "twin", "twin2", "high", "higher",
    ] {
        here.tell(&format!("close {socket}"));
    }
    expect_servers(&observer, &container, "closed", &[]);
    assert_eq!(observer.dropped(), [].into());
}

#[test]
fn scans_find_servers_that_were_there_before() {
    let Some(sandbox) = sandbox() else { return };
    let (pod, container) = sandbox.solo("old").unwrap();
    let (beside, other) = sandbox.solo("other").unwrap();
    let mut here = Talker::new(&container);
    here.tell("bind old [::]:5310");
    here.tell("bind oldzero 0.0.0.0:0");
    here.tell("bind oldhigh 0.0.0.0:45310");
    let Some(observer) = Observer::start(&sandbox) else {
        return;
    };
    observer.attached(&container);
    observer.attached(&other);
    expect_servers(
        &observer,
        &container,
        "by scan",
        &[(5310, 1, BindScope::Any)],
    );
    let view = observer.seen().container(&container).unwrap();
    assert!(view.listeners[0].pre_existing && !view.listeners[0].holders.is_empty());
    // As the loop does.
    let serving = observer.seen().state.udp_servers();
    observer.kernel.set_udp_servers(serving);
    expect_heard(&container);
    // Of an old socket nobody knows who chose its port: outside the dynamic range a program did.
    let mut there = Talker::new(&other);
    there.tell("open asking 6");
    there.tell(&format!("send asking [{}]:5310 4 1", pod.ipv6()));
    here.tell("echo old 1");
    there.tell("open asking4 4");
    there.tell(&format!("send asking4 {}:45310 4 1", pod.ipv4()));
    here.tell("echo oldhigh 1");
    let from = Some(beside.ipv6());
    expect_peers(&observer, &container, &[((Role::Server, from, 5310), 1)]);
    here.tell("close old");
    expect_servers(&observer, &container, "closed, by scan", &[]);
}

#[test]
fn datagrams_and_bytes_are_exact_on_request() {
    let Some(sandbox) = sandbox() else { return };
    let Some(observer) = Observer::watching(&sandbox, NEVER, UdpMode::Flows) else {
        return;
    };
    let (pod, server) = sandbox.solo("server").unwrap();
    let (asking, client) = sandbox.solo("client").unwrap();
    observer.attached(&server);
    observer.attached(&client);
    let (mut serving, mut talking) = (Talker::new(&server), Talker::new(&client));
    serving.tell("bind echo [::]:5320");
    serving.tell("bind mute 0.0.0.0:45320");
    expect_heard(&server);
    // Nothing, one byte, one frame, and what is sent in fragments.
    let sizes = [0, 1, 1_400, 9_000, 60_000];
    let (mut sent, mut packets) = (0, 0);
    let targets = [
        ("four", "4", format!("{}:5320", pod.ipv4())),
        ("six", "6", format!("[{}]:5320", pod.ipv6())),
        ("mapped", "6", format!("[::ffff:{}]:5320", pod.ipv4())),
    ];
    for (name, version, to) in &targets {
        talking.tell(&format!("open {name} {version}"));
        for size in sizes {
            talking.tell(&format!("send {name} {to} {size} 2"));
            assert_eq!(serving.tell("echo echo 2"), (2 * size).to_string());
            assert_eq!(
                talking.tell(&format!("take {name} 2")),
                (2 * size).to_string()
            );
            (sent, packets) = (sent + 2 * size, packets + 2);
        }
        // Connected, which no hook of addresses sees a datagram of.
        talking.tell(&format!("connect {name} {to}"));
        talking.tell(&format!("write {name} 100 5"));
        assert_eq!(serving.tell("echo echo 5"), "500");
        assert_eq!(talking.tell(&format!("read {name} 5")), "500");
        (sent, packets) = (sent + 500, packets + 5);
    }
    // A server that asks nobody's address, in the dynamic range.
    talking.tell(&format!("send four {}:45320 10 3", pod.ipv4()));
    assert_eq!(serving.tell("read mute 3"), "30");
    let sum = |container: &Container, role: Role, port: u16, peers: &[IpAddr]| {
        let flows = observer.flows(container);
        let mut sum = FlowCounts::default();
        for ((of, peer, server_port), counts) in flows {
            let peer = peer.expect("no overflow");
            if of == role && server_port == port && peers.contains(&peer) {
                sum.add(&counts);
            }
        }
        (
            sum.sent_packets,
            sum.sent_bytes,
            sum.received_packets,
            sum.received_bytes,
        )
    };
    let wanted = (packets, sent, packets, sent);
    let (of_server, of_client) = ([pod.ipv4(), pod.ipv6()], [asking.ipv4(), asking.ipv6()]);
    for (container, role, peers) in [
        (&client, Role::Client, &of_server),
        (&server, Role::Server, &of_client),
    ] {
        let mut last = Default::default();
        poll(SIGHT, || {
            last = sum(container, role, 5320, peers);
            (last == wanted).then_some(())
        });
        assert_eq!(last, wanted, "{role:?}");
    }
    assert_eq!(
        sum(&client, Role::Client, 45_320, &of_server),
        (3, 30, 0, 0)
    );
    assert_eq!(
        sum(&server, Role::Server, 45_320, &of_client),
        (0, 0, 3, 30)
    );
    expect_servers(
        &observer,
        &server,
        "the mute one too",
        &[(5320, 1, BindScope::Any), (45_320, 1, BindScope::Any)],
    );
    assert_eq!(observer.dropped(), [].into());
    println!("{packets} datagrams, {sent} B each way: error 0");
}

#[test]
fn a_flood_from_random_ports_is_bounded_and_harms_nobody() {
    let Some(sandbox) = sandbox() else { return };
    let Some(observer) = Observer::scanning(&sandbox, NEVER) else {
        return;
    };
    let (_, flooding) = sandbox.solo("flooding").unwrap();
    let (calm, other) = sandbox.solo("calm").unwrap();
    observer.attached(&flooding);
    observer.attached(&other);
    let count: u32 = match scale().tier {
        Tier::Guest => 1_000,
        Tier::Ci => 10_000,
        Tier::Full => 200_000,
    };
    let (mut loud, mut quiet) = (Talker::new(&flooding), Talker::new(&other));
    let floods = std::thread::spawn(move || {
        let took = loud.tell(&format!("flood 127.0.0.1:10000 {count} 20000"));
        (loud, took)
    });
    // What the other does meanwhile is seen in full.
    quiet.tell("bind server 0.0.0.0:5330");
    expect_heard(&other);
    let mut wanted = Vec::new();
    for n in 0..50_u16 {
        // Ports of its own: of two random ones that are the same the server has one peer.
        quiet.tell(&format!("bind client 0.0.0.0:{}", 40_000 + n));
        quiet.tell(&format!("send client {}:5330 5 1", calm.ipv4()));
        quiet.tell("echo server 1");
        quiet.tell("take client 1");
        quiet.tell("close client");
    }
    for role in [Role::Client, Role::Server] {
        wanted.push(((role, Some(calm.ipv4()), 5330), 50));
    }
    let (_loud, took) = floods.join().unwrap();
    expect_peers(&observer, &other, &wanted);
    expect_servers(
        &observer,
        &other,
        "beside a flood",
        &[(5330, 1, BindScope::Any)],
    );
    let total = || -> u64 {
        let flows = observer.flows(&flooding);
        flows.values().map(|counts| counts.connections).sum()
    };
    poll(SIGHT, || (total() == u64::from(count)).then_some(()));
    assert_eq!(total(), u64::from(count), "none lost, none counted twice");
    let flows = observer.flows(&flooding);
    assert!(flows.keys().all(|(role, peer, _)| *role == Role::Client
        && peer.is_none_or(|peer| peer == IpAddr::from(Ipv4Addr::LOCALHOST))));
    let entries = observer
        .seen()
        .facts
        .iter()
        .filter_map(|seen| match &seen.fact {
            Fact::Occupancy { place, entries, .. } if place == "ebpf.udp_flows" => Some(*entries),
            _ => None,
        })
        .max()
        .unwrap_or(0);
    // Two readings' worth of one hook, and what the other container does.
    assert!(
        entries <= u64::from(2 * FLOWS_PER_HOOK + 16),
        "{entries} entries of {FLOWS_MAX}"
    );
    // Whose share was used up is known, and how often.
    let refused = |container: &Container| {
        let view = observer.seen().container(container).unwrap();
        view.refused.map_or(0, |refused| refused.udp_flows)
    };
    let budget = || {
        let key = ("ebpf.udp_flows".to_owned(), "budget".to_owned());
        observer.dropped().get(&key).copied().unwrap_or(0)
    };
    poll(SIGHT, || (refused(&flooding) == budget()).then_some(()));
    assert_eq!((refused(&flooding), refused(&other)), (budget(), 0));
    assert!(scale().tier == Tier::Guest || budget() > 0);
    println!("{count} sockets in {took} ms: at most {entries} entries, ledger error 0");
}
