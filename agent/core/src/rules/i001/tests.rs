use crate::declared::{ContainerKind, DeclaredPod};
use crate::rules::evaluate;
use crate::rules::testing::{DIGEST, container, declared, of_rule, pod, snapshot, view};

fn with(kind: ContainerKind, image: &str) -> DeclaredPod {
    let mut app = container("app", kind, &[8080]);
    app.image = image.into();
    pod(vec![app])
}

fn said(pod: &DeclaredPod) -> String {
    let container = view(pod, Some(0), vec![]);
    of_rule(
        "I001",
        &snapshot(Some(declared(pod, vec![])), vec![container]),
    )
}

#[test]
fn tags_move() {
    let digest = format!("r.io/app:1@sha256:{DIGEST}");
    let told = "I001 low web/app image";
    for (image, expected) in [
        ("r.io/app:1", told),
        ("r.io/app:latest", told),
        ("r.io:5000/app", told),
        ("nginx", told),
        (digest.as_str(), ""),
        ("", ""),
    ] {
        assert_eq!(
            said(&with(ContainerKind::Regular, image)),
            expected,
            "{image}"
        );
    }
    assert_eq!(said(&with(ContainerKind::Ephemeral, "r.io/app:1")), "", "5");
}

#[test]
fn what_runs_is_proposed_where_it_is_the_same_repository() {
    let patch = |image_id: &str| {
        let mut pod = with(ContainerKind::Regular, "nginx:1.27");
        pod.containers[0].image_id = Some(image_id.into());
        let container = view(&pod, Some(0), vec![]);
        let found = evaluate(&snapshot(Some(declared(&pod, vec![])), vec![container]));
        found[0].patch.clone().unwrap_or_default()
    };
    let own = format!("docker.io/library/nginx@sha256:{DIGEST}");
    assert!(patch(&own).contains(&format!("image: \"nginx:1.27@sha256:{DIGEST}\"")));
    let pulled = format!("docker-pullable://nginx@sha256:{DIGEST}");
    assert!(patch(&pulled).contains("@sha256:"));
    assert_eq!(patch(&format!("sha256:{DIGEST}")), "", "a configuration's");
    assert_eq!(
        patch(&format!("r.io/nginx@sha256:{DIGEST}")),
        "",
        "another repository"
    );
    assert_eq!(
        patch("nginx@sha256:\"\nx: y"),
        "",
        "nothing that YAML takes for more"
    );
}
