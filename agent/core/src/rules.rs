//! Pure functions from a snapshot to conditions: what was declared against what was observed.
//!
//! One file a rule. A rule says nothing about what it does not know: no declared side, a pod that is not in it, a
//! figure that was not measured. That silence is never mistaken for health, because [`unknown_rules`] and the rule
//! M001 name it.

mod advice;
pub mod c001;
pub mod c002;
pub mod c003;
pub mod c004;
pub mod c005;
pub mod c006;
pub mod c007;
pub mod f001;
pub mod f002;
pub mod f006;
pub mod f007;
mod flows;
pub(crate) mod grace;
pub mod i001;
pub mod i003;
pub mod i004;
mod images;
pub mod l001;
pub mod l002;
pub mod l003;
pub mod m001;
pub mod m002;
pub mod m003;
pub mod p001;
pub mod p004;
pub mod p005;
pub mod p007;
pub mod p008;
pub mod p009;
mod patch;
pub mod ports;
pub mod reference;
pub mod s001;
mod sidecars;
#[cfg(test)]
pub(crate) mod testing;
mod undeclared;
mod waiting;
mod weight;

use crate::finding::{Condition, Judge, Need, Rule};
use crate::observation::{Health, ProbeStatus};
use crate::snapshot::{ContainerView, Snapshot};

/// Every rule there is, by id. A new one is a file, its `mod` line, and its line here.
pub static ALL: &[&Rule] = &[
    &c001::RULE,
    &c002::RULE,
    &c003::RULE,
    &c004::RULE,
    &c005::RULE,
    &c006::RULE,
    &c007::RULE,
    &f001::RULE,
    &f002::RULE,
    &f006::RULE,
    &f007::RULE,
    &i001::RULE,
    &i003::RULE,
    &i004::RULE,
    &l001::RULE,
    &l002::RULE,
    &l003::RULE,
    &m001::RULE,
    &m002::RULE,
    &m003::RULE,
    &p001::RULE,
    &p004::RULE,
    &p005::RULE,
    &p007::RULE,
    &p008::RULE,
    &p009::RULE,
    &s001::RULE,
];

/// The source that tells of NetworkPolicies.
const POLICIES: &str = "networkpolicies";

/// The rule of an id, in either case.
#[must_use]
pub fn find(id: &str) -> Option<&'static Rule> {
    ALL.iter()
        .copied()
        .find(|rule| rule.id.eq_ignore_ascii_case(id))
}

/// What is wrong at this moment, sorted by rule, subject and key. The order of the snapshot's lists does not matter.
#[must_use]
pub fn evaluate(snapshot: &Snapshot) -> Vec<Condition> {
    let judged: Vec<(usize, &ContainerView)> = snapshot
        .containers
        .iter()
        .enumerate()
        .filter(|(_, container)| is_judged(container))
        .collect();
    let mut conditions = Vec::new();
    let rulebook = &snapshot.settings.rulebook;
    for rule in ALL.iter().filter(|rule| rulebook.is_enabled(rule.id)) {
        let judged = judged.iter();
        match rule.judge {
            Judge::Node(judge) => conditions.extend(judge(snapshot)),
            Judge::Container(judge) => {
                conditions.extend(judged.filter_map(|(_, one)| judge(snapshot, one)));
            }
            Judge::ContainerMany(judge) => {
                conditions.extend(judged.flat_map(|(_, one)| judge(snapshot, one)));
            }
            Judge::ContainerFlows(judge) => {
                conditions.extend(judged.flat_map(|(place, one)| judge(snapshot, *place, one)));
            }
        }
    }
    for condition in &mut conditions {
        if let Some(severity) = rulebook.severity(condition.rule.id) {
            condition.severity = severity;
        }
    }
    let suspended = m003::suspended(snapshot);
    conditions.retain(|condition| !suspended.contains(condition.rule.id));
    conditions
        .sort_by(|a, b| (a.rule.id, &a.subject, &a.key).cmp(&(b.rule.id, &b.subject, &b.key)));
    conditions
}

/// Rules that cannot decide on this snapshot, by id, each with the reason.
///
/// A rule that is not among them may still know nothing about a single container: M001 says so.
#[must_use]
pub fn unknown_rules(snapshot: &Snapshot) -> Vec<(&'static str, String)> {
    let unknown = ALL.iter().filter_map(|rule| {
        if !snapshot.settings.rulebook.is_enabled(rule.id) {
            return Some((rule.id, "turned off in the configuration".to_owned()));
        }
        let lacks = rule.needs.iter().find_map(|need| lacks(snapshot, *need));
        Some((rule.id, lacks?))
    });
    unknown.collect()
}

/// Why what a rule needs is not there, unless it is.
fn lacks(snapshot: &Snapshot, need: Need) -> Option<String> {
    match need {
        Need::Declared(sources) => declared_for(snapshot, sources),
        Need::Listeners => none_works(snapshot, &["listeners", "tcp"]),
        Need::HostListeners => {
            none_works(snapshot, &["listeners"]).or_else(|| p008::no_units(snapshot))
        }
        Need::Connections => none_works(snapshot, &["tcp"]),
        Need::CpuWindows => none_works(snapshot, &["cpu_windows"]),
        Need::Pressure => none_works(snapshot, &["cpu_stat"]).or_else(|| no_pressure(snapshot)),
        Need::Quotas => none_works(snapshot, &["cpu_stat"]).or_else(|| no_controller(snapshot)),
        Need::Logs => none_works(snapshot, &["logs"]),
        Need::Own(lacks) => lacks(snapshot),
    }
}

/// Neither the agent (it would report its own making) nor what has ended.
fn is_judged(container: &ContainerView) -> bool {
    !container.is_self && !container.gone
}

/// Why nothing is known of waiting, unless something is.
fn no_pressure(snapshot: &Snapshot) -> Option<String> {
    let node = snapshot.node_cpu.as_ref();
    let known = node.is_some_and(|node| node.some.is_some() || node.span.is_zero());
    (!known).then(|| "the kernel keeps no CPU pressure (CONFIG_PSI, psi=1)".into())
}

/// Why nothing is known of limits and weights, unless something is, or there is no container to have any.
fn no_controller(snapshot: &Snapshot) -> Option<String> {
    let mut read = snapshot
        .containers
        .iter()
        .filter(|container| is_judged(container) && container.cpu.usage_us.is_some())
        .peekable();
    let unknown = read.peek().is_some() && read.all(|container| container.cpu.max.is_none());
    unknown.then(|| "no container's cgroup has the cpu controller of cgroup v2".into())
}

/// Why there is no declared side, unless there is one.
fn no_declared(snapshot: &Snapshot) -> Option<String> {
    if snapshot.declared.is_some() {
        return None;
    }
    Some(
        match probe(snapshot, "declared").filter(|status| status.health != Health::Ok) {
            Some(status) => status_text(status),
            None => "no declared side has been read yet".into(),
        },
    )
}

/// Why what a rule compares with is not known: there is no declared side, one of its sources is too old, or nobody tells of
/// policies: files with pods only say nothing about them, and what was judged by them before is not over.
fn declared_for(snapshot: &Snapshot, sources: &[&str]) -> Option<String> {
    let no_policies = || {
        let needed = sources.contains(&POLICIES) && !snapshot.policies.are_known();
        needed.then(|| {
            "NetworkPolicies are not known: the declared side has none, and does not say that there are none".into()
        })
    };
    no_declared(snapshot)
        .or_else(|| m003::too_old(snapshot, sources))
        .or_else(no_policies)
}

/// Whether a rule judges by NetworkPolicies.
pub(crate) fn needs_policies(rule: &Rule) -> bool {
    let mut needs = rule.needs.iter();
    needs.any(|need| matches!(need, Need::Declared(sources) if sources.contains(&POLICIES)))
}

/// Why none of the probes measures, unless one does.
fn none_works(snapshot: &Snapshot, probes: &[&str]) -> Option<String> {
    let mut reasons = Vec::new();
    for name in probes {
        match probe(snapshot, name) {
            Some(status) if status.health == Health::Ok => return None,
            Some(status) => reasons.push(status_text(status)),
            None => reasons.push(format!("{name} has not reported yet")),
        }
    }
    Some(reasons.join("; "))
}

/// `shop/web-1/app`, as far as it is known, else the id.
#[must_use]
pub fn label(container: &ContainerView) -> String {
    let subject = &container.subject;
    match (&subject.namespace, &subject.pod) {
        (Some(namespace), Some(pod)) => {
            let container = subject
                .container
                .as_deref()
                .unwrap_or(container.container_id.as_str());
            format!("{namespace}/{pod}/{container}")
        }
        _ => format!("{}/{}", container.pod_uid, container.container_id),
    }
}

fn probe<'a>(snapshot: &'a Snapshot, name: &str) -> Option<&'a ProbeStatus> {
    snapshot.probes.iter().find(|status| status.probe == name)
}

/// `cpu_windows is unsupported: the kernel has no BTF`.
fn status_text(status: &ProbeStatus) -> String {
    let reason = status.reason.as_deref().unwrap_or("no reason was given");
    format!(
        "{} is {}: {reason}",
        status.probe,
        health_word(status.health)
    )
}

pub(crate) fn health_word(health: Health) -> &'static str {
    match health {
        Health::Ok => "ok",
        Health::Unsupported => "unsupported",
        Health::Broken => "broken",
        Health::Off => "off",
    }
}

#[cfg(test)]
mod tests;
