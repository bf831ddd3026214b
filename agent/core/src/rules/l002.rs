//! L002, log flood. What, why and traps are in [`RULE`].

use std::collections::BTreeMap;
use std::time::Duration;

use crate::finding::{Condition, Coverage, Evidence, Judge, Memory, Need, Rule, Severity};
use crate::snapshot::{LogView, Snapshot};

/// L002.
pub static RULE: Rule = Rule {
    id: "L002",
    title: "Log flood",
    category: "logs",
    what: "A container that wrote more than the bound (30 MiB a minute unless `--log-flood` says otherwise) in \
           each of the last ten minutes. At that rate the kubelet's default keeps less than two minutes.",
    why: "Its own logs, and those who read them, suffer: the kubelet keeps less than two minutes of it.",
    severity: "low",
    traps: &[
        "A burst is no flood, however high: a start, a batch job, a stack trace of many.",
        "What was on disk when the agent began counts for no minute.",
    ],
    remediation: "Lower the log level, or ship less of the container.",
    needs: &[Need::Logs],
    memory: Memory::For(Duration::from_secs(600)),
    judge: Judge::Node(judge),
};

fn judge(snapshot: &Snapshot) -> Vec<Condition> {
    all(snapshot).collect()
}

const MIB: u64 = 1 << 20;

/// Containers that write too much.
pub(super) fn all(snapshot: &Snapshot) -> impl Iterator<Item = Condition> {
    let bound = snapshot.settings.log_flood_bytes;
    snapshot
        .logs
        .iter()
        .filter_map(move |logs| condition(logs, bound))
}

fn condition(logs: &LogView, bound: u64) -> Option<Condition> {
    let minute = logs.slowest_minute.filter(|minute| *minute > bound)?;
    let mut evidence = BTreeMap::from([
        ("bytes_per_minute", Evidence::Count(minute)),
        ("bound_bytes_per_minute", Evidence::Count(bound)),
    ]);
    if let Some(budget) = logs.outage_budget() {
        evidence.insert("outage_budget_seconds", Evidence::Count(budget.as_secs()));
    }
    Some(Condition {
        rule: &RULE,
        severity: Severity::Low,
        subject: logs.subject.clone(),
        key: "flood".into(),
        declared: format!("at most {} MiB of logs a minute", bound / MIB),
        observed: format!(
            "at least {} MiB in each of the last 10 minutes",
            minute / MIB
        ),
        evidence,
        coverage: Coverage::Full,
        remediation: "Lower the container's log level, or sample what it logs for each request."
            .into(),
        patch: None,
    })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::MIB;
    use crate::rules::testing::{in_full, logs, said, snapshot};
    use crate::snapshot::{LogView, Snapshot};

    fn node(slowest_minute: Option<u64>) -> Snapshot {
        let mut node = snapshot(None, vec![]);
        node.probes.retain(|probe| probe.probe != "declared");
        node.scans = 0;
        node.logs = vec![LogView {
            slowest_minute,
            bytes_per_second: Some(MIB),
            ..logs()
        }];
        node
    }

    #[test]
    fn at_the_bound_is_no_flood() {
        assert_eq!(said(&node(Some(30 * MIB))), "");
        assert_eq!(said(&node(None)), "");
        expect![[r#"
            L002 low web/app flood
            declared: at most 30 MiB of logs a minute
            observed: at least 31 MiB in each of the last 10 minutes
            evidence: {"bound_bytes_per_minute":31457280,"bytes_per_minute":32505856,"outage_budget_seconds":50}
            coverage: Full
            remediation: Lower the container's log level, or sample what it logs for each request.
            no patch"#]].assert_eq(&in_full(&node(Some(31 * MIB))));
    }

    #[test]
    fn the_bound_is_the_operators() {
        let mut node = node(Some(31 * MIB));
        node.settings.log_flood_bytes = 40 * MIB;
        assert_eq!(said(&node), "");
    }
}
