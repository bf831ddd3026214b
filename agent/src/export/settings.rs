//! Where and how to export: the standard `OTEL_*` variables, read through a function, all problems told at once.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

mod read;

/// How often reports are sent unless `OTEL_METRIC_EXPORT_INTERVAL` says otherwise.
pub const METRIC_INTERVAL: Duration = Duration::from_mins(1);
/// Deadline of one request unless `OTEL_EXPORTER_OTLP_TIMEOUT` says otherwise.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// What is exported, where to, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportSettings {
    /// Where metrics go; `None`: nowhere.
    pub metrics: Option<Endpoint>,
    /// Where findings go, as log records; `None`: nowhere.
    pub findings: Option<Endpoint>,
    /// How often to offer a report (`OTEL_METRIC_EXPORT_INTERVAL`).
    pub metric_interval: Duration,
    /// Also put a finding's event name into an attribute `event.name`, for stores that do not keep the field.
    pub event_name_attribute: bool,
    /// Who the agent itself is.
    pub own: OwnResource,
}

/// The agent's own resource: for what it says about itself, never for what it says about pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnResource {
    /// `OTEL_SERVICE_NAME`, or `service.name` of `OTEL_RESOURCE_ATTRIBUTES`, or `plumbline`.
    pub service_name: String,
    /// The other attributes of `OTEL_RESOURCE_ATTRIBUTES`, sorted.
    pub attributes: BTreeMap<String, String>,
}

/// One collector, for one signal.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Full URL of the signal (HTTP), or scheme and authority (gRPC).
    pub url: http::Uri,
    /// How to speak to it.
    pub protocol: Protocol,
    /// Sent with each request. Values may be secrets.
    pub headers: BTreeMap<String, String>,
    /// Compress requests with gzip.
    pub gzip: bool,
    /// Deadline of one request.
    pub timeout: Duration,
    /// PEM files; read again after a failed connection.
    pub tls: TlsFiles,
}

/// PEM files of a TLS connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Authorities to trust in place of the system's.
    pub certificate: Option<PathBuf>,
    /// Our own certificate chain and key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// How OTLP travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC over HTTP/2.
    Grpc,
    /// Protobuf in HTTP/1.1 requests.
    HttpProtobuf,
}

/// One thing wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The environment variable.
    pub variable: String,
    /// What is wrong and what would be right. Never repeats a value that may be a secret.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.variable, self.message)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("url", &self.origin())
            .field("protocol", &self.protocol)
            .field(
                "headers",
                &self
                    .headers
                    .keys()
                    .map(|key| (key.as_str(), "***"))
                    .collect::<BTreeMap<_, _>>(),
            )
            .field("gzip", &self.gzip)
            .field("timeout", &self.timeout)
            .field("tls", &self.tls)
            .finish()
    }
}

impl Endpoint {
    /// Scheme, host and port: what may be shown.
    #[must_use]
    pub fn origin(&self) -> String {
        let scheme = self.url.scheme_str().unwrap_or("http");
        format!(
            "{scheme}://{}",
            self.url
                .authority()
                .map_or("", http::uri::Authority::as_str)
        )
    }

    /// The connection is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.url.scheme() == Some(&http::uri::Scheme::HTTPS)
    }
}

impl ExportSettings {
    /// Nothing is sent.
    #[must_use]
    pub fn off() -> Self {
        Self {
            metrics: None,
            findings: None,
            metric_interval: METRIC_INTERVAL,
            event_name_attribute: false,
            own: OwnResource {
                service_name: "plumbline".to_owned(),
                attributes: BTreeMap::new(),
            },
        }
    }

    /// Whether nothing is sent.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.metrics.is_none() && self.findings.is_none()
    }

    /// Reads the `OTEL_*` variables through `get`. An empty value counts as unset, as the specification says.
    ///
    /// # Errors
    ///
    /// All that is wrong, at once.
    pub fn from_env(get: impl Fn(&str) -> Option<String>) -> Result<Self, Vec<Problem>> {
        read::all(&get)
    }
}
