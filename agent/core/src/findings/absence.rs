//! Whether the absence of a condition says that it does not hold, or only that nobody looked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::declared::ContainerKind;
use crate::finding::{Coverage, Finding, Memory};
use crate::rules::{self, grace};
use crate::snapshot::{ContainerView, Snapshot};

/// What the absence of a condition says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absence {
    /// Nothing: the rule or what it is about is not seen, or not for long enough.
    Unknown,
    /// It would be seen if it held.
    Seen,
    /// There is nothing left on this node that it could be about.
    OwnerGone,
    /// The operator has turned the rule off.
    RuleDisabled,
}

/// Namespace and owner, as kind and name.
type Owner<'a> = (&'a str, &'a str, &'a str);

/// What one snapshot shows, made ready to be asked about many findings.
pub(super) struct Watched<'a> {
    snapshot: &'a Snapshot,
    /// Rules that cannot decide.
    unknown: BTreeSet<&'static str>,
    /// Containers that run, by owner.
    running: BTreeMap<Owner<'a>, Vec<&'a ContainerView>>,
    /// Containers that are to run, by owner: crashed or not begun, they come back.
    expected: BTreeMap<Owner<'a>, BTreeSet<&'a str>>,
    /// Ids of all containers that run.
    ids: BTreeSet<&'a str>,
}

impl<'a> Watched<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        let present = snapshot
            .containers
            .iter()
            .filter(|container| !container.gone);
        let mut running: BTreeMap<Owner<'a>, Vec<&ContainerView>> = BTreeMap::new();
        let mut ids = BTreeSet::new();
        for container in present {
            ids.insert(container.container_id.as_str());
            let subject = &container.subject;
            if let (Some(namespace), Some(owner)) = (&subject.namespace, &subject.owner) {
                let of = (namespace.as_str(), owner.kind.as_str(), owner.name.as_str());
                running.entry(of).or_default().push(container);
            }
        }
        let pods = snapshot.declared.iter().flat_map(|declared| &declared.pods);
        // A dump has the pods of all nodes. Where none is on a node of this name, the names are not the same ones.
        let named = pods
            .clone()
            .any(|pod| pod.node.is_some() && pod.node == snapshot.node.node);
        let here = |node: &Option<String>| !named || node.is_none() || *node == snapshot.node.node;
        let mut expected: BTreeMap<Owner<'a>, BTreeSet<&'a str>> = BTreeMap::new();
        for pod in pods.filter(|pod| !pod.finished && here(&pod.node)) {
            let of = (
                pod.namespace.as_str(),
                pod.owner.kind.as_str(),
                pod.owner.name.as_str(),
            );
            let lasting = pod
                .containers
                .iter()
                .filter(|container| match container.kind {
                    ContainerKind::Regular | ContainerKind::Sidecar => true,
                    // They end for good.
                    ContainerKind::Init | ContainerKind::Ephemeral => false,
                });
            let names = lasting.map(|container| container.name.as_str());
            expected.entry(of).or_default().extend(names);
        }
        Self {
            snapshot,
            unknown: rules::unknown_rules(snapshot)
                .into_iter()
                .map(|(rule, _)| rule)
                .collect(),
            running,
            expected,
            ids,
        }
    }

    /// `restored`: the finding was not seen since the agent began, so that it may not have had the time to see it.
    pub(super) fn absence(&self, finding: &Finding, restored: bool) -> Absence {
        if !self.snapshot.settings.rulebook.is_enabled(finding.rule_id) {
            return Absence::RuleDisabled;
        }
        if self.unknown.contains(finding.rule_id) {
            return Absence::Unknown;
        }
        let subject = &finding.resource;
        let memory = self.memory(finding);
        let Some(namespace) = &subject.namespace else {
            return match &subject.container_id {
                // A pod that nobody declared.
                Some(id) if self.ids.contains(id.as_str()) => Absence::Seen,
                Some(_) => Absence::OwnerGone,
                None => {
                    let watched = self.snapshot.now.since(self.snapshot.origin.monotonic);
                    if restored && watched < memory {
                        Absence::Unknown
                    } else {
                        Absence::Seen
                    }
                }
            };
        };
        // Policies that are not understood came to the namespace: nothing is judged there any more (trap 18).
        let not_understood = self.snapshot.policies.foreign(namespace).is_some();
        let by_policies = || rules::find(finding.rule_id).is_some_and(rules::needs_policies);
        let owner = subject.owner.as_ref();
        let (kind, name) = owner.map_or(("", ""), |owner| (&owner.kind, &owner.name));
        let of = (namespace.as_str(), kind, name);
        let about = |container: &&&ContainerView| {
            let one = subject.container.is_some() || subject.container_id.is_some();
            !one || container.subject.container == subject.container
        };
        let running = self.running.get(&of).into_iter().flatten();
        let running: Vec<&&ContainerView> = running.filter(about).collect();
        if running.is_empty() {
            return self.not_running(of, subject.container.as_deref());
        }
        if not_understood && by_policies() {
            return Absence::Unknown;
        }
        let seen = running.iter().all(|container| {
            let watched = self.snapshot.now.since(container.first_seen);
            grace::container_is_over(self.snapshot, container)
                && watched >= memory
                && (!is_of_network(finding.category) || is_covered(container))
        });
        if seen {
            Absence::Seen
        } else {
            Absence::Unknown
        }
    }

    /// Nothing that the finding could be about runs: will it again?
    fn not_running(&self, of: Owner<'_>, container: Option<&str>) -> Absence {
        if self.snapshot.declared.is_none() {
            return Absence::Unknown;
        }
        let expected = self.expected.get(&of);
        let comes_back = expected.is_some_and(|names| {
            container.map_or(!names.is_empty(), |container| names.contains(container))
        });
        if comes_back {
            Absence::Unknown
        } else {
            Absence::OwnerGone
        }
    }

    fn memory(&self, finding: &Finding) -> Duration {
        let settings = &self.snapshot.settings;
        match rules::find(finding.rule_id).map(|rule| rule.memory) {
            None | Some(Memory::Moment) => Duration::ZERO,
            Some(Memory::CpuWindow) => settings.cpu_startup_exclusion + settings.cpu_mean_window,
            Some(Memory::For(span)) => span,
        }
    }
}

/// Whether rules of this category go by what is seen of the network.
fn is_of_network(category: &str) -> bool {
    !matches!(category, "cpu" | "images" | "logs" | "monitoring")
}

fn is_covered(container: &ContainerView) -> bool {
    matches!(container.coverage, Coverage::Full | Coverage::PreExisting)
}
