//! Rotel, an OpenTelemetry collector written in Rust, from its wheel: takes OTLP and prints each log record it received.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::free_address;
use crate::{process::Daemon, setup::Apt, shell};

/// The wheel; its name of the program inside never changed.
const WHEEL: &str = "rotel==0.0.1a15";
/// How long it may take to listen.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// Its program below `cache`, fetched by pip if missing.
pub(super) fn program(cache: &Path) -> Result<PathBuf> {
    let place = cache.join("rotel");
    let program = place.join("rotel/rotel-agent");
    if program.exists() {
        return Ok(program);
    }
    shell::note(format_args!(
        "fetching {WHEEL} by pip; unpacked, not installed"
    ));
    let mut pip = pip()?;
    pip.args([
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--root-user-action=ignore",
        "--no-deps",
    ]);
    pip.args([
        "--only-binary=:all:",
        "--python-version",
        "3.11",
        "--platform",
    ]);
    pip.arg(format!("manylinux_2_34_{}", std::env::consts::ARCH))
        .arg("--upgrade")
        .arg("--target")
        .arg(&place)
        .arg(WHEEL);
    shell::stdout_of(&mut pip).with_context(|| format!("fetch {WHEEL}"))?;
    Ok(program)
}

/// pip, installed by apt if the machine has none.
fn pip() -> Result<Command> {
    let find = || {
        ["pip3", "pip"]
            .iter()
            .find_map(|name| shell::which(name, &shell::path()))
            .map(Command::new)
    };
    if let Some(pip) = find() {
        return Ok(pip);
    }
    let apt = Apt::find().context("this machine has no pip; install python3-pip")?;
    apt.install(&["python3-pip"])?;
    find().context("python3-pip is installed, but there is no pip3 on PATH")
}

/// A collector that runs.
pub(crate) struct Rotel {
    daemon: Daemon,
    address: SocketAddr,
}

/// A log record as it was received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LogRecord {
    /// Attributes of its resource, as text.
    pub(crate) resource: BTreeMap<String, String>,
    /// `event_name`.
    pub(crate) event: String,
    /// Its own attributes, as text; of text in several lines the first.
    pub(crate) attributes: BTreeMap<String, String>,
}

impl Rotel {
    pub(super) fn start(program: &Path, dir: &Path) -> Result<Self> {
        let (address, http) = (free_address()?, free_address()?);
        let mut command = Command::new(program);
        command.args([
            "start",
            "--exporter",
            "blackhole",
            "--debug-log",
            "logs",
            "--debug-log-verbosity",
            "detailed",
        ]);
        command.args([
            "--otlp-grpc-endpoint",
            &address.to_string(),
            "--otlp-http-endpoint",
            &http.to_string(),
        ]);
        command
            .arg("--pid-file")
            .arg(dir.join("rotel.pid"))
            .arg("--log-file")
            .arg(dir.join("rotel.own.log"));
        let mut daemon = Daemon::start("Rotel", &mut command, &dir.join("rotel.log"))?;
        daemon.wait_for("listening", START_PATIENCE, || {
            TcpStream::connect(address).ok()
        })?;
        Ok(Self { daemon, address })
    }

    /// Where it takes OTLP over gRPC.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All log records it printed so far.
    pub(crate) fn received(&self) -> Result<Vec<LogRecord>> {
        Ok(parse(&self.daemon.output()?))
    }
}

/// Which attributes the lines that follow belong to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    Resource,
    Record,
    Other,
}

/// Reads Rotel's detailed print of log records.
fn parse(text: &str) -> Vec<LogRecord> {
    let mut records: Vec<LogRecord> = Vec::new();
    let mut resource = BTreeMap::new();
    let mut section = Section::Other;
    for line in text.lines() {
        if line.starts_with("ResourceLog #") {
            (resource, section) = (BTreeMap::new(), Section::Resource);
        } else if line.starts_with("ScopeLogs #") {
            section = Section::Other;
        } else if line.starts_with("LogRecord #") {
            records.push(LogRecord {
                resource: resource.clone(),
                ..LogRecord::default()
            });
            section = Section::Record;
        } else if let Some((key, value)) = attribute(line) {
            match (section, records.last_mut()) {
                (Section::Resource, _) => drop(resource.insert(key, value)),
                (Section::Record, Some(record)) => drop(record.attributes.insert(key, value)),
                _ => {}
            }
        } else if let (Section::Record, Some(record), Some(name)) = (
            section,
            records.last_mut(),
            line.strip_prefix("EventName: "),
        ) {
            name.clone_into(&mut record.event);
        }
    }
    records
}

/// `     -> security_rule.name: Str(P001)`.
fn attribute(line: &str) -> Option<(String, String)> {
    let (key, typed) = line.strip_prefix("     -> ")?.split_once(": ")?;
    let value = typed
        .split_once('(')
        .map_or(typed, |(_, value)| value.strip_suffix(')').unwrap_or(value));
    Some((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::parse;

    /// As Rotel 0.0.1a15 printed it, with the colours of its own lines taken out.
    const PRINTED: &str = r#"2026-11-22T10:14:42.598562Z  INFO Starting Rotel. grpc_endpoint="127.0.0.1:14317"
ResourceLog #0
Resource SchemaURL: 
Resource attributes:
     -> k8s.namespace.name: Str(shop)
     -> k8s.container.name: Str(web)
ScopeLogs #0
ScopeLogs SchemaURL: 
InstrumentationScope plumbline 
LogRecord #0
ObservedTimestamp: 1795342484418027032
Timestamp: 1795342484417997546
SeverityText: 
SeverityNumber: SEVERITY_NUMBER_WARN(13)
EventName: plumbline.finding
Body: Str(Port 6060
newline "quoted" -> x)
Attributes:
     -> security_rule.name: Str(P001)
     -> plumbline.finding.fingerprint: Str(ab"c)
     -> network.local.port: Int(6060)
    Trace ID       : 
    Span ID        : 
Flags: 0
LogRecord #1
EventName: other
ResourceLog #0
Resource attributes:
     -> k8s.namespace.name: Str(batch)
LogRecord #0
EventName: plumbline.finding
Attributes:
     -> security_rule.name: Str(C007)
"#;

    #[test]
    fn records_with_their_resource() {
        let records = parse(PRINTED);
        let brief: Vec<_> = records
            .iter()
            .map(|r| {
                (
                    r.resource["k8s.namespace.name"].as_str(),
                    r.event.as_str(),
                    r.attributes.get("security_rule.name").map(String::as_str),
                )
            })
            .collect();
        assert_eq!(
            brief,
            [
                ("shop", "plumbline.finding", Some("P001")),
                ("shop", "other", None),
                ("batch", "plumbline.finding", Some("C007"))
            ]
        );
        assert_eq!(
            records[0].attributes["plumbline.finding.fingerprint"],
            "ab\"c"
        );
        assert_eq!(records[0].attributes["network.local.port"], "6060");
    }
}
