//! What the reader counts, as the core is told it. Pure.

use std::collections::BTreeMap;

use plumbline_core::observation::{Fact, LogLossRow, LogRow};
use plumbline_logs::stats::{ContainerStats, Lost, Stats};

/// Losses of what was written and never read: nothing else has counted those bytes.
const UNREAD: [&str; 4] = ["rotated", "deleted", "truncated", "read_error"];

pub(super) fn of(stats: &Stats) -> Fact {
    Fact::Logs {
        rows: stats.containers.iter().map(row).collect(),
        lost: lost(&stats.lost).into_iter().chain(missed(stats)).collect(),
    }
}

/// Pods of which nothing was read.
fn missed(stats: &Stats) -> Option<LogLossRow> {
    (stats.missed_pods > 0).then(|| LogLossRow {
        reason: "missed".into(),
        pods: stats.missed_pods,
        ..LogLossRow::default()
    })
}

fn row(of: &ContainerStats) -> LogRow {
    let pod = &of.source.pod;
    let never_read = UNREAD
        .iter()
        .filter_map(|reason| of.counts.lost.get(reason))
        .map(|lost| lost.bytes);
    LogRow {
        namespace: pod.namespace.clone(),
        pod: pod.pod.clone(),
        pod_uid: pod.uid.clone(),
        container: of.source.container.clone(),
        seen_bytes: of.counts.bytes.iter().sum::<u64>() + of.unread + never_read.sum::<u64>(),
        lag_bytes: of.lag,
        retained_bytes: of.retained,
        lost: lost(&of.counts.lost),
    }
}

fn lost(lost: &BTreeMap<&'static str, Lost>) -> Vec<LogLossRow> {
    let row = |(reason, lost): (&&'static str, &Lost)| LogLossRow {
        reason: (*reason).to_owned(),
        records: lost.records,
        bytes: lost.bytes,
        pods: 0,
    };
    lost.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use plumbline_logs::source::Source;
    use plumbline_logs::stats::Counts;

    use super::*;

    #[test]
    fn what_a_container_wrote_is_what_was_read_waits_or_was_lost_unread() {
        let lost = |bytes| Lost { records: 0, bytes };
        let counts = Counts {
            records: [1, 1],
            bytes: [100, 20],
            lost: BTreeMap::from([("rotated", lost(7)), ("line_too_long", lost(3))]),
        };
        let stats = Stats {
            containers: vec![ContainerStats {
                source: Source::parse(b"shop_web_uid", b"app").unwrap(),
                counts,
                lag: 90,
                unread: 50,
                retained: 170,
            }],
            missed_pods: 2,
            ..Stats::default()
        };
        let Fact::Logs { rows, lost } = of(&stats) else {
            unreachable!("it says logs")
        };
        let names = [
            &rows[0].namespace,
            &rows[0].pod,
            &rows[0].pod_uid,
            &rows[0].container,
        ];
        assert_eq!(names, ["shop", "web", "uid", "app"]);
        assert_eq!(
            (rows[0].seen_bytes, rows[0].lag_bytes),
            (100 + 20 + 50 + 7, 90)
        );
        assert_eq!((rows[0].lost.len(), lost.len()), (2, 1));
        assert_eq!((lost[0].reason.as_str(), lost[0].pods), ("missed", 2));
    }
}
