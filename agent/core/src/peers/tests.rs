//! Addresses, times, and names.

use std::sync::Arc;

use super::{Answer, PeerTable, Question};
use crate::declared::{
    Declared, DeclaredContainer, DeclaredNode, DeclaredPod, DeclaredService, WorkloadRef,
};
use crate::id::{ContainerId, PodUid};
use crate::observation::Role;
use crate::settings::{PEER_HISTORY_MAX, PEER_HOLDERS_MAX};
use crate::snapshot::Peer;
use crate::time::Timestamp;

const SECOND: u64 = 1_000_000_000;

fn pod(owner: &str, ips: &[&str]) -> DeclaredPod {
    DeclaredPod {
        namespace: "shop".into(),
        name: format!("{owner}-1"),
        uid: Some(PodUid::new(owner)),
        owner: WorkloadRef {
            kind: "Deployment".into(),
            name: owner.into(),
        },
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        ..DeclaredPod::default()
    }
}

fn service(namespace: &str, name: &str, ips: &[&str]) -> DeclaredService {
    DeclaredService {
        namespace: namespace.into(),
        name: name.into(),
        cluster_ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        ..DeclaredService::default()
    }
}

fn of(pods: Vec<DeclaredPod>) -> Declared {
    Declared {
        pods: pods.into_iter().map(Arc::new).collect(),
        ..Declared::default()
    }
}

fn host(owner: &str, node: Option<&str>, ip: &str) -> DeclaredPod {
    DeclaredPod {
        host_network: true,
        node: node.map(str::to_owned),
        ..pod(owner, &[ip])
    }
}

fn table() -> PeerTable {
    let finished = DeclaredPod {
        finished: true,
        ..pod("job", &["10.0.0.11"])
    };
    let pods = vec![
        pod("web", &["10.0.0.9", "fd12::9"]),
        // Two replicas may not share an address, but two owners of one must not name each other's traffic.
        pod("old", &["10.0.0.10"]),
        pod("new", &["10.0.0.10"]),
        finished,
        host("proxy", Some("other"), "192.0.2.20"),
        host("agent", Some("other"), "192.0.2.20"),
        host("dns", None, "192.0.2.10"),
        pod("public", &["2001:db8:1::7"]),
    ];
    let mut table = PeerTable::new(Some("node-a"));
    let declared = Declared {
        services: vec![
            service("shop", "api", &["10.96.0.9", "fd96::9"]),
            service("shop", "headless", &[]),
            service("default", "kubernetes", &["10.96.0.1"]),
        ],
        nodes: vec![
            DeclaredNode {
                name: "node-a".into(),
                addresses: vec![
                    "192.0.2.10".parse().unwrap(),
                    "203.0.113.5".parse().unwrap(),
                ],
                ..DeclaredNode::default()
            },
            DeclaredNode {
                name: "control".into(),
                addresses: vec!["192.0.2.30".parse().unwrap()],
                ..DeclaredNode::default()
            },
        ],
        api_servers: vec![
            "192.0.2.30:6443".parse().unwrap(),
            "198.51.100.1:443".parse().unwrap(),
        ],
        ..of(pods)
    };
    table.declared(&declared, Timestamp(SECOND));
    let interfaces = ["192.0.2.10", "10.0.0.1", "169.254.20.10", "10.96.0.9"];
    let interfaces: Vec<_> = interfaces.iter().map(|ip| ip.parse().unwrap()).collect();
    table.interfaces(&interfaces, Timestamp(SECOND));
    table
}

fn told(peer: &Peer) -> String {
    let parts = [
        Some(peer.kind.as_str()),
        peer.namespace.as_deref(),
        peer.name.as_deref(),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn ask(table: &PeerTable, role: Role, address: &str, server_port: u16, at: u64) -> Answer {
    table.look_up(&Question {
        address: address.parse().unwrap(),
        role,
        server_port,
        since: Timestamp(at),
        until: Timestamp(at),
    })
}

fn name(answer: &Answer) -> String {
    let (Answer::Certain(peer)
    | Answer::Held { peer, .. }
    | Answer::Several(peer)
    | Answer::Nobody(peer)) = answer;
    told(peer)
}

fn check(table: &PeerTable, address: &str, expected: &str) {
    let answer = ask(table, Role::Client, address, 80, 2 * SECOND);
    assert_eq!(name(&answer), expected, "{address}");
}

#[test]
fn addresses_have_names() {
    for (address, expected) in [
        ("10.0.0.9", "workload shop web"),
        ("::ffff:10.0.0.9", "workload shop web"),
        ("fd12::9", "workload shop web"),
        ("10.0.0.10", "unresolved private"),
        ("10.0.0.11", "unresolved private"),
        ("192.0.2.10", "node node-a"),
        ("192.0.2.20", "node other"),
        ("192.0.2.30", "node control"),
        ("203.0.113.5", "node node-a"),
        ("10.0.0.1", "node node-a"),
        ("169.254.20.10", "node node-a"),
        ("10.96.0.9", "service shop api"),
        ("fd96::9", "service shop api"),
        ("10.96.0.1", "apiserver"),
        ("127.0.0.1", "loopback"),
        ("127.9.9.9", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("169.254.169.254", "external metadata"),
        ("fd00:ec2::254", "external metadata"),
        ("10.0.0.12", "unresolved private"),
        ("172.16.0.1", "unresolved private"),
        ("172.32.0.1", "external public"),
        ("192.168.1.1", "unresolved private"),
        ("100.64.0.1", "unresolved private"),
        ("100.63.255.255", "external public"),
        ("100.128.0.0", "external public"),
        ("169.254.20.11", "external private"),
        ("fe80::1", "external private"),
        ("fd12::10", "unresolved private"),
        ("8.8.8.8", "external public"),
        ("2001:4860:4860::8888", "external public"),
        // Beside a pod, or a node, with a public address.
        ("2001:db8:1:2::1", "unresolved public"),
        ("203.0.200.1", "unresolved public"),
        ("0.0.0.0", "unresolved"),
        ("::", "unresolved"),
        ("224.0.0.1", "unresolved"),
    ] {
        check(&table(), address, expected);
    }
}

#[test]
fn without_a_declared_side_a_private_address_may_be_a_pod() {
    for (address, expected) in [
        ("10.0.0.9", "unresolved private"),
        ("fd12::9", "unresolved private"),
        ("8.8.8.8", "external public"),
        ("169.254.169.254", "external metadata"),
        ("127.0.0.1", "loopback"),
    ] {
        check(&PeerTable::new(None), address, expected);
    }
}

#[test]
fn an_endpoint_of_the_api_server_is_told_from_other_ports_of_its_node() {
    let table = table();
    for (role, address, port, expected) in [
        (Role::Client, "192.0.2.30", 6443, "apiserver"),
        (Role::Client, "192.0.2.30", 10_250, "node control"),
        // Whoever comes from there is some process of that node.
        (Role::Server, "192.0.2.30", 6443, "node control"),
        (Role::Client, "198.51.100.1", 443, "apiserver"),
        (Role::Server, "198.51.100.1", 8443, "apiserver"),
    ] {
        let answer = ask(&table, role, address, port, 2 * SECOND);
        assert_eq!(name(&answer), expected, "{role:?} {address}:{port}");
    }
}

fn appear(table: &mut PeerTable, pod: &str, container: &str, at: u64) {
    table.container_appeared(
        &PodUid::new(pod),
        &ContainerId::new(container),
        Timestamp(at),
    );
}

fn go(table: &mut PeerTable, pod: &str, container: &str, at: u64) {
    table.container_gone(
        &PodUid::new(pod),
        &ContainerId::new(container),
        Timestamp(at),
    );
}

#[test]
fn trap_19_a_name_is_of_its_time() {
    let mut table = PeerTable::new(None);
    let at = |second: u64| Timestamp(second * SECOND);
    appear(&mut table, "a", "a1", 10 * SECOND);
    assert_eq!(table.behind(at(11)).young, Some(at(10)));
    table.declared(&of(vec![pod("a", &["10.0.0.1"])]), at(12));
    assert_eq!(table.behind(at(13)), super::Behind::default());
    go(&mut table, "a", "a1", 20 * SECOND);
    // The declared side still has it, and is behind.
    table.declared(&of(vec![pod("a", &["10.0.0.1"])]), at(21));
    appear(&mut table, "b", "b1", 22 * SECOND);
    let both = of(vec![pod("a", &["10.0.0.1"]), pod("b", &["10.0.0.1"])]);
    table.declared(&both, at(24));
    for (second, expected) in [
        (9, "unresolved private"),
        (10, "workload shop a"),
        (20, "workload shop a"),
        (21, "unresolved private"),
        (22, "workload shop b"),
        (99, "workload shop b"),
    ] {
        let answer = ask(&table, Role::Client, "10.0.0.1", 80, second * SECOND);
        assert_eq!(name(&answer), expected, "at {second} s");
    }
    let straddling = table.look_up(&Question {
        address: "10.0.0.1".parse().unwrap(),
        role: Role::Client,
        server_port: 80,
        since: at(19),
        until: at(23),
    });
    assert_eq!(name(&straddling), "unresolved private");
}

#[test]
fn a_sandbox_made_anew_has_its_address_only_once_the_new_life_is_declared() {
    let mut table = PeerTable::new(None);
    let with = |container: &str, ip: &str| {
        let container = DeclaredContainer {
            container_id: Some(ContainerId::new(container)),
            ..DeclaredContainer::default()
        };
        of(vec![DeclaredPod {
            containers: vec![container],
            ..pod("a", &[ip])
        }])
    };
    appear(&mut table, "a", "1", SECOND);
    table.declared(&with("1", "10.0.0.1"), Timestamp(2 * SECOND));
    go(&mut table, "a", "1", 3 * SECOND);
    appear(&mut table, "a", "2", 4 * SECOND);
    let now = |table: &PeerTable, ip, at| name(&ask(table, Role::Client, ip, 80, at));
    assert_eq!(now(&table, "10.0.0.1", 5 * SECOND), "unresolved private");
    table.declared(&with("1", "10.0.0.1"), Timestamp(5 * SECOND));
    assert_eq!(now(&table, "10.0.0.1", 6 * SECOND), "unresolved private");
    table.declared(&with("2", "10.0.0.2"), Timestamp(6 * SECOND));
    assert_eq!(now(&table, "10.0.0.1", 6 * SECOND), "unresolved private");
    assert_eq!(now(&table, "10.0.0.2", 5 * SECOND), "workload shop a");
    assert_eq!(now(&table, "10.0.0.1", 3 * SECOND), "workload shop a");
}

#[test]
fn a_pod_deleted_by_force_holds_its_address_until_its_processes_end() {
    let mut table = PeerTable::new(None);
    appear(&mut table, "a", "1", SECOND);
    table.declared(&of(vec![pod("a", &["10.0.0.1"])]), Timestamp(2 * SECOND));
    table.declared(&of(vec![]), Timestamp(3 * SECOND));
    go(&mut table, "a", "1", 9 * SECOND);
    for (second, expected) in [(8, "workload shop a"), (10, "unresolved private")] {
        let answer = ask(&table, Role::Server, "10.0.0.1", 80, second * SECOND);
        assert_eq!(name(&answer), expected, "at {second} s");
    }
}

#[test]
fn the_table_is_bounded_and_forgets_the_oldest() {
    let mut table = PeerTable::new(None);
    let ip = |n: usize| {
        let low = u16::try_from(n % 65_536).unwrap();
        let high = u8::try_from(n / 65_536).unwrap();
        format!("10.{high}.{}.{}", low >> 8, low & 0xff)
    };
    let all = |count: usize| {
        let ips: Vec<String> = (0..count).map(ip).collect();
        let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
        of(vec![pod("many", &ips)])
    };
    table.declared(&all(PEER_HOLDERS_MAX + 5), Timestamp(SECOND));
    assert_eq!((table.occupancy().0, table.lost().0), (PEER_HOLDERS_MAX, 5));
    table.declared(&all(0), Timestamp(2 * SECOND));
    let (open, former) = table.occupancy();
    assert_eq!((open, former), (0, PEER_HISTORY_MAX));
    assert_eq!(table.lost().1, (PEER_HOLDERS_MAX - PEER_HISTORY_MAX) as u64);
    // What may have been forgotten is not told as somebody's who came later.
    table.declared(
        &of(vec![pod("later", &["10.0.0.1"])]),
        Timestamp(3 * SECOND),
    );
    let early = ask(&table, Role::Client, "10.0.0.1", 80, 2 * SECOND);
    assert_eq!(
        early,
        Answer::Several(super::unresolved(super::Class::Private))
    );
    let late = ask(&table, Role::Client, "10.0.0.1", 80, 4 * SECOND);
    assert_eq!(name(&late), "workload shop later");
}
