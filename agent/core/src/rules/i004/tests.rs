use crate::declared::ContainerKind;
use crate::id::ContainerId;
use crate::rules::testing::{container, declared, of_rule, pod, snapshot, view};

/// Spec, runtime, status; whether the status is about the container that runs.
fn said(image: &str, runtime: &str, image_id: &str, this: bool) -> String {
    let mut app = container("app", ContainerKind::Regular, &[8080]);
    app.image = image.into();
    app.runtime = Some(runtime.into());
    app.image_id = Some(image_id.into());
    let id = if this {
        format!("{:064x}", 0)
    } else {
        "other".into()
    };
    app.container_id = Some(ContainerId::new(id));
    let pod = pod(vec![app]);
    let container = view(&pod, Some(0), vec![]);
    of_rule(
        "I004",
        &snapshot(Some(declared(&pod, vec![])), vec![container]),
    )
}

#[test]
fn another_digest_runs() {
    let told = "I004 medium web/app image";
    let pinned = "r.io/app:1@sha256:aa";
    for (image, runtime, image_id, this, expected) in [
        (pinned, "containerd", "r.io/app@sha256:bb", true, told),
        (
            pinned,
            "docker",
            "docker-pullable://r.io/app@sha256:bb",
            true,
            told,
        ),
        (pinned, "containerd", "r.io/app@sha256:aa", true, ""),
        // The platform's own manifest, perhaps.
        (pinned, "cri-o", "r.io/app@sha256:bb", true, ""),
        // The digest of a configuration.
        (pinned, "containerd", "sha256:bb", true, ""),
        (pinned, "containerd", "", true, ""),
        // Of the container before.
        (pinned, "containerd", "r.io/app@sha256:bb", false, ""),
        // Nothing was pinned.
        ("r.io/app:1", "containerd", "r.io/app@sha256:bb", true, ""),
    ] {
        assert_eq!(
            said(image, runtime, image_id, this),
            expected,
            "{image} {runtime} {image_id}"
        );
    }
}
