use crate::declared::{ContainerKind, Declared, DeclaredPod, DeclaredPolicy};
use crate::rules::testing::{container, declared, listener, of_rule, pod, snapshot, view};
use crate::snapshot::ListenerView;

fn app() -> DeclaredPod {
    pod(vec![container("app", ContainerKind::Regular, &[8080])])
}

/// What is said of a port that this program holds.
fn said(port: u16, address: &str, program: &str) -> String {
    let mut listener = listener(port, &[address]);
    listener.holders[0].executable = (!program.is_empty()).then(|| program.into());
    of(&app(), vec![], listener)
}

fn of(pod: &DeclaredPod, policies: Vec<DeclaredPolicy>, listener: ListenerView) -> String {
    let all = Declared {
        policies,
        ..declared(pod, vec![])
    };
    let container = view(pod, Some(0), vec![listener]);
    of_rule("P004", &snapshot(Some(all), vec![container]))
}

#[test]
fn ports_and_programs_that_are_known() {
    for (port, program, found) in [
        (6060, "/app/server", true),
        (6060, "", true),
        (5005, "/usr/lib/jvm/bin/java", true),
        (5005, "/usr/bin/flask", false),
        (5005, "", false),
        (7199, "/opt/java", true),
        (8000, "/opt/java", false),
        (9229, "/usr/local/bin/node", true),
        (9229, "/usr/local/bin/node-exporter", false),
        (40_000, "/go/bin/dlv", true),
        (2345, "/app/server", false),
        (2379, "/usr/local/bin/etcd", true),
        (2379, "/app/server", false),
        (2375, "/usr/bin/dockerd", true),
        (9999, "/app/server", false),
    ] {
        let expected = if found {
            format!("P004 high web/app tcp/{port}")
        } else {
            String::new()
        };
        assert_eq!(said(port, "0.0.0.0", program), expected, "{port} {program}");
    }
}

#[test]
fn traps() {
    let debug = || listener(6060, &["0.0.0.0"]);
    assert_eq!(said(6060, "127.0.0.1", ""), "", "3: loopback");
    let declared = pod(vec![container("app", ContainerKind::Regular, &[6060])]);
    assert_eq!(of(&declared, vec![], debug()), "", "it was meant");
    let mut probed = app();
    probed.containers[0].probe_ports = vec![6060];
    assert_eq!(of(&probed, vec![], debug()), "", "8: a probe");
    let passed_on = ListenerView {
        held_by_owner: Some(false),
        ..debug()
    };
    assert_eq!(of(&app(), vec![], passed_on), "", "11: passed on");
    let young = ListenerView {
        first_seen: crate::rules::testing::NOW,
        ..debug()
    };
    assert_eq!(of(&app(), vec![], young), "", "before the grace");
    let udp = ListenerView {
        transport: crate::declared::Transport::Udp,
        ..debug()
    };
    assert_eq!(of(&app(), vec![], udp), "", "another transport");
    let closed = DeclaredPolicy {
        namespace: "shop".into(),
        name: "closed".into(),
        ingress: Some(vec![]),
        ..DeclaredPolicy::default()
    };
    assert_eq!(of(&app(), vec![closed], debug()), "", "nobody reaches it");
    let host = DeclaredPod {
        host_network: true,
        ..app()
    };
    assert_eq!(
        of(&host, vec![], debug()),
        "P004 high web/app tcp/6060",
        "1"
    );
}
