//! Real OTLP receivers on loopback, kept in `target/receivers`: fetched once, then started without network.

mod rotel;
mod victoria;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

pub(crate) use rotel::{LogRecord, Rotel};
pub(crate) use victoria::{Series, VictoriaMetrics};

use crate::shell;

/// Where the programs of receivers, and of the demo's pods, are kept.
pub(crate) fn cache() -> Result<PathBuf> {
    let dir = shell::target().join("receivers");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok(dir)
}

/// One receiver for metrics and one for log records.
pub(crate) struct Receivers {
    /// Stores metrics.
    pub(crate) metrics: VictoriaMetrics,
    /// Prints log records.
    pub(crate) logs: Rotel,
}

impl Receivers {
    /// Fetches what is missing.
    pub(crate) fn fetch() -> Result<()> {
        let cache = cache()?;
        victoria::program(&cache)?;
        rotel::program(&cache)?;
        Ok(())
    }

    /// Starts both with their state in `dir`, and waits until they answer.
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        let cache = cache()?;
        let metrics = VictoriaMetrics::start(&victoria::program(&cache)?, dir)?;
        let logs = Rotel::start(&rotel::program(&cache)?, dir)?;
        Ok(Self { metrics, logs })
    }

    /// The standard variables that send an exporter's metrics and log records here.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            (
                "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
                self.metrics.endpoint(),
            ),
            (
                "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
                "http/protobuf".into(),
            ),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", self.logs.endpoint()),
            ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "grpc".into()),
        ]
    }
}

/// A loopback address that nobody uses at this moment.
pub(crate) fn free_address() -> Result<SocketAddr> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port on loopback")?;
    listener
        .local_addr()
        .context("find a free port on loopback")
}
