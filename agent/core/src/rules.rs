//! Pure functions from a snapshot to conditions: what was declared against what was observed.
//!
//! One file a rule. A rule says nothing about what it does not know: no declared side, a pod that is not in it, a
//! figure that was not measured. That silence is never mistaken for health, because [`unknown_rules`] and the rule
//! M001 name it.

pub mod c001;
pub mod c007;
mod grace;
pub mod m001;
pub mod m002;
pub mod p001;
pub mod p007;
mod patch;
pub mod ports;
#[cfg(test)]
pub(crate) mod testing;
mod undeclared;

use crate::finding::{Condition, Rule};
use crate::observation::{Health, ProbeStatus};
use crate::snapshot::{ContainerView, Snapshot};

/// Every rule there is, by id.
pub const ALL: &[&Rule] = &[
    &c001::RULE,
    &c007::RULE,
    &m001::RULE,
    &m002::RULE,
    &p001::RULE,
    &p007::RULE,
];

/// What is wrong at this moment, sorted by rule, subject and key. The order of the snapshot's lists does not matter.
#[must_use]
pub fn evaluate(snapshot: &Snapshot) -> Vec<Condition> {
    let mut conditions = m001::conditions(snapshot);
    conditions.extend(m002::conditions(snapshot));
    for container in snapshot
        .containers
        .iter()
        .filter(|container| is_judged(container))
    {
        conditions.extend(c001::condition(snapshot, container));
        conditions.extend(c007::condition(snapshot, container));
        conditions.extend(p001::conditions(snapshot, container));
        conditions.extend(p007::conditions(snapshot, container));
    }
    conditions
        .sort_by(|a, b| (a.rule.id, &a.subject, &a.key).cmp(&(b.rule.id, &b.subject, &b.key)));
    conditions
}

/// Rules that cannot decide on this snapshot, by id, each with the reason.
///
/// A rule that is not among them may still know nothing about a single container: M001 says so.
#[must_use]
pub fn unknown_rules(snapshot: &Snapshot) -> Vec<(&'static str, String)> {
    let declared = no_declared(snapshot);
    let listeners = none_works(snapshot, &["listeners", "tcp"]);
    let windows = none_works(snapshot, &["cpu_windows"]);
    let unknown = [
        (c001::RULE.id, declared.clone()),
        (c007::RULE.id, windows),
        (
            p001::RULE.id,
            declared.clone().or_else(|| listeners.clone()),
        ),
        (p007::RULE.id, declared.or(listeners)),
    ];
    unknown
        .into_iter()
        .filter_map(|(rule, reason)| Some((rule, reason?)))
        .collect()
}

/// Neither the agent (it would report its own making) nor what has ended.
fn is_judged(container: &ContainerView) -> bool {
    !container.is_self && !container.gone
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
