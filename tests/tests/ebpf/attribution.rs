//! Every connection is credited to the container whose socket it is: by the socket's cgroup, whoever runs at that moment.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use plumbline_core::id::CgroupId;
use plumbline_core::observation::Role;
use plumbline_tests::pods::spec::{ContainerSpec, Driver, PodSpec, Runtime};
use plumbline_tests::pods::{Container, Place, Pod, Sandbox};
use plumbline_tests::skip::{skipped, without_mptcp};
use plumbline_tests::traffic::{Endpoint, Lanes, Plan, Pool, Tally, Worker};

use super::observer::{Observer, sandbox};

const PORT: u16 = 7_000;

/// Four clients' threads, 25 framed connections each.
const CONNECTIONS: u64 = 100;

fn any() -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, PORT).into()
}

/// A server and a client pod, both attached, and a bystander with a container in each of their pods.
struct Cast {
    observer: Observer,
    sandbox: Sandbox,
    server: (Pod, Container),
    client: (Pod, Container),
}

fn cast() -> Option<Cast> {
    let sandbox = sandbox()?;
    let observer = Observer::start(&sandbox)?;
    let (server, client) = (
        sandbox.solo("server").unwrap(),
        sandbox.solo("client").unwrap(),
    );
    for (pod, container) in [&server, &client] {
        observer.attached(container);
        let sidecar = pod
            .container(ContainerSpec {
                name: "sidecar".to_owned(),
                ..ContainerSpec::default()
            })
            .unwrap();
        observer.attached(&sidecar);
    }
    Some(Cast {
        observer,
        sandbox,
        server,
        client,
    })
}

impl Cast {
    /// Runs the clients against a pool at `place`, and holds both ends against their own counts. The sockets are those of
    /// `owner`.
    fn check(&self, pool: Pool, place: &Place, owner: &Container) {
        let serving = Worker::ready(place, &Plan::Pool(pool)).unwrap();
        let plan = Lanes {
            addresses: self.server.0.notations(),
            first_port: PORT,
            lanes: 4,
            connections: 25,
            seed: 5,
            framed: true,
            orders: Vec::new(),
            payload_max: None,
            mptcp: false,
        };
        let asked: Tally = Worker::start(self.client.1.place(), &Plan::Connect(plan))
            .unwrap()
            .finish()
            .unwrap();
        let served: Tally = serving.finish().unwrap();
        assert_eq!(served.total().connections, CONNECTIONS);
        self.observer.assert_equal(&self.client.1, &asked);
        self.observer.assert_equal(owner, &served);
        for (role, container) in [(Role::Server, owner), (Role::Client, &self.client.1)] {
            let only = [(CgroupId(container.cgroup_id()), CONNECTIONS)];
            assert_eq!(self.observer.credited(role, PORT), only.into(), "{role:?}");
        }
        assert_eq!(self.observer.dropped(), [].into());
    }
}

fn pool(endpoint: Endpoint, cgroups: Vec<PathBuf>) -> Pool {
    Pool {
        endpoint: Some(endpoint),
        passed_through: None,
        workers: 4,
        cgroups,
    }
}

#[test]
fn a_preforked_server() {
    let Some(cast) = cast() else { return };
    let container = &cast.server.1;
    cast.check(
        pool(Endpoint::tcp(any()), Vec::new()),
        container.place(),
        container,
    );
}

#[test]
fn workers_in_nested_cgroups_are_the_container() {
    let Some(cast) = cast() else { return };
    let container = &cast.server.1;
    let nested = ["a", "b"].map(|name| {
        container
            .child_cgroup(name)
            .unwrap()
            .cgroup_path()
            .to_path_buf()
    });
    let own_listeners = Endpoint {
        reuse_port: true,
        ..Endpoint::tcp(any())
    };
    cast.check(
        pool(own_listeners, nested.to_vec()),
        container.place(),
        container,
    );
}

#[test]
fn an_mptcp_server() {
    if without_mptcp() {
        return skipped("this kernel makes no MPTCP sockets");
    }
    let Some(cast) = cast() else { return };
    let container = &cast.server.1;
    cast.check(
        pool(
            Endpoint {
                mptcp: true,
                ..Endpoint::tcp(any())
            },
            Vec::new(),
        ),
        container.place(),
        container,
    );
}

/// The creator of a listener owns what is accepted from it, also by processes of another container.
#[test]
fn a_passed_listener_stays_its_creators() {
    let Some(cast) = cast() else { return };
    let directory = tempfile::tempdir().unwrap();
    let through = directory.path().join("door");
    let creator = &cast.server.1;
    let (_, taker) = cast.sandbox.solo("taker").unwrap();
    cast.observer.attached(&taker);
    let plan = Plan::PassListener {
        endpoint: Endpoint::tcp(any()),
        through: through.clone(),
        then_close: true,
    };
    let passer = Worker::ready(creator.place(), &plan).unwrap();
    let pool = Pool {
        endpoint: None,
        passed_through: Some(through),
        workers: 2,
        cgroups: Vec::new(),
    };
    cast.check(pool, taker.place(), creator);
    passer.end().unwrap();
}

#[test]
fn every_driver_and_runtime() {
    let Some(cast) = cast() else { return };
    for (driver, runtime) in [
        (Driver::Systemd, Runtime::Crio),
        (Driver::Systemd, Runtime::Docker),
        (Driver::Cgroupfs, Runtime::Containerd),
        (Driver::Cgroupfs, Runtime::Crio),
    ] {
        let name = format!("{driver:?}-{runtime:?}").to_lowercase();
        let pod = cast
            .sandbox
            .pod(PodSpec {
                name: name.clone(),
                driver,
                runtime,
                ..PodSpec::default()
            })
            .unwrap();
        let container = pod
            .container(ContainerSpec {
                name,
                ..ContainerSpec::default()
            })
            .unwrap();
        cast.observer.attached(&container);
        let mut worker = Worker::ready(
            container.place(),
            &Plan::Listen {
                endpoints: vec![Endpoint::tcp(any())],
            },
        )
        .unwrap();
        worker.command("open").unwrap();
        let view = cast.observer.expect("its listener", |seen| {
            seen.container(&container)
                .filter(|view| view.listeners.iter().any(|listener| listener.port == PORT))
        });
        assert_eq!(
            (view.pod_uid.as_str(), view.container_id.as_str()),
            (pod.uid(), container.id())
        );
    }
}
