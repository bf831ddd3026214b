//! What arrives when all is well, and what gives way when there is too much.

use std::sync::Arc;
use std::time::Duration;

use plumbline::export::encode::{
    FindingOptions, Payload, REQUEST_BYTES_MAX, encode_findings, encode_metrics,
};
use plumbline::export::settings::{ExportSettings, Protocol};
use plumbline::export::stats::LaneState;
use plumbline::export::{Exporter, FINDINGS_QUEUED_MAX};
use plumbline_core::report::Report;
use plumbline_core::time::UnixNanos;

use crate::common::collector::{Answer, Collector, until};
use crate::common::data::{finding, node, report, resource};
use crate::{dropped, findings_stats, metrics_stats, pass, start};

const LONG: Duration = Duration::from_secs(20);

fn small() -> Arc<Report> {
    Arc::new(report(vec![
        resource("web-1", &[8080]),
        resource("web-2", &[]),
    ]))
}

async fn exact_content_arrives(protocol: Protocol, encoding_header: &str) {
    let collector = Collector::start(protocol).await;
    let exporter = start(
        &collector,
        &[("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue")],
    );
    let report = small();
    let findings = vec![finding("web-2", 9999), finding("web-1", 9999)];
    exporter.offer_report(Arc::clone(&report));
    exporter.offer_findings(findings.clone());
    let stats = exporter.shutdown(LONG).await;

    let sent = encode_metrics(&report, &[], REQUEST_BYTES_MAX);
    let got = collector.metrics().into_iter().map(Payload::Metrics);
    assert_eq!(
        got.collect::<Vec<_>>(),
        sent.into_iter().map(|one| one.payload).collect::<Vec<_>>()
    );

    let logs = collector.logs();
    let observed =
        UnixNanos(logs[0].resource_logs[0].scope_logs[0].log_records[0].observed_time_unix_nano);
    let sent = encode_findings(
        &findings,
        &node(),
        observed,
        FindingOptions::default(),
        REQUEST_BYTES_MAX,
    );
    assert_eq!(Payload::Logs(logs[0].clone()), sent[0].payload);

    for (lane, items) in [(0, 5), (1, 2)] {
        assert_eq!(
            (stats[lane].sent, stats[lane].requests, stats[lane].failed),
            (items, 1, 0)
        );
        assert_eq!((stats[lane].state, stats[lane].pending), (LaneState::Ok, 0));
        assert_eq!(stats[lane].dropped, dropped([]));
        assert!(stats[lane].last_success.is_some());
    }
    for seen in collector.seen() {
        assert_eq!(seen.header(encoding_header), "gzip");
        assert_eq!(seen.header("x-tenant"), "blue");
        assert_eq!(seen.header("user-agent"), "plumbline/0.1.0");
    }
}

#[tokio::test]
async fn exact_content_arrives_over_grpc_with_gzip() {
    exact_content_arrives(Protocol::Grpc, "grpc-encoding").await;
}

#[tokio::test]
async fn exact_content_arrives_over_http_with_gzip() {
    exact_content_arrives(Protocol::HttpProtobuf, "content-encoding").await;
}

#[tokio::test]
async fn http_requests_look_as_specified() {
    let collector = Collector::start(Protocol::HttpProtobuf).await;
    let exporter = start(&collector, &[("OTEL_EXPORTER_OTLP_COMPRESSION", "none")]);
    exporter.offer_report(small());
    exporter.offer_findings(vec![finding("web-1", 1)]);
    exporter.shutdown(LONG).await;
    let mut paths: Vec<String> = collector
        .seen()
        .iter()
        .map(|seen| seen.path.clone())
        .collect();
    paths.sort();
    assert_eq!(paths, ["/v1/logs", "/v1/metrics"]);
    for seen in collector.seen() {
        assert_eq!(seen.header("content-type"), "application/x-protobuf");
        assert_eq!(
            (
                seen.header("content-encoding"),
                seen.header("accept-encoding")
            ),
            ("", "")
        );
    }
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let collector = Collector::start(protocol).await;
        let exporter = start(&collector, &[("OTEL_METRICS_EXPORTER", "none")]);
        for round in 1..=5 {
            exporter.offer_findings(vec![finding("web-1", round)]);
            until("the finding", || collector.logs().len() as u64 == round).await;
        }
        assert_eq!(collector.connections(), 1, "{protocol:?}");
    }
}

#[tokio::test]
async fn a_series_that_ended_gets_its_last_point() {
    let collector = Collector::start(Protocol::Grpc).await;
    let exporter = start(&collector, &[("OTEL_LOGS_EXPORTER", "none")]);
    exporter.offer_report(small());
    until("the first report", || metrics_stats(&exporter).sent == 5).await;
    let mut second = report(vec![resource("web-1", &[8080])]);
    second.at = UnixNanos(second.at.0 + 60_000_000_000);
    exporter.offer_report(Arc::new(second.clone()));
    // Three live points, and the last of two series.
    until("the second report", || metrics_stats(&exporter).sent == 10).await;
    second.at = UnixNanos(second.at.0 + 60_000_000_000);
    exporter.offer_report(Arc::new(second.clone()));
    let stats = exporter.shutdown(LONG).await;
    assert_eq!((stats[0].sent, stats[0].pending), (13, 0));
    let pods = |index: usize| {
        let text = format!("{:?}", collector.metrics()[index]);
        ["web-1", "web-2"].map(|pod| text.contains(&format!("uid-of-{pod}")))
    };
    assert_eq!(
        [pods(0), pods(1), pods(2)],
        [[true, true], [true, true], [true, false]]
    );
}

#[tokio::test]
async fn the_latest_report_wins_and_stale_ones_are_counted() {
    let collector = Collector::start(Protocol::HttpProtobuf).await;
    collector.script(std::iter::repeat_n(
        Answer::Http(503, vec![("retry-after", "300".into())], ""),
        1,
    ));
    let exporter = start(&collector, &[]);
    exporter.offer_report(small());
    until("the first attempt", || metrics_stats(&exporter).failed == 1).await;
    // The first is waiting for five minutes and gives way; the second never leaves; the third waits in its stead.
    exporter.offer_report(Arc::new(report(vec![resource("old", &[])])));
    exporter.offer_report(Arc::new(report(vec![resource("new", &[1, 2])])));
    until("the loss of the others", || {
        metrics_stats(&exporter).dropped == dropped([("stale", 5 + 2)])
    })
    .await;
    pass(Duration::from_secs(200)).await;
    assert_eq!(collector.seen().len(), 1);
    pass(Duration::from_secs(102)).await;
    until("the latest report", || metrics_stats(&exporter).sent == 4).await;
    assert_eq!(collector.seen().len(), 2);
    let stats = exporter.shutdown(LONG).await;
    assert_eq!(stats[0].dropped, dropped([("stale", 5 + 2)]));
    assert_eq!((stats[0].sent, stats[0].pending), (4, 0));
    assert!(format!("{:?}", collector.metrics()).contains("uid-of-new"));
    assert!(!format!("{:?}", collector.metrics()).contains("uid-of-old"));
}

#[tokio::test]
async fn a_full_queue_loses_its_oldest_findings_counted() {
    let collector = Collector::start(Protocol::Grpc).await;
    let exporter = start(&collector, &[]);
    // The lane has not run yet: all of it waits.
    let surplus = 76;
    let count = (FINDINGS_QUEUED_MAX + surplus) as u64;
    exporter.offer_findings((0..count).map(|port| finding("web-1", port)).collect());
    assert_eq!(
        findings_stats(&exporter).pending,
        FINDINGS_QUEUED_MAX as u64
    );
    let stats = exporter.shutdown(LONG).await;
    assert_eq!(stats[1].dropped, dropped([("queue_full", surplus as u64)]));
    assert_eq!(stats[1].sent + stats[1].dropped["queue_full"], count);
    let first = &collector.logs()[0].resource_logs[0].scope_logs[0].log_records[0];
    assert!(
        format!("{first:?}").contains(&format!("Declare containerPort {surplus}.")),
        "the oldest went"
    );
}

#[tokio::test]
async fn findings_go_out_while_metrics_are_stuck() {
    let metrics = Collector::start(Protocol::Grpc).await;
    metrics.script([Answer::Stall]);
    let findings = Collector::start(Protocol::HttpProtobuf).await;
    let logs_endpoint = format!("http://{}/v1/logs", findings.address);
    let more = [
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", logs_endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/protobuf"),
    ];
    let exporter = start(&metrics, &more);
    exporter.offer_report(small());
    until("the stalled request", || metrics.seen().len() == 1).await;
    exporter.offer_findings(vec![finding("web-1", 1)]);
    until("the finding", || findings_stats(&exporter).sent == 1).await;
    assert_eq!(metrics_stats(&exporter).sent, 0);
    assert_eq!(metrics_stats(&exporter).pending, 5);
}

#[tokio::test]
async fn without_an_endpoint_nothing_is_sent_or_kept() {
    let exporter = Exporter::start(ExportSettings::off(), node()).unwrap();
    exporter.offer_report(small());
    exporter.offer_findings(vec![finding("web-1", 1)]);
    for stats in exporter.shutdown(LONG).await {
        assert_eq!(
            (stats.state, stats.pending, stats.sent),
            (LaneState::Off, 0, 0)
        );
        assert_eq!(stats.endpoint, None);
    }
}
