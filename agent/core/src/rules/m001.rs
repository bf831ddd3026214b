//! M001, blind spot. What, why and traps are in [`RULE`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::finding::{Condition, Coverage, Evidence, Judge, Memory, Need, Rule, Severity, Subject};
use crate::observation::{Health, OPTIONAL_PROBES, ProbeStatus};
use crate::rules::{ALL, grace, label, no_declared, ports, probe, status_text, unknown_rules};
use crate::snapshot::{ContainerView, Snapshot};

/// M001.
pub static RULE: Rule = Rule {
    id: "M001",
    title: "Blind spot",
    category: "monitoring",
    what: "Conditions about the node: one when there is no declared side to compare with, one for each probe that does \
           not measure, and one for each reason for which containers are seen in part or not at all.",
    why: "\"No findings\" must never be taken for \"nothing wrong\".",
    severity: "low; info for what the operator chose (`off`) and for pods that the declared side does not have",
    traps: &[
        "The agent's own start is no blind spot: nothing is said about probes that have not reported, about containers \
         younger than the grace, or about the declared side before the second complete scan, unless its source itself \
         says that it does not work.",
        "A probe that is off for all is said once, not once more for each container.",
        "Sandboxes whose sockets cannot be seen (gVisor, Kata) are told, never taken for clean (21).",
    ],
    remediation: "Remove the cause that the reason names; `plumbline status` shows the probes.",
    needs: &[],
    memory: Memory::For(Duration::from_secs(180)),
    judge: Judge::Node(conditions),
};

/// Containers named in the evidence of one condition.
const NAMED_MAX: usize = 10;

/// Which rules need a probe. What a probe gives besides (metrics) is its own reason's to say.
fn needing(probe: &str) -> Vec<String> {
    let needs = |rule: &&&Rule| match probe {
        // Without cgroups there are no containers to judge.
        "cgroups" => rule.category != "monitoring",
        "cpu_stat" => any(rule, |need| matches!(need, Need::Pressure | Need::Quotas)),
        "cpu_windows" => any(rule, |need| matches!(need, Need::CpuWindows)),
        "tcp" => any(rule, |need| {
            matches!(need, Need::Listeners | Need::Connections)
        }),
        "udp" => any(rule, |need| matches!(need, Need::Listeners)),
        "listeners" => any(rule, |need| {
            matches!(need, Need::Listeners | Need::HostListeners)
        }),
        _ => false,
    };
    ids(ALL.iter().filter(needs))
}

fn any(rule: &Rule, is: fn(&Need) -> bool) -> bool {
    rule.needs.iter().any(is)
}

fn ids<'a>(rules: impl Iterator<Item = &'a &'static Rule>) -> Vec<String> {
    rules.map(|rule| rule.id.to_owned()).collect()
}

/// What the node's agent does not see.
pub(super) fn conditions(snapshot: &Snapshot) -> Vec<Condition> {
    let probes = snapshot
        .probes
        .iter()
        .filter(|status| status.probe != "declared" || snapshot.declared.is_some());
    let mut conditions: Vec<Condition> = probes.filter_map(unmeasured).collect();
    conditions.extend(undeclared(snapshot));
    conditions.extend(uncovered(snapshot));
    conditions
}

/// There is no declared side.
fn undeclared(snapshot: &Snapshot) -> Option<Condition> {
    let reason = no_declared(snapshot)?;
    let health = probe(snapshot, "declared")
        .map(|status| status.health)
        .filter(|health| *health != Health::Ok);
    if health.is_none() && snapshot.scans < 2 {
        return None;
    }
    let rules = unknown_rules(snapshot)
        .into_iter()
        .filter(|(_, why)| *why == reason);
    let rules: Vec<String> = rules.map(|(rule, _)| rule.to_owned()).collect();
    let severity = severity_of(health.unwrap_or(Health::Broken));
    let mut condition = blind("declared".into(), severity, Coverage::Blind(reason.clone()));
    condition.declared = "a declared side to compare with".into();
    condition.observed = format!("none, so {} say nothing: {reason}", rules.join(", "));
    condition.remediation =
        "Give --declared a file or directory of manifests, or let the agent watch the API server."
            .into();
    condition.evidence.insert("reason", Evidence::Text(reason));
    condition.evidence.insert("rules", Evidence::List(rules));
    Some(condition)
}

/// A probe does not measure.
fn unmeasured(status: &ProbeStatus) -> Option<Condition> {
    let optional = OPTIONAL_PROBES.contains(&status.probe.as_str())
        && matches!(status.health, Health::Unsupported | Health::Off);
    if status.health == Health::Ok || optional {
        return None;
    }
    let text = status_text(status);
    let coverage = Coverage::Blind(text.clone());
    let mut condition = blind(
        format!("probe/{}", status.probe),
        severity_of(status.health),
        coverage,
    );
    condition.declared = format!("probe {} measures", status.probe);
    condition.observed = text;
    condition.remediation = match status.health {
        Health::Off => "Turn the probe on, unless what it measures is not wanted.",
        Health::Unsupported => {
            "Give the agent what the reason names, or run it on a kernel that has it."
        }
        Health::Ok | Health::Broken => {
            "Remove the cause that the reason names; `plumbline status` shows the probes."
        }
    }
    .into();
    condition
        .evidence
        .insert("rules", Evidence::List(needing(&status.probe)));
    if let Some(reason) = &status.reason {
        condition
            .evidence
            .insert("reason", Evidence::Text(reason.clone()));
    }
    Some(condition)
}

/// Containers that are not wholly seen, by reason.
fn uncovered(snapshot: &Snapshot) -> Vec<Condition> {
    let tcp_is_absent = probe(snapshot, "tcp")
        .is_some_and(|status| matches!(status.health, Health::Unsupported | Health::Off));
    let mut groups: BTreeMap<Coverage, Vec<&ContainerView>> = BTreeMap::new();
    let mut strangers = Vec::new();
    let old = snapshot
        .containers
        .iter()
        .filter(|container| !container.gone);
    for container in old.filter(|container| grace::container_is_over(snapshot, container)) {
        match ports::coverage(container) {
            // The probe's own condition says so for all of them.
            Coverage::Blind(reason) if tcp_is_absent && reason.starts_with("tcp: ") => {}
            coverage @ (Coverage::Partial(_) | Coverage::Blind(_)) => {
                groups.entry(coverage).or_default().push(container);
            }
            Coverage::Full | Coverage::PreExisting => {}
        }
        if snapshot.declared.is_some() && container.pod.is_none() {
            strangers.push(container);
        }
    }
    let mut conditions: Vec<Condition> = groups
        .into_iter()
        .map(|(coverage, of)| partly_seen(coverage, &of))
        .collect();
    if !strangers.is_empty() {
        let coverage = Coverage::Blind("not in the declared side".into());
        let mut condition = blind("coverage/undeclared-pod".into(), Severity::Info, coverage);
        condition.declared = "every pod of the node".into();
        let silent = ALL.iter().filter(|rule| {
            !matches!(rule.category, "monitoring")
                && any(rule, |need| {
                    matches!(need, Need::Declared(_) | Need::Own(_))
                })
        });
        condition.observed = format!(
            "{} running whose pod is not declared: {} say nothing about them",
            count(strangers.len()),
            ids(silent).join(", ")
        );
        condition.remediation =
            "Renew the declared side, so that it has every pod of the node.".into();
        name(&mut condition, &strangers);
        conditions.push(condition);
    }
    conditions
}

fn partly_seen(coverage: Coverage, containers: &[&ContainerView]) -> Condition {
    let (how, reason) = match &coverage {
        Coverage::Partial(reason) => ("in part", reason.clone()),
        Coverage::Blind(reason) => ("not at all", reason.clone()),
        Coverage::Full | Coverage::PreExisting => ("in full", String::new()),
    };
    let key = format!("coverage/{}/{reason}", coverage.as_str());
    let mut condition = blind(key, Severity::Low, coverage);
    condition.declared = "every container's network activity is seen".into();
    condition.observed = format!("{} seen {how}: {reason}", count(containers.len()));
    condition.remediation = match reason.as_str() {
        "passed_socket" => {
            "A listening socket is held by another container than its creator, or by processes in another network than its own, \
             as those of a mesh that listens inside pods: look at the holders."
        }
        "too_many_listeners" => {
            "Close ports, or take the overflow for what it is: ports beyond 64 are only counted."
        }
        _ => "Remove the cause that the reason names; `plumbline status` shows the probes.",
    }
    .into();
    condition.evidence.insert("reason", Evidence::Text(reason));
    name(&mut condition, containers);
    condition
}

fn name(condition: &mut Condition, containers: &[&ContainerView]) {
    let names: BTreeSet<String> = containers
        .iter()
        .map(|container| label(container))
        .collect();
    condition
        .evidence
        .insert("containers", Evidence::Count(containers.len() as u64));
    condition.evidence.insert(
        "names",
        Evidence::List(names.into_iter().take(NAMED_MAX).collect()),
    );
}

fn count(containers: usize) -> String {
    if containers == 1 {
        "1 container is".into()
    } else {
        format!("{containers} containers are")
    }
}

fn severity_of(health: Health) -> Severity {
    match health {
        Health::Off => Severity::Info,
        Health::Ok | Health::Unsupported | Health::Broken => Severity::Low,
    }
}

fn blind(key: String, severity: Severity, coverage: Coverage) -> Condition {
    Condition {
        rule: &RULE,
        severity,
        subject: Subject::default(),
        key,
        declared: String::new(),
        observed: String::new(),
        evidence: BTreeMap::new(),
        coverage,
        remediation: String::new(),
        patch: None,
    }
}

#[cfg(test)]
mod tests;
