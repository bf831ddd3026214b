mod bounds;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use expect_test::expect;
use proptest::prelude::{
    Just, ProptestConfig, Strategy as _, prop_assert, prop_assert_eq, proptest,
};

use super::{Point, ResourceReport, build};
use crate::declared::ContainerKind;
use crate::finding::{Condition, Coverage, Finding, FindingState, Subject};
use crate::metric::CATALOGUE;
use crate::observation::{CpuMax, Role};
use crate::rules::evaluate;
use crate::rules::testing::{NOW, container, declared, pod, snapshot, view, windows};
use crate::snapshot::{Dropped, FlowView, Occupancy, Snapshot, TransitionCount};

mod fixture;

use fixture::{flow, node};

fn finding(condition: &Condition, snapshot: &Snapshot) -> Finding {
    Finding {
        rule_id: condition.rule.id,
        title: condition.rule.title,
        severity: condition.severity,
        state: FindingState::Open,
        fingerprint: condition.fingerprint(&snapshot.node),
        first_seen: snapshot.wall,
        last_seen: snapshot.wall,
        occurrences: 1,
        resource: condition.subject.clone(),
        declared: condition.declared.clone(),
        observed: condition.observed.clone(),
        evidence: BTreeMap::new(),
        reopened: 0,
        transition: None,
        suppression: None,
        suppression_ignored: Vec::new(),
        resolution: None,
        coverage: condition.coverage.clone(),
        remediation: condition.remediation.clone(),
        patch: None,
        doc_url: condition.rule.doc_url(),
        category: condition.rule.category,
    }
}

fn findings(snapshot: &Snapshot) -> Vec<Finding> {
    evaluate(snapshot)
        .iter()
        .map(|condition| finding(condition, snapshot))
        .collect()
}

/// A line a point: metric, attributes, value, age of the zero point in seconds.
fn lines(snapshot: &Snapshot, resource: &ResourceReport) -> String {
    let mut text = String::new();
    for point in &resource.points {
        let mut attributes = serde_json::to_string(&point.attributes).unwrap();
        attributes.retain(|c| !matches!(c, '"'));
        let value = serde_json::to_string(&point.value).unwrap();
        let start = point
            .start
            .map(|start| format!(" since {} s", (snapshot.wall.0 - start.0) / 1_000_000_000));
        writeln!(
            text,
            "{} {attributes} {value}{}",
            point.metric.name,
            start.unwrap_or_default()
        )
        .unwrap();
    }
    text
}

#[test]
fn points_of_a_container() {
    let node = node();
    let report = build(&node, &[]);
    assert_eq!(report.resources.len(), 4);
    assert_eq!(report.resources[0].subject, Subject::default());
    expect![[r#"
        k8s.pod.cpu.time [] 190.0 since 120 s
    "#]]
    .assert_eq(&lines(&node, &report.resources[1]));
    expect![[r#"
        container.cpu.time [] 90.0 since 1800 s
        container.cpu.usage [] 0.25
        k8s.container.cpu.limit.current [] 0.4 since 1800 s
        k8s.container.cpu.limit.desired [] 0.5 since 1800 s
        k8s.container.cpu.limit.utilization [] 0.5
        k8s.container.cpu.request.current [] 0.09 since 1800 s
        k8s.container.cpu.request.desired [] 0.1 since 1800 s
        k8s.container.cpu.request.utilization [] 2.5
        k8s.container.restart.count [] 4 since 1800 s
        plumbline.container.cpu.limit.effective [] 0.5
        plumbline.container.cpu.periods [[plumbline.cpu.throttled,false]] 480 since 1800 s
        plumbline.container.cpu.periods [[plumbline.cpu.throttled,true]] 120 since 1800 s
        plumbline.container.cpu.pressure.time [[plumbline.pressure.kind,full]] 0.5 since 1800 s
        plumbline.container.cpu.pressure.time [[plumbline.pressure.kind,some]] 2.0 since 1800 s
        plumbline.container.cpu.throttled.time [] 1.5 since 1800 s
        plumbline.container.cpu.usage.peak [[plumbline.window,100ms]] 0.49
        plumbline.container.cpu.usage.window [[plumbline.window,100ms]] {"zero":1,"low":143,"counts":[1,1],"count":3,"sum_us":101000,"max_us":52000} since 1800 s
        plumbline.container.cpu.weight [] 39
        plumbline.container.oom.kills [] 2 since 1800 s
        plumbline.container.restarts [] 1 since 0 s
        plumbline.network.connect.failures [[error.type,_OTHER],[network.transport,tcp],[otel.metric.overflow,true]] 2 since 60 s
        plumbline.network.connect.failures [[error.type,_OTHER],[network.transport,tcp],[plumbline.peer.kind,workload],[plumbline.peer.name,db],[plumbline.peer.namespace,shop],[server.port,5432]] 2 since 60 s
        plumbline.network.connect.failures [[error.type,timeout],[network.transport,tcp],[otel.metric.overflow,true]] 1 since 60 s
        plumbline.network.connect.failures [[error.type,timeout],[network.transport,tcp],[plumbline.peer.kind,workload],[plumbline.peer.name,db],[plumbline.peer.namespace,shop],[server.port,5432]] 1 since 60 s
        plumbline.network.connections [[network.transport,tcp],[otel.metric.overflow,true],[plumbline.flow.role,client]] 7 since 60 s
        plumbline.network.connections [[network.transport,tcp],[plumbline.flow.role,client],[plumbline.peer.kind,workload],[plumbline.peer.name,db],[plumbline.peer.namespace,shop],[plumbline.policy.verdict,allow],[server.port,5432]] 7 since 60 s
        plumbline.network.connections [[network.transport,tcp],[plumbline.flow.role,server],[plumbline.peer.kind,workload],[plumbline.peer.name,front],[plumbline.peer.namespace,shop],[plumbline.policy.verdict,allow],[server.port,8080]] 7 since 60 s
        plumbline.network.connections [[network.transport,udp],[otel.metric.overflow,true],[plumbline.flow.role,client]] 2 since 60 s
        plumbline.network.connections [[network.transport,udp],[plumbline.flow.role,client],[plumbline.peer.kind,workload],[plumbline.peer.name,dns],[plumbline.peer.namespace,shop],[plumbline.policy.verdict,allow],[server.port,53]] 1 since 60 s
        plumbline.network.connections [[network.transport,udp],[plumbline.flow.role,client],[plumbline.peer.kind,workload],[plumbline.peer.name,dns],[plumbline.peer.namespace,shop],[plumbline.policy.verdict,none],[server.port,53]] 1 since 60 s
        plumbline.network.io [[network.transport,tcp],[otel.metric.overflow,true],[plumbline.flow.io,received],[plumbline.flow.role,client]] 200 since 60 s
        plumbline.network.io [[network.transport,tcp],[otel.metric.overflow,true],[plumbline.flow.io,sent],[plumbline.flow.role,client]] 100 since 60 s
        plumbline.network.io [[network.transport,tcp],[plumbline.flow.io,received],[plumbline.flow.role,client],[plumbline.peer.kind,workload],[plumbline.peer.name,db],[plumbline.peer.namespace,shop],[server.port,5432]] 200 since 60 s
        plumbline.network.io [[network.transport,tcp],[plumbline.flow.io,received],[plumbline.flow.role,server],[plumbline.peer.kind,workload],[plumbline.peer.name,front],[plumbline.peer.namespace,shop],[server.port,8080]] 200 since 60 s
        plumbline.network.io [[network.transport,tcp],[plumbline.flow.io,sent],[plumbline.flow.role,client],[plumbline.peer.kind,workload],[plumbline.peer.name,db],[plumbline.peer.namespace,shop],[server.port,5432]] 100 since 60 s
        plumbline.network.io [[network.transport,tcp],[plumbline.flow.io,sent],[plumbline.flow.role,server],[plumbline.peer.kind,workload],[plumbline.peer.name,front],[plumbline.peer.namespace,shop],[server.port,8080]] 100 since 60 s
        plumbline.network.io [[network.transport,udp],[otel.metric.overflow,true],[plumbline.flow.io,received],[plumbline.flow.role,client]] 40 since 60 s
        plumbline.network.io [[network.transport,udp],[otel.metric.overflow,true],[plumbline.flow.io,sent],[plumbline.flow.role,client]] 30 since 60 s
        plumbline.network.io [[network.transport,udp],[plumbline.flow.io,received],[plumbline.flow.role,client],[plumbline.peer.kind,workload],[plumbline.peer.name,dns],[plumbline.peer.namespace,shop],[server.port,53]] 40 since 60 s
        plumbline.network.io [[network.transport,udp],[plumbline.flow.io,sent],[plumbline.flow.role,client],[plumbline.peer.kind,workload],[plumbline.peer.name,dns],[plumbline.peer.namespace,shop],[server.port,53]] 30 since 60 s
        plumbline.network.packets [[network.transport,udp],[otel.metric.overflow,true],[plumbline.flow.io,received],[plumbline.flow.role,client]] 4 since 60 s
        plumbline.network.packets [[network.transport,udp],[otel.metric.overflow,true],[plumbline.flow.io,sent],[plumbline.flow.role,client]] 3 since 60 s
        plumbline.network.packets [[network.transport,udp],[plumbline.flow.io,received],[plumbline.flow.role,client],[plumbline.peer.kind,workload],[plumbline.peer.name,dns],[plumbline.peer.namespace,shop],[server.port,53]] 4 since 60 s
        plumbline.network.packets [[network.transport,udp],[plumbline.flow.io,sent],[plumbline.flow.role,client],[plumbline.peer.kind,workload],[plumbline.peer.name,dns],[plumbline.peer.namespace,shop],[server.port,53]] 3 since 60 s
        plumbline.port.listening [[network.local.port,0],[network.transport,tcp],[otel.metric.overflow,true]] 5 since 1800 s
        plumbline.port.listening [[network.local.port,8080],[network.transport,tcp],[plumbline.bind.scope,any],[plumbline.declared.by,container_port],[plumbline.exposure,cluster]] 2 since 600 s
        plumbline.port.listening [[network.local.port,9999],[network.transport,tcp],[plumbline.bind.scope,pod],[plumbline.declared.by,none],[plumbline.exposure,cluster]] 1 since 600 s
    "#]].assert_eq(&lines(&node, &report.resources[2]));
}

#[test]
fn points_of_the_node() {
    let node = node();
    expect![[r#"
        k8s.node.cpu.allocatable [] 1.93 since 0 s
        k8s.node.cpu.time [] 7.0 since 3600 s
        k8s.node.cpu.usage [] 1.5
        plumbline.coverage.containers [[plumbline.coverage.state,blind],[plumbline.reason,not attached: EPERM]] 1
        plumbline.coverage.containers [[plumbline.coverage.state,partial],[plumbline.reason,too_many_listeners]] 1
        plumbline.declared.age [[plumbline.source,pods]] 3.0
        plumbline.ebpf.events [[plumbline.map,flows]] 40 since 0 s
        plumbline.ebpf.events.lost [[plumbline.map,flows],[plumbline.reason,full]] 3 since 0 s
        plumbline.ebpf.map.capacity [[plumbline.map,flows]] 2000
        plumbline.ebpf.map.entries [[plumbline.map,flows]] 10
        plumbline.findings.open [[k8s.namespace.name,shop],[plumbline.severity,low],[security_rule.name,F002]] 2
        plumbline.findings.open [[k8s.namespace.name,shop],[plumbline.severity,medium],[security_rule.name,P001]] 2
        plumbline.findings.open [[plumbline.severity,low],[security_rule.name,M001]] 2
        plumbline.node.cpu.count [] 2.0
        plumbline.node.cpu.pressure [] 0.25
        plumbline.node.cpu.requests [] 0.2
        plumbline.node.cpu.steal.time [] 0.1 since 3600 s
        plumbline.policy.rule.hits [[plumbline.policy.direction,ingress],[plumbline.policy.name,shop/web],[plumbline.policy.rule,0]] 7 since 0 s
        plumbline.probe.health [[plumbline.probe,tcp],[plumbline.probe.state,broken]] 0
        plumbline.probe.health [[plumbline.probe,tcp],[plumbline.probe.state,off]] 0
        plumbline.probe.health [[plumbline.probe,tcp],[plumbline.probe.state,ok]] 1
        plumbline.probe.health [[plumbline.probe,tcp],[plumbline.probe.state,unsupported]] 0
    "#]].assert_eq(&lines(&node, &build(&node, &findings(&node)).resources[0]));
}

/// The node with a hidden finding besides, and with what became of findings so far.
fn with_history() -> (Snapshot, Vec<Finding>) {
    let mut node = node();
    let mut findings = findings(&node);
    let of_pod = findings.iter().find(|one| one.resource.namespace.is_some());
    findings.push(Finding {
        state: FindingState::Suppressed,
        ..of_pod.unwrap().clone()
    });
    node.transitions = vec![TransitionCount {
        rule: "P001",
        state: FindingState::Suppressed,
        count: 1,
    }];
    (node, findings)
}

#[test]
fn what_leaves_is_in_the_catalogue_and_the_catalogue_leaves() {
    let points = points();
    let names: BTreeSet<&str> = points.iter().map(|point| point.metric.name).collect();
    let mut expected: BTreeSet<&str> = CATALOGUE.iter().map(|metric| metric.name).collect();
    expected.remove("plumbline.report.points.cut");
    expected.retain(|name| !of_logs(name));
    assert_eq!(names, expected);
}

/// All points of the node, and those of one whose containers are all seen.
fn points() -> Vec<Point> {
    let mut seen = node();
    for container in &mut seen.containers {
        container.coverage = Coverage::Full;
        container.listeners_overflow.clear();
    }
    let (node, findings) = with_history();
    let reports = [node, seen].map(|node| build(&node, &findings));
    let resources = reports.into_iter().flat_map(|report| report.resources);
    resources.flat_map(|resource| resource.points).collect()
}

/// Container logs are no observations: the shell adds their points, and tests them.
fn of_logs(name: &str) -> bool {
    name.starts_with("plumbline.log.")
}

#[test]
fn attributes_that_leave_are_those_of_the_catalogue() {
    let mut seen: BTreeSet<(&str, &str)> = BTreeSet::new();
    for point in points() {
        seen.extend(
            point
                .attributes
                .iter()
                .map(|(key, _)| (point.metric.name, *key)),
        );
    }
    let mut expected: BTreeSet<(&str, &str)> = CATALOGUE
        .iter()
        .flat_map(|metric| metric.attributes.iter().map(|key| (metric.name, *key)))
        .collect();
    // Only with a thousand series of findings: see `many_reasons_and_findings_are_bounded`.
    for metric in ["plumbline.findings.open", "plumbline.findings.suppressed"] {
        expected.remove(&(metric, "otel.metric.overflow"));
    }
    // Likewise, with a thousand rules of policies.
    expected.remove(&("plumbline.policy.rule.hits", "otel.metric.overflow"));
    expected.retain(|(name, _)| !of_logs(name));
    assert_eq!(seen, expected);
}

#[test]
fn what_was_not_measured_is_absent() {
    let pod = pod(vec![container("app", ContainerKind::Regular, &[8080])]);
    let mut node = snapshot(Some(declared(&pod, vec![])), vec![view(&pod, None, vec![])]);
    node.containers[0].cpu.max = Some(CpuMax {
        quota_us: None,
        period_us: 100_000,
        burst_us: 0,
    });
    node.probes.clear();
    let report = build(&node, &[]);
    assert_eq!(
        report.resources.len(),
        1,
        "only the node has something to say"
    );
    expect![[r#"
        plumbline.coverage.containers [[plumbline.coverage.state,full]] 1
        plumbline.node.cpu.requests [] 0.1
    "#]]
    .assert_eq(&lines(&node, &report.resources[0]));
}

#[test]
fn a_container_that_is_gone_has_its_last_counts_only() {
    let mut node = node();
    node.containers[0].gone = true;
    let report = build(&node, &[]);
    let names: BTreeSet<&str> = report.resources[2]
        .points
        .iter()
        .map(|point| point.metric.name)
        .collect();
    expect!["container.cpu.time plumbline.container.cpu.periods plumbline.container.cpu.pressure.time plumbline.container.cpu.throttled.time plumbline.container.cpu.usage.window plumbline.container.oom.kills plumbline.container.restarts plumbline.network.connect.failures plumbline.network.connections plumbline.network.io plumbline.network.packets"].assert_eq(&names.into_iter().collect::<Vec<_>>().join(" "));
}

#[test]
fn one_series_has_one_point() {
    let mut node = node();
    let mut later = FlowView {
        since: NOW,
        ..flow(0, Role::Client, "db", 5432)
    };
    later.counts.connections = 5;
    later.verdicts.connections = [5, 0, 0, 0];
    node.flows.push(later);
    let report = build(&node, &[]);
    let text = lines(&node, &report.resources[2]);
    let db: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("connections") && line.contains("db"))
        .collect();
    assert_eq!(db.len(), 1, "{text}");
    assert!(db[0].ends_with(" 12 since 60 s"), "{text}");
}

#[test]
fn findings_that_are_open_leave_worst_first() {
    let mut node = node();
    node.containers[0].cpu.windows = Some(windows([vec![50_000; 100], vec![0; 500]].concat()));
    let mut findings = findings(&node);
    findings.push(Finding {
        state: FindingState::Resolved,
        ..findings[0].clone()
    });
    findings.reverse();
    let report = build(&node, &findings);
    let order: Vec<_> = report
        .findings
        .iter()
        .map(|finding| {
            format!(
                "{} {} {}",
                finding.severity,
                finding.rule_id,
                finding.resource.container.as_deref().unwrap_or("-")
            )
        })
        .collect();
    expect![[r#"
        medium P001 app
        medium P001 side
        low F002 -
        low F002 -
        low M001 -
        low M001 -
        info C007 app"#]]
    .assert_eq(&order.join("\n"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_what_comes_in_does_not_change_what_leaves(
        containers in Just((0..4_usize).collect::<Vec<_>>()).prop_shuffle(),
        flows in Just((0..12_usize).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let (node, findings) = wide();
        let mut turned = node.clone();
        turned.containers = containers.iter().map(|from| node.containers[*from].clone()).collect();
        turned.flows = flows
            .iter()
            .map(|from| {
                let flow = node.flows[*from].clone();
                let container = containers.iter().position(|from| *from == flow.container).unwrap();
                FlowView { container, ..flow }
            })
            .collect();
        turned.dropped.reverse();
        turned.occupancy.reverse();
        turned.probes.reverse();
        for container in &mut turned.containers {
            container.listeners.reverse();
        }
        let mut turned_findings = findings.clone();
        turned_findings.reverse();
        let bytes = serde_json::to_string(&build(&node, &findings)).unwrap();
        prop_assert!(bytes.len() > 1_000);
        prop_assert_eq!(bytes, serde_json::to_string(&build(&turned, &turned_findings)).unwrap());
    }
}

/// Four containers, twelve flows of which some are one series, two of everything else.
fn wide() -> (Snapshot, Vec<Finding>) {
    let mut node = node();
    for number in [2, 3] {
        let mut container = node.containers[0].clone();
        container.subject.container_id = Some(format!("{number:064}"));
        container.cpu.usage_us = Some(number);
        node.containers.push(container);
    }
    node.flows = (0..12_u16)
        .map(|number| {
            let mut flow = flow(usize::from(number % 4), Role::Client, "db", number % 2);
            flow.counts.connections = number.into();
            flow
        })
        .collect();
    node.dropped.push(Dropped {
        place: "ring".into(),
        reason: "full".into(),
        count: 1,
    });
    node.occupancy.push(Occupancy {
        place: "ring".into(),
        entries: 1,
        capacity: 2,
    });
    let findings = findings(&node);
    (node, findings)
}
