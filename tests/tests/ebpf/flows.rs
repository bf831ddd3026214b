//! Exact TCP accounting: what the kernel side tells equals what the processes count of themselves, error 0.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use plumbline_core::observation::Role;
use plumbline_tests::pods::{Pod, Sandbox};
use plumbline_tests::scale::scale;
use plumbline_tests::traffic::{Counts, Fail, Lanes, Order, Plan, Tally, Worker};

use super::observer::{Observer, sandbox};

fn lanes(addresses: Vec<IpAddr>, lanes: u16, connections: u32, orders: Vec<Order>) -> Lanes {
    Lanes {
        addresses,
        first_port: 7_000,
        lanes,
        connections,
        seed: 2_026,
        framed: false,
        orders,
        payload_max: None,
        mptcp: false,
    }
}

#[test]
fn many_connections_and_refusals_are_exact() {
    let Some(sandbox) = sandbox() else { return };
    let Some(observer) = Observer::start(&sandbox) else {
        return;
    };
    let ((server, server_container), (_, client_container)) = (
        sandbox.solo("server").unwrap(),
        sandbox.solo("client").unwrap(),
    );
    observer.attached(&server_container);
    observer.attached(&client_container);
    let any = vec![Ipv6Addr::UNSPECIFIED.into()];
    let each = scale().exact_connections / 8;
    let serving = Worker::ready(
        server_container.place(),
        &Plan::Serve(lanes(any, 8, each, Vec::new())),
    )
    .unwrap();
    let connect = Plan::Connect(lanes(server.notations(), 8, each, Vec::new()));
    let mut asked: Tally = Worker::start(client_container.place(), &connect)
        .unwrap()
        .finish()
        .unwrap();
    let served: Tally = serving.finish().unwrap();
    let targets = server
        .notations()
        .into_iter()
        .map(|ip| SocketAddr::new(ip, 9))
        .collect();
    let refused = Plan::Fail(Fail {
        targets,
        attempts: 60,
    });
    asked.add(
        &Worker::start(client_container.place(), &refused)
            .unwrap()
            .finish()
            .unwrap(),
    );

    assert_eq!(
        (asked.total().connections, asked.total().failures),
        (u64::from(8 * each), 60)
    );
    observer.assert_equal(&client_container, &asked);
    observer.assert_equal(&server_container, &served);
    assert_eq!(observer.dropped(), [].into());
    let Counts {
        sent_bytes,
        received_bytes,
        ..
    } = asked.total();
    println!(
        "{} connections, {sent_bytes} B sent, {received_bytes} B received, 60 refused: error 0",
        8 * each
    );
}

/// Sockets of a pod that closed first. When both ends have one of the same connection, both closed at the same instant.
fn in_time_wait(pod: &Pod) -> usize {
    let read = |table: &str| {
        std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default()
    };
    let tables = pod
        .netns()
        .run(|| ["tcp", "tcp6"].map(read))
        .expect("the namespace can be entered");
    let of = |table: &String| {
        table
            .lines()
            .filter(|line| line.split_whitespace().nth(3) == Some("06"))
            .count()
    };
    tables.iter().map(of).sum()
}

#[test]
fn every_closing_order_is_exact() {
    let Some(sandbox) = sandbox() else { return };
    let Some(observer) = Observer::start(&sandbox) else {
        return;
    };
    for order in Order::ALL {
        let plan = lanes(Vec::new(), 2, scale().order_connections / 2, vec![order]);
        let (asked, here, there) = hold_against(&sandbox, &observer, &plan, None);
        println!("{order:?}: {asked:?}; in TIME_WAIT: client {here}, server {there}");
    }
}

#[test]
fn closes_that_cross_are_exact() {
    let Some(sandbox) = sandbox() else { return };
    let Some(observer) = Observer::start(&sandbox) else {
        return;
    };
    let plan = Lanes {
        payload_max: Some(100),
        ..lanes(Vec::new(), 2, 20, vec![Order::Simultaneous])
    };
    let (asked, here, there) = hold_against(&sandbox, &observer, &plan, Some(2_000));
    println!("{asked:?}; in TIME_WAIT: client {here}, server {there}");
    // Where one end closes first, only that one stays in TIME_WAIT.
    assert!(here + there > 40, "no two closes crossed");
}

/// Carries a plan out between two new pods and holds both ends against their own counts. Tells what the client counted, and
/// how many sockets of client and server are in TIME_WAIT afterwards.
fn hold_against(
    sandbox: &Sandbox,
    observer: &Observer,
    plan: &Lanes,
    bytes_per_second: Option<u32>,
) -> (Counts, usize, usize) {
    let (server, serving_container) = sandbox.solo("server").unwrap();
    let (client, asking_container) = sandbox.solo("client").unwrap();
    observer.attached(&serving_container);
    observer.attached(&asking_container);
    if let Some(rate) = bytes_per_second {
        client.netns().slow_down(rate).unwrap();
    }
    let any = Lanes {
        addresses: vec![Ipv6Addr::UNSPECIFIED.into()],
        ..plan.clone()
    };
    let there = Lanes {
        addresses: server.notations(),
        ..plan.clone()
    };
    let serving = Worker::ready(serving_container.place(), &Plan::Serve(any)).unwrap();
    let asking = Worker::start(asking_container.place(), &Plan::Connect(there)).unwrap();
    let (asked, served): (Tally, Tally) = (asking.finish().unwrap(), serving.finish().unwrap());
    let waiting = (in_time_wait(&client), in_time_wait(&server));
    observer.assert_equal(&asking_container, &asked);
    observer.assert_equal(&serving_container, &served);
    (asked.total(), waiting.0, waiting.1)
}

#[test]
fn a_silent_peer_is_a_timeout_and_a_refusal_is_none() {
    let Some(sandbox) = sandbox() else { return };
    let Some(observer) = Observer::start(&sandbox) else {
        return;
    };
    let ((server, _), (client, container)) = (
        sandbox.solo("server").unwrap(),
        sandbox.solo("client").unwrap(),
    );
    observer.attached(&container);
    // Nobody has this hardware address: the segments vanish, and one retry is allowed.
    client
        .netns()
        .ip(&["neigh add 10.244.0.200 lladdr 02:00:00:00:00:99 dev eth0"])
        .unwrap();
    client
        .netns()
        .run(|| std::fs::write("/proc/sys/net/ipv4/tcp_syn_retries", "1").unwrap())
        .unwrap();
    let silent = IpAddr::from(Ipv4Addr::new(10, 244, 0, 200));
    let targets = vec![(silent, 9).into(), (server.ipv4(), 9).into()];
    let plan = Plan::Fail(Fail {
        targets,
        attempts: 6,
    });
    let tally: Tally = Worker::start(container.place(), &plan)
        .unwrap()
        .finish()
        .unwrap();
    observer.assert_equal(&container, &tally);
    let flows = observer.flows(&container);
    for (peer, timeouts) in [(silent, 3), (server.ipv4(), 0)] {
        let counts = flows.get(&(Role::Client, Some(peer), 9)).unwrap();
        assert_eq!((counts.failures, counts.timeouts), (3, timeouts), "{peer}");
    }
}
