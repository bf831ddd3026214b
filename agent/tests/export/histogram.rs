//! Distributions against their OTLP exponential histograms.

use std::sync::Arc;

use crate::common::data::{AT, report, subject};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, ExponentialHistogramDataPoint, metric,
};
use plumbline::export::encode::{Batch, Payload, REQUEST_BYTES_MAX, encode_metrics, ended_series};
use plumbline_core::metric::CPU_USAGE_WINDOW;
use plumbline_core::report::{AttributeValue, Number, Point, Report, ResourceReport};
use plumbline_core::sketch::Sketch;
use plumbline_core::time::UnixNanos;

/// Two distributions of one metric, of 600 windows each: half idle, the rest at half a CPU, but for one at 1.7.
fn distributions() -> ResourceReport {
    let mut sketch = Sketch::default();
    (0..300).for_each(|_| sketch.add(0));
    (0..299).for_each(|_| sketch.add(50_000));
    sketch.add(170_000);
    let point = |window| Point {
        metric: &CPU_USAGE_WINDOW,
        attributes: vec![("plumbline.window", AttributeValue::Word(window))],
        value: Number::Distribution(Arc::new(sketch.clone())),
        start: Some(UnixNanos(AT.0 - 60_000_000_000)),
    };
    ResourceReport {
        subject: subject("web-1"),
        points: vec![point("100ms"), point("1s")],
    }
}

/// The points of the only metric of each request.
fn histograms(batches: &[Batch]) -> Vec<ExponentialHistogramDataPoint> {
    let mut points = Vec::new();
    for batch in batches {
        let Payload::Metrics(request) = &batch.payload else {
            panic!("{batch:?}")
        };
        let metrics = &request.resource_metrics[0].scope_metrics[0].metrics;
        let Some(metric::Data::ExponentialHistogram(histogram)) = &metrics[0].data else {
            panic!("{metrics:?}")
        };
        assert_eq!(
            histogram.aggregation_temporality,
            i32::from(AggregationTemporality::Cumulative)
        );
        points.extend(histogram.data_points.iter().cloned());
    }
    points
}

#[test]
fn a_distribution_is_an_exponential_histogram() {
    let report = report(vec![distributions()]);
    let points = histograms(&encode_metrics(&report, &[], REQUEST_BYTES_MAX));
    assert_eq!(points.len(), 2);
    let point = &points[0];
    assert_eq!(point.attributes[0].key, "plumbline.window");
    assert_eq!(point.time_unix_nano, AT.0);
    assert_eq!(point.start_time_unix_nano, AT.0 - 60_000_000_000);
    assert_eq!((point.count, point.zero_count, point.scale), (600, 300, 4));
    assert_eq!(point.zero_threshold, 1.0 / 1_024.0);
    assert!((point.sum.unwrap() - 151.2).abs() < 1e-9);
    assert_eq!((point.min, point.max), (None, Some(1.7)));
    assert_eq!((point.flags, &point.negative), (0, &None));
    // A bucket i is from 2^(i / 2^scale) to 2^((i + 1) / 2^scale): half a CPU is the upper bound of -17, and 1.7 lies
    // between 2^(12/16) and 2^(13/16).
    let buckets = point.positive.as_ref().unwrap();
    assert_eq!(buckets.offset, -17);
    let mut expected = vec![0; 30];
    (expected[0], expected[29]) = (299, 1);
    assert_eq!(buckets.bucket_counts, expected);
}

#[test]
fn requests_of_distributions_are_halved_and_ended_ones_have_no_value() {
    let report = report(vec![distributions()]);
    let halves = encode_metrics(&report, &[], 500);
    assert_eq!(
        halves.iter().map(|half| half.items).collect::<Vec<_>>(),
        [1, 1]
    );
    assert_eq!(
        histograms(&halves),
        histograms(&encode_metrics(&report, &[], REQUEST_BYTES_MAX))
    );
    let empty = Report {
        resources: Vec::new(),
        ..report.clone()
    };
    let ended = ended_series(&[Arc::new(report)], &empty);
    let last = histograms(&encode_metrics(&empty, &ended, REQUEST_BYTES_MAX));
    assert_eq!(last.len(), 2);
    assert_eq!(
        (last[0].flags, last[0].count, &last[0].positive),
        (1, 0, &None)
    );
}
