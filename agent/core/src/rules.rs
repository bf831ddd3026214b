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
mod grace;
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
pub mod p009;
mod patch;
pub mod ports;
pub mod s001;
#[cfg(test)]
pub(crate) mod testing;
mod undeclared;
mod waiting;
mod weight;

use crate::finding::{Condition, Rule};
use crate::observation::{Health, ProbeStatus};
use crate::snapshot::{ContainerView, Snapshot};

/// Every rule there is, by id.
pub const ALL: &[&Rule] = &[
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
    &p009::RULE,
    &s001::RULE,
];

/// What is wrong at this moment, sorted by rule, subject and key. The order of the snapshot's lists does not matter.
#[must_use]
pub fn evaluate(snapshot: &Snapshot) -> Vec<Condition> {
    let mut conditions = m001::conditions(snapshot);
    conditions.extend(l001::all(snapshot));
    conditions.extend(l002::all(snapshot));
    conditions.extend(l003::all(snapshot));
    conditions.extend(m002::conditions(snapshot));
    conditions.extend(s001::conditions(snapshot));
    conditions.extend(f002::conditions(snapshot));
    for (index, container) in snapshot.containers.iter().enumerate() {
        if !is_judged(container) {
            continue;
        }
        conditions.extend(c001::condition(snapshot, container));
        conditions.extend(c002::condition(snapshot, container));
        conditions.extend(c003::condition(snapshot, container));
        conditions.extend(c004::condition(snapshot, container));
        conditions.extend(c005::condition(snapshot, container));
        conditions.extend(c006::condition(snapshot, container));
        conditions.extend(c007::condition(snapshot, container));
        conditions.extend(f001::conditions(snapshot, index, container));
        conditions.extend(f006::conditions(snapshot, index, container));
        conditions.extend(f007::condition(snapshot, index, container));
        conditions.extend(i001::condition(snapshot, container));
        conditions.extend(i003::condition(snapshot, container));
        conditions.extend(i004::condition(snapshot, container));
        conditions.extend(p001::conditions(snapshot, container));
        conditions.extend(p004::conditions(snapshot, container));
        conditions.extend(p005::conditions(snapshot, index, container));
        conditions.extend(p007::conditions(snapshot, container));
        conditions.extend(p009::conditions(snapshot, container));
    }
    let suspended = m003::suspended(snapshot);
    conditions.retain(|condition| !suspended.contains(condition.rule.id));
    conditions.extend(m003::condition(snapshot, &suspended));
    conditions
        .sort_by(|a, b| (a.rule.id, &a.subject, &a.key).cmp(&(b.rule.id, &b.subject, &b.key)));
    conditions
}

/// Rules that cannot decide on this snapshot, by id, each with the reason.
///
/// A rule that is not among them may still know nothing about a single container: M001 says so.
#[must_use]
pub fn unknown_rules(snapshot: &Snapshot) -> Vec<(&'static str, String)> {
    let declared = declared_for(snapshot, &["files", "pods"]);
    let ports = declared_for(snapshot, &["files", "pods", "services"]);
    let policies = declared_for(
        snapshot,
        &[
            "files",
            "pods",
            "services",
            "endpointslices",
            "namespaces",
            "networkpolicies",
            "peers",
        ],
    );
    let listeners = none_works(snapshot, &["listeners", "tcp"]);
    let connections = none_works(snapshot, &["tcp"]);
    let windows = none_works(snapshot, &["cpu_windows"]);
    let pressure = none_works(snapshot, &["cpu_stat"]).or_else(|| no_pressure(snapshot));
    let quotas = none_works(snapshot, &["cpu_stat"]).or_else(|| no_controller(snapshot));
    let logs = none_works(snapshot, &["logs"]);
    let first = |reasons: &[&Option<String>]| reasons.iter().find_map(|reason| (*reason).clone());
    let unknown = [
        (c001::RULE.id, declared.clone()),
        (c002::RULE.id, first(&[&declared, &windows, &pressure])),
        (c003::RULE.id, first(&[&declared, &windows])),
        (c004::RULE.id, quotas.clone()),
        (c005::RULE.id, first(&[&declared, &pressure])),
        (c006::RULE.id, first(&[&declared, &quotas])),
        (c007::RULE.id, windows),
        (f001::RULE.id, first(&[&policies, &connections])),
        (f002::RULE.id, first(&[&policies, &connections])),
        (f006::RULE.id, first(&[&policies, &connections])),
        (f007::RULE.id, first(&[&declared, &connections])),
        (i001::RULE.id, declared.clone()),
        (i003::RULE.id, declared.clone()),
        (i004::RULE.id, declared.clone()),
        (l001::RULE.id, logs.clone()),
        (l002::RULE.id, logs.clone()),
        (l003::RULE.id, logs),
        (p001::RULE.id, first(&[&ports, &listeners])),
        (p004::RULE.id, first(&[&ports, &listeners])),
        (p005::RULE.id, first(&[&ports, &listeners, &connections])),
        (p007::RULE.id, first(&[&ports, &listeners])),
        (p009::RULE.id, first(&[&ports, &policies, &listeners])),
        (s001::RULE.id, s001::unknown(snapshot)),
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

/// Why what a rule compares with is not known: there is no declared side, or one of its sources is too old.
fn declared_for(snapshot: &Snapshot, sources: &[&str]) -> Option<String> {
    no_declared(snapshot).or_else(|| m003::too_old(snapshot, sources))
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
