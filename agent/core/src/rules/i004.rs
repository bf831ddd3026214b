//! I004, running digest differs from the declared one. What, why and traps are in [`RULE`].

use std::collections::BTreeMap;

use crate::finding::{Condition, Coverage, Evidence, Judge, Memory, Need, Rule, Severity};
use crate::rules::grace;
use crate::rules::images::Image;
use crate::snapshot::{ContainerView, Snapshot};

/// I004.
pub static RULE: Rule = Rule {
    id: "I004",
    title: "Running digest differs from the declared one",
    category: "images",
    what: "`@sha256:` of the spec against `imageID` of the container's status.",
    why: "The container runs something else than what its manifest names.",
    severity: "medium",
    traps: &[
        "Only containerd and Docker give back the digest that was asked for; CRI-O may give that of the \
         platform's own manifest, so there nothing is said.",
        "An image id without a repository is the digest of a configuration, which is another thing.",
        "Tags are not compared: the kubelet may show any tag of an image.",
        "A status of another container than the one that runs says nothing: it must name the id of this one.",
        "While a pod's image is being changed the old container runs on: after the grace it still does only if \
         something is wrong (20).",
    ],
    remediation: "Create the pod anew, and find out where its image came from.",
    needs: &[Need::PODS],
    memory: Memory::Moment,
    judge: Judge::Container(condition),
};

/// Runtimes that report the digest by which an image was pulled.
const FAITHFUL: [&str; 2] = ["containerd", "docker"];

/// Whether a container runs another image than declared.
pub(super) fn condition(snapshot: &Snapshot, container: &ContainerView) -> Option<Condition> {
    snapshot.declared.as_ref()?;
    let declared = container.declared()?;
    let faithful = FAITHFUL.contains(&declared.runtime.as_deref()?);
    if !faithful
        || declared.container_id.as_ref() != Some(&container.container_id)
        || !grace::container_is_over(snapshot, container)
    {
        return None;
    }
    let wanted = Image::of(&declared.image)?;
    let id = declared.image_id.as_deref()?;
    let id = id.split_once("://").map_or(id, |(_, id)| id);
    let running = Image::of(id)?;
    let (wanted, running) = (wanted.digest?, running.digest?);
    (wanted != running).then(|| Condition {
        rule: &RULE,
        severity: Severity::Medium,
        subject: container.subject.clone(),
        key: "image".into(),
        declared: format!("digest {wanted}"),
        observed: format!("digest {running} runs"),
        evidence: BTreeMap::from([
            ("declared_digest", Evidence::Text(wanted.into())),
            ("image", Evidence::Text(declared.image.clone())),
            ("running_digest", Evidence::Text(running.into())),
        ]),
        coverage: Coverage::Full,
        remediation: "Restart the pod; if the other digest comes back, find out who changes it."
            .into(),
        patch: None,
    })
}

#[cfg(test)]
mod tests;
