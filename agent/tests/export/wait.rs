//! F3: how long container logs wait when a collector says how long it wants to be left alone.

use std::time::Duration;

use plumbline::export::settings::Protocol;
use tonic::Code;

use crate::common::collector::{Answer, Collector, until};
use crate::faults::with_retry_info;
use crate::records::{Node, full};

fn after(status: u16, header: &str) -> Answer {
    Answer::Http(status, vec![("retry-after", header.to_owned())], "")
}

/// Writes some records to a collector that gives `answer` first.
async fn asked(protocol: Protocol, answer: Answer) -> (Node, Collector) {
    let (mut node, collector) = (Node::new(), Collector::start(protocol).await);
    collector.script([answer]);
    node.drain = Duration::from_secs(2);
    node.write(100);
    node.start(&collector, 20_000);
    until("a request", || !collector.seen().is_empty()).await;
    (node, collector)
}

/// Between the first two requests. All else is settled, and nothing was lost or doubled.
async fn gap(protocol: Protocol, answer: Answer) -> Duration {
    let what = format!("{protocol:?} {answer:?}");
    let (mut node, collector) = asked(protocol, answer).await;
    until(&what, || node.missing(&[&collector]) == 0).await;
    let counts = node.end().await;
    assert!(counts.lost.is_empty(), "{what}: {counts:?}");
    let arrived = node.arrived(&[&collector]);
    assert!(arrived.values().all(|times| *times == 1), "{what}");
    let seen = collector.seen();
    seen[1].at - seen[0].at
}

/// Not before that time, whichever way it is told. Two seconds are more than the lane's own first pause.
#[tokio::test]
async fn what_the_collector_asks_for_is_waited_for() {
    let two = Duration::from_secs(2);
    let cases = [
        (Protocol::HttpProtobuf, after(429, "2")),
        (Protocol::HttpProtobuf, after(503, " 2 ")),
        (Protocol::HttpProtobuf, Answer::Date(3)),
        (Protocol::Grpc, with_retry_info(Code::Unavailable, two)),
        (
            Protocol::Grpc,
            with_retry_info(Code::ResourceExhausted, two),
        ),
        // From a proxy that knows no gRPC.
        (Protocol::Grpc, after(503, "2")),
        (Protocol::Grpc, Answer::Date(3)),
    ];
    let case = async |(protocol, answer): (Protocol, Answer)| {
        let what = format!("{protocol:?} {answer:?}");
        let gap = gap(protocol, answer).await;
        assert!(gap >= two, "{what}: {gap:?}");
    };
    futures::future::join_all(cases.map(case)).await;
}

/// What says nothing leaves the lane its own pause, and the records arrive.
#[tokio::test]
async fn what_cannot_be_read_stops_nothing() {
    let headers = [
        "",
        "soon",
        "-5",
        "1e9",
        "2.5",
        "Thu, 01 Jan 1970 00:00:00 GMT",
    ];
    let http = headers.map(|header| (Protocol::HttpProtobuf, after(503, header)));
    let grpc = (
        Protocol::Grpc,
        with_retry_info(Code::Unavailable, Duration::ZERO),
    );
    let cases = http.into_iter().chain([grpc]);
    futures::future::join_all(cases.map(|(protocol, answer)| gap(protocol, answer))).await;
}

/// Five minutes at most. The lane's end waits for nobody: one last attempt is made at once.
#[tokio::test]
async fn a_wait_without_end_is_five_minutes() {
    let eternity = Duration::from_secs(1_000_000_000);
    let cases = [
        (Protocol::HttpProtobuf, after(503, "1000000000")),
        (
            Protocol::HttpProtobuf,
            after(429, "100000000000000000000000000"),
        ),
        (Protocol::Grpc, with_retry_info(Code::Unavailable, eternity)),
    ];
    let case = async |(protocol, answer): (Protocol, Answer)| {
        let what = format!("{protocol:?} {answer:?}");
        let (mut node, collector) = asked(protocol, answer).await;
        let (cap, more) = (Duration::from_mins(5), Duration::from_secs(10));
        if full() {
            tokio::time::sleep(cap + more).await;
            let seen = collector.seen();
            assert!(seen[1].at - seen[0].at >= cap, "{what}");
        } else {
            tokio::time::sleep(Duration::from_secs(3)).await;
            assert_eq!(collector.seen().len(), 1, "{what}");
        }
        let counts = node.end().await;
        until(&what, || node.missing(&[&collector]) == 0).await;
        assert!(counts.lost.is_empty(), "{what}: {counts:?}");
        assert_eq!(collector.seen().len(), 2, "{what}");
    };
    futures::future::join_all(cases.map(case)).await;
}

/// What waits when the agent ends is sent while its answer can still be noted: the next one has nothing to send again.
#[tokio::test]
async fn what_waits_at_the_end_does_not_arrive_twice() {
    let case = async |protocol| {
        let hour = Duration::from_secs(3_600);
        let answer = match protocol {
            Protocol::Grpc => with_retry_info(Code::Unavailable, hour),
            Protocol::HttpProtobuf => after(503, "3600"),
        };
        let (mut node, collector) = asked(protocol, answer).await;
        node.end().await;
        assert_eq!(node.missing(&[&collector]), 0, "{protocol:?}");
        node.write(1);
        node.start(&collector, 20_000);
        until("the next record", || node.missing(&[&collector]) == 0).await;
        node.end().await;
        let arrived = node.arrived(&[&collector]);
        let twice = arrived.values().filter(|times| **times > 1).count();
        assert_eq!((arrived.len(), twice), (101, 0), "{protocol:?}");
    };
    futures::future::join_all([Protocol::Grpc, Protocol::HttpProtobuf].map(case)).await;
}
