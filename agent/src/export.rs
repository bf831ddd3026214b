//! OTLP out: one lane for metrics, one for findings and one for container logs, each with its own bound, so that none
//! starves another.
//!
//! In the order in which a report meets them:
//!
//! - [`settings`]: the `OTEL_*` variables.
//! - `lane`: what waits, and what gives way.
//! - [`records`]: the lane of container logs, where nothing gives way.
//! - [`encode`]: core types to OTLP messages (pure).
//! - `semconv`: every attribute key, once.
//! - `courier`: attempts, waits, splits.
//! - `transport`, `tls`: one request over gRPC or HTTP.
//! - `verdict`: what to do about an answer (pure).
//! - [`stats`]: what became of what was offered.

mod courier;
pub mod encode;
mod lane;
pub mod records;
mod room;
pub(crate) mod semconv;
pub mod settings;
pub mod stats;
mod tls;
pub(crate) mod transport;
pub(crate) mod verdict;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use plumbline_core::finding::Finding;
use plumbline_core::report::Report;
use plumbline_core::settings::NodeIdentity;
use plumbline_core::snapshot::Dropped;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use encode::FindingOptions;
use lane::{FindingsLane, Lane, MetricsLane};
use plumbline_logs::watch::Waker;
use records::{Hold, Pace, RecordSink};
use settings::{Endpoint, ExportSettings};
use stats::{LaneStats, SharedStats};
use transport::Transport;

pub use lane::FINDINGS_QUEUED_MAX;

/// Sends reports and findings. Offering never waits. Dropping it without [`Exporter::shutdown`] sends nothing more.
#[derive(Debug)]
pub struct Exporter {
    metrics: Option<Arc<MetricsLane>>,
    findings: Option<Arc<FindingsLane>>,
    stats: Vec<Arc<SharedStats>>,
    closing: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Exporter {
    /// Starts the lanes whose endpoints are set. Must be called inside a tokio runtime. Reads certificate files, connects
    /// to nobody.
    ///
    /// # Errors
    ///
    /// A certificate or key file cannot be read or used.
    pub fn start(settings: ExportSettings, node: NodeIdentity) -> anyhow::Result<Self> {
        if settings.is_off() {
            tracing::info!("nothing is exported: OTEL_EXPORTER_OTLP_ENDPOINT is not set");
        }
        let options = FindingOptions {
            event_name_attribute: settings.event_name_attribute,
        };
        let origin = |endpoint: &Option<Endpoint>| endpoint.as_ref().map(Endpoint::origin);
        let metrics_stats = Arc::new(SharedStats::new("metrics", origin(&settings.metrics)));
        let findings_stats = Arc::new(SharedStats::new("findings", origin(&settings.findings)));
        let mut exporter = Self {
            metrics: None,
            findings: None,
            stats: vec![Arc::clone(&metrics_stats), Arc::clone(&findings_stats)],
            closing: watch::Sender::new(false),
            tasks: Vec::new(),
        };
        if let Some(endpoint) = settings.metrics {
            let lane = Arc::new(MetricsLane::new(metrics_stats));
            exporter.metrics = Some(Arc::clone(&lane));
            exporter
                .spawn(Lane::Metrics(lane), endpoint, &node)
                .context("start the export of metrics")?;
        }
        if let Some(endpoint) = settings.findings {
            let lane = Arc::new(FindingsLane::new(findings_stats, node.clone(), options));
            exporter.findings = Some(Arc::clone(&lane));
            exporter
                .spawn(Lane::Findings(lane), endpoint, &node)
                .context("start the export of findings")?;
        }
        Ok(exporter)
    }

    fn spawn(&mut self, lane: Lane, endpoint: Endpoint, node: &NodeIdentity) -> anyhow::Result<()> {
        warn_if_plain(&endpoint);
        let transport = Transport::new(endpoint, node)?;
        let closing = self.closing.subscribe();
        self.tasks.push(tokio::spawn(lane::supervise(
            lane,
            transport,
            node.clone(),
            closing,
        )));
        Ok(())
    }

    /// Starts the lane of container logs. It rings `waker` with each answer, and ends when the hold is dropped: the reader
    /// waits for its last answers, not the exporter.
    ///
    /// # Errors
    ///
    /// A certificate or key file cannot be read or used.
    pub fn start_records(
        &mut self,
        endpoint: Endpoint,
        node: &NodeIdentity,
        waker: Waker,
        pace: Pace,
    ) -> anyhow::Result<(RecordSink, Hold)> {
        let stats = Arc::new(SharedStats::new("logs", Some(endpoint.origin())));
        self.stats.push(Arc::clone(&stats));
        let (closing, closes) = watch::channel(false);
        let (sink, thread) = records::start(endpoint, node, stats, closes, waker, pace)
            .context("start the export of container logs")?;
        let hold = Hold { closing, thread };
        Ok((sink, hold))
    }

    /// Offers the points of a report. The latest report wins: one that waits or is being retried gives way and is counted.
    pub fn offer_report(&self, report: Arc<Report>) {
        if let Some(lane) = &self.metrics {
            lane.offer(report);
        }
    }

    /// Offers findings: those that opened, changed or resolved. When [`FINDINGS_QUEUED_MAX`] wait, the oldest give way and
    /// are counted.
    pub fn offer_findings(&self, findings: Vec<Finding>) {
        if let Some(lane) = &self.findings {
            lane.offer(findings);
        }
    }

    /// The history of each lane: metrics, findings, container logs if they are read.
    #[must_use]
    pub fn stats(&self) -> Vec<LaneStats> {
        self.stats.iter().map(|stats| stats.read()).collect()
    }

    /// What the lanes lost, in the form of the snapshot's losses.
    #[must_use]
    pub fn dropped(&self) -> Vec<Dropped> {
        self.stats()
            .iter()
            .flat_map(LaneStats::as_dropped)
            .collect()
    }

    /// Sends what waits, each once and without further retries, for at most `deadline`; the rest is counted as dropped.
    /// Gives the last stats.
    pub async fn shutdown(mut self, deadline: Duration) -> Vec<LaneStats> {
        self.closing.send_replace(true);
        let tasks = std::mem::take(&mut self.tasks);
        let aborts: Vec<_> = tasks.iter().map(JoinHandle::abort_handle).collect();
        if tokio::time::timeout(deadline, futures::future::join_all(tasks))
            .await
            .is_err()
        {
            tracing::warn!(
                deadline_ms = deadline.as_millis(),
                "the last export did not end in time"
            );
        }
        for abort in aborts {
            abort.abort();
        }
        // Log records that were not delivered are still in their files.
        for stats in self.stats.iter().filter(|stats| stats.lane() != "logs") {
            stats.lose_pending("shutdown");
        }
        self.stats()
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Plain text is what the operator wrote, but it should not pass unseen when it leaves the node.
fn warn_if_plain(endpoint: &Endpoint) {
    let host = endpoint.url.host().unwrap_or_default();
    let local = matches!(host, "localhost" | "[::1]") || host.starts_with("127.");
    if !endpoint.is_tls() && !local {
        tracing::warn!(
            endpoint = endpoint.origin(),
            "telemetry leaves this node unencrypted: use https://"
        );
    }
}
