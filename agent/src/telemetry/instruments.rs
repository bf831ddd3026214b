//! What the agent says about itself. All instruments are observed when the SDK collects; none is updated on a hot path.

use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter};
use procfs::process::Process;

use super::SelfStats;
use crate::export::semconv as key;
use crate::export::stats::LaneStats;
use plumbline_core::snapshot::Dropped;

/// Items that never reached a request: `plumbline.dropped` has them, the exporter's own counters do not.
const NOT_EXPORTED: [&str; 4] = ["panic", "queue_full", "shutdown", "stale"];

pub(super) fn register(meter: &Meter, stats: &Arc<SelfStats>) {
    register_process(meter);
    register_losses(meter, stats);
    register_lanes(meter, stats);
}

fn register_process(meter: &Meter) {
    meter
        .f64_observable_counter("process.cpu.time")
        .with_unit("s")
        .with_description("CPU time of the agent.")
        .with_callback(|observer| {
            let Ok(stat) = Process::myself().and_then(|process| process.stat()) else {
                return;
            };
            let ticks = procfs::ticks_per_second();
            observer.observe(
                seconds(stat.utime, ticks),
                &[KeyValue::new(key::CPU_MODE, "user")],
            );
            observer.observe(
                seconds(stat.stime, ticks),
                &[KeyValue::new(key::CPU_MODE, "system")],
            );
        })
        .build();
    meter
        .i64_observable_up_down_counter("process.memory.usage")
        .with_unit("By")
        .with_description("Resident memory of the agent.")
        .with_callback(|observer| {
            let Ok(memory) = Process::myself().and_then(|process| process.statm()) else {
                return;
            };
            let bytes = memory.resident.saturating_mul(procfs::page_size());
            observer.observe(i64::try_from(bytes).unwrap_or(i64::MAX), &[]);
        })
        .build();
}

fn seconds(ticks: u64, per_second: u64) -> f64 {
    let millis = ticks.saturating_mul(1_000) / per_second.max(1);
    std::time::Duration::from_millis(millis).as_secs_f64()
}

fn register_losses(meter: &Meter, stats: &Arc<SelfStats>) {
    let of_stats = Arc::clone(stats);
    meter
        .u64_observable_counter("plumbline.dropped")
        .with_unit("{item}")
        .with_description("What bounded queues and tables of the agent lost.")
        .with_callback(move |observer| {
            of_stats.read(|values| observe_losses(observer, &values.dropped));
        })
        .build();
}

fn observe_losses(observer: &dyn AsyncInstrument<u64>, losses: &[Dropped]) {
    for loss in losses {
        let attributes = [
            KeyValue::new(key::PLACE, loss.place.clone()),
            KeyValue::new(key::REASON, loss.reason.clone()),
        ];
        observer.observe(loss.count, &attributes);
    }
}

fn register_lanes(meter: &Meter, stats: &Arc<SelfStats>) {
    let exported = [
        (
            "otel.sdk.exporter.metric_data_point.exported",
            "{data_point}",
            "metrics",
        ),
        ("otel.sdk.exporter.log.exported", "{log_record}", "findings"),
    ];
    for (name, unit, lane) in exported {
        let stats = Arc::clone(stats);
        meter
            .u64_observable_counter(name)
            .with_unit(unit)
            .with_description("Items whose export ended; those with an error type failed.")
            .with_callback(move |observer| {
                stats.read(|values| {
                    values
                        .lanes
                        .iter()
                        .filter(|one| one.lane == lane)
                        .for_each(|one| observe_exported(observer, one));
                });
            })
            .build();
    }
    let stats = Arc::clone(stats);
    meter
        .u64_observable_counter("plumbline.export.requests")
        .with_unit("{request}")
        .with_description("Requests to the collector, each attempt counted.")
        .with_callback(move |observer| {
            stats.read(|values| {
                for one in values.lanes.iter().filter(|one| one.endpoint.is_some()) {
                    for (outcome, count) in [("ok", one.requests), ("failed", one.failed)] {
                        let attributes = [
                            KeyValue::new(key::LANE, one.lane),
                            KeyValue::new(key::OUTCOME, outcome),
                        ];
                        observer.observe(count, &attributes);
                    }
                }
            });
        })
        .build();
}

fn observe_exported(observer: &dyn AsyncInstrument<u64>, lane: &LaneStats) {
    if lane.endpoint.is_none() {
        return;
    }
    let who = KeyValue::new(key::OTEL_COMPONENT_NAME, format!("plumbline/{}", lane.lane));
    let what = KeyValue::new(key::OTEL_COMPONENT_TYPE, "plumbline_otlp_exporter");
    observer.observe(lane.sent, &[who.clone(), what.clone()]);
    for (reason, count) in lane
        .dropped
        .iter()
        .filter(|(reason, _)| !NOT_EXPORTED.contains(reason))
    {
        observer.observe(
            *count,
            &[
                who.clone(),
                what.clone(),
                KeyValue::new(key::ERROR_TYPE, *reason),
            ],
        );
    }
}
