//! Pods of every kind of owner and container, as an API server of today gives them.

use expect_test::expect;
use plumbline::sources::manifests::load;
use plumbline_core::declared::{DeclaredContainer, DeclaredPod};

use crate::fixture;

fn owner(pod: &DeclaredPod) -> String {
    let hash = pod
        .config_hash
        .as_ref()
        .map_or(String::new(), |hash| format!(" static {hash}"));
    format!(
        "{} of {} {}{hash}\n",
        pod.name, pod.owner.kind, pod.owner.name
    )
}

/// Kind, ports, and the three sides of CPU: declared, admitted, in force.
fn container(container: &DeclaredContainer) -> String {
    let millis = |millis: Option<u64>| millis.map_or("-".to_owned(), |millis| millis.to_string());
    let ports: Vec<u16> = container.ports.iter().map(|port| port.port).collect();
    let id = container
        .container_id
        .as_ref()
        .map_or(String::new(), |id| id.to_string());
    format!(
        "{} {:?} ports {ports:?} probes {:?} declared {}/{} admitted {} in force {}/{} token {:?} restarts {:?} {}\n",
        container.name,
        container.kind,
        container.probe_ports,
        millis(container.cpu_request_millis),
        millis(container.cpu_limit_millis),
        millis(container.cpu_allocated_millis),
        millis(container.cpu_request_current_millis),
        millis(container.cpu_limit_current_millis),
        container.api_token,
        container.restart_count,
        id.chars().next().unwrap_or('-'),
    )
}

#[test]
fn owners_of_pods_of_every_kind() {
    let declared = load(&fixture("kinds.json")).unwrap();
    assert_eq!(declared.problems, []);
    let owners = declared.pods.iter().map(|pod| owner(pod));
    expect![[r#"
        import-once-zz9qk of Job import-once
        report-29420160-abcde of CronJob report
        toolbox of Pod toolbox
        kube-apiserver-node-a of Pod kube-apiserver static 4f1d2c3b4a5968778695a4b3c2d1e0f1
        train-1-worker-0 of PyTorchJob train-1
        node-exporter-8kq2v of DaemonSet node-exporter
        cart-6d8f7c9b5-x2x9p of Deployment cart
        db-0 of StatefulSet db
        legacy-0 of StatefulSet legacy
        web-5f7d6c-q8w7e of ReplicaSet web-5f7d6c
    "#]]
    .assert_eq(&owners.collect::<String>());
}

#[test]
fn containers_of_every_kind_with_a_resize_under_way() {
    let declared = load(&fixture("kinds.json")).unwrap();
    let pod = declared
        .pods
        .iter()
        .find(|pod| pod.namespace == "shop" && pod.name.starts_with("cart-"))
        .unwrap();
    let containers = pod.containers.iter().map(container);
    expect![[r#"
        migrate Init ports [] probes [] declared -/- admitted - in force -/- token Some(true) restarts Some(0) a
        istio-proxy Sidecar ports [15090] probes [15021] declared 100/2000 admitted 100 in force 100/2000 token Some(false) restarts Some(0) b
        cart Regular ports [8080] probes [9000] declared 500/1000 admitted 500 in force 250/500 token Some(true) restarts Some(2) c
        debugger-7x2kq Ephemeral ports [] probes [] declared -/- admitted - in force -/- token Some(false) restarts Some(0) d
    "#]].assert_eq(&containers.collect::<String>());
    assert_eq!(
        (pod.cpu_request_millis, pod.cpu_limit_millis),
        (Some(1_000), Some(2_000))
    );
    assert_eq!(pod.effective_request_millis(), Some(1_000));
}

/// Only what an API server has added a mount to, or not, is known.
#[test]
fn tokens_are_known_of_applied_pods() {
    let declared = load(&fixture("kinds.json")).unwrap();
    let token = |name: &str| {
        let pod = declared.pods.iter().find(|pod| pod.name == name).unwrap();
        pod.containers[0].api_token
    };
    assert_eq!(token("legacy-0"), Some(true), "a Secret at the usual place");
    assert_eq!(token("db-0"), Some(false));
    let manifests = load(&fixture("directory")).unwrap();
    assert!(
        manifests
            .pods
            .iter()
            .flat_map(|pod| &pod.containers)
            .all(|container| container.api_token.is_none())
    );
}
