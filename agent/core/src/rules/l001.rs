//! L001, log loss. What, why and traps are in [`RULE`].

use std::collections::BTreeMap;

use crate::finding::{Condition, Coverage, Evidence, Judge, Memory, Need, Rule, Severity};
use crate::settings::LOSS_WINDOW;
use crate::snapshot::{LogLost, LogView, Snapshot};

/// L001.
pub static RULE: Rule = Rule {
    id: "L001",
    title: "Log loss",
    category: "logs",
    what: "One condition for each container and reason for which something was lost within the last five minutes, \
           and one about the node for losses of which it is not known whose they were. What the operator asked \
           for (filters, rate limits, the longest record) is counted and is no finding.",
    why: "What was lost may be what the next incident is about, and nobody else says that it is missing.",
    severity: "medium",
    traps: &[
        "Bytes are those that are known: of a file that was truncated in place only what was seen of it, of a \
         compressed one what its end says.",
        "Of a pod that was gone before a log file of it was found only the number is known, from the kernel's cgroups; where \
         namespaces are filtered only of pods whose namespace is known.",
        "A loss is an event, so there is no grace; the finding resolves when nothing more was lost for five \
         minutes.",
    ],
    remediation: "Raise what the kubelet keeps, mend the export, or see what turned the records away; a finding \
                  says which.",
    needs: &[Need::Logs],
    memory: Memory::For(LOSS_WINDOW),
    judge: Judge::Node(judge),
};

fn judge(snapshot: &Snapshot) -> Vec<Condition> {
    all(snapshot).collect()
}

/// What the operator asked to be left out.
const ASKED_FOR: [&str; 4] = ["line_too_long", "rate_limit", "severity", "filtered"];

/// Reason, what happened, and what helps.
const REASONS: [(&str, &str, &str); 7] = [
    (
        "rotated",
        "rotated away by the kubelet before the agent could deliver them",
        "Raise containerLogMaxSize or containerLogMaxFiles of the kubelet, or lower what the container logs; and look whether \
         the collector takes what it is sent.",
    ),
    (
        "deleted",
        "deleted with their pod before the agent could deliver them",
        "Look whether the collector takes what it is sent: what a deleted pod has logged is kept for 10 minutes and 1 GiB only.",
    ),
    (
        "missed",
        "gone before a log file of theirs was found",
        "Let pods live for at least a second after their last line, or see in `plumbline status` why directories are not watched; \
         the log root must be where this node's kubelet writes.",
    ),
    (
        "truncated",
        "cut off in their file before they were read",
        "Let nothing but the kubelet rotate container logs: whoever truncates a file in place loses what was not read yet.",
    ),
    (
        "read_error",
        "in a file that cannot be read",
        "Look at the node's disk: the agent's log has the error.",
    ),
    (
        "gzip",
        "in a compressed file that is damaged",
        "Look at the node's disk: it may have been full when the kubelet compressed the file.",
    ),
    (
        "rejected",
        "turned away by the collector",
        "Look at the collector's own log: it took the request and turned some of its records away.",
    ),
];
/// What any other reason is: the collector's answer.
const EXPORT: (&str, &str) = (
    "refused by the collector",
    "Look at the collector: `plumbline status` has its last answer under EXPORT.",
);

/// What was lost of one container lately.
fn conditions(logs: &LogView) -> impl Iterator<Item = Condition> {
    logs.lost
        .iter()
        .filter(|lost| !ASKED_FOR.contains(&lost.reason.as_str()))
        .map(|lost| condition(logs, lost))
}

fn condition(logs: &LogView, lost: &LogLost) -> Condition {
    let (what, remedy) = REASONS
        .iter()
        .find(|(reason, ..)| *reason == lost.reason)
        .map_or(EXPORT, |(_, what, remedy)| (what, remedy));
    let seconds = LOSS_WINDOW.as_secs();
    let mut evidence = BTreeMap::from([
        ("reason", Evidence::Text(lost.reason.clone())),
        ("lost_bytes", Evidence::Count(lost.bytes)),
        ("lost_records", Evidence::Count(lost.records)),
        ("seconds", Evidence::Count(seconds)),
    ]);
    if lost.pods > 0 {
        evidence.insert("lost_pods", Evidence::Count(lost.pods));
    }
    Condition {
        rule: &RULE,
        severity: Severity::Medium,
        subject: logs.subject.clone(),
        key: lost.reason.clone(),
        declared: "every log record arrives at least once".into(),
        observed: format!("{} {what} in the last {seconds} s", amount(lost)),
        evidence,
        coverage: Coverage::Full,
        remediation: remedy.into(),
        patch: None,
    }
}

/// Records where they were seen as such.
fn amount(lost: &LogLost) -> String {
    match lost.pods {
        0 => {}
        1 => return "1 pod was".into(),
        pods => return format!("{pods} pods were"),
    }
    match (lost.records, lost.bytes) {
        (0, bytes) => format!("{bytes} bytes of logs were"),
        (1, bytes) => format!("1 log record ({bytes} bytes) was"),
        (records, bytes) => format!("{records} log records ({bytes} bytes) were"),
    }
}

/// What all containers lost lately.
pub(super) fn all(snapshot: &Snapshot) -> impl Iterator<Item = Condition> {
    snapshot.logs.iter().flat_map(conditions)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::finding::Subject;
    use crate::rules::testing::{in_full, logs, said, snapshot};
    use crate::snapshot::{LogLost, LogView, Snapshot};

    fn lost(reason: &str, records: u64, bytes: u64) -> LogLost {
        LogLost {
            reason: reason.into(),
            records,
            bytes,
            pods: 0,
        }
    }

    fn node(lost: Vec<LogLost>) -> Snapshot {
        let mut node = snapshot(None, vec![]);
        node.probes.retain(|probe| probe.probe != "declared");
        node.scans = 0;
        node.logs = vec![LogView { lost, ..logs() }];
        node
    }

    #[test]
    fn what_the_kubelet_took_first() {
        expect![[r#"
            L001 medium web/app rotated
            declared: every log record arrives at least once
            observed: 1000000 bytes of logs were rotated away by the kubelet before the agent could deliver them in the last 300 s
            evidence: {"lost_bytes":1000000,"lost_records":0,"reason":"rotated","seconds":300}
            coverage: Full
            remediation: Raise containerLogMaxSize or containerLogMaxFiles of the kubelet, or lower what the container logs; and look whether the collector takes what it is sent.
            no patch"#]].assert_eq(&in_full(&node(vec![lost("rotated", 0, 1_000_000)])));
    }

    #[test]
    fn what_the_collector_refused_has_its_own_words() {
        expect![[r#"
            L001 medium web/app unauthorized
            declared: every log record arrives at least once
            observed: 1 log record (90 bytes) was refused by the collector in the last 300 s
            evidence: {"lost_bytes":90,"lost_records":1,"reason":"unauthorized","seconds":300}
            coverage: Full
            remediation: Look at the collector: `plumbline status` has its last answer under EXPORT.
            no patch"#]]
        .assert_eq(&in_full(&node(vec![lost("unauthorized", 1, 90)])));
    }

    #[test]
    fn pods_that_nobody_read_are_counted_as_pods() {
        let missed = LogLost {
            reason: "missed".into(),
            pods: 2,
            ..LogLost::default()
        };
        expect![[r#"
            L001 medium web/app missed
            declared: every log record arrives at least once
            observed: 2 pods were gone before a log file of theirs was found in the last 300 s
            evidence: {"lost_bytes":0,"lost_pods":2,"lost_records":0,"reason":"missed","seconds":300}
            coverage: Full
            remediation: Let pods live for at least a second after their last line, or see in `plumbline status` why directories are not watched; the log root must be where this node's kubelet writes.
            no patch"#]].assert_eq(&in_full(&node(vec![missed])));
    }

    #[test]
    fn each_reason_is_one_finding_and_what_was_asked_for_is_none() {
        let mut node = node(vec![
            lost("deleted", 0, 5),
            lost("line_too_long", 0, 5),
            lost("rate_limit", 5, 5),
            lost("truncated", 0, 5),
        ]);
        node.logs.push(LogView {
            subject: Subject::default(),
            lost: vec![lost("deleted", 0, 7)],
            ..LogView::default()
        });
        expect![[r#"
            L001 medium node deleted
            L001 medium web/app deleted
            L001 medium web/app truncated"#]]
        .assert_eq(&said(&node));
    }
}
