//! What leaves the core: points and findings, sorted, so that equal input gives equal bytes.

mod container;
mod flows;
mod node;

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::finding::{Finding, FindingState, Subject};
use crate::metric::{Instrument, K8S_POD_CPU_TIME, Metric, REPORT_POINTS_CUT};
use crate::settings::{NodeIdentity, SERIES_PER_NODE_MAX};
use crate::sketch::Sketch;
use crate::snapshot::Snapshot;
use crate::time::{Timestamp, UnixNanos};

/// Everything there is to say at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// When.
    pub at: UnixNanos,
    /// Who this node is.
    pub node: NodeIdentity,
    /// One entry a subject (container, or the node), sorted.
    pub resources: Vec<ResourceReport>,
    /// Open findings, sorted by severity (worst first), rule, subject and key.
    pub findings: Vec<Finding>,
}

/// The points of one subject.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ResourceReport {
    /// Whom they are about.
    pub subject: Subject,
    /// Points, sorted by metric and attributes.
    pub points: Vec<Point>,
}

/// One value of one metric.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// What is measured.
    pub metric: &'static Metric,
    /// Attributes, sorted by key.
    pub attributes: Vec<(&'static str, AttributeValue)>,
    /// The value.
    pub value: Number,
    /// Zero point of a cumulative counter; absent for gauges.
    pub start: Option<UnixNanos>,
}

/// Value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(untagged)]
pub enum AttributeValue {
    /// Text.
    Text(String),
    /// Text that is part of the program.
    Word(&'static str),
    /// A whole number.
    Int(i64),
    /// Yes or no.
    Bool(bool),
}

/// A number that was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Number {
    /// A count.
    Int(i64),
    /// A measure; finite.
    Float(f64),
    /// How values are distributed.
    Distribution(Arc<Sketch>),
}

impl Point {
    /// A point as of now, its attributes in any order.
    fn new(metric: &'static Metric, value: Number, mut attributes: Vec<Attribute>) -> Self {
        attributes.sort();
        Self {
            metric,
            attributes,
            value,
            start: None,
        }
    }

    /// The zero point of a sum.
    fn since(self, start: UnixNanos) -> Self {
        Self {
            start: Some(start),
            ..self
        }
    }
}

/// Name and value of an attribute.
type Attribute = (&'static str, AttributeValue);

/// Everything there is to say about a snapshot. The order of what comes in does not change what leaves.
///
/// At most [`SERIES_PER_NODE_MAX`] points: what exceeds it is cut at the end of the sorted report and counted in
/// `plumbline.report.points.cut`. The node's own points come first, so they stay.
#[must_use]
pub fn build(snapshot: &Snapshot, findings: &[Finding]) -> Report {
    let mut points: BTreeMap<Subject, Vec<Point>> = BTreeMap::new();
    points
        .entry(Subject::default())
        .or_default()
        .extend(node::points(snapshot, findings));
    for container in &snapshot.containers {
        let of_container = points.entry(container.subject.clone()).or_default();
        of_container.extend(container::points(snapshot, container));
    }
    for pod in &snapshot.pods_cpu {
        let used = Point::new(&K8S_POD_CPU_TIME, Number::seconds(pod.usage_us), vec![]);
        points
            .entry(pod.subject.clone())
            .or_default()
            .push(used.since(unix(snapshot, pod.since)));
    }
    for flow in &snapshot.flows {
        if let Some(container) = snapshot.containers.get(flow.container) {
            points
                .entry(container.subject.clone())
                .or_default()
                .extend(flows::points(snapshot, flow));
        }
    }
    let resources = points.into_iter().map(|(subject, points)| ResourceReport {
        subject,
        points: merged(points),
    });
    Report {
        at: snapshot.wall,
        node: snapshot.node.clone(),
        resources: cut(resources.collect(), SERIES_PER_NODE_MAX),
        findings: open(findings),
    }
}

fn open(findings: &[Finding]) -> Vec<Finding> {
    let mut open: Vec<Finding> = findings
        .iter()
        .filter(|finding| finding.state == FindingState::Open)
        .cloned()
        .collect();
    open.sort_by(|a, b| {
        let key = |of: &Finding| (Reverse(of.severity), of.rule_id);
        key(a)
            .cmp(&key(b))
            .then_with(|| a.resource.cmp(&b.resource))
            .then_with(|| a.fingerprint.cmp(&b.fingerprint))
    });
    open
}

/// Sorted, and one point a series: sums of one series that came apart (peers of one name) are added up. Of a gauge the
/// highest stays.
fn merged(mut points: Vec<Point>) -> Vec<Point> {
    points.sort_by(|a, b| {
        (a.metric.name, &a.attributes)
            .cmp(&(b.metric.name, &b.attributes))
            .then_with(|| a.value.order(&b.value))
            .then_with(|| a.start.cmp(&b.start))
    });
    let mut merged: Vec<Point> = Vec::with_capacity(points.len());
    for point in points {
        match merged.last_mut() {
            Some(last) if last.metric == point.metric && last.attributes == point.attributes => {
                match point.metric.instrument {
                    Instrument::Counter | Instrument::UpDownCounter | Instrument::Histogram => {
                        last.value.add(&point.value);
                    }
                    Instrument::Gauge => last.value = point.value,
                }
                last.start = last.start.min(point.start);
            }
            _ => merged.push(point),
        }
    }
    merged
}

/// Leaves at most `max` points, of which the last says how many were left out.
fn cut(mut resources: Vec<ResourceReport>, max: usize) -> Vec<ResourceReport> {
    let all: usize = resources.iter().map(|resource| resource.points.len()).sum();
    if all > max {
        let mut room = max.saturating_sub(1);
        let excess = Number::int((all - room) as u64);
        for resource in &mut resources {
            resource.points.truncate(room);
            room -= resource.points.len();
        }
        if let Some(node) = resources.first_mut() {
            node.points
                .push(Point::new(&REPORT_POINTS_CUT, excess, Vec::new()));
            node.points = merged(std::mem::take(&mut node.points));
        }
    }
    resources.retain(|resource| !resource.points.is_empty());
    resources
}

/// Wall time of the zero point of a counter: the same in every report. After the present, as when the wall clock was set
/// back, it is the present.
fn unix(snapshot: &Snapshot, at: Timestamp) -> UnixNanos {
    snapshot.origin.unix(at).min(snapshot.wall)
}

impl Number {
    /// A count; what exceeds the range of OTLP stays at its end.
    fn int(count: u64) -> Self {
        Self::Int(i64::try_from(count).unwrap_or(i64::MAX))
    }

    /// Seconds.
    fn seconds(microseconds: u64) -> Self {
        Self::Float(Duration::from_micros(microseconds).as_secs_f64())
    }

    /// A metric has values of one kind only: those of another are not added.
    fn add(&mut self, other: &Self) {
        match (self, other) {
            (Self::Int(mine), Self::Int(theirs)) => *mine = mine.saturating_add(*theirs),
            (Self::Float(mine), Self::Float(theirs)) => *mine += theirs,
            (Self::Distribution(mine), Self::Distribution(theirs)) => {
                Arc::make_mut(mine).merge(theirs);
            }
            (Self::Int(_) | Self::Float(_) | Self::Distribution(_), _) => {}
        }
    }

    fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => a.cmp(b),
            (Self::Float(a), Self::Float(b)) => a.total_cmp(b),
            (Self::Distribution(a), Self::Distribution(b)) => {
                (a.count(), a.sum_us()).cmp(&(b.count(), b.sum_us()))
            }
            (Self::Int(_) | Self::Float(_) | Self::Distribution(_), _) => {
                self.rank().cmp(&other.rank())
            }
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Int(_) => 0,
            Self::Float(_) => 1,
            Self::Distribution(_) => 2,
        }
    }
}

#[cfg(test)]
mod tests;
