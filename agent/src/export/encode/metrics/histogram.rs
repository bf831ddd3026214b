//! A distribution as a point of an OTLP exponential histogram: the sketch has its buckets already.

use opentelemetry_proto::tonic::metrics::v1::ExponentialHistogramDataPoint;
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use plumbline_core::report::{Number, Point};
use plumbline_core::sketch::{CORE_US, SCALE, ZERO_THRESHOLD_CORES};
use plumbline_core::time::UnixNanos;

use super::{Value, attributes, flags, start};

pub(super) fn data_point(
    point: &Point,
    at: UnixNanos,
    value: Value,
) -> ExponentialHistogramDataPoint {
    let empty = ExponentialHistogramDataPoint {
        attributes: attributes(point),
        start_time_unix_nano: start(point, at),
        time_unix_nano: at.0,
        scale: SCALE,
        flags: flags(false),
        ..ExponentialHistogramDataPoint::default()
    };
    let (Value::Recorded, Number::Distribution(sketch)) = (value, &point.value) else {
        return empty;
    };
    let positive = Buckets {
        offset: sketch.offset(),
        bucket_counts: sketch.counts().iter().copied().map(u64::from).collect(),
    };
    ExponentialHistogramDataPoint {
        count: sketch.count(),
        sum: Some(cores(sketch.sum_us())),
        zero_count: sketch.zero_count(),
        zero_threshold: ZERO_THRESHOLD_CORES,
        positive: Some(positive),
        max: Some(f64::from(sketch.max_us()) / f64::from(CORE_US)),
        flags: flags(true),
        ..empty
    }
}

/// CPUs in use, summed over windows.
fn cores(busy_us: u64) -> f64 {
    std::time::Duration::from_micros(busy_us).as_secs_f64() * 1e6 / f64::from(CORE_US)
}
