//! What happens to a report that is too large.

use super::{findings, flow, node};
use crate::finding::{Coverage, Finding, Subject};
use crate::observation::Role;
use crate::report::{Number, Report, build, cut};
use crate::settings::SERIES_PER_NODE_MAX;

#[test]
fn a_report_that_is_full_says_what_it_left_out() {
    let points = |report: &Report| {
        report
            .resources
            .iter()
            .map(|resource| resource.points.len())
            .sum::<usize>()
    };
    let mut node = node();
    let few = points(&build(&node, &[]));
    for port in 0..4_000 {
        node.flows
            .push(flow(usize::from(port % 2), Role::Server, "db", port));
    }
    let report = build(&node, &[]);
    assert_eq!(points(&report), SERIES_PER_NODE_MAX);
    // Connections, and bytes in two directions.
    let cut = few + 3 * 4_000 + 1 - SERIES_PER_NODE_MAX;
    let says = report.resources[0]
        .points
        .iter()
        .find(|point| point.metric.name == "plumbline.report.points.cut");
    assert_eq!(says.unwrap().value, Number::int(cut as u64));
}

#[test]
fn a_cut_leaves_the_node_first() {
    let resources = build(&node(), &[]).resources;
    let all: usize = resources.iter().map(|resource| resource.points.len()).sum();
    for max in 1..all {
        let cut = cut(resources.clone(), max);
        let left: usize = cut.iter().map(|resource| resource.points.len()).sum();
        assert_eq!(left, max);
        assert_eq!(cut[0].subject, Subject::default());
    }
    assert_eq!(cut(resources.clone(), all), resources);
}

#[test]
fn many_reasons_and_findings_are_bounded() {
    let mut node = node();
    let one = node.containers[0].clone();
    for number in 0..40 {
        let mut container = one.clone();
        container.coverage = Coverage::Partial(format!("reason {number}"));
        node.containers.push(container);
    }
    let some = findings(&node);
    let namespaces = |number| Some(format!("namespace-{number}"));
    let many: Vec<Finding> = (0..1_500)
        .map(|number| {
            let resource = Subject {
                namespace: namespaces(number),
                ..some[0].resource.clone()
            };
            Finding {
                resource,
                ..some[0].clone()
            }
        })
        .collect();
    let points = build(&node, &many).resources.remove(0).points;
    let of = |name: &str| -> Vec<i64> {
        let values = points
            .iter()
            .filter(|point| point.metric.name == name)
            .map(|point| point.value.clone());
        values
            .map(|value| {
                if let Number::Int(value) = value {
                    value
                } else {
                    0
                }
            })
            .collect()
    };
    assert_eq!(of("plumbline.findings.open").len(), 1_000);
    assert_eq!(of("plumbline.findings.open").iter().sum::<i64>(), 1_500);
    assert!(of("plumbline.coverage.containers").len() <= 20);
    assert_eq!(of("plumbline.coverage.containers").iter().sum::<i64>(), 42);
}
