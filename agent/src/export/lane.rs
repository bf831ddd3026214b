//! The two lanes: what waits, what gives way when there is too much, and the task that sends it.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use plumbline_core::finding::Finding;
use plumbline_core::report::{Report, ResourceReport};
use plumbline_core::settings::NodeIdentity;
use plumbline_core::time::UnixNanos;
use tokio::sync::Notify;

use super::courier::{Closing, Courier, Fate};
use super::encode::{
    FindingOptions, REQUEST_BYTES_MAX, encode_findings, encode_metrics, ended_series,
};
use super::settings::Endpoint;
use super::stats::SharedStats;
use super::transport::Transport;
use crate::clock;

/// Findings that wait. Beyond it the oldest give way: the newest state of the node matters most.
pub const FINDINGS_QUEUED_MAX: usize = 1_024;
/// Findings in one request; so many at most are in flight beside those that wait.
const FINDINGS_PER_REQUEST: usize = 256;
/// Reports remembered for the last points of their series: the last complete one and two that went out in part.
const REPORTS_REMEMBERED: usize = 3;
/// Before a lane that panicked is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// The latest report that waits.
#[derive(Debug, Default)]
pub(super) struct Latest {
    slot: Mutex<Option<Arc<Report>>>,
    offered: Notify,
}

impl Latest {
    fn slot(&self) -> MutexGuard<'_, Option<Arc<Report>>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns once a report waits.
    pub(super) async fn offered(&self) {
        while self.slot().is_none() {
            self.offered.notified().await;
        }
    }
}

/// Metrics: one report waits at most, and a newer one makes it stale.
#[derive(Debug)]
pub(super) struct MetricsLane {
    latest: Latest,
    stats: Arc<SharedStats>,
}

impl MetricsLane {
    pub(super) fn new(stats: Arc<SharedStats>) -> Self {
        Self {
            latest: Latest::default(),
            stats,
        }
    }

    pub(super) fn offer(&self, report: Arc<Report>) {
        self.stats.wait_for(points(&report.resources));
        let stale = self.latest.slot().replace(report);
        if let Some(stale) = stale {
            self.stats.lose("stale", points(&stale.resources));
        }
        self.latest.offered.notify_one();
    }

    async fn run(&self, courier: &mut Courier, mut closing: Closing) {
        let mut sent: VecDeque<Arc<Report>> = VecDeque::new();
        loop {
            let ending = wait(&mut closing, self.latest.offered()).await;
            let report = self.latest.slot().take();
            if let Some(report) = report {
                match self.send(courier, &report, sent.make_contiguous()).await {
                    Sent::All => sent = VecDeque::from([report]),
                    Sent::Part => {
                        sent.push_back(report);
                        if sent.len() > REPORTS_REMEMBERED {
                            sent.pop_front();
                        }
                    }
                    Sent::Nothing => {}
                }
            } else if ending {
                return;
            }
        }
    }

    async fn send(&self, courier: &mut Courier, report: &Report, sent: &[Arc<Report>]) -> Sent {
        let ended = ended_series(sent, report);
        self.stats.wait_for(points(&ended));
        let mut batches = encode_metrics(report, &ended, REQUEST_BYTES_MAX).into_iter();
        let (mut arrived, mut lost) = (0_u32, 0_u32);
        while let Some(batch) = batches.next() {
            match courier.deliver(batch, Some(&self.latest)).await {
                Fate::Arrived => arrived += 1,
                Fate::Lost => lost += 1,
                Fate::Refused => {
                    lost += 1;
                    self.stats
                        .lose("refused", batches.map(|batch| batch.items).sum());
                    courier.pause().await;
                    break;
                }
                Fate::GaveWay(items) => {
                    lost += 1;
                    self.stats.lose(
                        "stale",
                        items + batches.map(|batch| batch.items).sum::<u64>(),
                    );
                    break;
                }
            }
        }
        match (arrived, lost) {
            (0, 1..) => Sent::Nothing,
            (_, 0) => Sent::All,
            _ => Sent::Part,
        }
    }
}

/// How much of a report arrived.
enum Sent {
    All,
    Part,
    Nothing,
}

fn points(resources: &[ResourceReport]) -> u64 {
    resources
        .iter()
        .map(|resource| resource.points.len() as u64)
        .sum()
}

/// Findings: each waits until it has arrived; a full queue loses its oldest.
#[derive(Debug)]
pub(super) struct FindingsLane {
    queue: Mutex<VecDeque<Finding>>,
    offered: Notify,
    stats: Arc<SharedStats>,
    node: NodeIdentity,
    options: FindingOptions,
}

impl FindingsLane {
    pub(super) fn new(
        stats: Arc<SharedStats>,
        node: NodeIdentity,
        options: FindingOptions,
    ) -> Self {
        Self {
            queue: Mutex::default(),
            offered: Notify::new(),
            stats,
            node,
            options,
        }
    }

    pub(super) fn offer(&self, findings: Vec<Finding>) {
        if findings.is_empty() {
            return;
        }
        self.stats.wait_for(findings.len() as u64);
        let mut queue = self.queue();
        queue.extend(findings);
        let surplus = queue.len().saturating_sub(FINDINGS_QUEUED_MAX);
        queue.drain(..surplus);
        drop(queue);
        self.stats.lose("queue_full", surplus as u64);
        self.offered.notify_one();
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Finding>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn waiting(&self) {
        while self.queue().is_empty() {
            self.offered.notified().await;
        }
    }

    async fn run(&self, courier: &mut Courier, mut closing: Closing) {
        let mut refused = false;
        loop {
            let ending = wait(&mut closing, self.waiting()).await;
            let findings: Vec<Finding> = {
                let mut queue = self.queue();
                // After a refusal one finding goes ahead, and the rest is not risked.
                let count = if refused { 1 } else { FINDINGS_PER_REQUEST };
                let count = count.min(queue.len());
                queue.drain(..count).collect()
            };
            if findings.is_empty() && ending {
                return;
            }
            refused = self.send(courier, &findings).await;
            if refused {
                courier.pause().await;
            }
        }
    }

    /// Whether the collector refuses us.
    async fn send(&self, courier: &mut Courier, findings: &[Finding]) -> bool {
        let now = UnixNanos(clock::unix_ns());
        let mut batches =
            encode_findings(findings, &self.node, now, self.options, REQUEST_BYTES_MAX).into_iter();
        while let Some(batch) = batches.next() {
            match courier.deliver(batch, None).await {
                Fate::Arrived | Fate::Lost | Fate::GaveWay(_) => {}
                Fate::Refused => {
                    self.stats
                        .lose("refused", batches.map(|batch| batch.items).sum());
                    return true;
                }
            }
        }
        false
    }
}

/// Returns when there is something to do; `true` when the lane is to end after what waits.
async fn wait(closing: &mut Closing, work: impl Future<Output = ()>) -> bool {
    tokio::select! {
        biased;
        // An error means that the exporter is gone.
        _ = closing.wait_for(|closing| *closing) => true,
        () = work => false,
    }
}

/// Either lane, for [`supervise`].
#[derive(Debug)]
pub(super) enum Lane {
    Metrics(Arc<MetricsLane>),
    Findings(Arc<FindingsLane>),
}

/// Runs a lane until it closes. A panic loses what was in flight, counted, and starts the lane again.
pub(super) async fn supervise(
    lane: Lane,
    transport: Transport,
    node: NodeIdentity,
    closing: Closing,
) {
    let endpoint = transport.endpoint().clone();
    let stats = match &lane {
        Lane::Metrics(lane) => Arc::clone(&lane.stats),
        Lane::Findings(lane) => Arc::clone(&lane.stats),
    };
    let mut transport = Some(transport);
    let run = || {
        let ready = transport.take().or_else(|| again(&endpoint, &node));
        let (lane, stats, closing) = (&lane, Arc::clone(&stats), closing.clone());
        async move {
            let Some(ready) = ready else { return false };
            let mut courier = Courier::new(ready, stats, closing.clone());
            match lane {
                Lane::Metrics(lane) => lane.run(&mut courier, closing).await,
                Lane::Findings(lane) => lane.run(&mut courier, closing).await,
            }
            true
        }
    };
    let on_panic = || {
        let waiting = match &lane {
            Lane::Metrics(lane) => lane
                .latest
                .slot()
                .as_ref()
                .map_or(0, |report| points(&report.resources)),
            Lane::Findings(lane) => lane.queue().len() as u64,
        };
        stats.lose("panic", stats.read().pending.saturating_sub(waiting));
        tracing::error!(
            lane = stats.lane(),
            "the export lane panicked; starting it again"
        );
    };
    until_done(run, on_panic).await;
}

/// Runs what `run` gives until it says that it is done.
async fn until_done<F: Future<Output = bool>>(mut run: impl FnMut() -> F, on_panic: impl Fn()) {
    loop {
        match AssertUnwindSafe(run()).catch_unwind().await {
            Ok(true) => return,
            Ok(false) => {}
            // The panic hook has already told what and where.
            Err(_panic) => on_panic(),
        }
        tokio::time::sleep(RESTART_PAUSE).await;
    }
}

fn again(endpoint: &Endpoint, node: &NodeIdentity) -> Option<Transport> {
    match Transport::new(endpoint.clone(), node) {
        Ok(transport) => Some(transport),
        Err(error) => {
            tracing::error!(error = %format!("{error:#}"), "cannot start the export lane again yet");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lane_that_panics_is_started_again() {
        let (runs, panics) = (Cell::new(0), Cell::new(0));
        let run = || {
            runs.set(runs.get() + 1);
            let run = runs.get();
            async move {
                assert!(run != 2, "the second run panics");
                run == 4
            }
        };
        until_done(run, || panics.set(panics.get() + 1)).await;
        assert_eq!((runs.get(), panics.get()), (4, 1));
    }
}
