//! Tables for people. Text that pods choose is shown without control characters.

use std::fmt::Write as _;

use plumbline_core::finding::Finding;

/// Replaces control characters, so that no name can move a terminal's cursor.
#[must_use]
pub fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// Rows as columns of equal width, two spaces apart.
#[must_use]
pub fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            write!(line, "{cell:<width$}  ").expect("a String takes all text");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Findings, a line each, and what to do about them.
#[must_use]
pub fn findings(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "No findings.\n".into();
    }
    let header = [
        "SEVERITY",
        "RULE",
        "NAMESPACE",
        "WORKLOAD",
        "CONTAINER",
        "OBSERVED",
        "DECLARED",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for finding in findings {
        let of = &finding.resource;
        let workload = of
            .owner
            .as_ref()
            .map(|owner| format!("{}/{}", owner.kind, owner.name))
            .or(of.pod.clone());
        rows.push(
            [
                finding.severity.as_str(),
                finding.rule_id,
                of.namespace.as_deref().unwrap_or("-"),
                workload.as_deref().unwrap_or("(node)"),
                of.container.as_deref().unwrap_or("-"),
                &finding.observed,
                &finding.declared,
            ]
            .map(plain)
            .to_vec(),
        );
    }
    let mut text = columns(&rows);
    text.push('\n');
    for finding in findings {
        let first = finding.remediation.lines().next().unwrap_or_default();
        writeln!(
            text,
            "{} {}: {}",
            finding.rule_id,
            short(&finding.fingerprint),
            plain(first)
        )
        .expect("a String takes all text");
    }
    text
}

/// Enough of a fingerprint to tell it from others.
fn short(fingerprint: &str) -> &str {
    fingerprint.get(..12).unwrap_or(fingerprint)
}

#[cfg(test)]
mod tests {
    use super::{columns, findings, plain};

    #[test]
    fn names_cannot_move_the_cursor() {
        assert_eq!(
            plain("a\u{1b}[2Jb\nc\u{9b}d"),
            "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d"
        );
    }

    #[test]
    fn columns_line_up_without_trailing_blanks() {
        let rows = [
            vec!["a".into(), "bb".into(), "c".into()],
            vec!["aaa".into(), "b".into()],
        ];
        assert_eq!(columns(&rows), "a    bb  c\naaa  b\n");
    }

    #[test]
    fn no_findings_is_said() {
        assert_eq!(findings(&[]), "No findings.\n");
    }
}
