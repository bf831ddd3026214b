//! F006, policy blocks real traffic. What, why and traps are in [`RULE`].

use std::collections::BTreeMap;
use std::time::Duration;

use crate::finding::{Condition, Evidence, Judge, Memory, Need, Rule, Severity};
use crate::observation::Role;
use crate::rules::flows;
use crate::snapshot::{ContainerView, FlowView, Snapshot};

/// F006.
pub static RULE: Rule = Rule {
    id: "F006",
    title: "Policy blocks real traffic",
    category: "flows",
    what: "Real: at least three failed attempts to one peer and port, the last within ten minutes, with the \
           verdict `deny` of either end. Candidate: connections that passed within ten minutes and that a \
           candidate policy (`--candidate-policies`) would deny at the container's own end.",
    why: "A policy that is too tight looks like a network that is down. Who is on call should read which policy \
          it is; who is about to apply one should know before.",
    severity: "medium; info for candidate policies",
    traps: &[
        "A failure alone is no proof: only together with a verdict.",
        "Verdicts are believed as by F001 (17, 18, 19).",
        "A client that was refused by a server that is not there, and whose policies allow, is no case of this \
         rule.",
    ],
    remediation: "Add a rule that allows the connection, if it is meant to be.",
    needs: &[Need::POLICIES, Need::Connections],
    memory: Memory::For(Duration::from_secs(600)),
    judge: Judge::ContainerFlows(conditions),
};

/// Failed attempts from which on they are no chance.
const ATTEMPTS_MIN: u64 = 3;

/// What policies keep a container from. `index` is its place in the snapshot.
pub(super) fn conditions(
    snapshot: &Snapshot,
    index: usize,
    container: &ContainerView,
) -> Vec<Condition> {
    let flows = flows::of_container(snapshot, index);
    flows
        .flat_map(|flow| {
            let real = real(snapshot, container, flow);
            real.into_iter().chain(candidate(snapshot, container, flow))
        })
        .collect()
}

fn real(snapshot: &Snapshot, container: &ContainerView, flow: &FlowView) -> Option<Condition> {
    let blocked = &flow.verdicts.blocked;
    let enough = flow.role == Role::Client && blocked.count >= ATTEMPTS_MIN;
    let why = blocked
        .why
        .as_ref()
        .filter(|_| enough && flows::is_recent(snapshot, blocked))?;
    let timeouts = flow.counts.timeouts;
    Some(Condition {
        severity: Severity::Medium,
        key: key("blocked", flow),
        observed: format!("{} attempts {} failed", blocked.count, flows::text(flow)),
        evidence: BTreeMap::from([
            ("attempts", Evidence::Count(blocked.count)),
            ("timeouts", Evidence::Count(timeouts)),
            ("peer", Evidence::Text(flows::named(&flow.peer))),
            ("port", Evidence::Count(flow.server_port.into())),
            ("verdict", Evidence::Text(why.to_string())),
        ]),
        remediation: format!(
            "If the traffic is meant, add a rule for it ({}). If not, stop the client from trying.",
            flows::text(flow)
        ),
        ..common(container, why)
    })
}

fn candidate(snapshot: &Snapshot, container: &ContainerView, flow: &FlowView) -> Option<Condition> {
    let denied = &flow.verdicts.candidate;
    let why = denied
        .why
        .as_ref()
        .filter(|_| flows::is_recent(snapshot, denied))?;
    Some(Condition {
        severity: Severity::Info,
        key: key("candidate", flow),
        observed: format!(
            "{} connections {} passed and would be denied",
            denied.count,
            flows::text(flow)
        ),
        evidence: BTreeMap::from([
            ("connections", Evidence::Count(denied.count)),
            ("peer", Evidence::Text(flows::named(&flow.peer))),
            ("port", Evidence::Count(flow.server_port.into())),
            ("verdict", Evidence::Text(why.to_string())),
        ]),
        remediation: format!(
            "Add a rule for it to the candidate policy ({}) before applying it, if the traffic is meant.",
            flows::text(flow)
        ),
        ..common(container, why)
    })
}

fn key(what: &str, flow: &FlowView) -> String {
    let (transport, port) = (flow.transport.as_str(), flow.server_port);
    let way = flows::direction(flow).as_str();
    format!(
        "{what} {way} {} {transport}/{port}",
        flows::named(&flow.peer)
    )
}

fn common(container: &ContainerView, why: &str) -> Condition {
    Condition {
        rule: &RULE,
        severity: Severity::Info,
        subject: container.subject.clone(),
        key: String::new(),
        declared: why.to_owned(),
        observed: String::new(),
        evidence: BTreeMap::new(),
        coverage: flows::coverage(container),
        remediation: String::new(),
        patch: None,
    }
}

#[cfg(test)]
mod tests;
