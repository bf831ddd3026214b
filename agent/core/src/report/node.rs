//! Points about the node and the agent's own view of it.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::finding::{Coverage, Finding, FindingState, Severity};
use crate::id::PodUid;
use crate::metric::{
    COVERAGE_CONTAINERS, DECLARED_AGE, EBPF_EVENTS, EBPF_EVENTS_LOST, EBPF_MAP_CAPACITY,
    EBPF_MAP_ENTRIES, FINDINGS_OPEN, FINDINGS_SUPPRESSED, FINDINGS_TRANSITIONS,
    K8S_NODE_CPU_ALLOCATABLE, K8S_NODE_CPU_TIME, K8S_NODE_CPU_USAGE, Metric, NODE_CPU_COUNT,
    NODE_CPU_PRESSURE, NODE_CPU_REQUESTS, NODE_CPU_STEAL_TIME, POLICY_RULE_HITS, PROBE_HEALTH,
    attribute,
};
use crate::observation::{Health, ProbeStatus, SourceRow};
use crate::report::{Attribute, AttributeValue, Number, Point};
use crate::rules::c007::ratio;
use crate::rules::health_word;
use crate::rules::ports::coverage;
use crate::snapshot::{RuleHits, Snapshot};
use crate::time::Timestamp;

/// Series of open findings; further ones go into one overflow series.
const FINDING_SERIES_MAX: usize = 1_000;
/// Probes of which the health leaves; there are some ten.
const PROBES_MAX: usize = 32;
/// Rules of policies told apart; further ones are counted together.
const RULE_SERIES_MAX: usize = 1_000;
/// Reasons told apart in coverage, by number of containers; further ones are `other`.
const REASONS_MAX: usize = 16;

/// What there is to say about the node.
pub(super) fn points(snapshot: &Snapshot, findings: &[Finding]) -> Vec<Point> {
    let mut points = findings_of(&FINDINGS_OPEN, FindingState::Open, findings);
    points.extend(findings_of(
        &FINDINGS_SUPPRESSED,
        FindingState::Suppressed,
        findings,
    ));
    points.extend(transitions_of(snapshot));
    points.extend(coverage_of(snapshot));
    points.extend(probes_of(snapshot));
    points.extend(tables_of(snapshot));
    points.extend(cpu_of(snapshot));
    points.extend(rules_of(snapshot));
    points.extend(ages_of(snapshot));
    points
}

/// How often rules of policies matched; those that never did too.
fn rules_of(snapshot: &Snapshot) -> Vec<Point> {
    let begun = super::unix(snapshot, snapshot.origin.monotonic);
    let (told, rest) = snapshot
        .rule_hits
        .split_at(snapshot.rule_hits.len().min(RULE_SERIES_MAX));
    let point = |hits: &RuleHits| {
        let direction = AttributeValue::Word(hits.direction.as_str());
        let attributes = vec![
            (attribute::POLICY_DIRECTION, direction),
            (attribute::POLICY_NAME, text(&hits.policy)),
            (
                attribute::POLICY_RULE,
                AttributeValue::Int(hits.rule.into()),
            ),
        ];
        let value = Number::int(hits.connections);
        Point::new(&POLICY_RULE_HITS, value, attributes).since(begun)
    };
    let mut points: Vec<Point> = told.iter().map(point).collect();
    if !rest.is_empty() {
        let sum = rest.iter().map(|hits| hits.connections);
        let sum = Number::int(sum.fold(0, u64::saturating_add));
        let attributes = vec![(attribute::OVERFLOW, AttributeValue::Bool(true))];
        points.push(Point::new(&POLICY_RULE_HITS, sum, attributes).since(begun));
    }
    points
}

/// CPU of the node as a whole. Its counters are the kernel's own, since boot: the zero of the monotonic clock.
fn cpu_of(snapshot: &Snapshot) -> Vec<Point> {
    let boot = super::unix(snapshot, Timestamp(0));
    let mut points = Vec::new();
    if let Some(cpu) = &snapshot.node_cpu {
        for (metric, us) in [
            (&K8S_NODE_CPU_TIME, cpu.busy_us),
            (&NODE_CPU_STEAL_TIME, cpu.steal_us),
        ] {
            points.push(Point::new(metric, Number::seconds(us), vec![]).since(boot));
        }
        let gauges = [
            (&K8S_NODE_CPU_USAGE, cpu.usage_cores),
            (&NODE_CPU_COUNT, Some(f64::from(cpu.cpus))),
            (&NODE_CPU_PRESSURE, cpu.some),
        ];
        for (metric, value) in gauges {
            points.extend(value.map(|value| Point::new(metric, Number::Float(value), vec![])));
        }
    }
    if let Some(cores) = allocatable_millis(snapshot).and_then(|millis| ratio(millis, 1_000)) {
        let point = Point::new(&K8S_NODE_CPU_ALLOCATABLE, Number::Float(cores), vec![]);
        points.push(point.since(super::unix(snapshot, snapshot.origin.monotonic)));
    }
    if let Some(cores) = requested_millis(snapshot).and_then(|millis| ratio(millis, 1_000)) {
        points.push(Point::new(&NODE_CPU_REQUESTS, Number::Float(cores), vec![]));
    }
    points
}

/// Of the declared node that bears this node's name.
fn allocatable_millis(snapshot: &Snapshot) -> Option<u64> {
    let nodes = &snapshot.declared.as_ref()?.nodes;
    let own = nodes
        .iter()
        .find(|node| Some(&node.name) == snapshot.node.node.as_ref())?;
    own.cpu_allocatable_millis
}

/// What the declared pods that run here request together, each pod once.
fn requested_millis(snapshot: &Snapshot) -> Option<u64> {
    snapshot.declared.as_ref()?;
    let running = snapshot.containers.iter().filter(|one| !one.gone);
    let pods: BTreeMap<&PodUid, u64> = running
        .filter_map(|container| {
            let request = container.pod.as_ref()?.effective_request_millis();
            Some((&container.pod_uid, request.unwrap_or(0)))
        })
        .collect();
    Some(pods.into_values().fold(0, u64::saturating_add))
}

/// How often findings came into each state, counted since the agent began.
fn transitions_of(snapshot: &Snapshot) -> impl Iterator<Item = Point> {
    let begun = super::unix(snapshot, snapshot.origin.monotonic);
    snapshot.transitions.iter().map(move |of| {
        let attributes = vec![
            (attribute::SECURITY_RULE_NAME, AttributeValue::Word(of.rule)),
            (
                attribute::FINDING_STATE,
                AttributeValue::Word(of.state.as_str()),
            ),
        ];
        Point::new(&FINDINGS_TRANSITIONS, Number::int(of.count), attributes).since(begun)
    })
}

fn findings_of(metric: &'static Metric, state: FindingState, findings: &[Finding]) -> Vec<Point> {
    let mut counts: BTreeMap<(&str, Severity, Option<&str>), u64> = BTreeMap::new();
    for finding in findings.iter().filter(|finding| finding.state == state) {
        let namespace = finding.resource.namespace.as_deref();
        *counts
            .entry((finding.rule_id, finding.severity, namespace))
            .or_default() += 1;
    }
    let mut points = Vec::new();
    let mut overflow = 0;
    for ((rule, severity, namespace), count) in counts {
        if points.len() + 1 >= FINDING_SERIES_MAX {
            overflow += count;
            continue;
        }
        let mut attributes = vec![
            (attribute::SECURITY_RULE_NAME, text(rule)),
            (attribute::SEVERITY, AttributeValue::Word(severity.as_str())),
        ];
        attributes
            .extend(namespace.map(|namespace| (attribute::K8S_NAMESPACE_NAME, text(namespace))));
        points.push(Point::new(metric, Number::int(count), attributes));
    }
    if overflow > 0 {
        let attributes = vec![(attribute::OVERFLOW, AttributeValue::Bool(true))];
        points.push(Point::new(metric, Number::int(overflow), attributes));
    }
    points
}

fn coverage_of(snapshot: &Snapshot) -> Vec<Point> {
    let mut counts: BTreeMap<(&'static str, Option<String>), u64> = BTreeMap::new();
    for container in snapshot
        .containers
        .iter()
        .filter(|container| !container.gone)
    {
        let coverage = coverage(container);
        let state = coverage.as_str();
        let reason = match coverage {
            Coverage::Full | Coverage::PreExisting => None,
            Coverage::Partial(reason) | Coverage::Blind(reason) => Some(reason),
        };
        *counts.entry((state, reason)).or_default() += 1;
    }
    let mut ranked: Vec<_> = counts.into_iter().collect();
    ranked.sort_by_key(|(_, count)| Reverse(*count));
    let points = ranked
        .into_iter()
        .enumerate()
        .map(|(rank, ((state, reason), count))| {
            let reason = reason.map(|reason| {
                if rank < REASONS_MAX {
                    reason
                } else {
                    "other".into()
                }
            });
            let mut attributes = vec![(attribute::COVERAGE_STATE, AttributeValue::Word(state))];
            attributes
                .extend(reason.map(|reason| (attribute::REASON, AttributeValue::Text(reason))));
            (attributes, count)
        });
    // Those that are now `other` are one series.
    let mut series: BTreeMap<Vec<Attribute>, u64> = BTreeMap::new();
    for (attributes, count) in points {
        *series.entry(attributes).or_default() += count;
    }
    let point =
        |(attributes, count)| Point::new(&COVERAGE_CONTAINERS, Number::int(count), attributes);
    series.into_iter().map(point).collect()
}

/// How old what each source said is.
fn ages_of(snapshot: &Snapshot) -> Vec<Point> {
    let point = |row: &SourceRow| {
        let age = Number::Float(snapshot.now.since(row.as_of).as_secs_f64());
        Point::new(
            &DECLARED_AGE,
            age,
            vec![(attribute::SOURCE, text(&row.source))],
        )
    };
    snapshot.sources.iter().map(point).collect()
}

/// Each probe in each state: 1 for the one that it is in.
fn probes_of(snapshot: &Snapshot) -> Vec<Point> {
    let states = [Health::Ok, Health::Unsupported, Health::Broken, Health::Off];
    let point = |status: &ProbeStatus, state: Health| {
        let attributes = vec![
            (attribute::PROBE, text(&status.probe)),
            (
                attribute::PROBE_STATE,
                AttributeValue::Word(health_word(state)),
            ),
        ];
        let is = u64::from(status.health == state);
        Point::new(&PROBE_HEALTH, Number::int(is), attributes)
    };
    let told = snapshot.probes.iter().take(PROBES_MAX);
    told.flat_map(|status| states.map(|state| point(status, state)))
        .collect()
}

/// Bounded things: how full they are, and what they lost. The counter began with the agent, whose start the core does
/// not know: the exporter fills it in.
fn tables_of(snapshot: &Snapshot) -> Vec<Point> {
    let mut points = Vec::new();
    for table in &snapshot.occupancy {
        let attributes = || vec![(attribute::MAP, text(&table.place))];
        points.push(Point::new(
            &EBPF_MAP_ENTRIES,
            Number::int(table.entries),
            attributes(),
        ));
        points.push(Point::new(
            &EBPF_MAP_CAPACITY,
            Number::int(table.capacity),
            attributes(),
        ));
    }
    // Counted since the agent began, which is when it first read the clocks.
    let begun = super::unix(snapshot, snapshot.origin.monotonic);
    for delivered in &snapshot.delivered {
        let attributes = vec![(attribute::MAP, text(&delivered.place))];
        let point = Point::new(&EBPF_EVENTS, Number::int(delivered.count), attributes);
        points.push(point.since(begun));
    }
    for lost in &snapshot.dropped {
        let attributes = vec![
            (attribute::MAP, text(&lost.place)),
            (attribute::REASON, text(&lost.reason)),
        ];
        points
            .push(Point::new(&EBPF_EVENTS_LOST, Number::int(lost.count), attributes).since(begun));
    }
    points
}

fn text(text: &str) -> AttributeValue {
    AttributeValue::Text(text.to_owned())
}
