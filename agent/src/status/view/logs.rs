//! Container logs in `/status`.

use std::collections::BTreeMap;

use plumbline_core::finding::Subject;
use plumbline_core::snapshot::{LogView, Snapshot};
use plumbline_logs::stats::Stats;
use serde::{Deserialize, Serialize};

use super::{count, plain, section};

/// Containers shown, those that may lose something first.
const SHOWN: usize = 20;

/// How the reader of container logs is.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct LogsStatus {
    /// Containers that have logs.
    containers: u64,
    /// Files open.
    files_open: u64,
    /// Requests without an answer.
    in_flight: u64,
    /// Bytes that were read, since the agent began.
    read_bytes: u64,
    /// Bytes that the collector has not acknowledged.
    lag_bytes: u64,
    /// A checkpoint did not check and was put aside.
    quarantined: bool,
    /// Files and directories that are not read, by reason.
    refused: BTreeMap<String, u64>,
    /// Pods that were gone before a log file of theirs was found.
    #[serde(default)]
    missed_pods: u64,
    /// What will not arrive, by reason: bytes and records.
    lost: BTreeMap<String, [u64; 2]>,
    /// Those with the least time left first.
    rows: Vec<Row>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Row {
    container: String,
    lag_bytes: u64,
    kept_bytes: u64,
    /// Absent in the first minute.
    bytes_per_second: Option<u64>,
    /// For how long the collector may be away in all; absent without a rate.
    outage_budget_seconds: Option<u64>,
}

impl LogsStatus {
    pub(super) fn new(stats: &Stats, snapshot: &Snapshot) -> Self {
        let mut lost: BTreeMap<String, [u64; 2]> = BTreeMap::new();
        let of_containers = stats.containers.iter().flat_map(|logs| &logs.counts.lost);
        for (reason, more) in of_containers.chain(&stats.lost) {
            let [bytes, records] = lost.entry((*reason).to_owned()).or_default();
            *bytes += more.bytes;
            *records += more.records;
        }
        let refused = stats.refused.iter();
        let read = stats.containers.iter().flat_map(|logs| logs.counts.bytes);
        Self {
            containers: stats.containers.len() as u64,
            files_open: stats.files_open,
            in_flight: stats.in_flight,
            read_bytes: read.sum(),
            lag_bytes: stats.containers.iter().map(|logs| logs.lag).sum(),
            quarantined: stats.quarantined,
            refused: refused
                .map(|(reason, count)| ((*reason).to_owned(), *count))
                .collect(),
            missed_pods: stats.missed_pods,
            lost,
            rows: rows(snapshot),
        }
    }

    /// For people.
    pub(super) fn show(&self, text: &mut String) {
        let yes = if self.quarantined { "yes" } else { "no" };
        let head = [
            ("containers", self.containers.to_string()),
            ("files open", self.files_open.to_string()),
            ("requests without an answer", self.in_flight.to_string()),
            ("bytes read", self.read_bytes.to_string()),
            ("bytes not acknowledged", self.lag_bytes.to_string()),
            ("checkpoint put aside", yes.to_owned()),
            ("pods missed", self.missed_pods.to_string()),
        ];
        let head = head
            .into_iter()
            .map(|(name, value)| vec![name.to_owned(), value]);
        section(text, ["LOGS", "NOW"], head);
        let refused = self.refused.iter();
        let refused = refused.map(|(reason, count)| vec![plain(reason), count.to_string()]);
        section(text, ["LOG FILES NOT READ", "COUNT"], refused);
        let lost = self.lost.iter().map(|(reason, [bytes, records])| {
            vec![plain(reason), bytes.to_string(), records.to_string()]
        });
        section(text, ["LOGS LOST", "BYTES", "RECORDS"], lost);
        let row = |row: &Row| {
            vec![
                plain(&row.container),
                row.lag_bytes.to_string(),
                row.kept_bytes.to_string(),
                count(row.bytes_per_second),
                count(row.outage_budget_seconds),
            ]
        };
        let title = ["LOGS OF", "WAITING", "KEPT", "BYTES/S", "OUTAGE BUDGET S"];
        section(text, title, self.rows.iter().map(row));
    }
}

fn rows(snapshot: &Snapshot) -> Vec<Row> {
    let mut logs: Vec<&LogView> = snapshot.logs.iter().collect();
    logs.retain(|logs| logs.subject != Subject::default());
    logs.sort_by_key(|logs| {
        let left = logs.outage_left();
        (left.is_none(), left, std::cmp::Reverse(logs.lag_bytes))
    });
    let row = |logs: &LogView| Row {
        container: name(&logs.subject),
        lag_bytes: logs.lag_bytes,
        kept_bytes: logs.kept_bytes,
        bytes_per_second: logs.bytes_per_second,
        outage_budget_seconds: logs.outage_budget().map(|time| time.as_secs()),
    };
    logs.into_iter().take(SHOWN).map(row).collect()
}

fn name(subject: &Subject) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_else(|| "-".to_owned());
    let parts = [&subject.namespace, &subject.pod, &subject.container].map(part);
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use plumbline_core::node::NodeState;
    use plumbline_core::settings::{CoreSettings, NodeIdentity};
    use plumbline_core::time::Timestamp;

    use super::*;

    fn view(pod: &str, bytes_per_second: Option<u64>) -> LogView {
        LogView {
            subject: Subject {
                namespace: Some("shop".into()),
                pod: Some(pod.into()),
                container: Some("app".into()),
                ..Subject::default()
            },
            lag_bytes: 10,
            kept_bytes: 1_010,
            bytes_per_second,
            ..LogView::default()
        }
    }

    #[test]
    fn who_may_lose_something_comes_first() {
        let state = NodeState::new(NodeIdentity::default(), CoreSettings::default());
        let mut snapshot = state.snapshot(Timestamp(1));
        snapshot.logs = vec![
            LogView::default(),
            view("quiet", None),
            view("slow", Some(1)),
            view("fast\n", Some(100)),
        ];
        let stats = Stats {
            files_open: 3,
            in_flight: 1,
            refused: BTreeMap::from([("link", 2)]),
            quarantined: true,
            ..Stats::default()
        };
        let mut text = String::new();
        LogsStatus::new(&stats, &snapshot).show(&mut text);
        expect![[r#"

            LOGS                        NOW
            containers                  0
            files open                  3
            requests without an answer  1
            bytes read                  0
            bytes not acknowledged      0
            checkpoint put aside        yes
            pods missed                 0

            LOG FILES NOT READ  COUNT
            link                2

            LOGS OF         WAITING  KEPT  BYTES/S  OUTAGE BUDGET S
            shop/fast�/app  10       1010  100      10
            shop/slow/app   10       1010  1        1010
            shop/quiet/app  10       1010  -        -
        "#]]
        .assert_eq(&text);
    }
}
