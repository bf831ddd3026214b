use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use expect_test::expect;

use crate::declared::ContainerKind;
use crate::observation::Health;
use crate::rules::testing::{
    cluster, container, cpu_max, declared, listener, node_cpu, pod, snapshot, status, view,
};
use crate::rules::{ALL, evaluate, unknown_rules};
use crate::snapshot::{NodeCpuView, Snapshot};

fn node() -> Snapshot {
    let mut app = container("app", ContainerKind::Regular, &[8080]);
    app.cpu_request_millis = None;
    let pod = pod(vec![
        app.clone(),
        crate::declared::DeclaredContainer {
            name: "b".into(),
            ..app
        },
    ]);
    let ports = [9998, 9999, 40_000, 40_001];
    let listeners = ports.map(|port| listener(port, &["0.0.0.0"])).to_vec();
    let containers = vec![
        view(&pod, Some(0), listeners.clone()),
        view(&pod, Some(1), listeners),
    ];
    let mut node = snapshot(Some(cluster(declared(&pod, vec![]))), containers);
    node.node_cpu = Some(node_cpu(0.0));
    node
}

#[test]
fn rules_are_sorted_named_once_and_documented() {
    let ids: Vec<&str> = ALL.iter().map(|rule| rule.id).collect();
    assert!(ids.is_sorted());
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    for rule in ALL {
        let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let (file, anchor) = rule
            .doc_url()
            .split_once('#')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .unwrap();
        assert!(here.join(file).is_file(), "{}", rule.doc_url());
        assert_eq!(anchor, rule.id.to_ascii_lowercase());
        let own = here.join(format!("agent/core/src/rules/{anchor}.rs"));
        assert!(own.is_file(), "each rule is one file: {}", own.display());
    }
}

#[test]
fn conditions_do_not_depend_on_the_order_of_what_was_seen() {
    let node = node();
    let mut turned = node.clone();
    turned.containers.reverse();
    turned.probes.reverse();
    for container in &mut turned.containers {
        container.listeners.reverse();
    }
    let conditions = evaluate(&node);
    assert_eq!(conditions.len(), 8);
    assert_eq!(conditions, evaluate(&turned));
}

#[test]
fn rules_that_cannot_decide_say_why() {
    let unknown = |snapshot: &Snapshot| {
        let unknown = unknown_rules(snapshot);
        unknown
            .iter()
            .map(|(rule, reason)| format!("{rule}: {reason}"))
            .collect::<Vec<_>>()
    };
    let mut snapshot = node();
    assert_eq!(unknown(&snapshot), [""; 0]);

    snapshot.probes.retain(|status| status.probe != "listeners");
    // Events alone give listeners, but not which unit of the host has them.
    assert_eq!(unknown(&snapshot), ["P008: listeners has not reported yet"]);
    snapshot
        .probes
        .retain(|probe| probe.probe != "tcp" && probe.probe != "cpu_windows");
    snapshot
        .probes
        .push(status("tcp", Health::Unsupported, Some("no CAP_BPF")));
    expect![[r#"
        C002: cpu_windows has not reported yet
        C003: cpu_windows has not reported yet
        C007: cpu_windows has not reported yet
        F001: tcp is unsupported: no CAP_BPF
        F002: tcp is unsupported: no CAP_BPF
        F006: tcp is unsupported: no CAP_BPF
        F007: tcp is unsupported: no CAP_BPF
        P001: listeners has not reported yet; tcp is unsupported: no CAP_BPF
        P004: listeners has not reported yet; tcp is unsupported: no CAP_BPF
        P005: listeners has not reported yet; tcp is unsupported: no CAP_BPF
        P007: listeners has not reported yet; tcp is unsupported: no CAP_BPF
        P008: listeners has not reported yet
        P009: listeners has not reported yet; tcp is unsupported: no CAP_BPF
        S001: tcp is unsupported: no CAP_BPF"#]]
    .assert_eq(&unknown(&snapshot).join("\n"));

    snapshot.declared = None;
    expect![[r#"
        C001: no declared side has been read yet
        C002: no declared side has been read yet
        C003: no declared side has been read yet
        C005: no declared side has been read yet
        C006: no declared side has been read yet
        C007: cpu_windows has not reported yet
        F001: no declared side has been read yet
        F002: no declared side has been read yet
        F006: no declared side has been read yet
        F007: no declared side has been read yet
        I001: no declared side has been read yet
        I003: no declared side has been read yet
        I004: no declared side has been read yet
        P001: no declared side has been read yet
        P004: no declared side has been read yet
        P005: no declared side has been read yet
        P007: no declared side has been read yet
        P008: listeners has not reported yet
        P009: no declared side has been read yet
        S001: no declared side has been read yet"#]]
    .assert_eq(&unknown(&snapshot).join("\n"));
    snapshot.probes.retain(|status| status.probe != "declared");
    snapshot.probes.push(status(
        "declared",
        Health::Off,
        Some("no --declared was given"),
    ));
    assert_eq!(
        unknown(&snapshot)[0],
        "C001: declared is off: no --declared was given"
    );
}

#[test]
fn trap_23_figures_that_the_kernel_does_not_have_are_named() {
    let mut snapshot = node();
    for container in &mut snapshot.containers {
        container.cpu.usage_us = Some(1);
    }
    snapshot.node_cpu.as_mut().unwrap().some = None;
    let unknown = |snapshot: &Snapshot| {
        let text = |(rule, reason)| format!("{rule}: {reason}");
        let unknown: Vec<String> = unknown_rules(snapshot).into_iter().map(text).collect();
        unknown.join("\n")
    };
    expect![[r#"
        C002: the kernel keeps no CPU pressure (CONFIG_PSI, psi=1)
        C004: no container's cgroup has the cpu controller of cgroup v2
        C005: the kernel keeps no CPU pressure (CONFIG_PSI, psi=1)
        C006: no container's cgroup has the cpu controller of cgroup v2"#]]
    .assert_eq(&unknown(&snapshot));
    snapshot.containers[0].cpu.max = Some(cpu_max(None));
    expect![[r#"
        C002: the kernel keeps no CPU pressure (CONFIG_PSI, psi=1)
        C005: the kernel keeps no CPU pressure (CONFIG_PSI, psi=1)"#]]
    .assert_eq(&unknown(&snapshot));
    snapshot.containers.clear();
    snapshot.node_cpu = Some(NodeCpuView::default());
    assert_eq!(
        unknown(&snapshot),
        "",
        "nothing to judge, and no second reading"
    );
}

/// The catalogue's list of false-positive traps: a test is named after each.
#[test]
fn each_of_the_24_traps_has_a_test() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut directories = vec![source];
    let mut tested = BTreeSet::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(path).unwrap();
                let names = text
                    .lines()
                    .filter_map(|line| line.trim().strip_prefix("fn trap_"));
                for name in names {
                    let words = name
                        .split('_')
                        .take_while(|word| *word == "and" || word.parse::<u8>().is_ok());
                    tested.extend(words.filter_map(|word| word.parse::<u8>().ok()));
                }
            }
        }
    }
    assert_eq!(tested, (1..=24).collect());
}
