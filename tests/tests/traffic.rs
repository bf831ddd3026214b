//! The oracle itself: what client and server count of the same connections mirrors, in every closing order and with every
//! kind of server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use plumbline_tests::pods::Sandbox;
use plumbline_tests::skip::without_root;
use plumbline_tests::traffic::{Counts, Endpoint, Fail, Lanes, Plan, Pool, Tally, Worker};

fn lanes(addresses: Vec<IpAddr>, framed: bool) -> Lanes {
    let (lanes, connections) = if framed { (4, 30) } else { (3, 40) };
    Lanes {
        addresses,
        first_port: 7_000,
        lanes,
        connections,
        seed: 11,
        framed,
        orders: Vec::new(),
        payload_max: None,
        mptcp: false,
    }
}

/// The kinds of server, and whether the server's own container accepts.
fn pools(any: SocketAddr, through: &Path, cgroups: &[PathBuf]) -> Vec<(&'static str, Pool)> {
    let pool = |endpoint| Pool {
        endpoint: Some(endpoint),
        passed_through: None,
        workers: 3,
        cgroups: cgroups.to_vec(),
    };
    vec![
        ("prefork", pool(Endpoint::tcp(any))),
        (
            "reuseport",
            pool(Endpoint {
                reuse_port: true,
                ..Endpoint::tcp(any)
            }),
        ),
        (
            "mptcp",
            pool(Endpoint {
                mptcp: true,
                ..Endpoint::tcp(any)
            }),
        ),
        (
            "passed",
            Pool {
                endpoint: None,
                passed_through: Some(through.to_path_buf()),
                workers: 2,
                cgroups: Vec::new(),
            },
        ),
    ]
}

#[test]
fn client_and_server_count_the_same() {
    if without_root() {
        return;
    }
    let sandbox = Sandbox::new("plumbline-test-traffic").unwrap();
    let ((server, server_container), (client, client_container)) = (
        sandbox.solo("server").unwrap(),
        sandbox.solo("client").unwrap(),
    );
    let serve = Plan::Serve(lanes(vec![Ipv6Addr::UNSPECIFIED.into()], false));
    let connect = Plan::Connect(lanes(server.notations(), false));
    let serving = Worker::ready(server_container.place(), &serve).unwrap();
    let asked: Tally = Worker::start(client_container.place(), &connect)
        .unwrap()
        .finish()
        .unwrap();
    let served: Tally = serving.finish().unwrap();

    assert_eq!(asked.total().connections, 120);
    assert_eq!(served.total(), asked.total().mirrored());
    let peers: Vec<IpAddr> = served.rows.iter().map(|row| row.key.peer).collect();
    assert!(
        peers.contains(&client.ipv4()) && peers.contains(&client.ipv6()),
        "{peers:?}"
    );
}

#[test]
fn any_worker_may_take_a_framed_connection() {
    if without_root() {
        return;
    }
    let sandbox = Sandbox::new("plumbline-test-traffic").unwrap();
    let ((server, server_container), (_, client_container)) = (
        sandbox.solo("server").unwrap(),
        sandbox.solo("client").unwrap(),
    );
    let (_, other) = sandbox.solo("other").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let through = directory.path().join("door");
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 7_000));
    let nested = server_container.child_cgroup("nested").unwrap();
    let cgroups = [
        nested.cgroup_path().to_path_buf(),
        server_container.cgroup_path().to_path_buf(),
    ];
    for (name, pool) in pools(any, &through, &cgroups) {
        let place = if name == "passed" {
            other.place()
        } else {
            server_container.place()
        };
        let passer = pool.passed_through.clone().map(|through| {
            let plan = Plan::PassListener {
                endpoint: Endpoint::tcp(any),
                through,
                then_close: true,
            };
            Worker::ready(server_container.place(), &plan).unwrap()
        });
        let serving = Worker::ready(place, &Plan::Pool(pool)).unwrap();
        let connect = Plan::Connect(lanes(server.notations(), true));
        let asked: Tally = Worker::start(client_container.place(), &connect)
            .unwrap()
            .finish()
            .unwrap();
        let served: Tally = serving.finish().unwrap();
        assert_eq!(asked.total().connections, 120, "{name}");
        assert_eq!(served.total(), asked.total().mirrored(), "{name}");
        if let Some(passer) = passer {
            passer.end().unwrap();
        }
    }
}

#[test]
fn refused_and_silent_peers_fail() {
    if without_root() {
        return;
    }
    let sandbox = Sandbox::new("plumbline-test-traffic").unwrap();
    let ((server, _), (client, client_container)) = (
        sandbox.solo("server").unwrap(),
        sandbox.solo("client").unwrap(),
    );
    // Nobody has this hardware address: the segments vanish, and one retry is allowed.
    client
        .netns()
        .ip(&["neigh add 10.244.0.200 lladdr 02:00:00:00:00:99 dev eth0"])
        .unwrap();
    let retries = "/proc/sys/net/ipv4/tcp_syn_retries";
    client
        .netns()
        .run(|| std::fs::write(retries, "1").unwrap())
        .unwrap();
    let mut targets: Vec<SocketAddr> = server
        .notations()
        .into_iter()
        .map(|ip| (ip, 9).into())
        .collect();
    targets.push((Ipv4Addr::new(10, 244, 0, 200), 9).into());
    let plan = Plan::Fail(Fail {
        targets,
        attempts: 8,
    });
    let tally: Tally = Worker::start(client_container.place(), &plan)
        .unwrap()
        .finish()
        .unwrap();
    assert_eq!(
        tally.total(),
        Counts {
            failures: 8,
            ..Counts::default()
        }
    );
    assert_eq!(
        tally.rows.len(),
        3,
        "mapped addresses are folded: {tally:?}"
    );
}
