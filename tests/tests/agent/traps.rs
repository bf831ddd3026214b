//! The traps of false findings that are about sockets, all in one pod at once, with real ones: none of them is told of, and what is
//! wrong beside them is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use plumbline_tests::agent::get_json;
use plumbline_tests::netns::Addresses;
use plumbline_tests::pods::spec::{ContainerSpec, Kind, PodSpec, PortSpec};
use plumbline_tests::pods::{Container, Pod};
use plumbline_tests::skip::without_root;
use plumbline_tests::traffic::{Endpoint, Plan, Worker};
use plumbline_tests::wait::{PATIENCE, poll};
use serde_json::Value;

use super::Scene;

const DUAL: u16 = 8_080;
const SHARED: u16 = 8_081;
const LOCAL: u16 = 9_000;
/// What Istio's proxy opens beside the one port that it declares.
const INBOUND: u16 = 15_006;
const TELEMETRY: u16 = 15_090;
/// What is wrong: nobody declares it.
const WRONG: u16 = 7_777;

fn listen(container: &Container, endpoints: Vec<Endpoint>) -> Worker {
    let mut worker =
        Worker::ready(container.place(), &Plan::Listen { endpoints }).expect("a server");
    worker.command("open").expect("the server listens");
    worker
}

fn any(port: u16) -> Endpoint {
    Endpoint::tcp((Ipv4Addr::UNSPECIFIED, port).into())
}

fn pod(scene: &Scene) -> (Pod, Container, Container) {
    let pod = scene.sandbox.pod(PodSpec {
        namespace: "traps".to_owned(),
        name: "all-0".to_owned(),
        ..PodSpec::default()
    });
    let pod = pod.expect("a pod");
    let container = |name: &str, kind, ports: &[u16]| {
        let spec = ContainerSpec {
            name: name.to_owned(),
            kind,
            ports: ports.iter().copied().map(PortSpec::tcp).collect(),
            cpu_request: Some("100m".to_owned()),
            ..ContainerSpec::default()
        };
        pod.container(spec).expect("a container")
    };
    let app = container("app", Kind::Regular, &[DUAL, SHARED]);
    let proxy = container("istio-proxy", Kind::Sidecar, &[TELEMETRY]);
    (pod, app, proxy)
}

/// What is told of this pod's ports and flows: container and key words.
fn told(scene: &Scene) -> Option<Vec<String>> {
    let findings = get_json(&scene.path("socket"), "/findings").ok()?;
    let of_pod = findings.as_array()?.iter().filter(|finding| {
        let rule = finding["rule_id"].as_str().unwrap_or_default();
        finding.to_string().contains("traps") && (rule.starts_with('P') || rule.starts_with('F'))
    });
    let text = |finding: &Value| {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        format!(
            "{} {}",
            word(&finding["rule_id"]),
            word(&finding["observed"])
        )
    };
    let mut told: Vec<String> = of_pod.map(text).collect();
    told.sort();
    Some(told)
}

#[test]
fn traps_about_sockets_open_no_finding_beside_one_that_is_true() {
    if without_root() {
        return;
    }
    let mut scene = Scene::without_agent(&[]);
    let (pod, app, proxy) = pod(&scene);
    scene.sandbox.write_dump(&scene.path("pods.json")).unwrap();
    scene.start(&[]);
    scene.ready();

    let dual = Endpoint::tcp((Ipv6Addr::UNSPECIFIED, DUAL).into());
    let shared = || Endpoint {
        reuse_port: true,
        ..any(SHARED)
    };
    let loopback = |address: IpAddr| Endpoint::tcp((address, LOCAL).into());
    let local = vec![
        loopback(Ipv4Addr::LOCALHOST.into()),
        loopback(Ipv6Addr::LOCALHOST.into()),
    ];
    // 10: one socket for both families; 11: one port of two processes; 3: loopback; 6: a port of the other container; 4: the sidecar.
    let _declared = listen(&app, vec![dual, shared()]);
    let _prefork = listen(&app, vec![shared()]);
    let _local = listen(&app, local);
    let _union = listen(&app, vec![any(TELEMETRY)]);
    let _sidecar = listen(&proxy, vec![any(INBOUND)]);
    // 9: clients of UDP, bound by nobody, bound to port 0, and connected.
    let mut clients = Worker::ready(app.place(), &Plan::Datagrams).unwrap();
    let server = format!("{}:53", Addresses::nth(1).ipv4);
    for command in [
        "open asks 4".to_owned(),
        format!("send asks {server} 40 3"),
        "bind picks 0.0.0.0:0".to_owned(),
        format!("send picks {server} 40 3"),
        "open talks 4".to_owned(),
        format!("connect talks {server}"),
    ] {
        clients.command(&command).unwrap();
    }
    // 7: the runtime dials the pod's loopback from a cgroup of the host; 8: so does the kubelet its address.
    let dial = |address: SocketAddr| {
        let dialed = TcpStream::connect_timeout(&address, Duration::from_secs(5));
        dialed
            .map(drop)
            .map_err(|error| format!("{address}: {error}"))
    };
    let forwarded = pod
        .netns()
        .run(|| dial((Ipv4Addr::LOCALHOST, LOCAL).into()));
    forwarded.unwrap().unwrap();
    let probed = scene.sandbox.node().run(|| dial((pod.ipv4(), DUAL).into()));
    probed.unwrap().unwrap();
    // 2: whatever the numbers are, they are one finding. And one that is true.
    let _dynamic = listen(&app, vec![any(0), any(0), any(0)]);
    let _wrong = listen(&app, vec![any(WRONG)]);

    let both = poll(PATIENCE, || told(&scene).filter(|told| told.len() >= 2));
    assert!(both.is_some(), "{:?}", told(&scene));
    // The next scans see all of it, and so does a grace after them.
    scene.scanned(4);
    let told = told(&scene).unwrap();
    let [dynamic, wrong] = &told[..] else {
        panic!("{told:#?}");
    };
    assert_eq!(*wrong, format!("P001 tcp/{WRONG} listens on any address"));
    let is_grouped = dynamic.ends_with("(dynamic) listen on any address");
    assert!(
        is_grouped && dynamic.matches("tcp/").count() == 3,
        "{dynamic}"
    );
}
