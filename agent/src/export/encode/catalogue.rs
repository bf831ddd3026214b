//! `dashboards/METRICS.md`: every metric and label under the names that stores of the Prometheus family give them.
//!
//! Written by its test (`UPDATE_EXPECT=1 cargo test -p plumbline catalogue`). `cargo xtask check` holds dashboards and
//! alert rules against it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use expect_test::expect_file;
use plumbline_core::declared::WorkloadRef;
use plumbline_core::finding::Subject;
use plumbline_core::metric::{CATALOGUE, Instrument, Metric};
use plumbline_core::settings::NodeIdentity;

use super::resource::resource;

const HEAD: &str = "\
# Metrics of the agent

Generated from the catalogue in `agent/core/src/metric.rs`; do not edit.
Anew: `UPDATE_EXPECT=1 AYA_BUILD_SKIP=1 cargo test -p plumbline catalogue`.

The second column is the name in stores of the Prometheus family: VictoriaMetrics with
`-opentelemetry.usePrometheusNaming`, Prometheus with its default translation. Dots of labels become underscores.

| OpenTelemetry | Prometheus | instrument | unit | labels | meaning |
| --- | --- | --- | --- | --- | --- |
";

const RESOURCE_HEAD: &str = "
## Labels of the resource

Any series may have these; those of a pod are absent on what is about the node. VictoriaMetrics makes labels of them by
itself. Prometheus keeps them in `target_info` unless `otlp.promote_resource_attributes` lists them; the dashboard and
the alert rules need those that begin with `k8s.`, and `service.name`, which is the workload's name.

| OpenTelemetry | Prometheus |
| --- | --- |
";

/// What takes the place of each character that Prometheus has no place for.
fn label(key: &str) -> String {
    key.replace('.', "_")
}

/// The rules of OpenTelemetry's specification for Prometheus, as far as the catalogue needs them.
fn name(metric: &Metric) -> String {
    let mut name = label(metric.name);
    match metric.unit {
        "s" => name.push_str("_seconds"),
        "By" => name.push_str("_bytes"),
        "1" if metric.instrument == Instrument::Gauge => name.push_str("_ratio"),
        unit => assert!(
            unit.starts_with('{'),
            "{}: how is the unit {unit} written in Prometheus?",
            metric.name
        ),
    }
    if metric.instrument == Instrument::Counter {
        name.push_str("_total");
    }
    name
}

fn instrument(of: Instrument) -> &'static str {
    match of {
        Instrument::Counter => "counter",
        Instrument::UpDownCounter => "updowncounter",
        Instrument::Gauge => "gauge",
        Instrument::Histogram => "exponential histogram",
    }
}

/// Every key that the encoder may give a resource, found by encoding one of each kind.
fn resource_keys() -> BTreeSet<String> {
    let some = |word: &str| Some(word.to_owned());
    let node = NodeIdentity {
        cluster: some("cluster"),
        node: some("node"),
        environment: some("environment"),
        agent_version: "1".into(),
    };
    let kinds = [
        "Deployment",
        "StatefulSet",
        "DaemonSet",
        "Job",
        "CronJob",
        "ReplicaSet",
    ];
    kinds
        .into_iter()
        .flat_map(|kind| {
            let subject = Subject {
                namespace: some("namespace"),
                owner: Some(WorkloadRef {
                    kind: kind.into(),
                    name: "workload".into(),
                }),
                pod: some("pod"),
                pod_uid: some("uid"),
                container: some("container"),
                container_id: some("id"),
                image: Some(format!("image:tag@sha256:{}", "0".repeat(64))),
            };
            resource(&subject, &node).attributes
        })
        .map(|attribute| attribute.key)
        .collect()
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    for metric in CATALOGUE {
        let labels: Vec<String> = metric
            .attributes
            .iter()
            .map(|key| format!("`{}`", label(key)))
            .collect();
        writeln!(
            page,
            "| `{}` | `{}` | {} | `{}` | {} | {} |",
            metric.name,
            name(metric),
            instrument(metric.instrument),
            metric.unit,
            labels.join(" "),
            metric.description
        )
        .unwrap();
    }
    page.push_str(RESOURCE_HEAD);
    for key in resource_keys() {
        writeln!(page, "| `{key}` | `{}` |", label(&key)).unwrap();
    }
    page
}

#[test]
fn the_catalogue_that_dashboards_are_held_against_is_current() {
    expect_file!["../../../../dashboards/METRICS.md"].assert_eq(&page());
}
