//! Container logs while nobody answers: a collector that is gone, one behind a route that drops packets, one that accepts and
//! says nothing, a connection whose other end has vanished, and HTTP/2's GOAWAY.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use plumbline::export::settings::Protocol;

use crate::common::collector::{Collector, until};
use crate::proxy::{CUT, Fault, Proxy};
use crate::records::{BOTH, Node, full};

/// F1: of a core, for reader and lane together.
const CPU_SHARE_MAX: f64 = 0.02;

/// How a collector is not there.
#[derive(Clone, Copy, Debug)]
enum Absence {
    /// Its port is closed.
    Refused,
    /// Connections are accepted, and nothing is ever read or said.
    Silent,
    /// The kernel drops the packets that would open a connection: the queue of those not yet accepted is full.
    Dropped,
}

/// Who stands at the collector's address meanwhile.
struct Hole {
    _listener: Option<TcpListener>,
    _queued: Vec<TcpStream>,
}

async fn hole(address: SocketAddr, absence: Absence) -> Hole {
    let mut listener = None;
    for _ in 0..500 {
        if matches!(absence, Absence::Refused) || listener.is_some() {
            break;
        }
        listener = TcpListener::bind(address).ok();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut queued = Vec::new();
    if matches!(absence, Absence::Dropped) {
        let listener = listener.as_ref().unwrap();
        rustix::net::listen(listener, 0).unwrap();
        let short = Duration::from_millis(300);
        while let Ok(stream) = TcpStream::connect_timeout(&address, short) {
            queued.push(stream);
            assert!(queued.len() < 10, "the queue has no end");
        }
    }
    Hole {
        _listener: listener,
        _queued: queued,
    }
}

/// Time on a CPU of a thread of this process.
fn cpu(thread: &OnceLock<PathBuf>) -> Duration {
    let path = PathBuf::from("/proc").join(thread.get().unwrap());
    let text = fs::read_to_string(path.join("schedstat")).unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

pub(super) fn failed(node: &Node) -> u64 {
    let stats = node.exporter.as_ref().unwrap().stats();
    let lane = stats.iter().find(|stats| stats.lane == "logs").unwrap();
    lane.failed
}

fn read(node: &Node) -> u64 {
    let stats = node.reader.as_ref().unwrap().stats().read();
    let containers = stats.containers.iter();
    containers
        .flat_map(|container| container.counts.records)
        .sum()
}

/// Whether all is there and settled within two minutes: more than the longest pause.
async fn arrives(node: &Node, collector: &Collector) -> bool {
    let all = async {
        while node.missing(&[collector]) > 0 || !node.is_settled() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let limit = Duration::from_mins(2);
    tokio::time::timeout(limit, all).await.is_ok()
}

/// F1: reading stops at four requests, waiting costs next to nothing, and nothing is lost.
async fn absent(
    protocol: Protocol,
    absence: Absence,
    lane: &'static OnceLock<PathBuf>,
    before_attempt: fn(),
) {
    let what = format!("{protocol:?} {absence:?}");
    let mut node = Node::new();
    (node.timeout_ms, node.compression) = ("1000", "none");
    node.scan_interval = Duration::from_secs(1);
    node.before_attempt = Some(before_attempt);
    let gone = Collector::start(protocol).await;
    let address = gone.address;
    node.start(&gone, 20_000);
    drop(gone);
    let hole = hole(address, absence).await;
    node.write(20_000);
    until("all requests to fail", || failed(&node) >= 4).await;
    let (attempts, before) = (failed(&node), cpu(&node.thread) + cpu(lane));
    let began = tokio::time::Instant::now();
    let away = if full() {
        Duration::from_mins(10)
    } else {
        Duration::from_secs(4)
    };
    tokio::time::sleep(away).await;
    let used = (cpu(&node.thread) + cpu(lane) - before).as_secs_f64();
    let share = used / began.elapsed().as_secs_f64();
    let attempts = failed(&node) - attempts;
    eprintln!(
        "{what}: {share:.4} of a core, {attempts} attempts, {} records read",
        read(&node)
    );
    assert!(share <= CPU_SHARE_MAX, "{what}: {share}");
    // Full jitter may be next to nothing for a while, but not twenty times; later a pause is 15 s on average.
    assert!(
        attempts <= 4 * (20 + away.as_secs() / 5),
        "{what}: {attempts}"
    );
    // Four batches of 52 KiB and one that is being filled have about 500 records each.
    assert!(read(&node) <= 5_000, "{what}: {}", read(&node));
    drop(hole);
    let back = Collector::again(address, protocol).await;
    assert!(arrives(&node, &back).await, "{what}: it does not go on");
    let counts = node.end().await;
    assert_eq!(
        (node.missing(&[&back]), counts.lost.len()),
        (0, 0),
        "{what}"
    );
    let twice = node.arrived(&[&back]).values().filter(|n| **n > 1).count();
    assert_eq!(twice, 0, "{what}: none of these requests had arrived");
}

/// The hook is a plain function: a static for each.
macro_rules! absent {
    ($protocol:expr, $absence:expr) => {{
        static LANE: OnceLock<PathBuf> = OnceLock::new();
        absent($protocol, $absence, &LANE, || {
            LANE.get_or_init(|| fs::read_link("/proc/thread-self").unwrap());
        })
    }};
}

#[tokio::test]
async fn while_nobody_answers_nothing_is_lost_and_little_is_done() {
    tokio::join!(
        absent!(Protocol::Grpc, Absence::Refused),
        absent!(Protocol::Grpc, Absence::Silent),
        absent!(Protocol::Grpc, Absence::Dropped),
        absent!(Protocol::HttpProtobuf, Absence::Refused),
        absent!(Protocol::HttpProtobuf, Absence::Silent),
        absent!(Protocol::HttpProtobuf, Absence::Dropped),
    );
}

/// Records that arrived more than once, the most records in a request, attempts that failed, and connections, over three
/// faults.
async fn struck(protocol: Protocol, fault: Fault) -> (u64, u64, u64, u32) {
    let what = format!("{protocol:?} {fault:?}");
    let mut collector = Collector::start(protocol).await;
    let proxy = Proxy::to(collector.address, fault).await;
    // Who sends is led to the proxy.
    collector.address = proxy.address;
    // So that requests are under way when it strikes.
    collector.answer_after(Duration::from_millis(100));
    let mut node = Node::new();
    node.timeout_ms = "2000";
    node.start(&collector, 20_000);
    for round in 1..=3 {
        node.write(3_000);
        let seen = collector.seen().len();
        until("a request", || collector.seen().len() > seen).await;
        proxy.strike();
        until(&what, || node.missing(&[&collector]) == 0).await;
        assert!(proxy.connections() > round, "{what}: it goes on elsewhere");
    }
    until("all to be settled", || node.is_settled()).await;
    let failed = failed(&node);
    let counts = node.end().await;
    assert!(counts.lost.is_empty(), "{what}: {counts:?}");
    let arrived = node.arrived(&[&collector]);
    let again = arrived.values().map(|times| u64::from(*times) - 1).sum();
    let requests = collector.logs();
    let records = requests.iter().map(|request| {
        let resources = request.resource_logs.iter();
        let scopes = resources.flat_map(|resource| &resource.scope_logs);
        scopes.map(|scope| scope.log_records.len() as u64).sum()
    });
    let most = records.max().unwrap_or(0);
    eprintln!("{what}: {again} again, {most} in a request, {failed} failed");
    (again, most, failed, proxy.connections())
}

/// F6: the other end vanishes without a word. Each request under way meets its deadline once, and the next goes over a
/// connection of its own instead of meeting its own deadline on a dead one.
#[tokio::test]
async fn a_vanished_peer_costs_each_request_one_deadline() {
    for protocol in BOTH {
        let (again, most, failed, _) = struck(protocol, Fault::Vanish).await;
        assert!(again > 0, "{protocol:?}: nothing was under way");
        assert!(again <= 3 * 4 * most, "{protocol:?}: {again} of {most}");
        assert!((3..=3 * 4 + 4).contains(&failed), "{protocol:?}: {failed}");
    }
}

/// F6: with a deadline of five minutes, as the largest records may have: HTTP/2's own pings find out after half a minute.
#[tokio::test]
async fn pings_find_a_vanished_peer_long_before_the_deadline() {
    let mut collector = Collector::start(Protocol::Grpc).await;
    let proxy = Proxy::to(collector.address, Fault::Vanish).await;
    collector.address = proxy.address;
    collector.answer_after(Duration::from_millis(500));
    let mut node = Node::new();
    node.timeout_ms = "300000";
    node.write(3_000);
    node.start(&collector, 20_000);
    until("a request", || !collector.seen().is_empty()).await;
    proxy.strike();
    assert!(
        arrives(&node, &collector).await,
        "it waits for the deadline"
    );
    assert!(failed(&node) > 0 && proxy.connections() > 1);
    let counts = node.end().await;
    assert!(counts.lost.is_empty(), "{counts:?}");
}

/// F6: HTTP/2 servers that end, as each does when it is rolled out.
#[tokio::test]
async fn a_server_that_goes_away_loses_nothing() {
    let (again, _, _, connections) = struck(Protocol::Grpc, Fault::GoAway).await;
    assert_eq!(again, 0, "what was under way was answered");
    assert!(connections >= 4, "{connections}");
    let (again, most, failed, _) = struck(Protocol::Grpc, Fault::GoAwayAtOnce).await;
    assert!(again <= 3 * 4 * most && failed > 0, "{again} of {most}");
}

/// F6: connections that end within an answer, when the records were taken. They are sent again, each at most once for each cut.
#[tokio::test]
async fn an_answer_that_is_cut_off_is_no_answer() {
    for protocol in BOTH {
        let mut collector = Collector::start(protocol).await;
        let proxy = Proxy::to(collector.address, Fault::Cut).await;
        collector.address = proxy.address;
        let mut node = Node::new();
        node.write(3_000);
        node.start(&collector, 20_000);
        until("all to be settled", || node.is_settled()).await;
        let failed = failed(&node);
        let counts = node.end().await;
        assert!(counts.lost.is_empty(), "{protocol:?}: {counts:?}");
        assert_eq!(node.missing(&[&collector]), 0, "{protocol:?}");
        assert!(
            failed > 0 && proxy.connections() > CUT,
            "{protocol:?}: {failed}"
        );
        let arrived = node.arrived(&[&collector]);
        let most = arrived.values().max().copied();
        assert!(most <= Some(1 + CUT), "{protocol:?}: {most:?} times");
    }
}

/// F1: a name that nobody has (RFC 6761), or that no server answers for.
#[tokio::test]
async fn a_name_that_does_not_resolve_loses_nothing() {
    let case = async |protocol| {
        let collector = Collector::start(protocol).await;
        let mut node = Node::new();
        node.timeout_ms = "2000";
        node.drain = Duration::from_secs(2);
        node.endpoint = Some("http://collector.invalid:4318");
        node.write(1_000);
        node.start(&collector, 20_000);
        until("attempts", || failed(&node) >= 3).await;
        let counts = node.end().await;
        assert!(counts.lost.is_empty(), "{protocol:?}: {counts:?}");
        assert_eq!(collector.seen().len(), 0, "{protocol:?}");
        node.endpoint = None;
        node.start(&collector, 20_000);
        until("all", || node.missing(&[&collector]) == 0).await;
        let counts = node.end().await;
        assert!(counts.lost.is_empty(), "{protocol:?}: {counts:?}");
        let arrived = node.arrived(&[&collector]);
        assert!(arrived.values().all(|times| *times == 1), "{protocol:?}");
    };
    futures::future::join_all(BOTH.map(case)).await;
}
