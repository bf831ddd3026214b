//! I003, registry not trusted. What, why and traps are in [`RULE`].

use std::collections::BTreeMap;

use crate::finding::{Condition, Coverage, Evidence, Judge, Memory, Need, Rule, Severity};
use crate::rules::grace;
use crate::rules::images::Image;
use crate::snapshot::{ContainerView, Snapshot};

/// I003.
pub static RULE: Rule = Rule {
    id: "I003",
    title: "Registry not trusted",
    category: "images",
    what: "The registry and path of the image against the operator's list of trusted ones; an entry is a \
           registry, or a registry with the beginning of a path. Without a list the rule is silent.",
    why: "Whoever owns a registry decides what runs in the pods that pull from it.",
    severity: "medium",
    traps: &[
        "`nginx` is `docker.io/library/nginx`.",
        "An entry ends at a slash: `r.io/tea` trusts nothing of `r.io/team`.",
        "The base of an image (`org.opencontainers.image.base.name`) is known to its registry only, so it is not \
         judged.",
        "Ephemeral containers are judged too: what runs, runs.",
    ],
    remediation: "Use an image of a trusted registry, or add the registry to the list.",
    needs: &[Need::PODS],
    memory: Memory::Moment,
    judge: Judge::Container(condition),
};

/// Whether a container's image comes from elsewhere.
pub(super) fn condition(snapshot: &Snapshot, container: &ContainerView) -> Option<Condition> {
    snapshot.declared.as_ref()?;
    let trusted = &snapshot.settings.rules.trusted_registries;
    let declared = container.declared()?;
    let image = Image::of(&declared.image)?;
    if trusted.is_empty()
        || trusted.iter().any(|prefix| image.is_below(prefix))
        || !grace::container_is_over(snapshot, container)
    {
        return None;
    }
    let name = image.full_name();
    let registry = name.split('/').next().unwrap_or_default().to_owned();
    Some(Condition {
        rule: &RULE,
        severity: Severity::Medium,
        subject: container.subject.clone(),
        key: registry.clone(),
        declared: format!("trusted are {}", trusted.join(", ")),
        observed: format!("the image is {name}"),
        evidence: BTreeMap::from([
            ("image", Evidence::Text(declared.image.clone())),
            ("registry", Evidence::Text(registry)),
        ]),
        coverage: Coverage::Full,
        remediation: "Use an approved image, or add its registry to the trusted ones.".into(),
        patch: None,
    })
}

#[cfg(test)]
mod tests;
