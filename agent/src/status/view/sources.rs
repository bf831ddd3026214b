//! How current each source of declarations is.

use plumbline_core::snapshot::Snapshot;
use serde::{Deserialize, Serialize};

use super::{or_none, section};
use crate::present::plain;

/// One source.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct SourceStatus {
    source: String,
    /// Seconds since what is in force was what the source says.
    age_s: u64,
    /// Why it is not current, where that is known.
    error: Option<String>,
}

/// All sources that have delivered.
pub(super) fn of(snapshot: &Snapshot) -> Vec<SourceStatus> {
    let row = |row: &plumbline_core::observation::SourceRow| SourceStatus {
        source: row.source.clone(),
        age_s: snapshot.now.since(row.as_of).as_secs(),
        error: row.error.clone(),
    };
    snapshot.sources.iter().map(row).collect()
}

/// The same for people.
pub(super) fn show(text: &mut String, sources: &[SourceStatus]) {
    let row = |row: &SourceStatus| {
        let age = format!("{} s", row.age_s);
        vec![plain(&row.source), age, or_none(row.error.as_ref())]
    };
    section(
        text,
        ["DECLARED BY", "AGE", "ERROR"],
        sources.iter().map(row),
    );
}

#[cfg(test)]
mod tests {
    use super::{SourceStatus, show};

    #[test]
    fn a_source_is_shown_with_its_age_and_what_is_wrong() {
        let mut text = String::new();
        show(&mut text, &[]);
        assert_eq!(text, "");
        let source = |source: &str, age_s, error: Option<&str>| SourceStatus {
            source: source.to_owned(),
            age_s,
            error: error.map(str::to_owned),
        };
        let late = source("services", 130, Some("503\u{1b}[2J"));
        show(&mut text, &[source("pods", 4, None), late]);
        let expected = "
DECLARED BY  AGE    ERROR
pods         4 s    -
services     130 s  503\u{fffd}[2J
";
        assert_eq!(text, expected);
    }
}
