//! TCP listeners and UDP sockets that come and go at random: at the end the agent has what the kernel has.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use plumbline_core::declared::Transport;
use plumbline_core::observation::{Fact, ScanScope};
use plumbline_core::observed::listeners::is_dynamic_udp;
use plumbline_core::settings::CoreSettings;
use plumbline_core::snapshot::ContainerView;
use plumbline_tests::netns::Netns;
use plumbline_tests::traffic::{Plan, RandomListeners, Worker};
use plumbline_tests::wait::{PATIENCE, poll};

use super::super::observer::{Observer, sandbox};

/// Listening sockets, and UDP sockets without a peer, by port and address.
type Set = BTreeMap<(Transport, u16, IpAddr), u64>;

/// What the agent's state has of it: addresses and number of sockets by port.
type Ports = BTreeMap<(Transport, u16), (Vec<IpAddr>, u64)>;

/// What the kernel shows of a network namespace to a process in it.
fn kernels_set(netns: &Netns) -> Set {
    let read = |table: &str| {
        std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default()
    };
    let tables = netns
        .run(|| ["tcp", "tcp6", "udp", "udp6"].map(|table| (table, read(table))))
        .expect("the namespace can be entered");
    let mut set = Set::new();
    for (table, text) in tables {
        // TCP_LISTEN, and TCP_CLOSE, which is what the kernel calls UDP without a peer.
        let (transport, state) = if table.starts_with("tcp") {
            (Transport::Tcp, "0A")
        } else {
            (Transport::Udp, "07")
        };
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields[3] == state {
                let (address, port) = fields[1].split_once(':').unwrap();
                let port = u16::from_str_radix(port, 16).unwrap();
                let key = (transport, port, address_of(address));
                *set.entry(key).or_default() += 1;
            }
        }
    }
    set
}

/// Words in the byte order of the machine.
fn address_of(hex: &str) -> IpAddr {
    let word = |at: usize| {
        u32::from_str_radix(&hex[at..at + 8], 16)
            .unwrap()
            .to_ne_bytes()
    };
    if hex.len() == 8 {
        return IpAddr::from(word(0));
    }
    let bytes: Vec<u8> = [0, 8, 16, 24].into_iter().flat_map(word).collect();
    IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap()).to_canonical()
}

/// What the last scan of the node found in a namespace.
fn scanned_set(observer: &Observer, netns: u64) -> Set {
    let seen = observer.seen();
    let scan = seen.facts.iter().rev().find_map(|seen| match &seen.fact {
        Fact::Listeners {
            scope: ScanScope::Node,
            rows,
            ..
        } => Some(rows.clone()),
        _ => None,
    });
    let mut set = Set::new();
    for row in scan.unwrap_or_default() {
        if row.netns == netns {
            *set.entry((row.transport, row.port, row.address))
                .or_default() += 1;
        }
    }
    set
}

/// Ports, their addresses, and the number of their sockets, as the agent's state has them.
fn state(view: &ContainerView) -> Ports {
    let views = view.listeners.iter();
    views
        .map(|view| {
            let key = (view.transport, view.port);
            (key, (view.addresses.clone(), view.sockets))
        })
        .collect()
}

/// What of the kernel's set are servers: of UDP in the dynamic range nobody asked anything.
fn by_port(set: &Set) -> Ports {
    let dynamic = CoreSettings::default().ephemeral_ports;
    let mut ports = Ports::new();
    for ((transport, port, address), sockets) in set {
        if is_dynamic_udp(*transport, *port, dynamic) {
            continue;
        }
        let entry = ports.entry((*transport, *port)).or_default();
        entry.0.push(*address);
        entry.1 += sockets;
    }
    ports
}

/// Two pods that open and close listeners at random, some of which are older than the agent.
fn random_listeners_equal_the_kernels(
    start: fn(&plumbline_tests::pods::Sandbox) -> Option<Observer>,
) {
    const SEED: u64 = 1_848;
    let Some(sandbox) = sandbox() else { return };
    println!("seed {SEED}");
    let mut pods = Vec::new();
    for (n, name) in ["one", "two"].into_iter().enumerate() {
        let (pod, container) = sandbox.solo(name).unwrap();
        let own = [
            Ipv4Addr::UNSPECIFIED.into(),
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv4Addr::LOCALHOST.into(),
            Ipv6Addr::LOCALHOST.into(),
            pod.ipv4(),
            pod.ipv6(),
        ];
        let plan = RandomListeners {
            addresses: own.to_vec(),
            ports: (0..40).map(|n| 1_024 + n * 1_601).collect(),
            seed: SEED + u64::try_from(n).unwrap(),
        };
        let mut worker = Worker::ready(container.place(), &Plan::RandomListeners(plan)).unwrap();
        worker.command("40").unwrap();
        pods.push((pod, container, worker));
    }
    let Some(observer) = start(&sandbox) else {
        return;
    };
    for _ in 0..4 {
        for (_, _, worker) in &mut pods {
            worker.command("240").unwrap();
        }
        for (pod, container, _) in &pods {
            let kernels = kernels_set(pod.netns());
            for transport in [Transport::Tcp, Transport::Udp] {
                let some = kernels.keys().any(|(of, ..)| *of == transport);
                assert!(some, "{transport:?}: nothing listens");
            }
            let netns = pod.netns().inode().unwrap();
            poll(PATIENCE, || {
                let state = observer
                    .seen()
                    .container(container)
                    .map(|view| state(&view));
                (state == Some(by_port(&kernels)) && scanned_set(&observer, netns) == kernels)
                    .then_some(())
            });
            let name = container.name();
            let view = observer.seen().container(container).unwrap();
            assert_eq!(state(&view), by_port(&kernels), "{name}: state and kernel");
            assert_eq!(
                scanned_set(&observer, netns),
                kernels,
                "{name}: scan and kernel"
            );
        }
    }
}

#[test]
fn after_a_thousand_random_changes_the_set_is_the_kernels() {
    random_listeners_equal_the_kernels(Observer::start);
}

#[test]
fn procfs_alone_gives_the_same_set() {
    random_listeners_equal_the_kernels(Observer::by_procfs);
}
