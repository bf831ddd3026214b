//! L003, log loss is near. What, why and traps are in [`RULE`].

use std::collections::BTreeMap;

use crate::finding::{Condition, Coverage, Evidence, Judge, Memory, Need, Rule, Severity};
use crate::snapshot::{BACKLOG_PERCENT_MAX, LogView, Snapshot};

/// L003.
pub static RULE: Rule = Rule {
    id: "L003",
    title: "Log loss is near",
    category: "logs",
    what: "80 % or more of what the kubelet keeps of a container waits, and it does not become less. What it \
           keeps is `containerLogMaxSize` times `containerLogMaxFiles`, 50 MiB unless `--log-kept` says \
           otherwise, or more where more was seen on disk.",
    why: "The kubelet's files are the only buffer. What they hold divided by what the container writes is how \
          long the collector may be away; `plumbline.log.outage.budget` tells it for each container, this rule \
          when it is nearly spent.",
    severity: "medium",
    traps: &[
        "After a start, or an outage that is over, much waits and becomes less: nothing is said then.",
    ],
    remediation: "See whether the collector takes what it is sent; raise containerLogMaxSize or \
                  containerLogMaxFiles, or log less.",
    needs: &[Need::Logs],
    memory: Memory::Moment,
    judge: Judge::Node(judge),
};

fn judge(snapshot: &Snapshot) -> Vec<Condition> {
    all(snapshot).collect()
}

/// Containers whose logs wait for too long.
pub(super) fn all(snapshot: &Snapshot) -> impl Iterator<Item = Condition> {
    snapshot.logs.iter().filter_map(condition)
}

fn condition(logs: &LogView) -> Option<Condition> {
    if !logs.is_behind {
        return None;
    }
    let mut evidence = BTreeMap::from([
        ("waiting_bytes", Evidence::Count(logs.lag_bytes)),
        ("kept_bytes", Evidence::Count(logs.kept_bytes)),
        ("used_percent", Evidence::Count(logs.used_percent())),
    ]);
    let mut left = String::new();
    if let (Some(rate), Some(time)) = (logs.bytes_per_second, logs.outage_left()) {
        evidence.insert("bytes_per_second", Evidence::Count(rate));
        evidence.insert("seconds_left", Evidence::Count(time.as_secs()));
        left = format!(
            "; at {rate} bytes a second the rest is full in {} s",
            time.as_secs()
        );
    }
    Some(Condition {
        rule: &RULE,
        severity: Severity::Medium,
        subject: logs.subject.clone(),
        key: "backlog".into(),
        declared: format!(
            "less than {BACKLOG_PERCENT_MAX} % of the {} bytes that the kubelet keeps wait for the collector",
            logs.kept_bytes
        ),
        observed: format!("{} bytes wait{left}", logs.lag_bytes),
        evidence,
        coverage: Coverage::Full,
        remediation: "Mend the collector, or make it faster. Raise containerLogMaxSize or containerLogMaxFiles of the kubelet \
                      for longer outages."
            .into(),
        patch: None,
    })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::rules::testing::{in_full, logs, said, snapshot};
    use crate::snapshot::{LogView, Snapshot};

    fn node(view: LogView) -> Snapshot {
        let mut node = snapshot(None, vec![]);
        node.probes.retain(|probe| probe.probe != "declared");
        node.scans = 0;
        node.logs = vec![view];
        node
    }

    #[test]
    fn how_long_it_lasts_is_told() {
        let view = LogView {
            lag_bytes: 45 << 20,
            bytes_per_second: Some(100 << 10),
            is_behind: true,
            ..logs()
        };
        expect![[r#"
            L003 medium web/app backlog
            declared: less than 80 % of the 52428800 bytes that the kubelet keeps wait for the collector
            observed: 47185920 bytes wait; at 102400 bytes a second the rest is full in 51 s
            evidence: {"bytes_per_second":102400,"kept_bytes":52428800,"seconds_left":51,"used_percent":90,"waiting_bytes":47185920}
            coverage: Full
            remediation: Mend the collector, or make it faster. Raise containerLogMaxSize or containerLogMaxFiles of the kubelet for longer outages.
            no patch"#]].assert_eq(&in_full(&node(view)));
    }

    #[test]
    fn without_a_rate_it_is_told_all_the_same_and_without_a_backlog_it_is_not() {
        let behind = LogView {
            lag_bytes: 45 << 20,
            is_behind: true,
            ..logs()
        };
        assert_eq!(said(&node(behind)), "L003 medium web/app backlog");
        assert_eq!(said(&node(logs())), "");
    }
}
