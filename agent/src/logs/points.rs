//! What the reader counts, as points of the containers' resources.

use std::collections::BTreeMap;
use std::time::Duration;

use plumbline_core::finding::Subject;
use plumbline_core::metric::{
    LOG_IO, LOG_LAG, LOG_LOST, LOG_LOST_RECORDS, LOG_OUTAGE_BUDGET, LOG_PODS_MISSED, LOG_RECORDS,
    Metric, REPORT_POINTS_CUT, attribute,
};
use plumbline_core::report::{AttributeValue, Number, Point, Report, ResourceReport};
use plumbline_core::settings::SERIES_PER_NODE_MAX;
use plumbline_core::snapshot::{LogView, Snapshot};
use plumbline_core::time::UnixNanos;
use plumbline_logs::stats::{Counts, Lost, Stats};

use super::Index;

/// Reasons that are told apart in metrics; all others are a collector's answers. `plumbline status` and findings have those.
const REASONS: [&str; 10] = [
    "deleted",
    "export",
    "filtered",
    "gzip",
    "line_too_long",
    "rate_limit",
    "read_error",
    "rotated",
    "severity",
    "truncated",
];

pub(super) fn add(report: &mut Report, stats: &Stats, index: &Index, snapshot: &Snapshot) {
    let start = UnixNanos(snapshot.origin.unix_ns);
    let budgets = budgets(snapshot);
    let points = report
        .resources
        .iter()
        .map(|resource| resource.points.len());
    let mut room = SERIES_PER_NODE_MAX.saturating_sub(points.sum());
    let mut cut = 0;
    for container in &stats.containers {
        let mut points = of_counts(&container.counts, start);
        if container.lag > 0 {
            let lag = count(container.lag);
            points.push(point(&LOG_LAG, None, lag, None));
        }
        let (pod, name) = (&container.source.pod.uid, &container.source.container);
        if let Some(budget) = budgets.get(&(pod.as_str(), name.as_str())) {
            let seconds = count(budget.as_secs());
            points.push(point(&LOG_OUTAGE_BUDGET, None, seconds, None));
        }
        let Some(left) = room.checked_sub(points.len()) else {
            cut += points.len();
            continue;
        };
        room = left;
        put(report, index.subject(&container.source), points);
    }
    note_cut(report, cut as u64);
    let mut of_node = of_lost(&stats.lost, start);
    if stats.missed_pods > 0 {
        let missed = count(stats.missed_pods);
        of_node.push(point(&LOG_PODS_MISSED, None, missed, Some(start)));
    }
    put(report, Subject::default(), of_node);
}

/// Points that found no room are counted with those of the core.
fn note_cut(report: &mut Report, cut: u64) {
    if cut == 0 {
        return;
    }
    let points = report
        .resources
        .iter_mut()
        .flat_map(|resource| &mut resource.points);
    let known = points
        .filter(|point| point.metric == &REPORT_POINTS_CUT)
        .map(|point| &mut point.value);
    for value in known {
        if let Number::Int(known) = value {
            *known = known.saturating_add(i64::try_from(cut).unwrap_or(i64::MAX));
            return;
        }
    }
    let point = point(&REPORT_POINTS_CUT, None, count(cut), None);
    put(report, Subject::default(), vec![point]);
}

/// For how long the collector may be away, by pod UID and container.
fn budgets(snapshot: &Snapshot) -> BTreeMap<(&str, &str), Duration> {
    let known = snapshot.logs.iter().filter_map(|logs: &LogView| {
        let subject = &logs.subject;
        let key = (subject.pod_uid.as_deref()?, subject.container.as_deref()?);
        Some((key, logs.outage_budget()?))
    });
    known.collect()
}

fn of_counts(counts: &Counts, start: UnixNanos) -> Vec<Point> {
    let mut points = Vec::new();
    for (stream, records, bytes) in [
        ("stdout", counts.records[0], counts.bytes[0]),
        ("stderr", counts.records[1], counts.bytes[1]),
    ] {
        if bytes > 0 {
            let stream = Some((attribute::LOG_IOSTREAM, AttributeValue::Word(stream)));
            points.push(point(&LOG_IO, stream.clone(), count(bytes), Some(start)));
            points.push(point(&LOG_RECORDS, stream, count(records), Some(start)));
        }
    }
    points.extend(of_lost(&counts.lost, start));
    points
}

fn of_lost(lost: &BTreeMap<&'static str, Lost>, start: UnixNanos) -> Vec<Point> {
    let mut by_reason: BTreeMap<&'static str, Lost> = BTreeMap::new();
    for (reason, lost) in lost {
        let reason = REASONS
            .iter()
            .find(|known| *known == reason)
            .unwrap_or(&"export");
        let sum = by_reason.entry(reason).or_default();
        sum.records += lost.records;
        sum.bytes += lost.bytes;
    }
    let mut points = Vec::new();
    for (reason, lost) in by_reason {
        let reason = Some((attribute::REASON, AttributeValue::Word(reason)));
        points.push(point(
            &LOG_LOST,
            reason.clone(),
            count(lost.bytes),
            Some(start),
        ));
        points.push(point(
            &LOG_LOST_RECORDS,
            reason,
            count(lost.records),
            Some(start),
        ));
    }
    points
}

fn point(
    metric: &'static Metric,
    attribute: Option<(&'static str, AttributeValue)>,
    value: Number,
    start: Option<UnixNanos>,
) -> Point {
    Point {
        metric,
        attributes: attribute.into_iter().collect(),
        value,
        start,
    }
}

fn count(value: u64) -> Number {
    Number::Int(i64::try_from(value).unwrap_or(i64::MAX))
}

/// Into the resource of this subject; the order of the report is kept.
fn put(report: &mut Report, subject: Subject, points: Vec<Point>) {
    if points.is_empty() {
        return;
    }
    let at = report
        .resources
        .binary_search_by(|resource| resource.subject.cmp(&subject));
    let at = at.unwrap_or_else(|at| {
        let points = Vec::new();
        report
            .resources
            .insert(at, ResourceReport { subject, points });
        at
    });
    if let Some(resource) = report.resources.get_mut(at) {
        resource.points.extend(points);
        resource
            .points
            .sort_by(|a, b| (a.metric.name, &a.attributes).cmp(&(b.metric.name, &b.attributes)));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use plumbline_core::metric::CATALOGUE;
    use plumbline_core::node::NodeState;
    use plumbline_core::settings::{CoreSettings, NodeIdentity};
    use plumbline_core::time::Timestamp;
    use plumbline_logs::source::{PodName, Source};
    use plumbline_logs::stats::ContainerStats;

    use super::*;

    fn stats() -> Stats {
        let counts = Counts {
            records: [3, 4],
            bytes: [30, 40],
            lost: BTreeMap::from([(
                "deleted",
                Lost {
                    records: 0,
                    bytes: 5,
                },
            )]),
        };
        let source = Source {
            pod: PodName {
                namespace: "shop".into(),
                pod: "web".into(),
                uid: "u".into(),
            },
            container: "app".into(),
        };
        Stats {
            containers: vec![ContainerStats {
                source,
                counts,
                lag: 7,
                unread: 3,
                retained: 100,
            }],
            lost: BTreeMap::from([(
                "rejected",
                Lost {
                    records: 2,
                    bytes: 0,
                },
            )]),
            missed_pods: 1,
            ..Stats::default()
        }
    }

    #[test]
    fn what_is_counted_leaves_under_the_names_of_the_catalogue() {
        let node = NodeIdentity::default();
        let mut report = Report {
            at: UnixNanos(9),
            node: node.clone(),
            resources: Vec::new(),
            findings: Vec::new(),
        };
        let state = NodeState::new(node.clone(), CoreSettings::default());
        let mut snapshot = state.snapshot(Timestamp(1));
        snapshot.logs = vec![LogView {
            subject: Subject {
                pod_uid: Some("u".into()),
                container: Some("app".into()),
                ..Subject::default()
            },
            kept_bytes: 600,
            bytes_per_second: Some(10),
            ..LogView::default()
        }];
        add(&mut report, &stats(), &Index::new(node), &snapshot);
        // The node comes first, as in every report.
        let pods: Vec<_> = report
            .resources
            .iter()
            .map(|resource| resource.subject.pod.clone())
            .collect();
        assert_eq!(pods, [None, Some("web".to_owned())]);
        let mut seen = BTreeSet::new();
        for point in report
            .resources
            .iter()
            .flat_map(|resource| &resource.points)
        {
            let keys: Vec<&str> = point.attributes.iter().map(|(key, _)| *key).collect();
            assert_eq!(keys, point.metric.attributes, "{point:?}");
            seen.insert(point.metric.name);
        }
        let all = CATALOGUE.iter().map(|metric| metric.name);
        let logs: BTreeSet<_> = all
            .filter(|name| name.starts_with("plumbline.log."))
            .collect();
        assert_eq!(seen, logs);
        let values: Vec<_> = report.resources[1]
            .points
            .iter()
            .map(|point| point.value.clone())
            .collect();
        let want = [40, 30, 7, 5, 0, 60, 4, 3].map(Number::Int);
        assert_eq!(values, want);
    }
}
