//! Pure functions from a snapshot to conditions: what was declared against what was observed.

use crate::finding::{Condition, Rule};
use crate::snapshot::Snapshot;

/// Every rule there is, by id.
pub const ALL: &[&Rule] = &[];

/// What is wrong at this moment, sorted by rule, subject and key.
#[must_use]
pub fn evaluate(snapshot: &Snapshot) -> Vec<Condition> {
    let _ = snapshot;
    Vec::new()
}

/// Rules that cannot decide on this snapshot, by id, each with the reason.
#[must_use]
pub fn unknown_rules(snapshot: &Snapshot) -> Vec<(&'static str, String)> {
    let _ = snapshot;
    Vec::new()
}
