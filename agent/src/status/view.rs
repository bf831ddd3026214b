//! What `/status` says, and how `plumbline status` prints it.

mod kept;
mod logs;
mod sources;

use std::collections::BTreeMap;

use plumbline_core::ledger::when_full;
use plumbline_core::observation::ProbeStatus;
use plumbline_core::rules;
use plumbline_core::snapshot::{ContainerView, Dropped, Occupancy, Snapshot};
use serde::{Deserialize, Serialize};

use super::Published;
use crate::present::{columns, plain};

/// Containers shown that were killed or restarted.
const ENDED_SHOWN: usize = 50;
/// Problems of declarations shown; their number is told in full.
const PROBLEMS_SHOWN: usize = 20;

/// The status of an agent. Field names are stable.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Status {
    version: String,
    cluster: Option<String>,
    node: Option<String>,
    environment: Option<String>,
    declared: Option<DeclaredStatus>,
    /// How current each source of declarations is.
    #[serde(default)]
    sources: Vec<sources::SourceStatus>,
    containers: u64,
    /// Containers by coverage and reason.
    coverage: Vec<CoverageRow>,
    /// Containers that were killed for want of memory or restarted, as many as are shown.
    #[serde(default)]
    ended: Vec<EndedRow>,
    scans: u32,
    /// Open findings by severity.
    findings: BTreeMap<String, u64>,
    /// Hidden findings.
    #[serde(default)]
    suppressed: u64,
    /// Rules that say nothing, and why.
    unknown_rules: BTreeMap<String, String>,
    probes: Vec<ProbeStatus>,
    tables: Vec<Table>,
    dropped: Vec<Loss>,
    /// Every bounded thing: what came through, what was lost, and what becomes of what finds no room.
    #[serde(default)]
    ledger: Vec<LedgerRow>,
    export: serde_json::Value,
    /// The configuration and its file.
    #[serde(default)]
    config: serde_json::Value,
    /// The file in which findings outlive the agent; absent without one.
    #[serde(default)]
    state: serde_json::Value,
    /// Container logs; absent where they are not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    logs: Option<logs::LogsStatus>,
}

#[derive(Debug, Deserialize, Serialize)]
struct DeclaredStatus {
    source: String,
    pods: usize,
    services: usize,
    problems_total: u64,
    /// The first problems of the last reading.
    problems: Vec<String>,
}

#[derive(Debug, Deserialize, Serialize)]
struct CoverageRow {
    state: String,
    reason: Option<String>,
    containers: u64,
}

#[derive(Debug, Deserialize, Serialize)]
struct Table {
    place: String,
    entries: u64,
    capacity: u64,
}

#[derive(Debug, Deserialize, Serialize)]
struct Loss {
    place: String,
    reason: String,
    count: u64,
}

#[derive(Debug, Deserialize, Serialize)]
struct EndedRow {
    container: String,
    /// Absent without the memory controller in cgroup v2.
    oom_kills: Option<u64>,
    /// As far as the agent saw them.
    restarts: Option<u64>,
    /// As the kubelet counts them.
    restart_count: Option<u64>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
struct LedgerRow {
    place: String,
    /// Absent where it is not counted, as in what follows.
    entries: Option<u64>,
    capacity: Option<u64>,
    delivered: Option<u64>,
    lost: u64,
    when_full: Option<String>,
}

impl Status {
    pub(super) fn new(published: &Published) -> Self {
        let snapshot = &published.snapshot;
        let mut findings = BTreeMap::new();
        for finding in &published.open {
            *findings
                .entry(finding.severity.as_str().to_owned())
                .or_insert(0) += 1;
        }
        let declared = snapshot.declared.as_ref().map(|declared| DeclaredStatus {
            source: declared.source.clone(),
            pods: declared.pods.len(),
            services: declared.services.len(),
            problems_total: declared.problems_total,
            problems: declared
                .problems
                .iter()
                .take(PROBLEMS_SHOWN)
                .map(|problem| format!("{}: {}", problem.at, problem.message))
                .collect(),
        });
        let table = |Occupancy {
                         place,
                         entries,
                         capacity,
                     }: &Occupancy| Table {
            place: place.clone(),
            entries: *entries,
            capacity: *capacity,
        };
        let loss = |Dropped {
                        place,
                        reason,
                        count,
                    }: &Dropped| Loss {
            place: place.clone(),
            reason: reason.clone(),
            count: *count,
        };
        Self {
            version: snapshot.node.agent_version.clone(),
            cluster: snapshot.node.cluster.clone(),
            node: snapshot.node.node.clone(),
            environment: snapshot.node.environment.clone(),
            declared,
            sources: sources::of(snapshot),
            containers: snapshot
                .containers
                .iter()
                .filter(|container| !container.gone)
                .count() as u64,
            coverage: coverage(published),
            ended: ended(snapshot),
            scans: snapshot.scans,
            findings,
            suppressed: published.suppressed.len() as u64,
            unknown_rules: rules::unknown_rules(snapshot)
                .into_iter()
                .map(|(rule, why)| (rule.to_owned(), why))
                .collect(),
            probes: snapshot.probes.clone(),
            tables: snapshot.occupancy.iter().map(table).collect(),
            dropped: snapshot.dropped.iter().map(loss).collect(),
            ledger: ledger(snapshot),
            export: serde_json::to_value(&published.lanes).unwrap_or_default(),
            config: serde_json::to_value(&published.kept.config).unwrap_or_default(),
            state: serde_json::to_value(&published.kept.state).unwrap_or_default(),
            logs: published
                .logs
                .as_ref()
                .map(|stats| logs::LogsStatus::new(stats, snapshot)),
        }
    }
}

fn ended(snapshot: &Snapshot) -> Vec<EndedRow> {
    let row = |container: &ContainerView| EndedRow {
        container: rules::label(container),
        oom_kills: container.oom_kills,
        restarts: container.restarts,
        restart_count: container
            .declared()
            .and_then(|declared| declared.restart_count),
    };
    let rows = snapshot.containers.iter().map(row);
    let any = |row: &EndedRow| {
        [row.oom_kills, row.restarts, row.restart_count]
            .into_iter()
            .any(|count| count.is_some_and(|count| count > 0))
    };
    rows.filter(any).take(ENDED_SHOWN).collect()
}

fn ledger(snapshot: &Snapshot) -> Vec<LedgerRow> {
    let mut rows: BTreeMap<&str, LedgerRow> = BTreeMap::new();
    for table in &snapshot.occupancy {
        let row = rows.entry(&table.place).or_default();
        (row.entries, row.capacity) = (Some(table.entries), Some(table.capacity));
    }
    for delivered in &snapshot.delivered {
        rows.entry(&delivered.place).or_default().delivered = Some(delivered.count);
    }
    for dropped in &snapshot.dropped {
        let row = rows.entry(&dropped.place).or_default();
        row.lost = row.lost.saturating_add(dropped.count);
    }
    let row = |(place, row): (&str, LedgerRow)| LedgerRow {
        place: place.to_owned(),
        when_full: when_full(place).map(str::to_owned),
        ..row
    };
    rows.into_iter().map(row).collect()
}

fn coverage(published: &Published) -> Vec<CoverageRow> {
    let mut counts: BTreeMap<_, u64> = BTreeMap::new();
    for container in published
        .snapshot
        .containers
        .iter()
        .filter(|container| !container.gone)
    {
        *counts.entry(container.coverage.clone()).or_default() += 1;
    }
    let row = |(coverage, containers): (plumbline_core::finding::Coverage, u64)| CoverageRow {
        state: coverage.as_str().to_owned(),
        reason: coverage.reason().map(str::to_owned),
        containers,
    };
    counts.into_iter().map(row).collect()
}

/// The status for people.
pub(super) fn table(status: &Status) -> String {
    let mut text = columns(&head(status));
    let probes = status.probes.iter();
    let probe = |probe: &ProbeStatus| {
        let health = format!("{:?}", probe.health);
        vec![plain(&probe.probe), health, or_none(probe.reason.as_ref())]
    };
    section(&mut text, ["PROBE", "HEALTH", "REASON"], probes.map(probe));
    sources::show(&mut text, &status.sources);
    let unknown = status.unknown_rules.iter();
    let unknown = unknown.map(|(rule, why)| vec![plain(rule), "Unknown".into(), plain(why)]);
    section(&mut text, ["RULE", "VERDICT", "REASON"], unknown);
    section(
        &mut text,
        ["CONTAINER", "OOM KILLS", "RESTARTS SEEN", "RESTART COUNT"],
        status.ended.iter().map(ended_row),
    );
    let ledger = status.ledger.iter();
    section(
        &mut text,
        [
            "PLACE",
            "ENTRIES",
            "CAPACITY",
            "DELIVERED",
            "LOST",
            "WHEN FULL",
        ],
        ledger.map(ledger_row),
    );
    let dropped = status.dropped.iter();
    let loss = |row: &Loss| vec![plain(&row.place), plain(&row.reason), row.count.to_string()];
    section(
        &mut text,
        ["DROPPED BY", "REASON", "COUNT"],
        dropped.map(loss),
    );
    let lanes = status.export.as_array().into_iter().flatten();
    let word =
        |lane: &serde_json::Value, key: &str| lane[key].as_str().map_or_else(|| "-".into(), plain);
    let lane = |lane| {
        vec![
            word(lane, "lane"),
            word(lane, "state"),
            word(lane, "last_error"),
        ]
    };
    section(
        &mut text,
        ["EXPORT", "STATE", "LAST ERROR"],
        lanes.map(lane),
    );
    kept::lines(&mut text, status);
    if let Some(logs) = &status.logs {
        logs.show(&mut text);
    }
    for problem in status
        .declared
        .iter()
        .flat_map(|declared| &declared.problems)
    {
        text.push_str("\nnot used: ");
        text.push_str(&plain(problem));
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn ended_row(row: &EndedRow) -> Vec<String> {
    vec![
        plain(&row.container),
        count(row.oom_kills),
        count(row.restarts),
        count(row.restart_count),
    ]
}

fn ledger_row(row: &LedgerRow) -> Vec<String> {
    vec![
        plain(&row.place),
        count(row.entries),
        count(row.capacity),
        count(row.delivered),
        row.lost.to_string(),
        or_none(row.when_full.as_ref()),
    ]
}

/// A dash for what is not counted.
fn count(count: Option<u64>) -> String {
    count.map_or_else(|| "-".into(), |count| count.to_string())
}

/// A titled table; nothing without rows.
fn section<const N: usize>(
    text: &mut String,
    title: [&str; N],
    rows: impl Iterator<Item = Vec<String>>,
) {
    let header = std::iter::once(title.map(str::to_owned).to_vec());
    let rows: Vec<Vec<String>> = header.chain(rows).collect();
    if rows.len() > 1 {
        text.push('\n');
        text.push_str(&columns(&rows));
    }
}

fn head(status: &Status) -> Vec<Vec<String>> {
    let mut head = vec![
        vec!["version".into(), plain(&status.version)],
        vec!["cluster".into(), or_none(status.cluster.as_ref())],
        vec!["node".into(), or_none(status.node.as_ref())],
        vec!["environment".into(), or_none(status.environment.as_ref())],
        vec!["declared".into(), declared_line(status.declared.as_ref())],
        vec!["containers".into(), status.containers.to_string()],
        vec!["socket scans".into(), status.scans.to_string()],
        vec!["findings".into(), counts(&status.findings)],
        vec!["hidden".into(), status.suppressed.to_string()],
    ];
    for row in &status.coverage {
        let reason = row
            .reason
            .as_deref()
            .map(|reason| format!(" ({})", plain(reason)));
        let reason = reason.unwrap_or_default();
        head.push(vec![
            "coverage".into(),
            format!("{} {}{reason}", row.containers, row.state),
        ]);
    }
    head
}

fn or_none(text: Option<&String>) -> String {
    text.map_or_else(|| "-".into(), |text| plain(text))
}

fn declared_line(declared: Option<&DeclaredStatus>) -> String {
    declared.map_or("unknown: comparison rules are silent".into(), |declared| {
        let DeclaredStatus {
            source,
            pods,
            services,
            problems_total,
            ..
        } = declared;
        format!(
            "{} ({pods} pods, {services} services, {problems_total} objects not used)",
            plain(source)
        )
    })
}

fn counts(findings: &BTreeMap<String, u64>) -> String {
    let severities = ["high", "medium", "low", "info"];
    let known = severities
        .iter()
        .filter_map(|severity| Some(format!("{} {severity}", findings.get(*severity)?)));
    let text = known.collect::<Vec<_>>().join(", ");
    if text.is_empty() { "none".into() } else { text }
}
