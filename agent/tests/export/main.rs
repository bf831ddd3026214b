//! The exporter against a collector in this process: what arrives, what each fault leads to, what is counted.
#![expect(clippy::unwrap_used, reason = "a test that panics gives a stack trace")]
#![expect(clippy::print_stderr, reason = "the collector's side of a failed test")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a new answer must not change old tests"
)]

#[path = "../common/mod.rs"]
mod common;

mod delivery;
mod encode;
mod faults;
mod histogram;
mod outage;
mod own;
mod proxy;
mod records;
mod slow;
mod tls;
mod wait;

use std::collections::BTreeMap;
use std::time::Duration;

use plumbline::export::Exporter;
use plumbline::export::settings::ExportSettings;
use plumbline::export::stats::LaneStats;

use common::collector::Collector;
use common::data::node;

/// Settings as an operator would give them.
fn settings(collector: &Collector, more: &[(&str, &str)]) -> ExportSettings {
    let mut variables: BTreeMap<String, String> = collector.variables().into_iter().collect();
    variables.extend(
        more.iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
    );
    ExportSettings::from_env(|name| variables.get(name).cloned()).unwrap()
}

fn start(collector: &Collector, more: &[(&str, &str)]) -> Exporter {
    Exporter::start(settings(collector, more), node()).unwrap()
}

fn metrics_stats(exporter: &Exporter) -> LaneStats {
    exporter.stats().remove(0)
}

fn findings_stats(exporter: &Exporter) -> LaneStats {
    exporter.stats().remove(1)
}

fn dropped<const N: usize>(reasons: [(&'static str, u64); N]) -> BTreeMap<&'static str, u64> {
    BTreeMap::from(reasons)
}

/// Lets `time` pass for timers, and whatever they start run.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
    tokio::time::sleep(Duration::from_millis(50)).await;
}
