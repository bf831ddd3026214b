//! Which findings have arrived. They are promised at least once: what the lane lost is offered anew when it works again, and
//! what may not have arrived is told again after a restart.

use std::collections::BTreeMap;

use plumbline_core::finding::{Finding, FindingState, Transition};
use plumbline_core::settings::{FINDINGS_MAX, FINDINGS_PAST_MAX};

use crate::engine::Evaluation;
use crate::export::Exporter;
use crate::export::stats::{LaneState, LaneStats};

/// Findings that wait for the collector's answer. Of further ones it is taken for granted; they are counted.
const UNSURE_MAX: usize = FINDINGS_MAX + FINDINGS_PAST_MAX;

/// What was told, and what of it may not have arrived.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    /// Losses of the findings' lane that have been made up for.
    made_up: u64,
    /// As they were last told of, by fingerprint.
    unsure: BTreeMap<String, Finding>,
    changed: bool,
}

impl Delivery {
    /// Looks at the lane, once an evaluation, before what is new is offered.
    pub(super) fn look(&mut self, evaluation: &Evaluation, export: &Exporter) {
        let lanes = export.stats();
        self.settle(&lanes);
        let lane = lanes.iter().find(|lane| lane.lane == "findings");
        if let Some(lane) = lane
            && lane.state == LaneState::Ok
            && lane.pending == 0
            && lost(lane) > self.made_up
        {
            self.made_up = lost(lane);
            export.offer_findings(self.again(evaluation));
        }
        for told in &evaluation.transitions {
            if self.unsure.len() < UNSURE_MAX {
                self.unsure.insert(told.fingerprint.clone(), told.clone());
            }
            self.changed = true;
        }
    }

    /// What nothing waits for and nothing was lost of has arrived.
    pub(super) fn settle(&mut self, lanes: &[LaneStats]) {
        let lane = lanes.iter().find(|lane| lane.lane == "findings");
        let arrived = lane.is_none_or(|lane| {
            lane.state == LaneState::Off || lane.pending == 0 && lost(lane) == self.made_up
        });
        if arrived && !self.unsure.is_empty() {
            self.unsure.clear();
            self.changed = true;
        }
    }

    /// What may be lost: those that are open or hidden, and those whose end may not have arrived.
    fn again(&self, evaluation: &Evaluation) -> Vec<Finding> {
        let present = evaluation.open.iter().chain(&evaluation.suppressed);
        let present = present.map(|finding| Finding {
            transition: Some(Transition::Heartbeat),
            ..finding.clone()
        });
        let ended = self.unsure.values();
        let ended = ended.filter(|told| told.state == FindingState::Resolved);
        present.chain(ended.cloned()).collect()
    }

    /// What may not have arrived, by fingerprint.
    pub(super) fn unsure(&self) -> &BTreeMap<String, Finding> {
        &self.unsure
    }

    /// Whether that, or what was told, has changed since this was last asked.
    pub(super) fn has_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }
}

fn lost(lane: &LaneStats) -> u64 {
    lane.dropped.values().sum()
}
