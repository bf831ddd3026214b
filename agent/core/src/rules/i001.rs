//! I001, image not pinned. What, why and traps are in [`RULE`].

use std::collections::BTreeMap;

use crate::declared::{ContainerKind, DeclaredContainer};
use crate::finding::{Condition, Coverage, Evidence, Judge, Memory, Need, Rule, Severity};
use crate::rules::images::Image;
use crate::rules::{grace, patch};
use crate::snapshot::{ContainerView, Snapshot};

/// I001.
pub static RULE: Rule = Rule {
    id: "I001",
    title: "Image not pinned",
    category: "images",
    what: "The image reference of the spec has no `@sha256:`. Where the runtime tells which digest runs now, the \
           patch pins that.",
    why: "A tag is a name that its registry's owner can move. Two pods of one template may run different \
          programs, and what was tested is not what runs.",
    severity: "low",
    traps: &[
        "A digest beside a tag is enough.",
        "Ephemeral containers are added by hand and are not judged (5).",
        "A pod that is not declared has no reference to judge.",
        "The digest is proposed only where the status names the same repository: an image that was imported has \
         only the digest of its configuration.",
    ],
    remediation: "Pin the digest of the image that was tested.",
    needs: &[Need::PODS],
    memory: Memory::Moment,
    judge: Judge::Container(condition),
};

/// Whether a container's image is named by a tag only.
pub(super) fn condition(snapshot: &Snapshot, container: &ContainerView) -> Option<Condition> {
    snapshot.declared.as_ref()?;
    let (pod, declared) = (container.pod.as_ref()?, container.declared()?);
    let image = Image::of(&declared.image).filter(|image| image.digest.is_none())?;
    if declared.kind == ContainerKind::Ephemeral || !grace::container_is_over(snapshot, container) {
        return None;
    }
    let moves = match image.tag {
        None => "has neither tag nor digest, which is latest",
        Some("latest") => "has the tag latest and no digest",
        Some(_) => "has a tag and no digest",
    };
    let runs = running(declared, &image);
    let pinned = runs.map(|digest| format!("{}@{digest}", declared.image));
    let remediation = match &pinned {
        Some(pinned) => format!("Pin the digest: {pinned} is what runs now."),
        None => "Pin the digest of the image that was tested: NAME:TAG@sha256:...".into(),
    };
    let line = pinned.filter(|pinned| patch::is_plain(pinned));
    let line = line.map(|pinned| format!("image: \"{pinned}\""));
    Some(Condition {
        rule: &RULE,
        severity: Severity::Low,
        subject: container.subject.clone(),
        key: "image".into(),
        declared: format!("image {}", declared.image),
        observed: format!("the reference {moves}"),
        evidence: BTreeMap::from([("image", Evidence::Text(declared.image.clone()))]),
        coverage: Coverage::Full,
        remediation,
        patch: line.and_then(|line| patch::for_container(pod, declared, &[line])),
    })
}

/// The digest under which this very repository's image runs.
fn running<'a>(declared: &'a DeclaredContainer, image: &Image<'_>) -> Option<&'a str> {
    let id = declared.image_id.as_deref()?;
    let id = id.split_once("://").map_or(id, |(_, id)| id);
    let running = Image::of(id)?;
    let same = running.full_name() == image.full_name();
    running
        .digest
        .filter(|digest| same && digest.starts_with("sha256:"))
}

#[cfg(test)]
mod tests;
