//! Listeners come into the state after `listen` and leave it after close: by events, and by scans where there was no event.

mod random;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use plumbline_core::id::CgroupId;
use plumbline_core::snapshot::BindScope;
use plumbline_tests::pods::spec::{ContainerSpec, PodSpec};
use plumbline_tests::pods::{Container, Place};
use plumbline_tests::skip::without_mptcp;
use plumbline_tests::traffic::{Endpoint, Plan, Pool, Worker};

use super::observer::{Observer, sandbox};

/// Scans so rare that only events can tell.
const NEVER: Duration = Duration::from_secs(3_600);

fn any(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}

fn listener(place: &Place, endpoints: Vec<Endpoint>) -> Worker {
    Worker::ready(place, &Plan::Listen { endpoints }).expect("plumbline-traffic starts")
}

#[test]
fn events_tell_of_every_kind_of_listener() {
    let Some(sandbox) = sandbox() else { return };
    let Some(observer) = Observer::scanning(&sandbox, NEVER) else {
        return;
    };
    let (pod, container) = sandbox.solo("server").unwrap();
    observer.attached(&container);
    let nested = container.child_cgroup("nested").unwrap();
    let dual = |address: IpAddr, port| Endpoint::tcp((address, port).into());
    let shared = Endpoint {
        reuse_port: true,
        ..Endpoint::tcp(any(8_005))
    };
    let cases = [
        (
            "IPv4 wildcard",
            container.place(),
            vec![Endpoint::tcp(any(8_001))],
            BindScope::Any,
        ),
        (
            "IPv6 wildcard",
            container.place(),
            vec![dual(Ipv6Addr::UNSPECIFIED.into(), 8_002)],
            BindScope::Any,
        ),
        (
            "loopback",
            container.place(),
            vec![dual(Ipv4Addr::LOCALHOST.into(), 8_003)],
            BindScope::Loopback,
        ),
        (
            "own address",
            container.place(),
            vec![dual(pod.ipv6(), 8_004)],
            BindScope::Pod,
        ),
        (
            "SO_REUSEPORT",
            container.place(),
            vec![shared; 3],
            BindScope::Any,
        ),
        (
            "MPTCP",
            container.place(),
            vec![Endpoint {
                mptcp: true,
                ..Endpoint::tcp(any(8_006))
            }],
            BindScope::Any,
        ),
        (
            "nested cgroup",
            &nested,
            vec![Endpoint::tcp(any(8_007))],
            BindScope::Any,
        ),
        (
            "ephemeral number",
            container.place(),
            vec![Endpoint::tcp(any(40_000))],
            BindScope::Any,
        ),
    ];
    let without_mptcp = without_mptcp();
    for (name, place, endpoints, scope) in cases {
        if without_mptcp && endpoints[0].mptcp {
            println!("{name}: left out, this kernel makes no such sockets");
            continue;
        }
        let (port, sockets) = (endpoints[0].address.port(), endpoints.len());
        let mut worker = listener(place, endpoints);
        for _ in 0..2 {
            worker.command("open").unwrap();
            let here = [(
                CgroupId(container.cgroup_id()),
                u64::try_from(sockets).unwrap(),
            )];
            observer.expect(&format!("{name}: open, once, at its container"), |seen| {
                seen.listening(port).into_iter().eq(here).then_some(())
            });
            let views = observer.seen().container(&container).unwrap().listeners;
            assert_eq!(
                views.iter().find(|view| view.port == port).unwrap().scope,
                scope,
                "{name}"
            );
            worker.command("close").unwrap();
            observer.expect(&format!("{name}: closed"), |seen| {
                seen.listening(port).is_empty().then_some(())
            });
        }
    }
    assert_eq!(observer.dropped(), [].into());
}

#[test]
fn close_by_one_of_several_owners_is_not_the_end() {
    let Some(sandbox) = sandbox() else { return };
    let Some(observer) = Observer::scanning(&sandbox, NEVER) else {
        return;
    };
    let (_, container) = sandbox.solo("server").unwrap();
    observer.attached(&container);
    let shared = Endpoint {
        reuse_port: true,
        ..Endpoint::tcp(any(8_010))
    };
    let mut first = listener(container.place(), vec![shared]);
    let mut second = listener(container.place(), vec![shared]);
    first.command("open").unwrap();
    second.command("open").unwrap();
    let sockets = |n: Option<u64>| {
        let container = CgroupId(container.cgroup_id());
        observer.expect(&format!("{n:?} sockets"), |seen| {
            (seen.listening(8_010).get(&container).copied() == n).then_some(())
        });
    };
    sockets(Some(2));
    first.end().unwrap();
    sockets(Some(1));
    second.command("close").unwrap();
    sockets(None);
}

#[test]
fn sockets_older_than_the_agent_come_and_go_by_scans() {
    let Some(sandbox) = sandbox() else { return };
    let (_, container) = sandbox.solo("old").unwrap();
    let nested = container.child_cgroup("nested").unwrap();
    let mut old = listener(container.place(), vec![Endpoint::tcp(any(8_020))]);
    let mut deep = listener(
        &nested,
        vec![Endpoint {
            mptcp: !without_mptcp(),
            ..Endpoint::tcp(any(8_021))
        }],
    );
    old.command("open").unwrap();
    deep.command("open").unwrap();
    let Some(observer) = Observer::start(&sandbox) else {
        return;
    };
    for (port, worker) in [(8_020, &mut old), (8_021, &mut deep)] {
        let view = observer.expect("found by a scan, with its process", |seen| {
            let container = seen.container(&container)?;
            let found = container
                .listeners
                .into_iter()
                .find(|view| view.port == port)?;
            (!found.holders.is_empty()).then_some(found)
        });
        assert_eq!(view.sockets, 1);
        assert_eq!(view.holders[0].pid, worker.pid());
        assert!(
            view.holders[0]
                .executable
                .as_deref()
                .unwrap()
                .ends_with("/plumbline-traffic"),
            "{view:?}"
        );
        assert_eq!(view.host_netns, Some(false));
        worker.command("close").unwrap();
        observer.expect("gone by a scan", |seen| {
            seen.listening(port).is_empty().then_some(())
        });
    }
}

#[test]
fn pods_of_the_hosts_network_are_told_apart() {
    let Some(sandbox) = sandbox() else { return };
    let Some(observer) = Observer::start(&sandbox) else {
        return;
    };
    let host = |name: &str| {
        let pod = sandbox
            .pod(PodSpec {
                name: name.to_owned(),
                host_network: true,
                ..PodSpec::default()
            })
            .unwrap();
        pod.container(ContainerSpec {
            name: name.to_owned(),
            ..ContainerSpec::default()
        })
        .unwrap()
    };
    let (first, second) = (host("first"), host("second"));
    let mut workers = Vec::new();
    for container in [&first, &second] {
        observer.attached(container);
        let mut worker = listener(
            container.place(),
            vec![Endpoint::tcp((Ipv4Addr::LOCALHOST, 0).into())],
        );
        worker.command("open").unwrap();
        workers.push(worker);
    }
    for (container, worker) in [&first, &second].into_iter().zip(&workers) {
        let view = observer.expect("one listener of its own", |seen| {
            let listeners = seen.container(container)?.listeners;
            let [only] = listeners.try_into().ok()?;
            Some(only)
                .filter(|view: &plumbline_core::snapshot::ListenerView| !view.holders.is_empty())
        });
        assert_eq!(view.holders[0].pid, worker.pid());
        assert_eq!(view.host_netns, Some(true));
    }
}

#[test]
fn a_container_that_ends_takes_its_listeners_along() {
    let Some(sandbox) = sandbox() else { return };
    let Some(observer) = Observer::start(&sandbox) else {
        return;
    };
    let (pod, container) = sandbox.solo("short").unwrap();
    observer.attached(&container);
    let mut worker = listener(container.place(), vec![Endpoint::tcp(any(8_030))]);
    worker.command("open").unwrap();
    observer.expect("open", |seen| {
        (!seen.listening(8_030).is_empty()).then_some(())
    });
    pod.delete(&sandbox).unwrap();
    observer.expect("gone", |seen| {
        seen.listening(8_030).is_empty().then_some(())
    });
}

fn dual_stack(observer: &Observer, container: &Container, port: u16) -> Option<bool> {
    let view = observer.expect("found by a scan", |seen| {
        let listeners = seen.container(container)?.listeners;
        let view = listeners.into_iter().find(|view| view.port == port)?;
        (!view.holders.is_empty()).then_some(view)
    });
    view.dual_stack
}

#[test]
fn whether_an_ipv6_socket_takes_ipv4_is_known_where_sock_diag_tells() {
    let Some(sandbox) = sandbox() else { return };
    let (_, container) = sandbox.solo("server").unwrap();
    let six = |port| Endpoint::tcp((Ipv6Addr::UNSPECIFIED, port).into());
    let only = Endpoint {
        v6only: true,
        ..six(8_041)
    };
    let endpoints = vec![six(8_040), only, Endpoint::tcp(any(8_042))];
    let mut worker = listener(container.place(), endpoints);
    worker.command("open").unwrap();
    for (start, wanted) in [
        (
            Observer::start as fn(&_) -> Option<Observer>,
            [Some(true), Some(false), None],
        ),
        (Observer::by_procfs, [None, None, None]),
    ] {
        let Some(observer) = start(&sandbox) else {
            return;
        };
        let told = [8_040, 8_041, 8_042].map(|port| dual_stack(&observer, &container, port));
        assert_eq!(told, wanted);
    }
}

/// No event told who made it, and nobody of its creator's container holds it any more.
#[test]
fn a_socket_passed_on_before_the_agent_came_is_its_creators() {
    let Some(sandbox) = sandbox() else { return };
    let directory = tempfile::tempdir().unwrap();
    let through = directory.path().join("door");
    let (_, creator) = sandbox.solo("creator").unwrap();
    let (_, taker) = sandbox.solo("taker").unwrap();
    let plan = Plan::PassListener {
        endpoint: Endpoint::tcp(any(8_050)),
        through: through.clone(),
        then_close: true,
    };
    let _passer = Worker::ready(creator.place(), &plan).unwrap();
    let pool = Pool {
        endpoint: None,
        passed_through: Some(through),
        workers: 2,
        cgroups: Vec::new(),
    };
    let _pool = Worker::ready(taker.place(), &Plan::Pool(pool)).unwrap();
    let Some(observer) = Observer::start(&sandbox) else {
        return;
    };
    let view = observer.expect("found by a scan, at its creator", |seen| {
        let listeners = seen.container(&creator)?.listeners;
        listeners.into_iter().find(|view| view.port == 8_050)
    });
    assert_eq!(view.held_by_owner, Some(false), "its holders are elsewhere");
    assert!(view.holders.len() >= 2, "{view:?}");
    let alone = [(CgroupId(creator.cgroup_id()), 1)];
    assert_eq!(observer.seen().listening(8_050), alone.into());
}
