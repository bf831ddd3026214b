//! Findings as OTLP log records with one constant event name.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use plumbline_core::finding::{Coverage, Evidence, Finding, FindingState, Severity};
use plumbline_core::settings::NodeIdentity;
use plumbline_core::time::UnixNanos;

use super::resource::resource;
use super::{Batch, Halved, Payload, halve_list, list, pair, scope, text};
use crate::export::semconv as key;

/// How findings are written.
#[derive(Clone, Copy, Debug, Default)]
pub struct FindingOptions {
    /// Also put the event name into an attribute `event.name`.
    pub event_name_attribute: bool,
}

/// The requests that carry `findings`, each within `bytes_max`. `now` dates resolutions and is the observed time of all.
#[must_use]
pub fn encode_findings<'a>(
    findings: impl IntoIterator<Item = &'a Finding>,
    node: &NodeIdentity,
    now: UnixNanos,
    options: FindingOptions,
    bytes_max: usize,
) -> Vec<Batch> {
    let mut findings: Vec<&Finding> = findings.into_iter().collect();
    // Stable: within a subject the order of arrival stays.
    findings.sort_by(|a, b| a.resource.cmp(&b.resource));
    let by_subject = findings
        .chunk_by(|a, b| a.resource == b.resource)
        .map(|of_one| ResourceLogs {
            resource: Some(resource(&of_one[0].resource, node)),
            scope_logs: vec![ScopeLogs {
                scope: Some(scope(&node.agent_version)),
                log_records: of_one
                    .iter()
                    .map(|finding| record(finding, node, now, options))
                    .collect(),
                schema_url: key::SCHEMA_URL.to_owned(),
            }],
            schema_url: key::SCHEMA_URL.to_owned(),
        });
    let request = ExportLogsServiceRequest {
        resource_logs: by_subject.collect(),
    };
    Batch::new(Payload::Logs(request)).within(bytes_max)
}

fn record(
    finding: &Finding,
    node: &NodeIdentity,
    now: UnixNanos,
    options: FindingOptions,
) -> LogRecord {
    let time = match finding.state {
        FindingState::Open | FindingState::Suppressed => finding.last_seen,
        FindingState::Resolved => now,
    };
    let mut attributes = rule_attributes(finding, node);
    if options.event_name_attribute {
        attributes.push(pair(key::EVENT_NAME, text(key::FINDING_EVENT)));
    }
    attributes.extend(
        finding
            .evidence
            .iter()
            .map(|(name, evidence)| evidence_attribute(name, evidence)),
    );
    attributes.extend(life_attributes(finding));
    attributes.extend(history_attributes(finding));
    LogRecord {
        time_unix_nano: time.0,
        observed_time_unix_nano: now.0,
        severity_number: severity_number(finding.severity).into(),
        body: Some(AnyValue {
            value: Some(text(&sentence(finding))),
        }),
        attributes,
        event_name: key::FINDING_EVENT.to_owned(),
        ..LogRecord::default()
    }
}

fn severity_number(severity: Severity) -> SeverityNumber {
    match severity {
        Severity::Info => SeverityNumber::Info,
        Severity::Low => SeverityNumber::Info2,
        Severity::Medium => SeverityNumber::Warn,
        Severity::High => SeverityNumber::Error,
    }
}

/// One sentence for a person.
fn sentence(finding: &Finding) -> String {
    let subject = &finding.resource;
    let whom = [&subject.namespace, &subject.pod, &subject.container]
        .into_iter()
        .flatten();
    let whom = whom.map(String::as_str).collect::<Vec<_>>().join("/");
    let whom = if whom.is_empty() { "the node" } else { &whom };
    let title = finding.title;
    match finding.state {
        FindingState::Open => {
            format!(
                "{title} in {whom}: observed {}, declared {}.",
                finding.observed, finding.declared
            )
        }
        FindingState::Suppressed => {
            let suppression = finding.suppression.as_ref();
            let until = suppression
                .map(|by| by.until.to_string())
                .unwrap_or_default();
            let reason = suppression.map_or("", |by| &by.reason);
            format!(
                "{title} in {whom} is hidden until {until} ({reason}): observed {}, declared {}.",
                finding.observed, finding.declared
            )
        }
        FindingState::Resolved => format!(
            "{title} in {whom} is resolved: it was {}.",
            finding.observed
        ),
    }
}

fn rule_attributes(finding: &Finding, node: &NodeIdentity) -> Vec<KeyValue> {
    vec![
        pair(key::SECURITY_RULE_NAME, text(finding.rule_id)),
        pair(key::SECURITY_RULE_CATEGORY, text(finding.category)),
        pair(key::SECURITY_RULE_DESCRIPTION, text(finding.title)),
        pair(key::SECURITY_RULE_RULESET_NAME, text("plumbline")),
        // Rules ship with the agent, so its version is theirs.
        pair(key::SECURITY_RULE_VERSION, text(&node.agent_version)),
    ]
}

/// Evidence that the conventions have a key for goes there; the rest under our own prefix. Keys are the rules' own words.
fn evidence_attribute(name: &str, evidence: &Evidence) -> KeyValue {
    let value = match evidence {
        Evidence::Text(value) => text(value),
        Evidence::Count(value) => {
            any_value::Value::IntValue(i64::try_from(*value).unwrap_or(i64::MAX))
        }
        Evidence::Measure(value) => any_value::Value::DoubleValue(*value),
        Evidence::List(values) => list(values.iter().map(String::as_str)),
    };
    match name {
        "transport" => pair(key::NETWORK_TRANSPORT, value),
        "port" => pair(key::NETWORK_LOCAL_PORT, value),
        "executable" => pair(key::PROCESS_EXECUTABLE_PATH, value),
        "pid" => pair(key::PROCESS_PID, value),
        other => pair(format!("{}{other}", key::FINDING_EVIDENCE_PREFIX), value),
    }
}

fn life_attributes(finding: &Finding) -> Vec<KeyValue> {
    let count = i64::try_from(finding.occurrences).unwrap_or(i64::MAX);
    let mut attributes = vec![
        pair(key::FINDING_FINGERPRINT, text(&finding.fingerprint)),
        pair(key::FINDING_STATE, text(finding.state.as_str())),
        pair(key::FINDING_SEVERITY, text(finding.severity.as_str())),
        pair(
            key::FINDING_FIRST_SEEN,
            text(&finding.first_seen.to_string()),
        ),
        pair(key::FINDING_LAST_SEEN, text(&finding.last_seen.to_string())),
        pair(key::FINDING_OCCURRENCES, any_value::Value::IntValue(count)),
        pair(key::FINDING_DECLARED, text(&finding.declared)),
        pair(key::FINDING_OBSERVED, text(&finding.observed)),
        pair(key::FINDING_REMEDIATION, text(&finding.remediation)),
        pair(key::FINDING_COVERAGE, text(finding.coverage.as_str())),
    ];
    if let Coverage::Partial(reason) | Coverage::Blind(reason) = &finding.coverage {
        attributes.push(pair(key::FINDING_COVERAGE_REASON, text(reason)));
    }
    if let Some(patch) = &finding.patch {
        attributes.push(pair(key::FINDING_PATCH, text(patch)));
    }
    attributes
}

/// What became of the finding so far, and why it is told of.
fn history_attributes(finding: &Finding) -> Vec<KeyValue> {
    let mut attributes = Vec::new();
    if let Some(transition) = finding.transition {
        attributes.push(pair(key::FINDING_TRANSITION, text(transition.as_str())));
    }
    if finding.reopened > 0 {
        let count = i64::try_from(finding.reopened).unwrap_or(i64::MAX);
        attributes.push(pair(
            key::FINDING_REOPENED,
            any_value::Value::IntValue(count),
        ));
    }
    if let Some(resolution) = finding.resolution {
        attributes.push(pair(key::FINDING_RESOLUTION, text(resolution.as_str())));
    }
    if let Some(by) = &finding.suppression {
        attributes.push(pair(key::FINDING_SUPPRESSED_BY, text(&by.by)));
        attributes.push(pair(
            key::FINDING_SUPPRESSED_UNTIL,
            text(&by.until.to_string()),
        ));
        attributes.push(pair(key::FINDING_SUPPRESSED_REASON, text(&by.reason)));
    }
    if !finding.suppression_ignored.is_empty() {
        let ignored = finding.suppression_ignored.iter().map(String::as_str);
        attributes.push(pair(key::FINDING_SUPPRESSION_IGNORED, list(ignored)));
    }
    attributes
}

pub(super) fn count_records(request: &ExportLogsServiceRequest) -> u64 {
    let scopes = request.resource_logs.iter().flat_map(|one| &one.scope_logs);
    scopes.map(|one| one.log_records.len() as u64).sum()
}

type Halves = Result<(ExportLogsServiceRequest, ExportLogsServiceRequest), Halved>;

/// In halves by resource, else by record. Each resource has one scope, as made above.
pub(super) fn halve(mut request: ExportLogsServiceRequest) -> Halves {
    if request.resource_logs.len() > 1 {
        let resource_logs = halve_list(&mut request.resource_logs);
        return Ok((request, ExportLogsServiceRequest { resource_logs }));
    }
    match halve_records(&mut request) {
        Some(second) => Ok((request, second)),
        None => Err(Halved::Logs(request)),
    }
}

fn halve_records(request: &mut ExportLogsServiceRequest) -> Option<ExportLogsServiceRequest> {
    let one = request.resource_logs.first_mut()?;
    let scope_logs = one
        .scope_logs
        .first_mut()
        .filter(|logs| logs.log_records.len() > 1)?;
    let log_records = halve_list(&mut scope_logs.log_records);
    let second = ResourceLogs {
        resource: one.resource.clone(),
        schema_url: one.schema_url.clone(),
        scope_logs: vec![ScopeLogs {
            scope: scope_logs.scope.clone(),
            schema_url: scope_logs.schema_url.clone(),
            log_records,
        }],
    };
    Some(ExportLogsServiceRequest {
        resource_logs: vec![second],
    })
}
