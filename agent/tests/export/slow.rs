//! F2: a way to the collector that is too slow for what is sent at once, and a collector that thinks for long.

use std::time::Duration;

use plumbline::export::settings::Protocol;

use crate::common::collector::{Collector, until};
use crate::outage::failed;
use crate::proxy::{Fault, Proxy};
use crate::records::{BOTH, Node, full};

/// Bytes a second of each connection.
const RATE: u32 = 16 << 10;

/// What arrived over a slow way, to the last record; how many attempts failed, and how many requests arrived.
async fn over(protocol: Protocol, records: u32, digits: usize) -> (u64, usize) {
    let what = format!("{protocol:?} {records}");
    let mut collector = Collector::start(protocol).await;
    let proxy = Proxy::to(collector.address, Fault::Slow(RATE)).await;
    collector.address = proxy.address;
    let mut node = Node::new();
    (node.timeout_ms, node.compression) = ("1000", "none");
    node.digits = digits;
    node.write(records);
    node.start(&collector, 20_000);
    let all = async {
        while node.missing(&[&collector]) > 0 || !node.is_settled() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let arrived = tokio::time::timeout(Duration::from_mins(2), all).await;
    let missing = node.missing(&[&collector]);
    assert!(arrived.is_ok(), "{what}: {missing} are missing");
    let failed = failed(&node);
    let counts = node.end().await;
    assert!(counts.lost.is_empty(), "{what}: {counts:?}");
    (failed, collector.logs().len())
}

/// A batch takes 3 s at this rate, and may take 1 s: what is sent again is smaller until it passes.
#[tokio::test]
async fn what_does_not_pass_in_time_is_sent_in_smaller_pieces() {
    let case = async |protocol| {
        let (failed, requests) = over(protocol, 1_500, 0).await;
        eprintln!("{protocol:?}: {failed} attempts failed, {requests} requests");
        assert!(failed > 0, "{protocol:?}: it was not too slow");
        assert!(requests > 4, "{protocol:?}");
    };
    futures::future::join_all(BOTH.map(case)).await;
}

/// A record cannot be made smaller: it is given the time that it takes, here 4 s.
#[tokio::test]
async fn one_large_record_is_waited_for() {
    let case = async |protocol| {
        let (failed, _) = over(protocol, 2, 60_000).await;
        assert!(failed > 0, "{protocol:?}: it was not too slow");
    };
    futures::future::join_all(BOTH.map(case)).await;
}

/// Late within the deadline is no fault.
#[tokio::test]
async fn a_slow_collector_gets_everything_in_its_own_time() {
    for protocol in BOTH {
        let (mut node, collector) = (Node::new(), Collector::start(protocol).await);
        collector.answer_after(Duration::from_millis(if full() { 5_000 } else { 300 }));
        node.write(if full() { 1_500 } else { 10_000 });
        node.start(&collector, 10_000);
        until("all to be settled", || node.is_settled()).await;
        let counts = node.end().await;
        assert_eq!((node.missing(&[&collector]), counts.lost.len()), (0, 0));
        assert!(
            node.arrived(&[&collector])
                .values()
                .all(|times| *times == 1)
        );
        let at_once = collector.at_once_max();
        assert!((2..=4).contains(&at_once), "{protocol:?}: {at_once}");
    }
}
