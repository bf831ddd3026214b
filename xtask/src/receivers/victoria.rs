//! VictoriaMetrics of Debian's trixie: takes OTLP metrics over HTTP and answers PromQL.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::free_address;
use crate::{debian::Bundle, http, process::Daemon};

/// How long it may take to answer.
const START_PATIENCE: Duration = Duration::from_secs(30);

const PACKAGE: Bundle = Bundle {
    name: "victoria-metrics",
    suite: "trixie",
    packages: &["victoria-metrics=1.112.*"],
    files: &["usr/bin/victoria-metrics"],
};

/// Its program below `cache`, fetched if missing.
pub(super) fn program(cache: &Path) -> Result<PathBuf> {
    Ok(PACKAGE.ensure(cache)?.join(PACKAGE.files[0]))
}

/// A store that runs.
pub(crate) struct VictoriaMetrics {
    /// Stops it when dropped.
    _daemon: Daemon,
    address: SocketAddr,
}

/// One series of a query's answer.
#[derive(Debug, Deserialize)]
pub(crate) struct Series {
    /// Its labels; the name is `__name__`.
    #[serde(rename = "metric")]
    pub(crate) labels: std::collections::BTreeMap<String, String>,
    value: (f64, String),
}

impl Series {
    /// Its value; NaN is not a number here either.
    pub(crate) fn value(&self) -> Option<f64> {
        self.value.1.parse().ok()
    }

    /// A label, empty if absent.
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

impl VictoriaMetrics {
    pub(super) fn start(program: &Path, dir: &Path) -> Result<Self> {
        let address = free_address()?;
        let mut command = Command::new(program);
        command.arg(format!(
            "-storageDataPath={}",
            dir.join("metrics").display()
        ));
        command.arg(format!("-httpListenAddr={address}"));
        // Samples are to be seen at once, not after the default 30 s.
        command.args([
            "-opentelemetry.usePrometheusNaming",
            "-search.latencyOffset=0s",
            "-search.disableCache",
        ]);
        let mut daemon = Daemon::start(
            "VictoriaMetrics",
            &mut command,
            &dir.join("victoria-metrics.log"),
        )?;
        daemon.wait_for("answering", START_PATIENCE, || {
            http::get(address, "/health").ok()
        })?;
        Ok(Self {
            _daemon: daemon,
            address,
        })
    }

    /// Where a person can look.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it takes OTLP metrics.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}/opentelemetry/v1/metrics", self.address)
    }

    /// What a PromQL expression gives now.
    pub(crate) fn query(&self, expression: &str) -> Result<Vec<Series>> {
        #[derive(Deserialize)]
        struct Answer {
            data: Data,
        }
        #[derive(Deserialize)]
        struct Data {
            result: Vec<Series>,
        }
        http::get(self.address, "/internal/force_flush")?;
        let text = http::get(
            self.address,
            &format!("/api/v1/query?query={}", http::query_value(expression)),
        )?;
        let answer: Answer = serde_json::from_str(&text)
            .with_context(|| format!("answer to {expression}: {text}"))?;
        Ok(answer.data.result)
    }
}
