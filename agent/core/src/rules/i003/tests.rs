use crate::declared::ContainerKind;
use crate::rules::testing::{container, declared, of_rule, pod, snapshot, view};

fn said(image: &str, trusted: &[&str]) -> String {
    let mut app = container("app", ContainerKind::Regular, &[8080]);
    app.image = image.into();
    let pod = pod(vec![app]);
    let container = view(&pod, Some(0), vec![]);
    let mut snapshot = snapshot(Some(declared(&pod, vec![])), vec![container]);
    snapshot.settings.rules.trusted_registries = trusted.iter().map(|&one| one.into()).collect();
    of_rule("I003", &snapshot)
}

#[test]
fn registries_that_are_not_listed() {
    let told = |registry| format!("I003 medium web/app {registry}");
    assert_eq!(said("r.io/app:1", &["q.io"]), told("r.io"));
    assert_eq!(said("nginx", &["r.io"]), told("docker.io"));
    assert_eq!(said("r.io/team/app:1", &["r.io/tea"]), told("r.io"));
    assert_eq!(
        said("r.io.evil.example/app", &["r.io"]),
        told("r.io.evil.example")
    );
    assert_eq!(said("r.io/team/app:1", &["q.io", "r.io/team"]), "");
    assert_eq!(said("nginx:1", &["docker.io/library"]), "");
    assert_eq!(said("r.io/app:1", &[]), "", "no list, nothing said");
    assert_eq!(said("", &["r.io"]), "", "no image, nothing said");
}
