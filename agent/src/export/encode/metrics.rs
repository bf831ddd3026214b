//! A report as OTLP metrics, and the last points of series that ended.

mod histogram;

use std::collections::BTreeSet;
use std::sync::Arc;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, DataPointFlags, ExponentialHistogram, Gauge, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum, metric, number_data_point,
};
use plumbline_core::finding::Subject;
use plumbline_core::metric::Instrument;
use plumbline_core::report::{AttributeValue, Number, Point, Report, ResourceReport};
use plumbline_core::settings::NodeIdentity;
use plumbline_core::time::UnixNanos;

use super::resource::resource;
use super::{Batch, Halved, Payload, halve_list, pair, scope, text};
use crate::export::semconv::SCHEMA_URL;

/// A last point is dated this much before the report: where the store does not keep the container's id, the successor
/// of a restarted container is the same series, and its value must come after the end of the old one.
const END_BEFORE_NS: u64 = 1_000_000;

/// The requests that carry `report`, each within `bytes_max`, preceded by last points for the series of `ended`.
#[must_use]
pub fn encode_metrics(report: &Report, ended: &[ResourceReport], bytes_max: usize) -> Vec<Batch> {
    let end = UnixNanos(report.at.0.saturating_sub(END_BEFORE_NS));
    let last = ended
        .iter()
        .map(|gone| resource_metrics(gone, &report.node, end, Value::NoRecorded));
    let live = report
        .resources
        .iter()
        .map(|one| resource_metrics(one, &report.node, report.at, Value::Recorded));
    let resource_metrics = last
        .chain(live)
        .filter(|one| one.scope_metrics.iter().any(|s| !s.metrics.is_empty()));
    let request = ExportMetricsServiceRequest {
        resource_metrics: resource_metrics.collect(),
    };
    Batch::new(Payload::Metrics(request)).within(bytes_max)
}

/// The series of `sent` that `current` no longer has. A series is a subject, a metric and its attributes.
#[must_use]
pub fn ended_series(sent: &[Arc<Report>], current: &Report) -> Vec<ResourceReport> {
    let mut known: BTreeSet<Series<'_>> = current.resources.iter().flat_map(series_of).collect();
    let mut ended = Vec::new();
    for resource in sent.iter().flat_map(|report| &report.resources) {
        let mut points = Vec::new();
        for point in &resource.points {
            if known.insert(series(resource, point)) {
                points.push(point.clone());
            }
        }
        if !points.is_empty() {
            ended.push(ResourceReport {
                subject: resource.subject.clone(),
                points,
            });
        }
    }
    ended
}

type Series<'a> = (
    &'a Subject,
    &'static str,
    &'a [(&'static str, AttributeValue)],
);

fn series<'a>(resource: &'a ResourceReport, point: &'a Point) -> Series<'a> {
    (&resource.subject, point.metric.name, &point.attributes)
}

fn series_of(resource: &ResourceReport) -> impl Iterator<Item = Series<'_>> {
    resource
        .points
        .iter()
        .map(move |point| series(resource, point))
}

/// Whether points carry their value, or say that there is none any more.
#[derive(Clone, Copy)]
enum Value {
    Recorded,
    NoRecorded,
}

fn resource_metrics(
    one: &ResourceReport,
    node: &NodeIdentity,
    at: UnixNanos,
    value: Value,
) -> ResourceMetrics {
    let metrics = one
        .points
        .chunk_by(|a, b| a.metric.name == b.metric.name)
        .map(|points| metric_of(points, at, value))
        .collect();
    ResourceMetrics {
        resource: Some(resource(&one.subject, node)),
        scope_metrics: vec![ScopeMetrics {
            scope: Some(scope(&node.agent_version)),
            metrics,
            schema_url: SCHEMA_URL.to_owned(),
        }],
        schema_url: SCHEMA_URL.to_owned(),
    }
}

/// `points` has at least one, all of one metric.
fn metric_of(points: &[Point], at: UnixNanos, value: Value) -> Metric {
    let meta = points[0].metric;
    let numbers = || {
        points
            .iter()
            .map(|point| data_point(point, at, value))
            .collect()
    };
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    let sum = |data_points, is_monotonic| {
        metric::Data::Sum(Sum {
            data_points,
            aggregation_temporality,
            is_monotonic,
        })
    };
    let data = match meta.instrument {
        Instrument::Counter => sum(numbers(), true),
        Instrument::UpDownCounter => sum(numbers(), false),
        Instrument::Gauge => metric::Data::Gauge(Gauge {
            data_points: numbers(),
        }),
        Instrument::Histogram => metric::Data::ExponentialHistogram(ExponentialHistogram {
            data_points: points
                .iter()
                .map(|point| histogram::data_point(point, at, value))
                .collect(),
            aggregation_temporality,
        }),
    };
    Metric {
        name: meta.name.to_owned(),
        description: meta.description.to_owned(),
        unit: meta.unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

fn data_point(point: &Point, at: UnixNanos, value: Value) -> NumberDataPoint {
    let number = match &point.value {
        Number::Int(value) => Some(number_data_point::Value::AsInt(*value)),
        Number::Float(value) => Some(number_data_point::Value::AsDouble(*value)),
        // A metric of this kind has numbers only.
        Number::Distribution(_) => None,
    };
    let value = match value {
        Value::Recorded => number,
        Value::NoRecorded => None,
    };
    NumberDataPoint {
        attributes: attributes(point),
        start_time_unix_nano: start(point, at),
        time_unix_nano: at.0,
        flags: flags(value.is_some()),
        value,
        ..NumberDataPoint::default()
    }
}

fn attributes(point: &Point) -> Vec<KeyValue> {
    point
        .attributes
        .iter()
        .map(|(key, value)| attribute(key, value))
        .collect()
}

fn start(point: &Point, at: UnixNanos) -> u64 {
    point.start.map_or(0, |start| start.0.min(at.0))
}

fn flags(recorded: bool) -> u32 {
    let flags = if recorded {
        DataPointFlags::DoNotUse
    } else {
        DataPointFlags::NoRecordedValueMask
    };
    u32::try_from(i32::from(flags)).unwrap_or(0)
}

fn attribute(key: &'static str, value: &AttributeValue) -> KeyValue {
    let value = match value {
        AttributeValue::Text(value) => text(value),
        AttributeValue::Word(value) => text(value),
        AttributeValue::Int(value) => any_value::Value::IntValue(*value),
        AttributeValue::Bool(value) => any_value::Value::BoolValue(*value),
    };
    pair(key, value)
}

pub(super) fn count_points(request: &ExportMetricsServiceRequest) -> u64 {
    let metrics = request
        .resource_metrics
        .iter()
        .flat_map(|one| &one.scope_metrics)
        .flat_map(|one| &one.metrics);
    metrics.map(|metric| points_in(metric) as u64).sum()
}

fn points_in(metric: &Metric) -> usize {
    match metric.data.as_ref() {
        Some(metric::Data::Gauge(gauge)) => gauge.data_points.len(),
        Some(metric::Data::Sum(sum)) => sum.data_points.len(),
        Some(metric::Data::ExponentialHistogram(histogram)) => histogram.data_points.len(),
        Some(metric::Data::Histogram(_) | metric::Data::Summary(_)) | None => 0,
    }
}

/// Takes the second half of the points away; `None` when there are less than two.
fn halve_points(metric: &mut Metric) -> Option<Metric> {
    if points_in(metric) < 2 {
        return None;
    }
    let mut second = metric.clone();
    match (metric.data.as_mut()?, second.data.as_mut()?) {
        (metric::Data::Gauge(first), metric::Data::Gauge(second)) => {
            second.data_points = halve_list(&mut first.data_points);
        }
        (metric::Data::Sum(first), metric::Data::Sum(second)) => {
            second.data_points = halve_list(&mut first.data_points);
        }
        (metric::Data::ExponentialHistogram(first), metric::Data::ExponentialHistogram(second)) => {
            second.data_points = halve_list(&mut first.data_points)
        }
        _ => return None,
    }
    Some(second)
}

type Halves = Result<(ExportMetricsServiceRequest, ExportMetricsServiceRequest), Halved>;

/// In halves by resource, else by metric, else by point. Each resource has one scope, as made above.
pub(super) fn halve(mut request: ExportMetricsServiceRequest) -> Halves {
    if request.resource_metrics.len() > 1 {
        let resource_metrics = halve_list(&mut request.resource_metrics);
        return Ok((request, ExportMetricsServiceRequest { resource_metrics }));
    }
    match halve_metrics(&mut request) {
        Some(second) => Ok((request, second)),
        None => Err(Halved::Metrics(request)),
    }
}

fn halve_metrics(request: &mut ExportMetricsServiceRequest) -> Option<ExportMetricsServiceRequest> {
    let one = request.resource_metrics.first_mut()?;
    let scope_metrics = one.scope_metrics.first_mut()?;
    let metrics = if scope_metrics.metrics.len() > 1 {
        halve_list(&mut scope_metrics.metrics)
    } else {
        vec![halve_points(scope_metrics.metrics.first_mut()?)?]
    };
    let second = ResourceMetrics {
        resource: one.resource.clone(),
        schema_url: one.schema_url.clone(),
        scope_metrics: vec![ScopeMetrics {
            scope: scope_metrics.scope.clone(),
            schema_url: scope_metrics.schema_url.clone(),
            metrics,
        }],
    };
    Some(ExportMetricsServiceRequest {
        resource_metrics: vec![second],
    })
}
