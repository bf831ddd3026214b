//! Container logs: how fast each container writes, what waits, and what was lost lately.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::finding::Subject;
use crate::observation::{LogLossRow, LogRow};
use crate::settings::{CONTAINERS_MAX, CoreSettings, LOSS_WINDOW};
use crate::snapshot::{BACKLOG_PERCENT_MAX, LogLost, LogView, used_percent};
use crate::time::Timestamp;

/// Between two samples of a container's counters.
const SAMPLE_EVERY: Duration = Duration::from_secs(60);
/// Minutes that are watched before a container is said to flood.
const MINUTES: usize = 10;

/// By pod UID and container name: what a log directory is named after.
pub(crate) type LogKey = (String, String);

/// The table, and losses of which it is not known whose they were.
#[derive(Clone, Debug, Default)]
pub(crate) struct Logs {
    containers: BTreeMap<LogKey, Log>,
    unattributed: Log,
    left_out: u64,
}

#[derive(Clone, Debug, Default)]
struct Log {
    row: LogRow,
    /// The most that was seen on disk.
    most_retained: u64,
    is_behind: bool,
    samples: VecDeque<Sample>,
}

#[derive(Clone, Debug)]
struct Sample {
    at: Timestamp,
    seen_bytes: u64,
    lost: Vec<LogLossRow>,
}

impl Logs {
    /// Takes over all rows. Beyond [`CONTAINERS_MAX`] rows are left out and counted.
    pub(crate) fn read(
        &mut self,
        rows: Vec<LogRow>,
        lost: Vec<LogLossRow>,
        settings: &CoreSettings,
        at: Timestamp,
    ) {
        let mut before = std::mem::take(&mut self.containers);
        for row in rows {
            if self.containers.len() >= CONTAINERS_MAX {
                self.left_out += 1;
                continue;
            }
            let key = (row.pod_uid.clone(), row.container.clone());
            let mut log = before.remove(&key).unwrap_or_default();
            log.take(row, settings, at);
            self.containers.insert(key, log);
        }
        let row = LogRow {
            lost,
            ..LogRow::default()
        };
        self.unattributed.take(row, settings, at);
    }

    /// Rows that found no place, in all readings.
    pub(crate) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// How many have a place.
    pub(crate) fn len(&self) -> usize {
        self.containers.len()
    }

    /// One view a container, sorted by subject; `subject` is what is known of it.
    pub(crate) fn views(
        &self,
        settings: &CoreSettings,
        now: Timestamp,
        subject: impl Fn(&LogRow) -> Subject,
    ) -> Vec<LogView> {
        let of = |log: &Log| log.view(subject(&log.row), settings, now);
        let mut views: Vec<LogView> = self.containers.values().map(of).collect();
        let nobody = self.unattributed.view(Subject::default(), settings, now);
        views.extend((!nobody.lost.is_empty()).then_some(nobody));
        views.sort_by(|a, b| a.subject.cmp(&b.subject));
        views
    }
}

impl Log {
    fn take(&mut self, row: LogRow, settings: &CoreSettings, at: Timestamp) {
        if self.samples.is_empty() {
            // What was lost before the first row was lost while the reader ran.
            self.samples.push_back(Sample {
                at,
                seen_bytes: row.seen_bytes,
                lost: Vec::new(),
            });
        }
        let (before, kept) = (self.row.lag_bytes, self.kept(settings));
        let is_over = |lag| used_percent(lag, kept) >= BACKLOG_PERCENT_MAX;
        // After a start there is much to read; while it becomes less that is no sign of anything.
        self.is_behind = is_over(before) && is_over(row.lag_bytes) && row.lag_bytes >= before;
        self.most_retained = self.most_retained.max(row.retained_bytes);
        self.row = row;
        let due = self
            .samples
            .back()
            .is_some_and(|last| at.since(last.at) >= SAMPLE_EVERY);
        if due {
            self.samples.push_back(Sample {
                at,
                seen_bytes: self.row.seen_bytes,
                lost: self.row.lost.clone(),
            });
            // One more than the minutes between them.
            while self.samples.len() > MINUTES + 1 {
                self.samples.pop_front();
            }
        }
    }

    fn kept(&self, settings: &CoreSettings) -> u64 {
        settings.log_kept_bytes.max(self.most_retained)
    }

    /// The oldest sample that is within the window; where only older ones are, the last of them.
    fn begin(&self, now: Timestamp) -> Option<&Sample> {
        let recent = |sample: &&Sample| now.since(sample.at) <= LOSS_WINDOW;
        self.samples.iter().find(recent).or(self.samples.back())
    }

    fn view(&self, subject: Subject, settings: &CoreSettings, now: Timestamp) -> LogView {
        LogView {
            subject,
            lag_bytes: self.row.lag_bytes,
            kept_bytes: self.kept(settings),
            bytes_per_second: self.rate(now),
            slowest_minute: self.slowest_minute(),
            is_behind: self.is_behind,
            lost: self.lost(now),
        }
    }

    fn rate(&self, now: Timestamp) -> Option<u64> {
        let begin = self.begin(now)?;
        let seconds = now.since(begin.at).as_secs();
        let seen = self.row.seen_bytes.saturating_sub(begin.seen_bytes);
        (seconds >= SAMPLE_EVERY.as_secs()).then(|| seen / seconds)
    }

    fn slowest_minute(&self) -> Option<u64> {
        if self.samples.len() <= MINUTES {
            return None;
        }
        let pairs = self.samples.iter().zip(self.samples.iter().skip(1));
        let per_minute = |(before, after): (&Sample, &Sample)| {
            let seen = after.seen_bytes.saturating_sub(before.seen_bytes);
            seen.saturating_mul(60) / after.at.since(before.at).as_secs().max(1)
        };
        pairs.map(per_minute).min()
    }

    fn lost(&self, now: Timestamp) -> Vec<LogLost> {
        let before = self.begin(now).map_or(&[][..], |begin| &begin.lost);
        let lost = self.row.lost.iter().filter_map(|row| {
            let known = before.iter().find(|known| known.reason == row.reason);
            let before = |of: fn(&LogLossRow) -> u64| known.map_or(0, of);
            let lost = LogLost {
                reason: row.reason.clone(),
                records: row.records.saturating_sub(before(|row| row.records)),
                bytes: row.bytes.saturating_sub(before(|row| row.bytes)),
                pods: row.pods.saturating_sub(before(|row| row.pods)),
            };
            (lost.records > 0 || lost.bytes > 0 || lost.pods > 0).then_some(lost)
        });
        lost.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const START: Timestamp = Timestamp(1_000_000_000);

    fn at(seconds: u64) -> Timestamp {
        START.plus(Duration::from_secs(seconds))
    }

    struct Node {
        logs: Logs,
        settings: CoreSettings,
    }

    impl Node {
        fn new() -> Self {
            Self {
                logs: Logs::default(),
                settings: CoreSettings::default(),
            }
        }

        fn read(&mut self, seconds: u64, row: LogRow) {
            self.logs
                .read(vec![row], Vec::new(), &self.settings, at(seconds));
        }

        fn view(&self, seconds: u64) -> LogView {
            let views = self
                .logs
                .views(&self.settings, at(seconds), |_| Subject::default());
            assert_eq!(views.len(), 1);
            views[0].clone()
        }
    }

    fn row(seen_bytes: u64, lag_bytes: u64) -> LogRow {
        LogRow {
            pod_uid: "u".into(),
            container: "app".into(),
            seen_bytes,
            lag_bytes,
            ..LogRow::default()
        }
    }

    fn with_loss(row: LogRow, bytes: u64) -> LogRow {
        let loss = LogLossRow {
            reason: "rotated".into(),
            records: 0,
            bytes,
            pods: 0,
        };
        LogRow {
            lost: vec![loss],
            ..row
        }
    }

    #[test]
    fn what_was_there_before_is_no_rate() {
        let mut node = Node::new();
        node.read(0, row(40 * MIB, 40 * MIB));
        node.read(10, row(40 * MIB, 0));
        assert_eq!(node.view(10).bytes_per_second, None);
        node.read(60, row(40 * MIB + 60_000, 0));
        assert_eq!(node.view(60).bytes_per_second, Some(1_000));
        let budget = node.view(60).outage_budget().unwrap();
        assert_eq!(budget.as_secs(), 50 * MIB / 1_000);
    }

    #[test]
    fn a_flood_is_what_does_not_pause_for_ten_minutes() {
        let mut node = Node::new();
        for minute in 0..=9 {
            node.read(minute * 60, row(minute * 60 * MIB, 0));
            assert_eq!(node.view(minute * 60).slowest_minute, None);
        }
        node.read(600, row(600 * MIB, 0));
        assert_eq!(node.view(600).slowest_minute, Some(60 * MIB));
        node.read(660, row(600 * MIB, 0));
        assert_eq!(node.view(660).slowest_minute, Some(0));
    }

    #[test]
    fn losses_are_told_for_a_while_and_never_twice() {
        let mut node = Node::new();
        // Lost before the first reading, by a reader that had begun before.
        node.read(0, with_loss(row(0, 0), 7));
        assert_eq!(node.view(0).lost[0].bytes, 7);
        for minute in 1..=5 {
            node.read(minute * 60, with_loss(row(0, 0), 7));
        }
        node.read(330, with_loss(row(0, 0), 9));
        assert_eq!(node.view(330).lost[0].bytes, 2);
        for minute in 6..=12 {
            node.read(minute * 60, with_loss(row(0, 0), 9));
        }
        assert_eq!(node.view(720).lost, []);
    }

    #[test]
    fn a_backlog_counts_when_it_does_not_become_less() {
        let mut node = Node::new();
        for (second, lag, want) in [
            (0, 50, false),
            (10, 45, false),
            (20, 45, true),
            (30, 46, true),
            (40, 39, false),
        ] {
            node.read(second, row(0, lag * MIB));
            assert_eq!(node.view(second).is_behind, want, "{second}");
        }
    }

    #[test]
    fn containers_are_bounded_and_forgotten() {
        let mut node = Node::new();
        let rows = |count: usize| {
            let row = |number: usize| LogRow {
                pod_uid: number.to_string(),
                ..LogRow::default()
            };
            (0..count).map(row).collect::<Vec<_>>()
        };
        let settings = CoreSettings::default();
        node.logs
            .read(rows(CONTAINERS_MAX + 3), Vec::new(), &settings, at(0));
        assert_eq!((node.logs.len(), node.logs.left_out()), (CONTAINERS_MAX, 3));
        node.logs.read(rows(1), Vec::new(), &settings, at(10));
        assert_eq!(node.logs.len(), 1);
    }

    #[test]
    fn losses_of_nobody_in_particular_are_about_the_node() {
        let mut node = Node::new();
        let lost = with_loss(row(0, 0), 5).lost;
        node.logs.read(Vec::new(), lost, &node.settings, at(0));
        let view = node.view(0);
        assert_eq!((view.subject, view.lost[0].bytes), (Subject::default(), 5));
    }
}
