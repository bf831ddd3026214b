//! Reports and findings with every kind of value in them.

use std::collections::BTreeMap;

use plumbline_core::declared::WorkloadRef;
use plumbline_core::finding::{Coverage, Evidence, Finding, FindingState, Severity, Subject};
use plumbline_core::metric::{Instrument, Metric};
use plumbline_core::report::{AttributeValue, Number, Point, Report, ResourceReport};
use plumbline_core::settings::NodeIdentity;
use plumbline_core::time::UnixNanos;

pub(crate) static CPU_TIME: Metric = Metric {
    name: "container.cpu.time",
    unit: "s",
    instrument: Instrument::Counter,
    description: "CPU time of the container.",
    attributes: &[],
};
pub(crate) static CPU_USAGE: Metric = Metric {
    name: "container.cpu.usage",
    unit: "{cpu}",
    instrument: Instrument::Gauge,
    description: "CPUs in use.",
    attributes: &[],
};
pub(crate) static LISTENING: Metric = Metric {
    name: "plumbline.port.listening",
    unit: "{socket}",
    instrument: Instrument::UpDownCounter,
    description: "Listening sockets.",
    attributes: &[],
};

/// 2026-11-22T09:34:18Z.
pub(crate) const AT: UnixNanos = UnixNanos(1_795_340_058_000_000_000);

pub(crate) fn node() -> NodeIdentity {
    NodeIdentity {
        cluster: Some("prod".into()),
        node: Some("n1".into()),
        environment: Some("production".into()),
        agent_version: "0.1.0".into(),
    }
}

pub(crate) fn subject(pod: &str) -> Subject {
    Subject {
        namespace: Some("shop".into()),
        owner: Some(WorkloadRef {
            kind: "Deployment".into(),
            name: "web".into(),
        }),
        pod: Some(pod.into()),
        pod_uid: Some(format!("uid-of-{pod}")),
        container: Some("app".into()),
        container_id: Some(format!("id-of-{pod}")),
        image: Some("registry:5000/shop/web:1.2".into()),
    }
}

pub(crate) fn listening(port: i64) -> Point {
    Point {
        metric: &LISTENING,
        attributes: vec![
            ("network.local.port", AttributeValue::Int(port)),
            ("network.transport", AttributeValue::Word("tcp")),
        ],
        value: Number::Int(1),
        start: None,
    }
}

pub(crate) fn resource(pod: &str, ports: &[i64]) -> ResourceReport {
    let mut points = vec![
        Point {
            metric: &CPU_TIME,
            attributes: Vec::new(),
            value: Number::Float(1.5),
            start: Some(UnixNanos(AT.0 - 60_000_000_000)),
        },
        Point {
            metric: &CPU_USAGE,
            attributes: Vec::new(),
            value: Number::Float(0.25),
            start: None,
        },
    ];
    points.extend(ports.iter().map(|port| listening(*port)));
    ResourceReport {
        subject: subject(pod),
        points,
    }
}

pub(crate) fn report(resources: Vec<ResourceReport>) -> Report {
    Report {
        at: AT,
        node: node(),
        resources,
        findings: Vec::new(),
    }
}

pub(crate) fn finding(pod: &str, port: u64) -> Finding {
    Finding {
        rule_id: "P001",
        title: "Undeclared listening port",
        severity: Severity::Medium,
        state: FindingState::Open,
        fingerprint: format!("{port:032x}"),
        first_seen: UnixNanos(AT.0 - 90_000_000_000),
        last_seen: AT,
        occurrences: 4,
        reopened: 0,
        transition: None,
        suppression: None,
        suppression_ignored: Vec::new(),
        resolution: None,
        resource: subject(pod),
        declared: "tcp/8080".into(),
        observed: format!("tcp/{port} on 0.0.0.0"),
        evidence: BTreeMap::from([
            ("transport".into(), Evidence::Text("tcp".into())),
            ("port".into(), Evidence::Count(port)),
            ("bind_scope".into(), Evidence::Text("any".into())),
            (
                "executable".into(),
                Evidence::Text("/usr/bin/python3.11".into()),
            ),
            ("pid".into(), Evidence::Count(4242)),
            (
                "addresses".into(),
                Evidence::List(vec!["0.0.0.0".into(), "::".into()]),
            ),
        ]),
        coverage: Coverage::Partial("passed_socket".into()),
        remediation: format!("Declare containerPort {port}."),
        patch: Some("ports: []".into()),
        doc_url: "agent/RULES.md#p001".into(),
        category: "ports",
    }
}
