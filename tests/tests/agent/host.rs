//! What processes of the host listen on, beside what pods do.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use plumbline_tests::agent::get_json;
use plumbline_tests::skip::without_root;
use plumbline_tests::traffic::{Endpoint, Plan, Worker};
use plumbline_tests::wait::{PATIENCE, poll};
use serde_json::Value;

use super::Scene;

/// Outside the range of ports that the kernel gives out, and nobody's on a machine that runs tests.
const OPEN: u16 = 21_011;
const ALLOWED: u16 = 21_012;
const LOCAL: u16 = 21_013;

/// The findings of P008.
fn told(scene: &Scene) -> Option<Vec<Value>> {
    let findings = get_json(&scene.path("socket"), "/findings").ok()?;
    let findings = findings.as_array()?.iter();
    Some(
        findings
            .filter(|one| one["rule_id"] == "P008")
            .cloned()
            .collect(),
    )
}

/// An address of this machine that is not loopback's, without a packet sent: the way to an address of documentation.
fn outward() -> Ipv4Addr {
    let found = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    });
    match found {
        Ok(SocketAddr::V4(address)) => *address.ip(),
        // A machine without any network: every address is its own.
        Ok(SocketAddr::V6(_)) | Err(_) => Ipv4Addr::UNSPECIFIED,
    }
}

#[test]
fn what_a_unit_of_the_host_may_not_listen_on_is_found_until_it_stops() {
    if without_root() {
        return;
    }
    let mut scene = Scene::without_agent(&[]);
    let config = scene.path("config.yaml");
    let list = format!("host_listeners: [tcp/{ALLOWED}, sshd.service]\n");
    fs::write(&config, list).unwrap();
    let config = config.to_str().unwrap().to_owned();
    scene.arguments.extend(["--config".to_owned(), config]);
    let listen = |path: &str, endpoints: Vec<Endpoint>| {
        let place = scene.sandbox.host_unit(path).unwrap();
        let mut worker = Worker::ready(&place, &Plan::Listen { endpoints }).unwrap();
        worker.command("open").unwrap();
        worker
    };
    let on = |address: Ipv4Addr, port: u16| Endpoint::tcp((address, port).into());
    let endpoints = vec![
        on(outward(), OPEN),
        on(outward(), ALLOWED),
        on(Ipv4Addr::LOCALHOST, LOCAL),
    ];
    let mut daemon = listen("system.slice/leaky.service", endpoints);
    let _dynamic = listen("system.slice/rpc.service", vec![on(outward(), 0)]);
    scene.start(&[]);
    scene.ready();

    let both = poll(PATIENCE, || told(&scene).filter(|found| found.len() >= 2));
    let mut both = both.unwrap_or_else(|| panic!("{:?}", told(&scene)));
    both.sort_by_key(|one| one["evidence"]["unit"].to_string());
    let units: Vec<&Value> = both.iter().map(|one| &one["evidence"]["unit"]).collect();
    assert_eq!(units, ["leaky.service", "rpc.service"], "{both:?}");
    let leaky = &both[0];
    let observed = format!("leaky.service listens on tcp/{OPEN} of the node");
    assert_eq!(leaky["observed"], observed.as_str());
    let executables = leaky["evidence"]["executables"].as_array().unwrap();
    assert_eq!(executables.len(), 1, "{leaky}");

    daemon.command("close").unwrap();
    let gone = poll(PATIENCE, || {
        let found = told(&scene)?;
        let mut open = found.iter().filter(|one| one["state"] == "open");
        let still = open.any(|one| one["observed"] == observed.as_str());
        (!still).then_some(())
    });
    assert!(gone.is_some(), "{:?}", told(&scene));
}
