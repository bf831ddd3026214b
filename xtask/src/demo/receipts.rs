//! What arrived: each finding read back from the receivers, and the seeded deviations held against the findings. Nothing is assumed.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};

use super::{agent::Finding, scene::Seeded};
use crate::receivers::{LogRecord, Receivers, Series};

/// A finding and where it was received.
pub(super) struct Receipt {
    /// The finding as the agent gives it.
    pub(super) finding: Finding,
    /// As a log record with its fingerprint.
    pub(super) as_log: bool,
    /// In the metric that counts open findings.
    pub(super) as_metric: bool,
}

/// The findings of one moment and the receivers' answers to them.
pub(super) struct Receipts {
    /// One for each finding, in the agent's order.
    pub(super) receipts: Vec<Receipt>,
    /// What was seeded and not found.
    pub(super) missing: Vec<Seeded>,
    /// Places in `receipts` of findings that nothing was seeded for.
    pub(super) unexpected: Vec<usize>,
    /// Other rules' or places' findings that only the receivers know.
    pub(super) strangers: Vec<String>,
    /// Open connections' and closed ones' flow series in the metrics store.
    pub(super) flows: usize,
}

impl Receipts {
    /// Asks both receivers.
    pub(super) fn collect(
        findings: Vec<Finding>,
        seeded: &[Seeded],
        receivers: &Receivers,
    ) -> Result<Self> {
        let records = opened(receivers.logs.received()?);
        let counted = receivers
            .metrics
            .query("plumbline_findings_open > 0")
            .context("ask for open findings")?;
        let flows = receivers
            .metrics
            .query("plumbline_network_connections_total > 0")
            .context("ask for flows")?
            .len();
        Ok(Self::compare(findings, seeded, &records, &counted, flows))
    }

    fn compare(
        findings: Vec<Finding>,
        seeded: &[Seeded],
        records: &[LogRecord],
        counted: &[Series],
        flows: usize,
    ) -> Self {
        let missing = seeded
            .iter()
            .filter(|seeded| !findings.iter().any(|finding| finding.is(seeded)))
            .cloned()
            .collect();
        let unexpected = (0..findings.len())
            .filter(|nth| !seeded.iter().any(|seeded| findings[*nth].is(seeded)))
            .collect();
        let known: BTreeSet<&str> = findings.iter().map(Finding::fingerprint).collect();
        let strangers = records
            .iter()
            .filter(|record| !known.contains(fingerprint(record)))
            .map(describe)
            .collect();
        let receipts = findings
            .iter()
            .map(|finding| Receipt {
                finding: finding.clone(),
                as_log: records.iter().any(|record| is_of(record, finding)),
                as_metric: counted.iter().any(|series| counts(series, finding)),
            })
            .collect();
        Self {
            receipts,
            missing,
            unexpected,
            strangers,
            flows,
        }
    }

    /// Whether all that was seeded, and nothing else, was found and received everywhere.
    pub(super) fn is_complete(&self) -> bool {
        self.problems().is_empty()
    }

    /// What is not as it should be, one line each.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self
            .missing
            .iter()
            .map(|s| {
                format!(
                    "not found: {} in {}/{} container {}",
                    s.rule, s.namespace, s.workload, s.container
                )
            })
            .collect();
        let finding = |nth: &usize| &self.receipts[*nth].finding;
        problems.extend(self.unexpected.iter().map(|nth| {
            let finding = finding(nth);
            format!(
                "unexpected: {} at {}: {}",
                finding.rule(),
                finding.place(),
                finding.text("/observed")
            )
        }));
        problems.extend(
            self.strangers
                .iter()
                .map(|what| format!("received, but not open any more: {what}")),
        );
        for receipt in &self.receipts {
            let place = receipt.finding.place();
            if !receipt.as_log {
                problems.push(format!(
                    "not received as log record: {} at {place}",
                    receipt.finding.rule()
                ));
            }
            if !receipt.as_metric {
                problems.push(format!(
                    "not received as metric: {} at {place}",
                    receipt.finding.rule()
                ));
            }
        }
        if self.flows == 0 {
            problems.push("not received: any flow".into());
        }
        problems
    }
}

/// The log records of findings that opened.
fn opened(records: Vec<LogRecord>) -> Vec<LogRecord> {
    let is_open = |record: &LogRecord| {
        record
            .attributes
            .get("plumbline.finding.state")
            .is_some_and(|state| state == "open")
    };
    records
        .into_iter()
        .filter(|record| record.event == "plumbline.finding" && is_open(record))
        .collect()
}

fn fingerprint(record: &LogRecord) -> &str {
    record
        .attributes
        .get("plumbline.finding.fingerprint")
        .map_or("", String::as_str)
}

fn is_of(record: &LogRecord, finding: &Finding) -> bool {
    fingerprint(record) == finding.fingerprint()
        && record
            .attributes
            .get("security_rule.name")
            .is_some_and(|rule| rule == finding.rule())
        && record
            .resource
            .get("k8s.pod.name")
            .map_or("", String::as_str)
            == finding.text("/resource/pod")
}

fn counts(series: &Series, finding: &Finding) -> bool {
    series.label("security_rule_name") == finding.rule()
        && series.label("k8s_namespace_name") == finding.text("/resource/namespace")
}

fn describe(record: &LogRecord) -> String {
    let resource = |name: &str| record.resource.get(name).map_or("", String::as_str);
    let rule = record
        .attributes
        .get("security_rule.name")
        .map_or("", String::as_str);
    format!(
        "{rule} at {}/{}/{}",
        resource("k8s.namespace.name"),
        resource("k8s.pod.name"),
        resource("k8s.container.name")
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::{Finding, LogRecord, Receipts, Seeded, Series};

    const SEEDED: Seeded = Seeded {
        rule: "P001",
        namespace: "shop",
        workload: "web",
        container: "nginx",
        port: Some(6060),
    };

    fn finding() -> Finding {
        let resource = json!({ "namespace": "shop", "owner": { "name": "web" }, "pod": "web-1", "container": "nginx" });
        Finding(
            json!({ "rule_id": "P001", "fingerprint": "f1", "resource": resource, "evidence": { "port": 6060 } }),
        )
    }

    fn record(fingerprint: &str) -> LogRecord {
        let text = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect::<BTreeMap<_, _>>()
        };
        LogRecord {
            resource: text(&[("k8s.namespace.name", "shop"), ("k8s.pod.name", "web-1")]),
            event: "plumbline.finding".into(),
            attributes: text(&[
                ("security_rule.name", "P001"),
                ("plumbline.finding.fingerprint", fingerprint),
            ]),
        }
    }

    fn series() -> Series {
        serde_json::from_value(json!({ "metric": { "security_rule_name": "P001", "k8s_namespace_name": "shop" }, "value": [1.0, "1"] })).unwrap()
    }

    #[test]
    fn complete_only_with_every_receipt() {
        let problems = |findings: &[Finding], records: &[LogRecord], counted: &[Series], flows| {
            Receipts::compare(findings.to_vec(), &[SEEDED], records, counted, flows).problems()
        };
        let all = problems(&[finding()], &[record("f1")], &[series()], 2);
        assert!(all.is_empty(), "{all:?}");
        assert_eq!(
            problems(&[], &[], &[], 2),
            ["not found: P001 in shop/web container nginx"]
        );
        assert_eq!(
            problems(&[finding()], &[], &[series()], 2),
            ["not received as log record: P001 at shop/web-1/nginx"]
        );
        assert_eq!(
            problems(&[finding()], &[record("f1")], &[], 2),
            ["not received as metric: P001 at shop/web-1/nginx"]
        );
        assert_eq!(
            problems(&[finding()], &[record("f1")], &[series()], 0),
            ["not received: any flow"]
        );
        let stranger = problems(&[finding()], &[record("f1"), record("f2")], &[series()], 2);
        assert_eq!(
            stranger,
            ["received, but not open any more: P001 at shop/web-1/"]
        );
    }

    #[test]
    fn a_finding_too_many_is_a_problem() {
        let mut other = finding();
        other.0["evidence"]["port"] = json!(9);
        other.0["observed"] = json!("tcp/9 listens");
        let receipts = Receipts::compare(
            vec![finding(), other],
            &[SEEDED],
            &[record("f1")],
            &[series()],
            1,
        );
        assert_eq!(
            receipts.problems(),
            ["unexpected: P001 at shop/web-1/nginx: tcp/9 listens"]
        );
    }
}
