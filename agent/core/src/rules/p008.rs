//! P008, host process listener not allowed. What, why and traps are in [`RULE`].

use std::collections::{BTreeMap, BTreeSet};

use crate::finding::{Condition, Coverage, Evidence, Judge, Memory, Need, Rule, Severity, Subject};
use crate::settings::Grace;
use crate::snapshot::{HostListenerView, Snapshot};

/// P008.
pub static RULE: Rule = Rule {
    id: "P008",
    title: "Host process listener not allowed",
    category: "ports",
    what: "Sockets that processes of the host listen on in the node's own network, against the operator's list of allowed \
           units and ports. A finding for each unit and port. Without a list the rule is silent.",
    why: "No NetworkPolicy is about the node: what a service of the host listens on is open to every pod, and often to \
          more.",
    severity: "medium",
    traps: &[
        "Pods in the node's network are not the host's: their sockets belong to their containers, and P007 speaks of \
         them (1).",
        "Ports that the kernel chose (`bind(0)`) have another number each time: one finding per unit, with the key \
         `dynamic` (2). Of UDP they are mostly clients' and say nothing (9).",
        "Loopback is no exposure (3).",
        "A runtime that dials into a pod, or holds a socket in a pod's network, listens on nothing of the node (7, 12).",
        "One port of several sockets, processes or addresses is one finding (10, 11).",
        "The agent itself is left out (22).",
    ],
    remediation: "Stop the unit, bind it to 127.0.0.1, or add it to `host_listeners` of the configuration.",
    needs: &[Need::HostListeners],
    memory: Memory::Moment,
    judge: Judge::Node(conditions),
};

/// Why nothing is known of the host's own sockets, unless something is, or there is none.
pub(super) fn no_units(snapshot: &Snapshot) -> Option<String> {
    let unknown = snapshot.host_unknown;
    let asked = !snapshot.settings.rules.host_listeners.is_empty();
    let none_known = snapshot.host_listeners.is_empty() && unknown > 0;
    (asked && none_known).then(|| {
        format!(
            "{unknown} listening sockets of the node's network belong to processes outside of the cgroups that are watched: \
             --cgroup-root must be the root of the node's"
        )
    })
}

/// Unit and port, or `dynamic`.
type Place<'a> = (&'a str, String);

fn conditions(snapshot: &Snapshot) -> Vec<Condition> {
    if snapshot.settings.rules.host_listeners.is_empty() {
        return Vec::new();
    }
    let mut places: BTreeMap<Place<'_>, Vec<&HostListenerView>> = BTreeMap::new();
    let listeners = snapshot.host_listeners.iter();
    for listener in listeners.filter(|listener| is_wrong(snapshot, listener)) {
        let (first, last) = snapshot.settings.ephemeral_ports;
        let name = match (first..=last).contains(&listener.port) {
            true => "dynamic".into(),
            false => name(listener),
        };
        let place = (listener.unit.as_str(), name);
        places.entry(place).or_default().push(listener);
    }
    places.into_iter().map(condition).collect()
}

fn is_wrong(snapshot: &Snapshot, listener: &HostListenerView) -> bool {
    let mut allowed = snapshot.settings.rules.host_listeners.iter();
    let over = match snapshot.settings.grace {
        Grace::Time(grace) => snapshot.now.since(listener.first_seen) >= grace,
        Grace::Scans(scans) => listener.scans >= scans,
    };
    over && !allowed.any(|one| one.allows(&listener.unit, listener.transport, listener.port))
}

fn name(listener: &HostListenerView) -> String {
    format!("{}/{}", listener.transport.as_str(), listener.port)
}

fn condition(((unit, place), listeners): (Place<'_>, Vec<&HostListenerView>)) -> Condition {
    let ports: Vec<String> = listeners.iter().map(|one| name(one)).collect();
    let texts = |texts: BTreeSet<String>| Evidence::List(texts.into_iter().collect());
    let addresses = listeners.iter().flat_map(|one| &one.addresses);
    let executables = listeners.iter().flat_map(|one| &one.executables);
    Condition {
        rule: &RULE,
        severity: Severity::Medium,
        subject: Subject::default(),
        key: format!("{unit} {place}"),
        declared: "not in `host_listeners`".into(),
        observed: format!("{unit} listens on {} of the node", ports.join(", ")),
        evidence: BTreeMap::from([
            (
                "addresses",
                texts(addresses.map(ToString::to_string).collect()),
            ),
            ("executables", texts(executables.cloned().collect())),
            ("ports", Evidence::List(ports)),
            ("unit", Evidence::Text(unit.to_owned())),
        ]),
        coverage: Coverage::Full,
        remediation: format!(
            "Stop {unit}, bind it to 127.0.0.1, or allow it: add `{unit}` to `host_listeners`."
        ),
        patch: None,
    }
}

#[cfg(test)]
mod tests;
