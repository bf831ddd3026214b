//! What the operator says about rules: which judge, how severe they are, and which findings are hidden for a time.
//!
//! Only the agent's own configuration hides. What pods and their authors write (annotations, labels, names) hides nothing,
//! unless the operator has granted it for that namespace and that rule. Whatever the source, what lacks a reason or an
//! end, whose end is no date, or has passed, hides nothing, and the finding says so.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::declared::DeclaredPod;
use crate::finding::{Condition, Severity, Subject, Suppressed};
use crate::snapshot::Snapshot;
use crate::time::UnixNanos;

/// Annotations of pods that ask to hide a rule's findings: this and the rule's id, `plumbline/suppress.P001`. The value is
/// the end and the reason: `2026-12-31 debug port until the migration is over`.
pub const ANNOTATION_PREFIX: &str = "plumbline/suppress.";
/// Characters of a reason that are kept.
const REASON_MAX: usize = 512;

/// Which rules judge, how severe they are, and what is hidden. May change while the agent runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rulebook {
    /// By id of the rule; those that are not named judge as they are.
    pub rules: BTreeMap<String, RuleSettings>,
    /// What is hidden. At most [`crate::settings::SUPPRESSIONS_MAX`].
    pub suppressions: Vec<Suppression>,
    /// Whose annotations are heard.
    pub annotations: Vec<AnnotationGrant>,
}

/// What is set about one rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RuleSettings {
    /// Whether it judges.
    pub enabled: bool,
    /// Instead of what the rule says.
    pub severity: Option<Severity>,
}

impl Default for RuleSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            severity: None,
        }
    }
}

/// What is to be hidden. All that is given must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Suppression {
    /// Id of a rule. This or a fingerprint must be given.
    pub rule: Option<String>,
    /// One finding.
    pub fingerprint: Option<String>,
    /// Of this namespace.
    pub namespace: Option<String>,
    /// Of this owner: `Deployment/web`.
    pub workload: Option<String>,
    /// Of this container.
    pub container: Option<String>,
    /// Until when, as [`UnixNanos::parse`] reads it.
    pub until: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

/// Annotations of these pods are heard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AnnotationGrant {
    /// Name of the namespace.
    pub namespace: String,
    /// Ids of the rules.
    pub rules: Vec<String>,
}

impl Rulebook {
    /// Whether a rule judges.
    #[must_use]
    pub fn is_enabled(&self, rule: &str) -> bool {
        self.rules.get(rule).is_none_or(|set| set.enabled)
    }

    /// The severity that is set for a rule.
    #[must_use]
    pub fn severity(&self, rule: &str) -> Option<Severity> {
        self.rules.get(rule)?.severity
    }

    fn hears(&self, namespace: &str, rule: &str) -> bool {
        let mut grants = self.annotations.iter();
        grants.any(|grant| grant.namespace == namespace && grant.rules.iter().any(|id| id == rule))
    }
}

impl Suppression {
    /// Until when and why it hides, or why it does not.
    ///
    /// # Errors
    ///
    /// It names neither rule nor finding, has no reason or no end, or its end is no date or has passed.
    pub fn in_force(&self, now: UnixNanos) -> Result<(UnixNanos, &str), String> {
        if self.rule.is_none() && self.fingerprint.is_none() {
            return Err("it names neither a rule nor a fingerprint".into());
        }
        in_force(self.until.as_deref(), self.reason.as_deref(), now)
    }

    fn fits(&self, rule: &str, fingerprint: &str, subject: &Subject) -> bool {
        let owner = subject.owner.as_ref();
        let workload = owner.map(|owner| format!("{}/{}", owner.kind, owner.name));
        let fits = |wanted: &Option<String>, is: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| is == Some(wanted))
        };
        (self.rule.is_some() || self.fingerprint.is_some())
            && fits(&self.rule, Some(rule))
            && fits(&self.fingerprint, Some(fingerprint))
            && fits(&self.namespace, subject.namespace.as_deref())
            && fits(&self.workload, workload.as_deref())
            && fits(&self.container, subject.container.as_deref())
    }
}

fn in_force<'a>(
    until: Option<&str>,
    reason: Option<&'a str>,
    now: UnixNanos,
) -> Result<(UnixNanos, &'a str), String> {
    let reason = reason.map(str::trim).filter(|reason| !reason.is_empty());
    let until = until.map(str::trim).filter(|until| !until.is_empty());
    let Some(until) = until else {
        return Err("it has no end (`until`)".into());
    };
    let Some(end) = UnixNanos::parse(until) else {
        return Err("its end is no date".into());
    };
    let Some(reason) = reason else {
        return Err("it has no reason".into());
    };
    if end <= now {
        return Err(format!("it ended at {end}"));
    }
    Ok((end, &reason[..reason.floor_char_boundary(REASON_MAX)]))
}

/// What speaks for and against hiding one condition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hiding {
    /// What hides it.
    pub(crate) by: Option<Suppressed>,
    /// What does not, and why.
    pub(crate) ignored: BTreeSet<String>,
}

/// Everything that may hide, made ready for one snapshot.
pub(crate) struct Hider<'a> {
    rulebook: &'a Rulebook,
    now: UnixNanos,
    /// Declared pods that ask for something, by namespace and name.
    asking: BTreeMap<(&'a str, &'a str), &'a DeclaredPod>,
}

impl<'a> Hider<'a> {
    pub(crate) fn new(snapshot: &'a Snapshot) -> Self {
        let pods = snapshot.declared.iter().flat_map(|declared| &declared.pods);
        let asking = pods
            .filter(|pod| !pod.suppress.is_empty())
            .map(|pod| ((pod.namespace.as_str(), pod.name.as_str()), &**pod));
        Self {
            rulebook: &snapshot.settings.rulebook,
            now: snapshot.wall,
            asking: asking.collect(),
        }
    }

    pub(crate) fn judge(&self, condition: &Condition, fingerprint: &str) -> Hiding {
        let mut hiding = Hiding::default();
        for (index, entry) in self.rulebook.suppressions.iter().enumerate() {
            if !entry.fits(condition.rule.id, fingerprint, &condition.subject) {
                continue;
            }
            let by = format!("suppressions[{index}]");
            match entry.in_force(self.now) {
                Ok((until, reason)) => {
                    hiding.by.get_or_insert(Suppressed {
                        by,
                        until,
                        reason: reason.to_owned(),
                    });
                }
                Err(why) => {
                    hiding.ignored.insert(format!("{by}: {why}"));
                }
            }
        }
        if hiding.by.is_none() {
            self.annotation(condition, &mut hiding);
        }
        hiding
    }

    /// What the pod itself asks for. It is known by the namespace and name that its cgroup and the API server agree on.
    fn annotation(&self, condition: &Condition, hiding: &mut Hiding) {
        let subject = &condition.subject;
        let (Some(namespace), Some(pod)) = (&subject.namespace, &subject.pod) else {
            return;
        };
        let asking = self.asking.get(&(namespace.as_str(), pod.as_str()));
        let Some(text) = asking.and_then(|pod| pod.suppress.get(condition.rule.id)) else {
            return;
        };
        let by = format!("{ANNOTATION_PREFIX}{}", condition.rule.id);
        if !self.rulebook.hears(namespace, condition.rule.id) {
            let why = "annotations of this namespace are not heard for this rule";
            hiding.ignored.insert(format!("{by}: {why}"));
            return;
        }
        let (until, reason) = text.trim().split_once(char::is_whitespace).unzip();
        match in_force(until.or(Some(text)), reason, self.now) {
            Ok((until, reason)) => {
                let reason = reason.to_owned();
                hiding.by = Some(Suppressed { by, until, reason });
            }
            Err(why) => {
                hiding.ignored.insert(format!("{by}: {why}"));
            }
        }
    }
}

impl Hiding {
    /// What hides two replicas together: each must be hidden, and the one that ends first ends it.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            by: self
                .by
                .zip(other.by)
                .map(|(a, b)| if b.until < a.until { b } else { a }),
            ignored: self.ignored.into_iter().chain(other.ignored).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
