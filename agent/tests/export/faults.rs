//! Each fault of a collector: what is sent again, what is lost, and that it is counted.

use std::sync::Arc;
use std::time::Duration;

use plumbline::export::settings::Protocol;
use plumbline::export::stats::{LaneState, LaneStats};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::common::collector::{Answer, Collector, Options, until};
use crate::common::data::{finding, report, resource};
use crate::{dropped, findings_stats, metrics_stats, pass, start};

const LONG: Duration = Duration::from_secs(20);
const BOTH: [Protocol; 2] = [Protocol::Grpc, Protocol::HttpProtobuf];

fn http(status: u16) -> Answer {
    Answer::Http(status, Vec::new(), "said by the collector")
}

fn grpc(code: Code) -> Answer {
    Answer::Status(Status::new(code, "said by the collector"))
}

pub(super) fn with_retry_info(code: Code, delay: Duration) -> Answer {
    Answer::Status(Status::with_error_details(
        code,
        "later",
        ErrorDetails::with_retry_info(Some(delay)),
    ))
}

/// Sends one finding to a collector that first gives `answers`; the stats once the finding has arrived or is lost.
async fn one_finding(protocol: Protocol, answers: Vec<Answer>) -> (LaneStats, Collector) {
    let collector = Collector::start(protocol).await;
    collector.script(answers);
    let exporter = start(&collector, &[("OTEL_EXPORTER_OTLP_TIMEOUT", "5000")]);
    exporter.offer_findings(vec![finding("web-1", 9999)]);
    until("the end of the finding", || {
        findings_stats(&exporter).pending == 0
    })
    .await;
    let stats = exporter.shutdown(LONG).await;
    (stats[1].clone(), collector)
}

#[tokio::test]
async fn what_may_pass_is_sent_again_until_it_arrives() {
    let date = httpdate::fmt_http_date(std::time::SystemTime::UNIX_EPOCH);
    let with = |value: &str| Answer::Http(429, vec![("retry-after", value.to_owned())], "");
    let cases = [
        (Protocol::HttpProtobuf, http(503)),
        (Protocol::HttpProtobuf, http(502)),
        (Protocol::HttpProtobuf, http(504)),
        (Protocol::HttpProtobuf, with("0")),
        (Protocol::HttpProtobuf, with("1")),
        (Protocol::HttpProtobuf, with("-1")),
        (Protocol::HttpProtobuf, with("soon")),
        (Protocol::HttpProtobuf, with(&date)),
        (Protocol::HttpProtobuf, Answer::Reset),
        (Protocol::Grpc, Answer::Reset),
        (Protocol::Grpc, grpc(Code::Unavailable)),
        (Protocol::Grpc, grpc(Code::Aborted)),
        (Protocol::Grpc, grpc(Code::OutOfRange)),
        (Protocol::Grpc, grpc(Code::DataLoss)),
        (Protocol::Grpc, grpc(Code::Cancelled)),
        (Protocol::Grpc, grpc(Code::DeadlineExceeded)),
        (
            Protocol::Grpc,
            with_retry_info(Code::ResourceExhausted, Duration::from_millis(20)),
        ),
        (
            Protocol::Grpc,
            with_retry_info(Code::Unavailable, Duration::from_millis(20)),
        ),
        // From a proxy that knows no gRPC.
        (Protocol::Grpc, http(503)),
        // Cut off by a proxy: no status, though the rest was in order.
        (
            Protocol::Grpc,
            Answer::Http(200, vec![("content-type", "application/grpc".into())], ""),
        ),
        (
            Protocol::Grpc,
            Answer::Http(
                200,
                vec![("content-type", "application/grpc".into())],
                "\0\0\0\0\x09x",
            ),
        ),
    ];
    let case = async |(protocol, answer): (Protocol, Answer)| {
        let what = format!("{protocol:?} {answer:?}");
        let (stats, collector) = one_finding(protocol, vec![answer]).await;
        assert_eq!(
            (stats.sent, stats.requests, stats.failed),
            (1, 1, 1),
            "{what}"
        );
        assert_eq!(
            (stats.dropped, stats.state),
            (dropped([]), LaneState::Ok),
            "{what}"
        );
        assert_eq!(
            (collector.seen().len(), collector.logs().len()),
            (2, 1),
            "{what}"
        );
        assert!(stats.last_error.is_some(), "{what}");
    };
    futures::future::join_all(cases.into_iter().map(case)).await;
}

#[tokio::test]
async fn what_is_final_is_dropped_once_and_the_next_is_sent() {
    let cases = [
        (Protocol::HttpProtobuf, http(500), "server_error"),
        (Protocol::HttpProtobuf, http(422), "bad_request"),
        (Protocol::HttpProtobuf, http(413), "too_large"),
        (Protocol::HttpProtobuf, Answer::Huge, "response_too_long"),
        (Protocol::Grpc, Answer::Huge, "response_too_long"),
        (Protocol::Grpc, grpc(Code::InvalidArgument), "bad_request"),
        (Protocol::Grpc, grpc(Code::Internal), "server_error"),
        (Protocol::Grpc, grpc(Code::Unknown), "server_error"),
        (Protocol::Grpc, grpc(Code::ResourceExhausted), "too_large"),
    ];
    for (protocol, answer, reason) in cases {
        let what = format!("{protocol:?} {answer:?}");
        let collector = Collector::start(protocol).await;
        collector.script([answer]);
        let exporter = start(&collector, &[]);
        exporter.offer_findings(vec![finding("web-1", 1)]);
        until("the loss", || findings_stats(&exporter).pending == 0).await;
        assert_eq!(
            findings_stats(&exporter).dropped,
            dropped([(reason, 1)]),
            "{what}"
        );
        assert_eq!(collector.seen().len(), 1, "{what}");
        exporter.offer_findings(vec![finding("web-1", 2)]);
        let stats = exporter.shutdown(LONG).await.remove(1);
        assert_eq!((stats.sent, stats.state), (1, LaneState::Ok), "{what}");
        assert_eq!(collector.seen().len(), 2, "{what}");
    }
}

#[tokio::test]
async fn a_refusal_pauses_the_lane_then_one_finding_goes_ahead() {
    let redirect = Collector::start(Protocol::HttpProtobuf).await;
    let to = format!("http://{}/v1/logs", redirect.address);
    let cases = [
        (Protocol::HttpProtobuf, http(401), "unauthorized"),
        (Protocol::HttpProtobuf, http(403), "unauthorized"),
        (Protocol::HttpProtobuf, http(404), "not_found"),
        (
            Protocol::HttpProtobuf,
            Answer::Http(307, vec![("location", to)], ""),
            "redirect",
        ),
        (Protocol::Grpc, http(401), "unauthorized"),
        (
            Protocol::Grpc,
            Answer::Http(302, vec![("location", "/".into())], ""),
            "redirect",
        ),
        (Protocol::Grpc, grpc(Code::Unauthenticated), "unauthorized"),
        (Protocol::Grpc, grpc(Code::PermissionDenied), "unauthorized"),
    ];
    for (protocol, answer, reason) in cases {
        let what = format!("{protocol:?} {answer:?}");
        let collector = Collector::start(protocol).await;
        collector.script([answer.clone(), answer]);
        let exporter = start(&collector, &[]);
        exporter.offer_findings((0..3).map(|port| finding("web-1", port)).collect());
        until("the refusal", || {
            findings_stats(&exporter).state == LaneState::Refused
        })
        .await;
        exporter.offer_findings((0..3).map(|port| finding("web-1", port)).collect());
        assert_eq!(
            findings_stats(&exporter).dropped,
            dropped([(reason, 3)]),
            "{what}"
        );
        // Nothing more goes out until the pause is over; then one is risked, refused again, and two are kept.
        pass(Duration::from_secs(29)).await;
        assert_eq!(collector.seen().len(), 1, "{what}");
        pass(Duration::from_secs(2)).await;
        until("the probe", || {
            collector.seen().len() == 2 && findings_stats(&exporter).pending == 2
        })
        .await;
        pass(Duration::from_secs(31)).await;
        let stats = exporter.shutdown(LONG).await.remove(1);
        assert_eq!(
            (stats.sent, stats.dropped),
            (2, dropped([(reason, 4)])),
            "{what}"
        );
    }
    assert_eq!(redirect.seen().len(), 0, "redirects are not followed");
}

#[tokio::test]
async fn newer_reports_wait_out_what_the_collector_asked_for() {
    let wait = Duration::from_mins(5);
    let later = Answer::Http(429, vec![("retry-after", "300".into())], "");
    for (protocol, answer) in [
        (Protocol::HttpProtobuf, later),
        (Protocol::Grpc, with_retry_info(Code::Unavailable, wait)),
        (
            Protocol::Grpc,
            with_retry_info(Code::ResourceExhausted, wait),
        ),
    ] {
        let what = format!("{protocol:?} {answer:?}");
        let collector = Collector::start(protocol).await;
        collector.script(std::iter::repeat_n(answer, 10));
        let exporter = start(&collector, &[]);
        let offer = |pod: &str| exporter.offer_report(Arc::new(report(vec![resource(pod, &[])])));
        offer("web-0");
        until("the first attempt", || metrics_stats(&exporter).failed == 1).await;
        for newer in 1..=4 {
            offer(&format!("web-{newer}"));
            until("the loss of the one before", || {
                metrics_stats(&exporter).dropped == dropped([("stale", newer * 2)])
            })
            .await;
        }
        assert_eq!(collector.seen().len(), 1, "{what}");
        // The last attempt, of the latest alone.
        let stats = exporter.shutdown(LONG).await.remove(0);
        assert_eq!(collector.seen().len(), 2, "{what}");
        assert_eq!(
            (stats.pending, stats.dropped),
            (0, dropped([("shutdown", 2), ("stale", 8)])),
            "{what}"
        );
    }
}

#[tokio::test]
async fn too_large_is_halved_until_it_fits() {
    for (protocol, answer) in [
        (Protocol::HttpProtobuf, http(413)),
        (Protocol::Grpc, grpc(Code::ResourceExhausted)),
    ] {
        let collector = Collector::start(protocol).await;
        // 4 -> 2 + 2 -> (1 + 1) + 2.
        collector.script([answer.clone(), answer]);
        let exporter = start(&collector, &[]);
        exporter.offer_findings((0..4).map(|port| finding("web-1", port)).collect());
        let stats = exporter.shutdown(LONG).await.remove(1);
        assert_eq!(
            (stats.sent, stats.failed, stats.dropped),
            (4, 2, dropped([])),
            "{protocol:?}"
        );
        let sizes = collector
            .logs()
            .into_iter()
            .map(|one| one.resource_logs[0].scope_logs[0].log_records.len());
        assert_eq!(sizes.collect::<Vec<_>>(), [1, 1, 2], "{protocol:?}");
    }
}

#[tokio::test]
async fn a_report_that_is_always_too_large_costs_a_bounded_number_of_requests() {
    let collector = Collector::start(Protocol::HttpProtobuf).await;
    collector.script(std::iter::repeat_n(http(413), 10_000));
    let exporter = start(&collector, &[]);
    let ports: Vec<i64> = (1..=1_000).collect();
    exporter.offer_report(Arc::new(report(vec![resource("web-1", &ports)])));
    let stats = exporter.shutdown(LONG).await.remove(0);
    assert_eq!(
        (stats.sent, stats.dropped),
        (0, dropped([("too_large", 1_002)]))
    );
    assert!(collector.seen().len() <= 511, "{}", collector.seen().len());
}

#[tokio::test]
async fn partial_success_is_counted_and_never_sent_again() {
    for protocol in BOTH {
        for (claimed, counted) in [(1, 1), (0, 0), (7, 3), (-4, 0)] {
            let collector = Collector::start(protocol).await;
            collector.script([Answer::Partial(claimed, "no\u{1b}[31m thanks")]);
            let exporter = start(&collector, &[]);
            exporter.offer_findings((0..3).map(|port| finding("web-1", port)).collect());
            let stats = exporter.shutdown(LONG).await.remove(1);
            assert_eq!(
                (stats.sent, stats.failed),
                (3 - counted, 0),
                "{protocol:?} {claimed}"
            );
            assert_eq!(
                stats.dropped.get("rejected").copied().unwrap_or(0),
                counted,
                "{protocol:?} {claimed}"
            );
            assert_eq!(collector.seen().len(), 1);
            if counted > 0 {
                assert!(
                    stats
                        .last_error
                        .unwrap()
                        .ends_with("rejected: no\\u{1b}[31m thanks")
                );
            }
        }
    }
}

#[tokio::test]
async fn a_collector_without_gzip_is_served_uncompressed_after_one_detour() {
    for (protocol, header) in [
        (Protocol::Grpc, "grpc-encoding"),
        (Protocol::HttpProtobuf, "content-encoding"),
    ] {
        let collector = Collector::with(Options {
            protocol,
            tls: None,
            takes_gzip: false,
        })
        .await;
        let exporter = start(&collector, &[("OTEL_METRICS_EXPORTER", "none")]);
        for round in 1..=2 {
            exporter.offer_findings(vec![finding("web-1", round)]);
            until("the finding", || findings_stats(&exporter).sent == round).await;
        }
        let encodings: Vec<String> = collector
            .seen()
            .iter()
            .map(|seen| seen.header(header).to_owned())
            .collect();
        assert_eq!(encodings, ["gzip", "", ""], "{protocol:?}");
        assert_eq!(findings_stats(&exporter).dropped, dropped([]));
    }
}

#[tokio::test]
async fn gzip_stays_when_it_was_not_to_blame() {
    let collector = Collector::start(Protocol::HttpProtobuf).await;
    collector.script([http(400), http(400), Answer::Ok, http(400)]);
    let exporter = start(&collector, &[("OTEL_METRICS_EXPORTER", "none")]);
    for _ in 0..3 {
        exporter.offer_findings(vec![finding("web-1", 1)]);
        until("the end of the finding", || {
            findings_stats(&exporter).pending == 0
        })
        .await;
    }
    let encodings: Vec<String> = collector
        .seen()
        .iter()
        .map(|seen| seen.header("content-encoding").to_owned())
        .collect();
    // Tried without; then proven, and from then on a 400 is about the data.
    assert_eq!(encodings, ["gzip", "", "gzip", "gzip"]);
    assert_eq!(
        findings_stats(&exporter).dropped,
        dropped([("bad_request", 2)])
    );
}

#[tokio::test]
async fn a_stalled_request_meets_its_deadline_and_is_sent_again() {
    for protocol in BOTH {
        let collector = Collector::start(protocol).await;
        collector.script([Answer::Stall]);
        let exporter = start(&collector, &[("OTEL_EXPORTER_OTLP_TIMEOUT", "200")]);
        exporter.offer_findings(vec![finding("web-1", 1)]);
        until("the second attempt", || findings_stats(&exporter).sent == 1).await;
        let stats = findings_stats(&exporter);
        assert_eq!(
            (stats.failed, stats.last_error.unwrap().as_str()),
            (1, "no answer within 200 ms"),
            "{protocol:?}"
        );
    }
}

#[tokio::test]
async fn a_collector_that_comes_late_gets_everything() {
    for protocol in BOTH {
        let collector = Collector::start(protocol).await;
        let exporter = start(&collector, &[]);
        let address = collector.address;
        drop(collector);
        exporter.offer_findings((0..10).map(|port| finding("web-1", port)).collect());
        until("a refused connection", || {
            findings_stats(&exporter).failed >= 1
        })
        .await;
        let error = findings_stats(&exporter).last_error.unwrap();
        assert!(error.contains("Connection refused"), "{error}");
        let collector = Collector::again(address, protocol).await;
        until("the findings", || findings_stats(&exporter).sent == 10).await;
        assert_eq!(findings_stats(&exporter).dropped, dropped([]));
        assert_eq!(collector.logs().len(), 1);
    }
}

#[tokio::test]
async fn shutdown_with_a_hung_collector_ends_and_counts_the_loss() {
    for protocol in BOTH {
        let collector = Collector::start(protocol).await;
        collector.script([Answer::Stall, Answer::Stall]);
        let exporter = start(&collector, &[]);
        exporter.offer_report(Arc::new(report(vec![resource("web-1", &[])])));
        exporter.offer_findings(vec![finding("web-1", 1)]);
        until("both requests", || collector.seen().len() == 2).await;
        exporter.offer_findings(vec![finding("web-1", 2)]);
        let stats = exporter.shutdown(Duration::from_millis(300)).await;
        assert_eq!(
            (stats[0].pending, &stats[0].dropped),
            (0, &dropped([("shutdown", 2)])),
            "{protocol:?}"
        );
        assert_eq!(
            (stats[1].pending, &stats[1].dropped),
            (0, &dropped([("shutdown", 2)])),
            "{protocol:?}"
        );
    }
}

#[tokio::test]
async fn shutdown_while_waiting_makes_one_last_attempt() {
    for (answers, sent, lost) in [(1, 1, dropped([])), (2, 0, dropped([("shutdown", 1)]))] {
        let collector = Collector::start(Protocol::HttpProtobuf).await;
        collector.script(std::iter::repeat_n(
            Answer::Http(503, vec![("retry-after", "300".into())], ""),
            answers,
        ));
        let exporter = start(&collector, &[]);
        exporter.offer_findings(vec![finding("web-1", 1)]);
        until("the first attempt", || {
            findings_stats(&exporter).failed == 1
        })
        .await;
        let stats = exporter.shutdown(LONG).await.remove(1);
        assert_eq!((stats.sent, stats.dropped), (sent, lost));
        assert_eq!(collector.seen().len(), 2);
    }
}
