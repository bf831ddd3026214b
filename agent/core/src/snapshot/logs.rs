//! Container logs, as rules and reports see them.

use std::time::Duration;

use crate::finding::Subject;

/// Share of what the kubelet keeps that may wait, in percent.
pub const BACKLOG_PERCENT_MAX: u64 = 80;

/// The logs of one container; with an empty subject, losses of which it is not known whose they were.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogView {
    /// Whose.
    pub subject: Subject,
    /// Bytes that the collector has not acknowledged.
    pub lag_bytes: u64,
    /// Bytes that the kubelet keeps of this container: what the operator says, or more where more was seen.
    pub kept_bytes: u64,
    /// Bytes that it writes a second, over at most [`crate::settings::LOSS_WINDOW`]; `None` in the first minute.
    pub bytes_per_second: Option<u64>,
    /// What it wrote in the slowest of the last ten minutes; `None` before ten were watched.
    pub slowest_minute: Option<u64>,
    /// Too much waits, and it does not become less.
    pub is_behind: bool,
    /// What was lost within [`crate::settings::LOSS_WINDOW`], by reason.
    pub lost: Vec<LogLost>,
}

/// What was lost lately for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogLost {
    /// Why.
    pub reason: String,
    /// Records, as far as they were seen as such.
    pub records: u64,
    /// Bytes, as far as they are known.
    pub bytes: u64,
    /// Whole pods, of which neither records nor bytes are known.
    pub pods: u64,
}

impl LogView {
    /// For how long the collector may be away, from a moment at which nothing waits; `None` without a rate.
    #[must_use]
    pub fn outage_budget(&self) -> Option<Duration> {
        time(self.kept_bytes, self.bytes_per_second?)
    }

    /// For how much longer it may be away now.
    #[must_use]
    pub fn outage_left(&self) -> Option<Duration> {
        time(
            self.kept_bytes.saturating_sub(self.lag_bytes),
            self.bytes_per_second?,
        )
    }

    /// How much of what the kubelet keeps waits, in percent.
    #[must_use]
    pub fn used_percent(&self) -> u64 {
        used_percent(self.lag_bytes, self.kept_bytes)
    }
}

/// How much of `kept` is `lag`, in percent.
pub(crate) fn used_percent(lag: u64, kept: u64) -> u64 {
    lag.saturating_mul(100).checked_div(kept).unwrap_or(0)
}

fn time(bytes: u64, per_second: u64) -> Option<Duration> {
    Some(Duration::from_secs(bytes.checked_div(per_second)?))
}
