//! M003, declared state stale. What, why and traps are in [`RULE`].
//!
//! Which rule needs which source is said where each says what it needs.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::finding::{Condition, Coverage, Evidence, Judge, Memory, Rule, Severity, Subject};
use crate::observation::SourceRow;
use crate::rules::unknown_rules;
use crate::settings::DECLARED_AGE_MAX;
use crate::snapshot::Snapshot;

/// M003.
pub static RULE: Rule = Rule {
    id: "M003",
    title: "Declared state stale",
    category: "monitoring",
    what: "What the agent holds of the declared side is older than two minutes. One condition about the node, with the \
           oldest source, its age and its error. Meanwhile rules that compare with a stale source say nothing, and \
           findings that are open stay open.",
    why: "A port that was declared since would be a false finding.",
    severity: "medium",
    traps: &[
        "A watch on which nothing happens is current as long as it is open; a source grows old from the moment at which \
         it broke (19).",
        "A source that never delivered has no age: M001 names it.",
    ],
    remediation: "Check that the API server answers and that the agent's role lets it list and watch what the error \
                  names; for files, that they can be read.",
    needs: &[],
    memory: Memory::Moment,
    judge: Judge::Node(conditions),
};

/// How the reason of a rule that waits for a fresh declared side begins.
const STALE: &str = "the declared side is stale: ";

/// Why one of these sources is too old to compare with, if it is. Those that nobody tells of are not.
pub(super) fn too_old(snapshot: &Snapshot, sources: &[&str]) -> Option<String> {
    let mut names: Vec<&str> = stale(snapshot)
        .filter(|row| sources.contains(&row.source.as_str()))
        .map(|row| row.source.as_str())
        .collect();
    names.sort_unstable();
    (!names.is_empty()).then(|| {
        let than = DECLARED_AGE_MAX.as_secs();
        format!("{STALE}{} older than {than} s", names.join(", "))
    })
}

/// Rules that say nothing because of it.
pub(super) fn suspended(snapshot: &Snapshot) -> BTreeSet<&'static str> {
    if stale(snapshot).next().is_none() {
        return BTreeSet::new();
    }
    let unknown = unknown_rules(snapshot).into_iter();
    let waiting = unknown.filter(|(_, reason)| reason.starts_with(STALE));
    waiting.map(|(rule, _)| rule).collect()
}

/// That it is so.
fn conditions(snapshot: &Snapshot) -> Vec<Condition> {
    condition(snapshot, &suspended(snapshot))
        .into_iter()
        .collect()
}

fn condition(snapshot: &Snapshot, suspended: &BTreeSet<&'static str>) -> Option<Condition> {
    let oldest = stale(snapshot).min_by_key(|row| row.as_of)?;
    let seconds = age(snapshot, oldest).as_secs();
    let names: Vec<String> = stale(snapshot).map(|row| row.source.clone()).collect();
    let rules: Vec<String> = suspended.iter().map(|rule| (*rule).to_owned()).collect();
    let error = oldest.error.clone();
    let because = error
        .as_ref()
        .map_or_else(String::new, |error| format!(": {error}"));
    let silent = if rules.is_empty() {
        String::new()
    } else {
        format!(", so {} say nothing", rules.join(", "))
    };
    let mut condition = Condition {
        rule: &RULE,
        severity: Severity::Medium,
        subject: Subject::default(),
        key: "declared".into(),
        declared: format!("the declared side is at most {} s old", DECLARED_AGE_MAX.as_secs()),
        observed: format!("{} as of {seconds} s ago{silent}{because}", names.join(", ")),
        evidence: std::collections::BTreeMap::new(),
        coverage: Coverage::Blind("declared state is stale".into()),
        remediation: "Check that the API server answers and that the agent's role lets it list and watch what the error \
                      names; for files, that they can be read."
            .into(),
        patch: None,
    };
    let evidence = [
        ("age", Evidence::Count(seconds)),
        ("sources", Evidence::List(names)),
        ("rules", Evidence::List(rules)),
    ];
    condition.evidence.extend(evidence);
    condition
        .evidence
        .extend(error.map(|error| ("error", Evidence::Text(error))));
    Some(condition)
}

fn stale(snapshot: &Snapshot) -> impl Iterator<Item = &SourceRow> {
    let rows = snapshot.sources.iter();
    rows.filter(|row| age(snapshot, row) > DECLARED_AGE_MAX)
}

fn age(snapshot: &Snapshot, row: &SourceRow) -> Duration {
    snapshot.now.since(row.as_of)
}

#[cfg(test)]
mod tests;
