//! The demo's report for a person: each finding, and what else arrived.

use super::receipts::Receipts;
use crate::receivers::{Receivers, Series};

/// Characters of a cell in the table of findings; `--json` has all of them.
const CELL_MAX: usize = 76;
/// Lines of each kind of metric that are shown.
const SHOWN_MAX: usize = 6;

/// The findings as a table, with the place where each was received.
pub(super) fn findings(receipts: &Receipts) -> String {
    let header = [
        "RULE",
        "SEVERITY",
        "NAMESPACE/POD/CONTAINER",
        "DECLARED",
        "OBSERVED",
        "RECEIVED BY",
    ]
    .map(str::to_owned);
    let rows = receipts.receipts.iter().map(|receipt| {
        let finding = &receipt.finding;
        let by = [
            ("Rotel (log)", receipt.as_log),
            ("VictoriaMetrics", receipt.as_metric),
        ];
        let by: Vec<&str> = by
            .iter()
            .filter(|(_, received)| *received)
            .map(|(name, _)| *name)
            .collect();
        [
            finding.rule().to_owned(),
            finding.text("/severity").to_owned(),
            finding.place(),
            finding.text("/declared").to_owned(),
            finding.text("/observed").to_owned(),
            if by.is_empty() {
                "nobody".to_owned()
            } else {
                by.join(", ")
            },
        ]
    });
    let rows = rows.map(|row| row.map(|cell| shortened(&cell)));
    columns(&std::iter::once(header).chain(rows).collect::<Vec<_>>())
}

/// What the findings leave out: the first finding's evidence and remedy, and a look at the metrics that were received.
pub(super) fn details(receipts: &Receipts, receivers: &Receivers) -> anyhow::Result<String> {
    let mut text = String::new();
    if let Some(receipt) = receipts
        .receipts
        .iter()
        .find(|receipt| receipt.finding.rule() == "P001")
    {
        let finding = &receipt.finding;
        text.push_str(&format!("{}: {}\n", finding.rule(), finding.text("/title")));
        text.push_str(&format!(
            "  executable  {}\n",
            finding.text("/evidence/executable")
        ));
        text.push_str(&format!(
            "  remedy      {}\n\n",
            finding.text("/remediation")
        ));
    }
    let ask = |expression: &str| receivers.metrics.query(expression);
    text.push_str(&section(
        "Listening ports in VictoriaMetrics",
        &ask("plumbline_port_listening")?,
        &[
            "k8s_namespace_name",
            "k8s_pod_name",
            "k8s_container_name",
            "network_local_port",
            "plumbline_bind_scope",
            "plumbline_declared_by",
        ],
    ));
    text.push_str(&section(
        "Connections in VictoriaMetrics",
        &ask("plumbline_network_connections_total")?,
        &[
            "k8s_namespace_name",
            "k8s_pod_name",
            "plumbline_flow_role",
            "server_port",
            "plumbline_peer_kind",
            "plumbline_peer_name",
        ],
    ));
    Ok(text)
}

/// A heading and one line for each series: some labels and the value.
fn section(title: &str, series: &[Series], labels: &[&str]) -> String {
    let mut rows: Vec<Vec<String>> = series
        .iter()
        .map(|series| {
            let shown = labels.iter().map(|label| series.label(label).to_owned());
            shown
                .chain(series.value().map(|value| value.to_string()))
                .collect()
        })
        .collect();
    rows.sort();
    let more = rows.len().saturating_sub(SHOWN_MAX);
    rows.truncate(SHOWN_MAX);
    let more = if more == 0 {
        String::new()
    } else {
        format!("  and {more} more\n")
    };
    format!("{title} ({})\n{}{more}", series.len(), columns(&rows))
}

/// Text of at most [`CELL_MAX`] characters.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(CELL_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or(text)),
        None => text.to_owned(),
    }
}

/// Rows with each column as wide as its widest cell, two spaces in front.
fn columns<R: AsRef<[String]>>(rows: &[R]) -> String {
    let count = rows.iter().map(|row| row.as_ref().len()).max().unwrap_or(0);
    let width = |nth: usize| {
        rows.iter()
            .filter_map(|row| row.as_ref().get(nth))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row
            .as_ref()
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(&format!("  {}", cells.collect::<Vec<_>>().join("  ")));
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::columns;

    #[test]
    fn columns_line_up() {
        let rows = [
            ["a".to_owned(), "bcd".to_owned()],
            ["é".repeat(3), String::new()],
        ];
        assert_eq!(columns(&rows), "  a    bcd\n  ééé\n");
    }
}
