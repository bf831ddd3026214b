use std::time::Duration;

use crate::declared::Transport;
use crate::finding::{Condition, Evidence};
use crate::observation::Health;
use crate::rules::testing::{NOW, of_rule, snapshot};
use crate::rules::{evaluate, unknown_rules};
use crate::settings::Grace;
use crate::snapshot::{HostListenerView, Snapshot};

fn on(unit: &str, transport: Transport, port: u16, addresses: &[&str]) -> HostListenerView {
    HostListenerView {
        unit: unit.into(),
        transport,
        port,
        addresses: addresses.iter().map(|one| one.parse().unwrap()).collect(),
        executables: ["/usr/sbin/daemon".to_owned()].into(),
        first_seen: NOW.minus(Duration::from_secs(60)),
        scans: 2,
    }
}

fn node(allowed: &[&str], listeners: Vec<HostListenerView>) -> Snapshot {
    let mut node = snapshot(None, vec![]);
    node.settings.rules.host_listeners = allowed.iter().map(|one| one.parse().unwrap()).collect();
    node.host_listeners = listeners;
    node
}

fn p008(node: &Snapshot) -> Condition {
    let mut found = evaluate(node).into_iter();
    found.find(|one| one.rule.id == "P008").unwrap()
}

fn said(allowed: &[&str], listener: HostListenerView) -> String {
    of_rule("P008", &node(allowed, vec![listener]))
}

#[test]
fn a_listener_that_the_list_does_not_allow() {
    let rpc = || on("rpcbind.service", Transport::Tcp, 111, &["0.0.0.0", "::"]);
    let told = "P008 medium node rpcbind.service tcp/111";
    assert_eq!(said(&["sshd.service"], rpc()), told);
    assert_eq!(said(&["rpcbind.service udp/111"], rpc()), told);
    assert_eq!(said(&["rpcbind.service"], rpc()), "");
    assert_eq!(said(&["tcp/100-200"], rpc()), "");
    assert_eq!(said(&[], rpc()), "", "no list, nothing said");
    let node = node(&["sshd.service"], vec![rpc()]);
    let condition = p008(&node);
    assert_eq!(
        condition.evidence["addresses"],
        Evidence::List(vec!["0.0.0.0".into(), "::".into()])
    );
}

#[test]
fn ports_that_the_kernel_chose_are_one_finding() {
    let listeners = [40_001, 40_002].map(|port| on("nfs.service", Transport::Tcp, port, &["::"]));
    let node = node(&["tcp/22"], listeners.to_vec());
    assert_eq!(
        of_rule("P008", &node),
        "P008 medium node nfs.service dynamic"
    );
    assert_eq!(
        p008(&node).observed,
        "nfs.service listens on tcp/40001, tcp/40002 of the node"
    );
}

#[test]
fn a_port_that_is_bound_for_a_moment_is_not_told() {
    let mut young = on("a.service", Transport::Tcp, 80, &["0.0.0.0"]);
    young.first_seen = NOW.minus(Duration::from_secs(1));
    young.scans = 1;
    let mut node = node(&["tcp/22"], vec![young]);
    assert_eq!(of_rule("P008", &node), "");
    node.settings.grace = Grace::Scans(1);
    assert_ne!(of_rule("P008", &node), "");
}

/// Where the cgroups that are watched are not the node's: silence is no health, and what was open is not over.
#[test]
fn where_no_unit_is_known_it_says_so() {
    let mut blind = node(&["tcp/22"], vec![]);
    let lacks = |node: &Snapshot| {
        let unknown = unknown_rules(node).into_iter();
        let mut of_rule = unknown.filter(|(rule, _)| *rule == "P008");
        of_rule.next().map(|(_, reason)| reason)
    };
    assert_eq!(lacks(&blind), None, "nothing listens");
    blind.host_unknown = 3;
    assert!(lacks(&blind).unwrap().starts_with("3 listening sockets"));
    let ssh = on("sshd.service", Transport::Tcp, 22, &["0.0.0.0"]);
    blind.host_listeners = vec![ssh];
    assert_eq!(lacks(&blind), None, "units are known, a process ended");
    for probe in &mut blind.probes {
        if probe.probe == "listeners" {
            probe.health = Health::Broken;
        }
    }
    assert!(lacks(&blind).is_some(), "only scans know units");
}
