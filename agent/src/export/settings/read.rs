//! From variables to settings. Pure but for the function that gives a variable's value.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};
use percent_encoding::percent_decode_str;

use super::{
    Endpoint, ExportSettings, METRIC_INTERVAL, OwnResource, Problem, Protocol, REQUEST_TIMEOUT,
    TlsFiles,
};

/// Headers that the protocol itself writes.
const OWN_HEADERS: [&str; 9] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "grpc-encoding",
    "grpc-timeout",
    "host",
    "te",
    "transfer-encoding",
];
/// Cloud metadata services: never a collector, and the usual aim of a forged endpoint.
const METADATA_HOSTS: [&str; 4] = [
    "169.254.169.254",
    "[fd00:ec2::254]",
    "metadata.google.internal",
    "100.100.100.200",
];

type Get<'a> = &'a dyn Fn(&str) -> Option<String>;

struct Reader<'a> {
    get: Get<'a>,
    problems: Vec<Problem>,
}

/// A signal, by the words in which its variables and paths name it.
struct Signal {
    word: &'static str,
    path: &'static str,
}

const METRICS: Signal = Signal {
    word: "METRICS",
    path: "v1/metrics",
};
const LOGS: Signal = Signal {
    word: "LOGS",
    path: "v1/logs",
};

pub(super) fn all(get: Get<'_>) -> Result<ExportSettings, Vec<Problem>> {
    let mut reader = Reader {
        get,
        problems: Vec::new(),
    };
    let disabled = reader.flag("OTEL_SDK_DISABLED").unwrap_or(false);
    reader.temporality();
    let settings = ExportSettings {
        metrics: reader.endpoint(&METRICS).filter(|_| !disabled),
        findings: reader.endpoint(&LOGS).filter(|_| !disabled),
        metric_interval: reader.interval(),
        event_name_attribute: reader
            .flag("PLUMBLINE_EVENT_NAME_ATTRIBUTE")
            .unwrap_or(false),
        own: reader.own_resource(),
    };
    let mut problems = reader.problems;
    if problems.is_empty() {
        return Ok(settings);
    }
    // A variable of both signals is read twice.
    problems.sort_by(|a, b| (&a.variable, &a.message).cmp(&(&b.variable, &b.message)));
    problems.dedup();
    Err(problems)
}

impl Reader<'_> {
    fn value(&self, variable: &str) -> Option<String> {
        (self.get)(variable)
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
    }

    /// The signal's own variable, else that of all signals; with the name of the one that is set.
    fn of_signal(&self, signal: &Signal, what: &str) -> Option<(String, String)> {
        let own = format!("OTEL_EXPORTER_OTLP_{}_{what}", signal.word);
        let shared = format!("OTEL_EXPORTER_OTLP_{what}");
        [own, shared]
            .into_iter()
            .find_map(|variable| self.value(&variable).map(|value| (variable, value)))
    }

    fn problem(&mut self, variable: &str, message: impl Into<String>) {
        self.problems.push(Problem {
            variable: variable.to_owned(),
            message: message.into(),
        });
    }

    fn flag(&mut self, variable: &str) -> Option<bool> {
        let value = self.value(variable)?;
        self.boolean(variable, &value)
    }

    fn boolean(&mut self, variable: &str, value: &str) -> Option<bool> {
        match value.to_ascii_lowercase().as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => {
                self.problem(variable, "must be true or false");
                None
            }
        }
    }

    fn endpoint(&mut self, signal: &Signal) -> Option<Endpoint> {
        if self.exporter_is_none(signal) {
            return None;
        }
        let protocol = self.protocol(signal);
        let endpoint = Endpoint {
            url: Uri::default(),
            protocol,
            headers: self.headers(signal, protocol),
            gzip: self.gzip(signal),
            timeout: self.timeout(signal),
            tls: self.tls(signal),
        };
        let insecure = self.insecure(signal);
        let url = self.url(signal, protocol, insecure)?;
        Some(Endpoint { url, ..endpoint })
    }

    /// `OTEL_METRICS_EXPORTER`, `OTEL_LOGS_EXPORTER`.
    fn exporter_is_none(&mut self, signal: &Signal) -> bool {
        let variable = format!("OTEL_{}_EXPORTER", signal.word);
        match self.value(&variable).as_deref() {
            None | Some("otlp") => false,
            Some("none") => true,
            Some(_) => {
                self.problem(
                    &variable,
                    "must be otlp or none: there is no other exporter",
                );
                false
            }
        }
    }

    fn url(&mut self, signal: &Signal, protocol: Protocol, insecure: bool) -> Option<Uri> {
        let (variable, value) = self.of_signal(signal, "ENDPOINT")?;
        let is_shared = variable == "OTEL_EXPORTER_OTLP_ENDPOINT";
        let url = match protocol {
            Protocol::Grpc => grpc_url(&value, insecure),
            Protocol::HttpProtobuf => http_url(&value, is_shared.then_some(signal.path)),
        };
        match url {
            Ok(url) => Some(url),
            Err(message) => {
                self.problem(&variable, message);
                None
            }
        }
    }

    fn protocol(&mut self, signal: &Signal) -> Protocol {
        let Some((variable, value)) = self.of_signal(signal, "PROTOCOL") else {
            return Protocol::HttpProtobuf;
        };
        match value.to_ascii_lowercase().as_str() {
            "grpc" => return Protocol::Grpc,
            "http/protobuf" => {}
            _ => self.problem(
                &variable,
                "must be grpc or http/protobuf (http/json is not supported)",
            ),
        }
        Protocol::HttpProtobuf
    }

    fn insecure(&mut self, signal: &Signal) -> bool {
        let Some((variable, value)) = self.of_signal(signal, "INSECURE") else {
            return false;
        };
        self.boolean(&variable, &value).unwrap_or(false)
    }

    fn gzip(&mut self, signal: &Signal) -> bool {
        let Some((variable, value)) = self.of_signal(signal, "COMPRESSION") else {
            return true;
        };
        match value.to_ascii_lowercase().as_str() {
            "gzip" => true,
            "none" => false,
            _ => {
                self.problem(&variable, "must be gzip or none");
                true
            }
        }
    }

    fn timeout(&mut self, signal: &Signal) -> Duration {
        let Some((variable, value)) = self.of_signal(signal, "TIMEOUT") else {
            return REQUEST_TIMEOUT;
        };
        self.millis(&variable, &value, 1..=300_000)
            .unwrap_or(REQUEST_TIMEOUT)
    }

    fn interval(&mut self) -> Duration {
        let variable = "OTEL_METRIC_EXPORT_INTERVAL";
        let Some(value) = self.value(variable) else {
            return METRIC_INTERVAL;
        };
        self.millis(variable, &value, 1_000..=3_600_000)
            .unwrap_or(METRIC_INTERVAL)
    }

    fn millis(
        &mut self,
        variable: &str,
        value: &str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Option<Duration> {
        match value.parse::<u64>() {
            Ok(millis) if range.contains(&millis) => Some(Duration::from_millis(millis)),
            _ => {
                let (low, high) = (range.start(), range.end());
                self.problem(
                    variable,
                    format!("must be a whole number of milliseconds from {low} to {high}"),
                );
                None
            }
        }
    }

    fn tls(&mut self, signal: &Signal) -> TlsFiles {
        let path = |what| {
            self.of_signal(signal, what)
                .map(|(_, value)| PathBuf::from(value))
        };
        let certificate = path("CERTIFICATE");
        let client = match (path("CLIENT_CERTIFICATE"), path("CLIENT_KEY")) {
            (Some(chain), Some(key)) => Some((chain, key)),
            (None, None) => None,
            (Some(_), None) => {
                self.problem(
                    "OTEL_EXPORTER_OTLP_CLIENT_KEY",
                    "must be set too when a client certificate is",
                );
                None
            }
            (None, Some(_)) => {
                self.problem(
                    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
                    "must be set too when a client key is",
                );
                None
            }
        };
        TlsFiles {
            certificate,
            client,
        }
    }

    fn headers(&mut self, signal: &Signal, protocol: Protocol) -> BTreeMap<String, String> {
        let Some((variable, value)) = self.of_signal(signal, "HEADERS") else {
            return BTreeMap::new();
        };
        let mut headers = BTreeMap::new();
        for (index, one) in value
            .split(',')
            .enumerate()
            .filter(|(_, one)| !one.trim().is_empty())
        {
            match header(one, protocol) {
                Ok((name, value)) => drop(headers.insert(name, value)),
                // By number: the text may be a secret.
                Err(message) => self.problem(&variable, format!("entry {}: {message}", index + 1)),
            }
        }
        headers
    }

    fn temporality(&mut self) {
        let variable = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        let value = self.value(variable).map(|value| value.to_ascii_lowercase());
        if value.is_some_and(|value| value != "cumulative") {
            self.problem(
                variable,
                "only cumulative is supported: let the collector turn it into deltas",
            );
        }
    }

    fn own_resource(&mut self) -> OwnResource {
        let variable = "OTEL_RESOURCE_ATTRIBUTES";
        let value = self.value(variable).unwrap_or_default();
        let mut attributes = BTreeMap::new();
        for one in value.split(',').filter(|one| !one.trim().is_empty()) {
            match key_value(one) {
                Ok((key, value)) => drop(attributes.insert(key, value)),
                Err(message) => self.problem(variable, format!("`{}`: {message}", one.trim())),
            }
        }
        let of_attributes = attributes.remove("service.name");
        let service_name = self
            .value("OTEL_SERVICE_NAME")
            .or(of_attributes)
            .unwrap_or("plumbline".to_owned());
        OwnResource {
            service_name,
            attributes,
        }
    }
}

/// `key=value`, the value percent-encoded.
fn key_value(one: &str) -> Result<(String, String), &'static str> {
    let (key, value) = one.split_once('=').ok_or("must be key=value")?;
    let key = key.trim();
    if key.is_empty() {
        return Err("has no key before the =");
    }
    let value = percent_decode_str(value.trim()).decode_utf8();
    let value = value.map_err(|_not_utf8| "is not UTF-8 after percent-decoding")?;
    Ok((key.to_owned(), value.into_owned()))
}

fn header(one: &str, protocol: Protocol) -> Result<(String, String), &'static str> {
    let (name, value) = key_value(one)?;
    let name = HeaderName::try_from(name).map_err(|_invalid| "is not a valid header name")?;
    if OWN_HEADERS.contains(&name.as_str()) {
        return Err("names a header that the protocol itself sets");
    }
    if protocol == Protocol::Grpc && name.as_str().ends_with("-bin") {
        return Err("names a binary gRPC header, which is not supported");
    }
    HeaderValue::try_from(&value)
        .map_err(|_invalid| "has a value with characters that a header cannot carry")?;
    Ok((name.as_str().to_owned(), value))
}

/// With scheme and authority, checked. The value is never repeated: it may hold a password.
fn parse_url(value: &str) -> Result<Uri, String> {
    let scheme = value
        .split_once("://")
        .map_or("", |(scheme, _)| scheme)
        .to_ascii_lowercase();
    if scheme != "http" && scheme != "https" {
        return Err("must begin with http:// or https://".to_owned());
    }
    let url: Uri = value
        .parse()
        .map_err(|error| format!("is not a URL: {error}"))?;
    let authority = url.authority().map_or("", http::uri::Authority::as_str);
    if authority.contains('@') {
        return Err(
            "must not hold a user name or password: use OTEL_EXPORTER_OTLP_HEADERS".to_owned(),
        );
    }
    let host = url.host().unwrap_or_default();
    if host.is_empty() {
        return Err("has no host".to_owned());
    }
    if METADATA_HOSTS.contains(&host.to_ascii_lowercase().as_str()) {
        return Err("is the cloud's metadata service, not a collector".to_owned());
    }
    Ok(url)
}

/// The base with the signal's path, or the signal's own URL as it is.
fn http_url(value: &str, append: Option<&str>) -> Result<Uri, String> {
    let url = parse_url(value)?;
    let Some(append) = append else { return Ok(url) };
    if url.query().is_some() {
        return Err("must not have a query: the signal's path is appended to it".to_owned());
    }
    let path = format!("{}/{append}", url.path().trim_end_matches('/'));
    let mut parts = url.into_parts();
    parts.path_and_query = Some(
        path.parse()
            .map_err(|error| format!("has a path that cannot be used: {error}"))?,
    );
    Uri::from_parts(parts).map_err(|error| format!("is not a URL: {error}"))
}

/// `host:port` too: then `insecure` decides.
fn grpc_url(value: &str, insecure: bool) -> Result<Uri, String> {
    let scheme = if insecure { "http" } else { "https" };
    let url = match value.contains("://") {
        true => parse_url(value)?,
        false => parse_url(&format!("{scheme}://{value}"))?,
    };
    if !matches!(url.path(), "" | "/") || url.query().is_some() {
        return Err(
            "has a path, which gRPC cannot use: remove it, or set the protocol to http/protobuf"
                .to_owned(),
        );
    }
    Ok(url)
}

#[cfg(test)]
mod tests;
