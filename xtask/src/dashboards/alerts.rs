//! The alert rules, as far as promtool does not judge them: names that the agent sends, and a runbook that exists.
//!
//! Reads the few forms of YAML that `alerts.yaml` uses; promtool reads the file as YAML.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    catalogue::Catalogue,
    lint::{rate_problems, unknown_names},
    promql::names,
};

/// What every alert must have.
const KEYS: [&str; 6] = [
    "expr",
    "for",
    "severity",
    "summary",
    "description",
    "runbook",
];

/// An alert rule: its name and its other keys, those of labels and annotations among them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Alert {
    name: String,
    values: BTreeMap<String, String>,
}

impl Alert {
    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// PromQL; empty if it has none.
    pub(super) fn expression(&self) -> &str {
        self.values.get("expr").map_or("", String::as_str)
    }
}

/// Rules of a file: `- alert: NAME`, then `key: value` or `key: |` and lines that are further in.
pub(super) fn parse(text: &str) -> Vec<Alert> {
    let mut alerts: Vec<Alert> = Vec::new();
    let mut block: Option<(usize, String)> = None;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let Some(alert) = alerts.last_mut() else {
            alerts.extend(begin(line));
            continue;
        };
        if let Some((outer, key)) = &block {
            if indent > *outer || line.trim().is_empty() {
                let value = alert.values.entry(key.clone()).or_default();
                value.push_str(line.trim());
                value.push('\n');
                continue;
            }
            block = None;
        }
        if let Some(next) = begin(line) {
            alerts.push(next);
        } else if let Some((key, value)) = line.trim().split_once(':') {
            match value.trim() {
                "|" | ">-" => block = Some((indent, key.to_owned())),
                value => drop(alert.values.insert(key.to_owned(), value.to_owned())),
            }
        }
    }
    alerts
}

fn begin(line: &str) -> Option<Alert> {
    let name = line.trim().strip_prefix("- alert:")?.trim().to_owned();
    Some(Alert {
        name,
        values: BTreeMap::new(),
    })
}

/// Everything wrong with the rules.
pub(super) fn problems(alerts: &[Alert], catalogue: &Catalogue, runbook: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if alerts.is_empty() {
        problems.push("alerts.yaml: no alert in it".to_owned());
    }
    for alert in alerts {
        let found = alert_problems(alert, catalogue, runbook);
        problems.extend(
            found
                .into_iter()
                .map(|problem| format!("alert {}: {problem}", alert.name)),
        );
    }
    problems
}

fn alert_problems(alert: &Alert, catalogue: &Catalogue, runbook: &str) -> Vec<String> {
    let value = |key: &str| alert.values.get(key).map_or("", String::as_str);
    let mut problems: Vec<String> = KEYS
        .iter()
        .filter(|key| value(key).trim().is_empty())
        .map(|key| format!("no {key}"))
        .collect();
    let named = names(alert.expression());
    let shown = shown_labels(value("summary"))
        .union(&shown_labels(value("description")))
        .cloned()
        .collect();
    problems.extend(unknown_names(&named, &shown, catalogue));
    problems.extend(rate_problems(&named, None, catalogue));
    let kept = |label: &&String| !named.grouping.contains(*label);
    problems.extend(
        shown
            .iter()
            .filter(kept)
            .map(|label| format!("shows {label}, which its grouping drops")),
    );
    if value("runbook") != format!("dashboards/RUNBOOK.md#{}", alert.name.to_lowercase()) {
        problems.push("its runbook is not its own section of RUNBOOK.md".into());
    }
    if !runbook
        .lines()
        .any(|line| line.strip_prefix("## ") == Some(&alert.name))
    {
        problems.push("RUNBOOK.md has no section of its name".into());
    }
    problems
}

/// The labels in `{{ $labels.x }}`.
fn shown_labels(template: &str) -> BTreeSet<String> {
    let of_label = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let parts = template.split("$labels.").skip(1);
    parts
        .map(|part| part.chars().take_while(|c| of_label(*c)).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{super::catalogue::tests::small, parse, problems};

    const GOOD: &str = "\
groups:
  - name: x
    rules:
      # A comment: with a colon.
      - alert: SomeG
        expr: |
          sum by (k8s_ns, port) (
            label_replace(g{k8s_ns=\"a: b\"}, \"port\", \"$1\", \"k8s_ns\", \"(.+)\")
          ) > 0
        for: 5m
        labels:
          severity: info
        annotations:
          summary: '{{ $labels.k8s_ns }} has g'
          description: >-
            In {{ $labels.k8s_ns }}: on
            {{ $labels.port }}.
          runbook: dashboards/RUNBOOK.md#someg
      - alert: MoreG
        expr: rate(a_b_total[5m]) > 0
";
    const RUNBOOK: &str = "# Runbook\n\n## SomeG\n";

    #[test]
    fn rules_of_a_file() {
        let alerts = parse(GOOD);
        let names: Vec<&str> = alerts.iter().map(|alert| alert.name.as_str()).collect();
        assert_eq!(names, ["SomeG", "MoreG"]);
        assert!(alerts[0].values["expr"].starts_with("sum by"));
        assert!(alerts[0].values["expr"].ends_with(") > 0\n"));
        assert_eq!(
            alerts[0].values["description"],
            "In {{ $labels.k8s_ns }}: on\n{{ $labels.port }}.\n"
        );
        assert_eq!(alerts[1].values["expr"], "rate(a_b_total[5m]) > 0");
    }

    #[test]
    fn a_good_rule_has_no_problem() {
        let good = GOOD.split("      - alert: MoreG").next().unwrap();
        assert_eq!(
            problems(&parse(good), &small(), RUNBOOK),
            Vec::<String>::new()
        );
    }

    #[test]
    fn each_fault_is_named() {
        for (from, to, expected) in [
            ("g{", "h{", "h is not in METRICS.md"),
            ("g{k8s_ns=", "g{role=", "g has no label role"),
            (
                "(k8s_ns, port)",
                "(port)",
                "shows k8s_ns, which its grouping drops",
            ),
            ("(k8s_ns, port)", "(k8s_ns, port, role)", "the label role"),
            ("g{", "a_b_total{", "the counter a_b_total"),
            ("severity: info", "team: info", "no severity"),
            ("md#someg", "md#other", "its own section"),
            ("SomeG", "OtherG", "no section of its name"),
        ] {
            let found = problems(&parse(&GOOD.replace(from, to)), &small(), RUNBOOK);
            assert!(
                found.iter().any(|problem| problem.contains(expected)),
                "{to}: {found:?}"
            );
        }
        assert!(!problems(&[], &small(), RUNBOOK).is_empty());
    }
}
