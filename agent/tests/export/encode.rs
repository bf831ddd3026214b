//! What leaves, in full: reports and findings against their OTLP messages.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::common::data::{AT, finding, listening, node, report, resource};
use expect_test::{Expect, expect};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::ResourceLogs;
use opentelemetry_proto::tonic::metrics::v1::{NumberDataPoint, ResourceMetrics, metric};
use plumbline::export::encode::{
    Batch, FindingOptions, Payload, REQUEST_BYTES_MAX, encode_findings, encode_metrics,
    ended_series,
};
use plumbline_core::finding::{
    FindingState, Resolution, Severity, Subject, Suppressed, Transition,
};
use plumbline_core::time::UnixNanos;

fn value(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => format!("{text:?}"),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(yes)) => yes.to_string(),
        Some(Value::DoubleValue(number)) => format!("{number:?}"),
        Some(Value::ArrayValue(list)) => {
            format!(
                "[{}]",
                list.values
                    .iter()
                    .map(|one| self::value(Some(one)))
                    .collect::<Vec<_>>()
                    .join(", ")
            )
        }
        other => format!("{other:?}"),
    }
}

fn attributes(out: &mut String, indent: &str, attributes: &[KeyValue]) {
    for one in attributes {
        writeln!(out, "{indent}{} = {}", one.key, value(one.value.as_ref())).unwrap();
    }
}

fn point(out: &mut String, point: &NumberDataPoint) {
    let keys = point
        .attributes
        .iter()
        .map(|one| format!("{}={}", one.key, value(one.value.as_ref())));
    let keys = keys.collect::<Vec<_>>().join(" ");
    writeln!(
        out,
        "      {{{keys}}} {:?} at {} since {} flags {}",
        point.value,
        UnixNanos(point.time_unix_nano),
        UnixNanos(point.start_time_unix_nano),
        point.flags
    )
    .unwrap();
}

fn show(batches: &[Batch]) -> String {
    let mut out = String::new();
    for batch in batches {
        writeln!(out, "request of {}", batch.items).unwrap();
        match &batch.payload {
            Payload::Metrics(request) => request
                .resource_metrics
                .iter()
                .for_each(|one| show_metrics(&mut out, one)),
            Payload::Logs(request) => request
                .resource_logs
                .iter()
                .for_each(|one| show_logs(&mut out, one)),
        }
    }
    out
}

fn show_metrics(out: &mut String, one: &ResourceMetrics) {
    writeln!(out, "  resource {}", one.schema_url).unwrap();
    attributes(out, "    ", &one.resource.as_ref().unwrap().attributes);
    for scoped in &one.scope_metrics {
        let scope = scoped.scope.as_ref().unwrap();
        writeln!(
            out,
            "    scope {} {} {}",
            scope.name, scope.version, scoped.schema_url
        )
        .unwrap();
        for metric in &scoped.metrics {
            let (kind, points) = match metric.data.as_ref().unwrap() {
                metric::Data::Gauge(gauge) => ("gauge".to_owned(), &gauge.data_points),
                metric::Data::Sum(sum) => (
                    format!(
                        "sum monotonic={} temporality={}",
                        sum.is_monotonic, sum.aggregation_temporality
                    ),
                    &sum.data_points,
                ),
                other => panic!("{other:?}"),
            };
            let (name, unit, what) = (&metric.name, &metric.unit, &metric.description);
            writeln!(out, "    {name} [{unit}] {kind}: {what}").unwrap();
            points.iter().for_each(|one| point(out, one));
        }
    }
}

fn show_logs(out: &mut String, one: &ResourceLogs) {
    writeln!(out, "  resource {}", one.schema_url).unwrap();
    attributes(out, "    ", &one.resource.as_ref().unwrap().attributes);
    for record in one.scope_logs.iter().flat_map(|one| &one.log_records) {
        writeln!(
            out,
            "    {} severity {} {:?} at {} observed {}",
            record.event_name,
            record.severity_number,
            record.severity_text,
            UnixNanos(record.time_unix_nano),
            UnixNanos(record.observed_time_unix_nano)
        )
        .unwrap();
        writeln!(out, "      {}", value(record.body.as_ref())).unwrap();
        attributes(out, "      ", &record.attributes);
    }
}

fn check(batches: &[Batch], expected: &Expect) {
    expected.assert_eq(&show(batches));
}

#[test]
fn a_report() {
    let report = report(vec![resource("web-1", &[8080, 9999])]);
    check(
        &encode_metrics(&report, &[], REQUEST_BYTES_MAX),
        &expect![[r#"
        request of 4
          resource https://opentelemetry.io/schemas/1.42.0
            k8s.cluster.name = "prod"
            k8s.node.name = "n1"
            deployment.environment.name = "production"
            k8s.namespace.name = "shop"
            k8s.deployment.name = "web"
            k8s.pod.name = "web-1"
            k8s.pod.uid = "uid-of-web-1"
            k8s.container.name = "app"
            container.id = "id-of-web-1"
            service.name = "web"
            service.namespace = "shop"
            service.instance.id = "shop.web-1.app"
            container.image.name = "registry:5000/shop/web"
            container.image.tags = ["1.2"]
            scope plumbline 0.1.0 https://opentelemetry.io/schemas/1.42.0
            container.cpu.time [s] sum monotonic=true temporality=2: CPU time of the container.
              {} Some(AsDouble(1.5)) at 2026-11-22T09:34:18.000Z since 2026-11-22T09:33:18.000Z flags 0
            container.cpu.usage [{cpu}] gauge: CPUs in use.
              {} Some(AsDouble(0.25)) at 2026-11-22T09:34:18.000Z since 1970-01-01T00:00:00.000Z flags 0
            plumbline.port.listening [{socket}] sum monotonic=false temporality=2: Listening sockets.
              {network.local.port=8080 network.transport="tcp"} Some(AsInt(1)) at 2026-11-22T09:34:18.000Z since 1970-01-01T00:00:00.000Z flags 0
              {network.local.port=9999 network.transport="tcp"} Some(AsInt(1)) at 2026-11-22T09:34:18.000Z since 1970-01-01T00:00:00.000Z flags 0
    "#]],
    );
}

#[test]
fn series_that_ended_get_a_last_point() {
    let before = Arc::new(report(vec![
        resource("web-1", &[8080, 9999]),
        resource("web-2", &[]),
    ]));
    let mut now = report(vec![resource("web-1", &[8080])]);
    now.at = UnixNanos(AT.0 + 60_000_000_000);
    let ended = ended_series(&[Arc::clone(&before)], &now);
    let batches = encode_metrics(&now, &ended, REQUEST_BYTES_MAX);
    let shown = show(&batches);
    let lines: Vec<&str> = shown
        .lines()
        .map(str::trim)
        .filter(|line| line.contains("flags") || line.contains("pod.name"))
        .collect();
    expect![[r#"
        k8s.pod.name = "web-1"
        {network.local.port=9999 network.transport="tcp"} None at 2026-11-22T09:35:17.999Z since 1970-01-01T00:00:00.000Z flags 1
        k8s.pod.name = "web-2"
        {} None at 2026-11-22T09:35:17.999Z since 2026-11-22T09:33:18.000Z flags 1
        {} None at 2026-11-22T09:35:17.999Z since 1970-01-01T00:00:00.000Z flags 1
        k8s.pod.name = "web-1"
        {} Some(AsDouble(1.5)) at 2026-11-22T09:35:18.000Z since 2026-11-22T09:33:18.000Z flags 0
        {} Some(AsDouble(0.25)) at 2026-11-22T09:35:18.000Z since 1970-01-01T00:00:00.000Z flags 0
        {network.local.port=8080 network.transport="tcp"} Some(AsInt(1)) at 2026-11-22T09:35:18.000Z since 1970-01-01T00:00:00.000Z flags 0"#]].assert_eq(&lines.join("\n"));
    // Nothing ends twice, though both of the remembered reports had it.
    assert_eq!(ended_series(&[Arc::clone(&before), before], &now), ended);
    assert!(ended_series(&[Arc::new(now.clone())], &now).is_empty());
}

#[test]
fn a_finding() {
    let findings = [finding("web-1", 9999)];
    let now = UnixNanos(AT.0 + 1_000_000_000);
    let batches = encode_findings(
        &findings,
        &node(),
        now,
        FindingOptions::default(),
        REQUEST_BYTES_MAX,
    );
    check(
        &batches,
        &expect![[r#"
        request of 1
          resource https://opentelemetry.io/schemas/1.42.0
            k8s.cluster.name = "prod"
            k8s.node.name = "n1"
            deployment.environment.name = "production"
            k8s.namespace.name = "shop"
            k8s.deployment.name = "web"
            k8s.pod.name = "web-1"
            k8s.pod.uid = "uid-of-web-1"
            k8s.container.name = "app"
            container.id = "id-of-web-1"
            service.name = "web"
            service.namespace = "shop"
            service.instance.id = "shop.web-1.app"
            container.image.name = "registry:5000/shop/web"
            container.image.tags = ["1.2"]
            plumbline.finding severity 13 "" at 2026-11-22T09:34:18.000Z observed 2026-11-22T09:34:19.000Z
              "Undeclared listening port in shop/web-1/app: observed tcp/9999 on 0.0.0.0, declared tcp/8080."
              security_rule.name = "P001"
              security_rule.category = "ports"
              security_rule.description = "Undeclared listening port"
              security_rule.ruleset.name = "plumbline"
              security_rule.version = "0.1.0"
              plumbline.finding.evidence.addresses = ["0.0.0.0", "::"]
              plumbline.finding.evidence.bind_scope = "any"
              process.executable.path = "/usr/bin/python3.11"
              process.pid = 4242
              network.local.port = 9999
              network.transport = "tcp"
              plumbline.finding.fingerprint = "0000000000000000000000000000270f"
              plumbline.finding.state = "open"
              plumbline.finding.severity = "medium"
              plumbline.finding.first_seen = "2026-11-22T09:32:48.000Z"
              plumbline.finding.last_seen = "2026-11-22T09:34:18.000Z"
              plumbline.finding.occurrences = 4
              plumbline.finding.declared = "tcp/8080"
              plumbline.finding.observed = "tcp/9999 on 0.0.0.0"
              plumbline.finding.remediation = "Declare containerPort 9999."
              plumbline.finding.coverage = "partial"
              plumbline.finding.coverage.reason = "passed_socket"
              plumbline.finding.patch = "ports: []"
    "#]],
    );
}

#[test]
fn severities_states_and_the_node() {
    let severities = [
        Severity::Info,
        Severity::Low,
        Severity::Medium,
        Severity::High,
    ];
    let mut findings: Vec<_> = severities
        .into_iter()
        .map(|severity| plumbline_core::finding::Finding {
            severity,
            ..finding("web-1", 1)
        })
        .collect();
    findings[3].state = FindingState::Resolved;
    findings[3].resource = Subject::default();
    let options = FindingOptions {
        event_name_attribute: true,
    };
    let now = UnixNanos(AT.0 + 1_000_000_000);
    let shown = show(&encode_findings(
        &findings,
        &node(),
        now,
        options,
        REQUEST_BYTES_MAX,
    ));
    let wanted = ["severity", "event.name", " in ", "service.", "request"];
    let lines: Vec<&str> = shown
        .lines()
        .map(str::trim)
        .filter(|line| wanted.iter().any(|one| line.contains(one)))
        .collect();
    expect![[r#"
        request of 4
        service.name = "plumbline"
        service.instance.id = "n1"
        plumbline.finding severity 17 "" at 2026-11-22T09:34:19.000Z observed 2026-11-22T09:34:19.000Z
        "Undeclared listening port in the node is resolved: it was tcp/1 on 0.0.0.0."
        event.name = "plumbline.finding"
        plumbline.finding.severity = "high"
        service.name = "web"
        service.namespace = "shop"
        service.instance.id = "shop.web-1.app"
        plumbline.finding severity 9 "" at 2026-11-22T09:34:18.000Z observed 2026-11-22T09:34:19.000Z
        "Undeclared listening port in shop/web-1/app: observed tcp/1 on 0.0.0.0, declared tcp/8080."
        event.name = "plumbline.finding"
        plumbline.finding.severity = "info"
        plumbline.finding severity 10 "" at 2026-11-22T09:34:18.000Z observed 2026-11-22T09:34:19.000Z
        "Undeclared listening port in shop/web-1/app: observed tcp/1 on 0.0.0.0, declared tcp/8080."
        event.name = "plumbline.finding"
        plumbline.finding.severity = "low"
        plumbline.finding severity 13 "" at 2026-11-22T09:34:18.000Z observed 2026-11-22T09:34:19.000Z
        "Undeclared listening port in shop/web-1/app: observed tcp/1 on 0.0.0.0, declared tcp/8080."
        event.name = "plumbline.finding"
        plumbline.finding.severity = "medium""#]].assert_eq(&lines.join("\n"));
}

#[test]
fn hostile_text_stays_a_value_and_is_bounded() {
    let mut hostile = finding("web-1", 1);
    hostile.observed = format!("\u{1b}]0;x\u{7}\0{}", "A".repeat(1 << 20));
    hostile.resource.pod = Some("../../x\nk8s.namespace.name=other".into());
    let batches = encode_findings(
        &[hostile],
        &node(),
        AT,
        FindingOptions::default(),
        REQUEST_BYTES_MAX,
    );
    assert_eq!(batches.len(), 1);
    assert!(batches[0].payload.to_bytes().len() < 16 << 10);
    let plain = encode_findings(
        &[finding("web-1", 1)],
        &node(),
        AT,
        FindingOptions::default(),
        REQUEST_BYTES_MAX,
    );
    assert_eq!(keys(&batches[0]), keys(&plain[0]));
}

fn keys(batch: &Batch) -> Vec<String> {
    let Payload::Logs(request) = &batch.payload else {
        panic!("no logs")
    };
    let resource = &request.resource_logs[0];
    let of_resource = resource.resource.as_ref().unwrap().attributes.iter();
    let of_record = resource.scope_logs[0].log_records[0].attributes.iter();
    of_resource
        .chain(of_record)
        .map(|one| one.key.clone())
        .collect()
}

#[test]
fn requests_stay_within_their_bound_and_lose_nothing() {
    let ports: Vec<i64> = (1..=100).collect();
    let report = report(
        (0..20)
            .map(|pod| resource(&format!("web-{pod}"), &ports))
            .collect(),
    );
    let total = 20 * 102;
    for bound in [REQUEST_BYTES_MAX, 50_000, 5_000, 1] {
        let batches = encode_metrics(&report, &[], bound);
        assert_eq!(
            batches.iter().map(|one| one.items).sum::<u64>(),
            total,
            "{bound}"
        );
        for batch in &batches {
            assert!(
                batch.payload.to_bytes().len() <= bound || batch.items == 1,
                "{bound}"
            );
        }
    }
    assert_eq!(encode_metrics(&report, &[], REQUEST_BYTES_MAX).len(), 1);
    assert_eq!(encode_metrics(&report, &[], 1).len(), 2_040);
    let findings: Vec<_> = (0..100)
        .map(|port| finding(&format!("web-{}", port % 3), port))
        .collect();
    for bound in [REQUEST_BYTES_MAX, 20_000, 1] {
        let batches = encode_findings(&findings, &node(), AT, FindingOptions::default(), bound);
        assert_eq!(
            batches.iter().map(|one| one.items).sum::<u64>(),
            100,
            "{bound}"
        );
        for batch in &batches {
            assert!(
                batch.payload.to_bytes().len() <= bound || batch.items == 1,
                "{bound}"
            );
        }
    }
}

#[test]
fn nothing_gives_no_request() {
    assert!(encode_metrics(&report(Vec::new()), &[], REQUEST_BYTES_MAX).is_empty());
    let none: [plumbline_core::finding::Finding; 0] = [];
    assert!(
        encode_findings(
            &none,
            &node(),
            AT,
            FindingOptions::default(),
            REQUEST_BYTES_MAX
        )
        .is_empty()
    );
    let mut empty = resource("web-1", &[]);
    empty.points.clear();
    assert!(encode_metrics(&report(vec![empty]), &[], REQUEST_BYTES_MAX).is_empty());
}

#[test]
fn halves_are_the_whole() {
    let mut one = resource("web-1", &[]);
    one.points = (1..=3).map(listening).collect();
    let batch = encode_metrics(&report(vec![one]), &[], REQUEST_BYTES_MAX).remove(0);
    let (first, second) = batch.split().unwrap();
    assert_eq!((first.items, second.items), (1, 2));
    assert!(first.clone().split().is_err_and(|whole| whole == first));
}

#[test]
fn transitions_tell_why() {
    let mut hidden = finding("web-1", 1);
    hidden.state = FindingState::Suppressed;
    hidden.transition = Some(Transition::Suppressed);
    hidden.suppression = Some(Suppressed {
        by: "suppressions[0]".into(),
        until: UnixNanos(AT.0 + 86_400_000_000_000),
        reason: "INC-42".into(),
    });
    let mut ended = finding("web-1", 2);
    ended.state = FindingState::Resolved;
    ended.transition = Some(Transition::Resolved);
    ended.resolution = Some(Resolution::OwnerGone);
    ended.reopened = 3;
    ended.suppression_ignored = vec!["suppressions[1]: it has no reason".into()];
    let options = FindingOptions::default();
    let batches = encode_findings(&[hidden, ended], &node(), AT, options, REQUEST_BYTES_MAX);
    let shown = show(&batches);
    let wanted = [
        "finding.state",
        "transition",
        "suppress",
        "resolution",
        "reopened",
        " in ",
    ];
    let lines = shown.lines().map(str::trim);
    let lines: Vec<&str> = lines
        .filter(|line| wanted.iter().any(|one| line.contains(one)))
        .collect();
    expect![[r#"
        "Undeclared listening port in shop/web-1/app is hidden until 2026-11-23T09:34:18.000Z (INC-42): observed tcp/1 on 0.0.0.0, declared tcp/8080."
        plumbline.finding.state = "suppressed"
        plumbline.finding.transition = "suppressed"
        plumbline.finding.suppressed.by = "suppressions[0]"
        plumbline.finding.suppressed.until = "2026-11-23T09:34:18.000Z"
        plumbline.finding.suppressed.reason = "INC-42"
        "Undeclared listening port in shop/web-1/app is resolved: it was tcp/2 on 0.0.0.0."
        plumbline.finding.state = "resolved"
        plumbline.finding.transition = "resolved"
        plumbline.finding.reopened = 3
        plumbline.finding.resolution = "owner_gone"
        plumbline.finding.suppression.ignored = ["suppressions[1]: it has no reason"]"#]].assert_eq(&lines.join("\n"));
}
