//! What became of what was offered to a lane: counted here, shown by `plumbline status`, exported by the agent's own lane.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use plumbline_core::snapshot::Dropped;
use plumbline_core::time::UnixNanos;
use serde::Serialize;

/// The history of one lane since the agent began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LaneStats {
    /// `metrics` or `findings`.
    pub lane: &'static str,
    /// How it fares.
    pub state: LaneState,
    /// Scheme, host and port; absent when off. Never a path, a query or a header: those may carry secrets.
    pub endpoint: Option<String>,
    /// Items (points or findings) that the collector accepted.
    pub sent: u64,
    /// Requests that the collector accepted.
    pub requests: u64,
    /// Attempts that failed, retried ones included.
    pub failed: u64,
    /// Items lost, by reason; sorted.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Items waiting or in flight.
    pub pending: u64,
    /// Why the last failed attempt failed. At most 256 bytes of it come from the collector.
    pub last_error: Option<String>,
    /// When the collector last accepted something.
    pub last_success: Option<UnixNanos>,
}

/// How a lane fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LaneState {
    /// No endpoint: nothing is sent.
    #[default]
    Off,
    /// Nothing was sent yet.
    Idle,
    /// The last attempt succeeded.
    Ok,
    /// The last attempt failed in a way that may pass, or that concerns that request alone.
    Failing,
    /// The last attempt failed in a way that only a person can mend; tried again every 30 s.
    Refused,
}

impl LaneStats {
    /// The losses in the form that the rest of the agent uses.
    #[must_use]
    pub fn as_dropped(&self) -> Vec<Dropped> {
        let place = format!("export.{}", self.lane);
        let one = |(reason, count): (&&'static str, &u64)| Dropped {
            place: place.clone(),
            reason: (*reason).to_owned(),
            count: *count,
        };
        self.dropped.iter().map(one).collect()
    }
}

/// [`LaneStats`] that the lane writes and others read.
#[derive(Debug)]
pub(super) struct SharedStats {
    lane: &'static str,
    stats: Mutex<LaneStats>,
}

impl SharedStats {
    pub(super) fn new(lane: &'static str, endpoint: Option<String>) -> Self {
        let state = if endpoint.is_some() {
            LaneState::Idle
        } else {
            LaneState::Off
        };
        Self {
            lane,
            stats: Mutex::new(LaneStats {
                lane,
                state,
                endpoint,
                ..LaneStats::default()
            }),
        }
    }

    pub(super) fn lane(&self) -> &'static str {
        self.lane
    }

    pub(super) fn read(&self) -> LaneStats {
        self.lock().clone()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut LaneStats)) {
        change(&mut self.lock());
    }

    /// So many items wait from now on.
    pub(super) fn wait_for(&self, items: u64) {
        self.change(|stats| stats.pending += items);
    }

    /// So many items that waited are lost.
    pub(super) fn lose(&self, reason: &'static str, items: u64) {
        if items > 0 {
            self.change(|stats| {
                *stats.dropped.entry(reason).or_default() += items;
                stats.pending = stats.pending.saturating_sub(items);
            });
        }
    }

    /// Whatever still waits is lost.
    pub(super) fn lose_pending(&self, reason: &'static str) {
        let pending = self.read().pending;
        self.lose(reason, pending);
    }

    fn lock(&self) -> MutexGuard<'_, LaneStats> {
        // Numbers stay readable after a panic in the lane; it is counted and the lane restarted.
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
