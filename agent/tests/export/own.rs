//! The agent's own metrics, through the OpenTelemetry SDK.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::{metric, number_data_point};
use plumbline::export::settings::{ExportSettings, Protocol};
use plumbline::export::stats::{LaneState, LaneStats};
use plumbline::telemetry::{SelfStats, SelfValues, Telemetry};
use plumbline_core::snapshot::Dropped;

use crate::common::collector::{Answer, Collector, Options, until};
use crate::common::data::node;
use crate::{dropped, settings};

const LONG: Duration = Duration::from_secs(20);

fn values() -> SelfValues {
    let loss = |place: &str, reason: &str, count| Dropped {
        place: place.into(),
        reason: reason.into(),
        count,
    };
    let lane = LaneStats {
        lane: "findings",
        state: LaneState::Ok,
        endpoint: Some("http://c".into()),
        sent: 40,
        requests: 4,
        failed: 2,
        dropped: dropped([("bad_request", 3), ("queue_full", 9)]),
        ..LaneStats::default()
    };
    SelfValues {
        dropped: vec![
            loss("export.findings", "queue_full", 9),
            loss("node.cgroups", "full", 1),
            loss("ebpf.events", "full", 7),
        ],
        lanes: vec![
            LaneStats {
                lane: "metrics",
                ..LaneStats::default()
            },
            lane,
        ],
    }
}

fn text(pair: &KeyValue) -> String {
    match pair.value.as_ref() {
        Some(AnyValue {
            value: Some(Value::StringValue(text)),
        }) => format!("{}={text}", pair.key),
        other => panic!("{other:?}"),
    }
}

/// Each point as `name{attributes}`, with its value.
fn points(request: &ExportMetricsServiceRequest) -> BTreeMap<String, f64> {
    let mut points = BTreeMap::new();
    for metric in request
        .resource_metrics
        .iter()
        .flat_map(|one| &one.scope_metrics)
        .flat_map(|one| &one.metrics)
    {
        let metric::Data::Sum(sum) = metric.data.as_ref().unwrap() else {
            panic!("{metric:?}")
        };
        for point in &sum.data_points {
            let mut attributes: Vec<String> = point.attributes.iter().map(text).collect();
            attributes.sort();
            let value = match point.value.unwrap() {
                number_data_point::Value::AsDouble(value) => value,
                number_data_point::Value::AsInt(value) => f64::from(i32::try_from(value).unwrap()),
            };
            points.insert(
                format!("{}{{{}}}", metric.name, attributes.join(",")),
                value,
            );
        }
    }
    points
}

#[tokio::test]
async fn the_agent_tells_of_itself() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        for takes_gzip in [true, false] {
            let collector = Collector::with(Options {
                protocol,
                tls: None,
                takes_gzip,
            })
            .await;
            let settings = settings(&collector, &[("OTEL_RESOURCE_ATTRIBUTES", "team=infra")]);
            let stats = Arc::new(SelfStats::default());
            let telemetry = Telemetry::start(&settings, &node(), Arc::clone(&stats))
                .unwrap()
                .unwrap();
            stats.update(values());
            telemetry.shutdown(LONG).await;

            let requests = collector.metrics();
            assert_eq!(requests.len(), 1, "{protocol:?}");
            let resource = requests[0].resource_metrics[0].resource.as_ref().unwrap();
            let mut attributes: Vec<String> = resource.attributes.iter().map(text).collect();
            attributes.sort();
            let want = [
                "deployment.environment.name=production",
                "k8s.cluster.name=prod",
                "k8s.node.name=n1",
                "service.instance.id=n1",
                "service.name=plumbline",
                "service.version=0.1.0",
                "team=infra",
            ];
            assert_eq!(attributes, want);
            let mut points = points(&requests[0]);
            assert!(points.remove("process.memory.usage{}").unwrap() > 0.0);
            assert!(points.remove("process.cpu.time{cpu.mode=user}").is_some());
            assert!(points.remove("process.cpu.time{cpu.mode=system}").is_some());
            let exporter = "otel.component.name=plumbline/findings,otel.component.type=plumbline_otlp_exporter";
            let want = BTreeMap::from([
                ("plumbline.dropped{plumbline.place=export.findings,plumbline.reason=queue_full}".to_owned(), 9.0),
                ("plumbline.dropped{plumbline.place=node.cgroups,plumbline.reason=full}".to_owned(), 1.0),
                ("plumbline.dropped{plumbline.place=ebpf.events,plumbline.reason=full}".to_owned(), 7.0),
                (format!("otel.sdk.exporter.log.exported{{{exporter}}}"), 40.0),
                (format!("otel.sdk.exporter.log.exported{{error.type=bad_request,{exporter}}}"), 3.0),
                ("plumbline.export.requests{plumbline.lane=findings,plumbline.outcome=ok}".to_owned(), 4.0),
                ("plumbline.export.requests{plumbline.lane=findings,plumbline.outcome=failed}".to_owned(), 2.0),
            ]);
            assert_eq!(points, want, "{protocol:?}");
        }
    }
}

#[tokio::test]
async fn shutdown_ends_though_the_collector_hangs() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let collector = Collector::start(protocol).await;
        collector.script([Answer::Stall]);
        let settings = settings(&collector, &[("OTEL_METRIC_EXPORT_INTERVAL", "1000")]);
        let telemetry = Telemetry::start(&settings, &node(), Arc::default())
            .unwrap()
            .unwrap();
        until("the hung request", || collector.seen().len() == 1).await;
        telemetry.shutdown(Duration::from_millis(300)).await;
        // It gave up rather than being answered.
        assert_eq!(collector.metrics().len(), 0, "{protocol:?}");
    }
}

#[tokio::test]
async fn it_sends_at_its_interval_and_survives_an_outage() {
    let collector = Collector::start(Protocol::HttpProtobuf).await;
    collector.script([Answer::Http(503, Vec::new(), ""), Answer::Reset]);
    let settings = settings(&collector, &[("OTEL_METRIC_EXPORT_INTERVAL", "1000")]);
    let telemetry = Telemetry::start(&settings, &node(), Arc::default())
        .unwrap()
        .unwrap();
    until("an export after two failures", || {
        collector.metrics().len() == 1
    })
    .await;
    // Without shutdown: the drop must not block the runtime's only thread.
    drop(telemetry);
    until("the last export", || collector.metrics().len() == 2).await;
}

#[tokio::test]
async fn without_an_endpoint_there_is_none() {
    assert!(
        Telemetry::start(&ExportSettings::off(), &node(), Arc::default())
            .unwrap()
            .is_none()
    );
}
