//! Patches that can be pasted: a strategic-merge patch for the workload that owns a pod.
//!
//! Names come from objects that anybody may have written, and a patch is pasted into a shell or a manifest: a name that
//! is not a Kubernetes name gives no patch.

mod policies;

use crate::declared::{ContainerKind, DeclaredContainer, DeclaredPod};
pub(super) use policies::{ingress_policy, policy_of};

/// A patch that puts `body` (lines of YAML, indented relative to the container) into one container of a pod's owner.
///
/// `None` for ephemeral containers, which no template has, for owners of a kind that is not known, and for names that
/// are not Kubernetes names.
pub(super) fn for_container(
    pod: &DeclaredPod,
    container: &DeclaredContainer,
    body: &[String],
) -> Option<String> {
    let list = match container.kind {
        ContainerKind::Regular => "containers",
        ContainerKind::Init | ContainerKind::Sidecar => "initContainers",
        ContainerKind::Ephemeral => return None,
    };
    if !is_name(&container.name) {
        return None;
    }
    let Head { mut lines, depth } = head(pod)?;
    let indent = "  ".repeat(depth);
    lines.push(format!("{indent}{list}:"));
    lines.push(format!("{indent}  - name: \"{}\"", container.name));
    lines.extend(body.iter().map(|line| format!("{indent}    {line}")));
    lines.push(String::new());
    Some(lines.join("\n"))
}

/// A patch that puts `body` into the pod's spec in the manifest of its owner. `None` as for [`for_container`].
pub(super) fn for_pod(pod: &DeclaredPod, body: &[&str]) -> Option<String> {
    let Head { mut lines, depth } = head(pod)?;
    let indent = "  ".repeat(depth);
    lines.extend(body.iter().map(|line| format!("{indent}{line}")));
    lines.push(String::new());
    Some(lines.join("\n"))
}

/// What leads to the pod's spec.
struct Head {
    lines: Vec<String>,
    /// How deep the spec is.
    depth: usize,
}

fn head(pod: &DeclaredPod) -> Option<Head> {
    let (kind, name) = (pod.owner.kind.as_str(), pod.owner.name.as_str());
    if ![&pod.namespace, name].into_iter().all(is_name) {
        return None;
    }
    let (nesting, can_change): (&[&str], bool) = match kind {
        "Deployment" | "StatefulSet" | "DaemonSet" => (&["spec", "template", "spec"], true),
        "CronJob" => (&["spec", "jobTemplate", "spec", "template", "spec"], true),
        "Job" | "ReplicaSet" => (&["spec", "template", "spec"], false),
        "Pod" => (&["spec"], false),
        _ => return None,
    };
    let mut lines = vec![if can_change {
        let kind = kind.to_ascii_lowercase();
        format!(
            "# kubectl --namespace {} patch {kind}/{name} --patch-file FILE",
            pod.namespace
        )
    } else {
        format!(
            "# Merge into the manifest of {kind} {name} and create its pods anew: \
             those that run cannot be changed."
        )
    }];
    for (depth, key) in nesting.iter().enumerate() {
        lines.push(format!("{}{key}:", "  ".repeat(depth)));
    }
    let depth = nesting.len();
    Some(Head { lines, depth })
}

/// Of letters, digits and what stands between them in labels and references to images: nothing that YAML could take for more.
pub(super) fn is_plain(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@".contains(&byte);
    !text.is_empty() && text.bytes().all(plain)
}

/// A DNS-1123 subdomain, which is what Kubernetes allows at most for these names.
fn is_name(name: &str) -> bool {
    let ends_well = |byte: Option<u8>| {
        byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    name.len() <= 253
        && ends_well(name.bytes().next())
        && ends_well(name.bytes().next_back())
        && name
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::for_container;
    use crate::declared::{ContainerKind, DeclaredContainer, DeclaredPod, WorkloadRef};

    fn check(owner: (&str, &str), kind: ContainerKind, name: &str, expected: &Expect) {
        let pod = DeclaredPod {
            namespace: "shop".into(),
            owner: WorkloadRef {
                kind: owner.0.into(),
                name: owner.1.into(),
            },
            ..DeclaredPod::default()
        };
        let container = DeclaredContainer {
            name: name.into(),
            kind,
            ..DeclaredContainer::default()
        };
        let body = ["ports:".into(), "  - containerPort: 9999".into()];
        expected.assert_eq(&for_container(&pod, &container, &body).unwrap_or("none".into()));
    }

    #[test]
    fn those_whose_template_can_change_are_patched() {
        check(
            ("Deployment", "web"),
            ContainerKind::Regular,
            "app",
            &expect![[r##"
                # kubectl --namespace shop patch deployment/web --patch-file FILE
                spec:
                  template:
                    spec:
                      containers:
                        - name: "app"
                          ports:
                            - containerPort: 9999
            "##]],
        );
        check(
            ("StatefulSet", "db"),
            ContainerKind::Sidecar,
            "proxy",
            &expect![[r##"
                # kubectl --namespace shop patch statefulset/db --patch-file FILE
                spec:
                  template:
                    spec:
                      initContainers:
                        - name: "proxy"
                          ports:
                            - containerPort: 9999
            "##]],
        );
        check(
            ("CronJob", "night.ly"),
            ContainerKind::Regular,
            "123",
            &expect![[r##"
                # kubectl --namespace shop patch cronjob/night.ly --patch-file FILE
                spec:
                  jobTemplate:
                    spec:
                      template:
                        spec:
                          containers:
                            - name: "123"
                              ports:
                                - containerPort: 9999
            "##]],
        );
    }

    #[test]
    fn those_that_cannot_change_get_a_piece_of_manifest() {
        check(
            ("Job", "once"),
            ContainerKind::Regular,
            "app",
            &expect![[r##"
                # Merge into the manifest of Job once and create its pods anew: those that run cannot be changed.
                spec:
                  template:
                    spec:
                      containers:
                        - name: "app"
                          ports:
                            - containerPort: 9999
            "##]],
        );
        check(
            ("Pod", "alone"),
            ContainerKind::Init,
            "prepare",
            &expect![[r##"
                # Merge into the manifest of Pod alone and create its pods anew: those that run cannot be changed.
                spec:
                  initContainers:
                    - name: "prepare"
                      ports:
                        - containerPort: 9999
            "##]],
        );
    }

    #[test]
    fn what_cannot_be_patched_has_no_patch() {
        let none = expect!["none"];
        check(("Rollout", "web"), ContainerKind::Regular, "app", &none);
        check(
            ("Deployment", "web"),
            ContainerKind::Ephemeral,
            "debugger",
            &none,
        );
        for hostile in [
            "",
            "-a",
            "a-",
            "A",
            "a\nb",
            "a;reboot",
            "$(reboot)",
            "a'",
            "a\"",
            "é",
        ] {
            check(
                ("Deployment", hostile),
                ContainerKind::Regular,
                "app",
                &none,
            );
            check(
                ("Deployment", "web"),
                ContainerKind::Regular,
                hostile,
                &none,
            );
        }
    }
}
