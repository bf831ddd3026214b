//! P004, debug or admin endpoint reachable. What, why and traps are in [`RULE`].

use std::collections::BTreeMap;

use crate::declared::Transport;
use crate::exposure::{Exposure, Reach, exposure};
use crate::finding::{Condition, Evidence, Judge, Memory, Need, Rule, Severity};
use crate::rules::grace;
use crate::rules::ports::{DeclaredBy, coverage, declared_by};
use crate::snapshot::{ContainerView, ListenerView, Snapshot};

/// P004.
pub static RULE: Rule = Rule {
    id: "P004",
    title: "Debug or admin endpoint reachable",
    category: "ports",
    what: "The table of known endpoints against every listener that is not on loopback, is not declared, and that \
           NetworkPolicies do not keep everybody from. P001 or P007 names the same port as undeclared.",
    why: "Who reaches a debugger runs code in the container; who reaches a profiler reads its memory. Such ports \
          are opened for a test and forgotten.",
    severity: "high",
    traps: &[
        "A number alone is no proof: where the program is what makes the port dangerous it must be that program, \
         and a program that is not known is no match; Tomcat's old debug port 8000 is not in the table, since \
         Java servers use it for HTTP.",
        "Loopback is no exposure (3): `kubectl port-forward` is how such ports are meant to be reached (7).",
        "A declared port was meant (6, 8, 15).",
        "A socket passed on is not blamed on its creator (11).",
        "The rest as P001.",
    ],
    remediation: "Disable the endpoint in production, or bind it to 127.0.0.1.",
    needs: &[Need::SERVICES, Need::Listeners],
    memory: Memory::Moment,
    judge: Judge::ContainerMany(conditions),
};

/// An endpoint that is dangerous to leave open.
struct Known {
    what: &'static str,
    /// Empty: any port of the programs.
    ports: &'static [u16],
    /// Names of programs, without their folder; empty: any.
    programs: &'static [&'static str],
}

/// What is known by its port and program.
const KNOWN: [Known; 7] = [
    Known {
        what: "a profiler or debug page (Go pprof and others)",
        ports: &[6060],
        programs: &[],
    },
    Known {
        what: "the Java debugger (JDWP)",
        ports: &[5005],
        programs: &["java"],
    },
    Known {
        what: "Java management (JMX)",
        ports: &[1099, 7199, 9010],
        programs: &["java"],
    },
    Known {
        what: "the Node.js inspector",
        ports: &[9229],
        programs: &["node", "nodejs"],
    },
    Known {
        what: "the Go debugger (delve)",
        ports: &[],
        programs: &["dlv"],
    },
    Known {
        what: "etcd for clients",
        ports: &[2379],
        programs: &["etcd"],
    },
    Known {
        what: "the Docker API without TLS",
        ports: &[2375],
        programs: &["dockerd", "docker-proxy"],
    },
];

/// Debug and admin endpoints of a container that others can reach.
pub(super) fn conditions(snapshot: &Snapshot, container: &ContainerView) -> Vec<Condition> {
    if snapshot.declared.is_none() || container.pod.is_none() {
        return Vec::new();
    }
    let judge = |listener| condition(snapshot, container, listener);
    container.listeners.iter().filter_map(judge).collect()
}

fn condition(
    snapshot: &Snapshot,
    container: &ContainerView,
    listener: &ListenerView,
) -> Option<Condition> {
    let (transport, port) = (listener.transport, listener.port);
    if transport != Transport::Tcp
        || !grace::listener_is_over(snapshot, listener)
        || listener.held_by_owner == Some(false)
        || declared_by(snapshot, container, transport, port) != DeclaredBy::None
    {
        return None;
    }
    let known = KNOWN.iter().find(|known| known.is(listener))?;
    let exposure = exposure(snapshot, container, listener);
    if exposure.reach == Reach::None {
        return None;
    }
    Some(Condition {
        rule: &RULE,
        severity: Severity::High,
        subject: container.subject.clone(),
        key: format!("tcp/{port}"),
        declared: format!("no container of the pod declares tcp/{port}"),
        observed: format!("tcp/{port} looks like {}, and is reachable", known.what),
        evidence: evidence(listener, exposure),
        coverage: coverage(container),
        remediation: "Disable the endpoint in production, or bind it to 127.0.0.1 and use kubectl port-forward.".into(),
        patch: None,
    })
}

fn evidence(listener: &ListenerView, exposure: Exposure) -> BTreeMap<&'static str, Evidence> {
    let mut evidence = BTreeMap::from([
        ("connections", Evidence::Count(listener.connections)),
        ("exposure", Evidence::Text(exposure.reach.as_str().into())),
        ("port", Evidence::Count(listener.port.into())),
        ("reach", Evidence::List(exposure.chain)),
        ("transport", Evidence::Text("tcp".into())),
    ]);
    if let Some(program) = programs(listener).next() {
        evidence.insert("executable", Evidence::Text(program.into()));
    }
    evidence
}

fn programs(listener: &ListenerView) -> impl Iterator<Item = &str> {
    let holders = listener.holders.iter();
    holders.filter_map(|holder| holder.executable.as_deref())
}

impl Known {
    fn is(&self, listener: &ListenerView) -> bool {
        let name = |path: &str| path.rsplit('/').next().map(str::to_owned);
        let port = self.ports.is_empty() || self.ports.contains(&listener.port);
        let program = self.programs.is_empty()
            || programs(listener)
                .filter_map(name)
                .any(|name| self.programs.contains(&name.as_str()));
        port && program
    }
}

#[cfg(test)]
mod tests;
