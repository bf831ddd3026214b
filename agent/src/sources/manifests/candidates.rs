//! Policies that are not in force, from files: `--candidate-policies PATH`. They are evaluated beside those that are.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use plumbline_core::declared::{Declared, DeclaredPolicy, DeclaredProblem};
use plumbline_core::observation::{Fact, Health, ProbeStatus};
use plumbline_core::time::Timestamp;

use super::{Manifests, watch};
use crate::clock;
use crate::sources::Sink;

/// Name of the source among the probes.
pub const CANDIDATES: &str = "candidate_policies";

/// Sends the policies that were read, at once, then looks for changes in a thread of its own until `stop`.
///
/// # Errors
/// The system gives no thread.
pub fn spawn_candidates(
    manifests: Manifests,
    sink: Sink,
    stop: Arc<AtomicBool>,
) -> io::Result<JoinHandle<()>> {
    let mut sent = Sent {
        sink,
        policies: None,
        status: None,
        behind: false,
    };
    sent.update(&manifests, clock::monotonic());
    watch::follow(
        CANDIDATES,
        manifests,
        stop,
        move |manifests, changed, at| {
            if changed || sent.behind {
                sent.update(manifests, at);
            }
        },
    )
}

/// What the loop was told last; what found no room in the channel is told again.
struct Sent {
    sink: Sink,
    policies: Option<Vec<DeclaredPolicy>>,
    status: Option<ProbeStatus>,
    behind: bool,
}

impl Sent {
    fn update(&mut self, manifests: &Manifests, at: Timestamp) {
        self.behind = false;
        let declared = manifests.declared();
        let status = status(manifests, &declared);
        if self.status.as_ref() != Some(&status) {
            if self.status.as_ref().map(|before| &before.reason) != Some(&status.reason)
                && let Some(reason) = &status.reason
            {
                tracing::warn!(reason, "not all candidate policies are evaluated");
            }
            self.behind |= !self.sink.send(at, Fact::Probe(status.clone()));
            self.status = Some(status).filter(|_| !self.behind);
        }
        let mut policies = declared.policies;
        policies.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        if self.policies.as_ref() != Some(&policies) {
            let fact = Fact::CandidatePolicies {
                policies: policies.clone(),
            };
            let taken = self.sink.send(at, fact);
            self.behind |= !taken;
            self.policies = Some(policies).filter(|_| taken);
        }
    }
}

/// How the source is doing. One that is not evaluated must not look like one that denies nothing.
fn status(manifests: &Manifests, declared: &Declared) -> ProbeStatus {
    let status = manifests.status();
    let unused = |problem: &DeclaredProblem| format!("{}: {}", problem.at, problem.message);
    let mut reasons: Vec<String> = status.reason.into_iter().collect();
    reasons.extend(declared.problems.iter().take(1).map(unused));
    if declared.problems_total > 1 {
        reasons.push(format!("and {} more", declared.problems_total - 1));
    }
    if !declared.admin_policies.is_empty() {
        reasons.push("AdminNetworkPolicies are no candidates: only NetworkPolicies are".to_owned());
    }
    if declared.policies.is_empty() {
        reasons.push("there is no NetworkPolicy".to_owned());
    }
    ProbeStatus {
        probe: CANDIDATES.to_owned(),
        health: if reasons.is_empty() {
            Health::Ok
        } else {
            Health::Broken
        },
        reason: (!reasons.is_empty()).then(|| reasons.join("; ")),
    }
}
