//! Findings that export lost are offered anew.

use crate::engine::Evaluation;
use crate::export::Exporter;
use crate::export::stats::LaneState;

/// Findings are promised at least once: when the lane works again after it lost some, the open ones are offered anew.
#[derive(Debug, Default)]
pub(super) struct Resend {
    /// Losses of the findings' lane that have been made up for.
    made_up: u64,
}

impl Resend {
    /// Looks at the lane, once a tick.
    pub(super) fn after_losses(&mut self, evaluation: &Evaluation, export: &Exporter) {
        let Some(lane) = export
            .stats()
            .into_iter()
            .find(|lane| lane.lane == "findings")
        else {
            return;
        };
        let lost = lane.dropped.values().sum();
        if lane.state == LaneState::Ok && lane.pending == 0 && lost > self.made_up {
            self.made_up = lost;
            export.offer_findings(evaluation.open.clone());
        }
    }
}
