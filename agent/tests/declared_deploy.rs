//! What the shipped manifests may do: exactly what their README says.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::fs;
use std::path::{Path, PathBuf};

use plumbline::config;
use plumbline::sources::manifests::load;
use serde_json::{Value, json};

fn base() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kustomize/base")
}

fn documents(file: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&fs::read_to_string(base().join(file)).unwrap()).unwrap()
}

/// Directories of the node: where, where in the container, and whether read-only; sorted.
fn host_paths(pod: &Value) -> Vec<(&str, &str, bool)> {
    let mut paths = Vec::new();
    for mount in pod["containers"][0]["volumeMounts"].as_array().unwrap() {
        let mut volumes = pod["volumes"].as_array().unwrap().iter();
        let volume = volumes
            .find(|volume| volume["name"] == mount["name"])
            .unwrap();
        if let Some(path) = volume["hostPath"]["path"].as_str() {
            let read_only = mount["readOnly"] == true;
            paths.push((path, mount["mountPath"].as_str().unwrap(), read_only));
        }
    }
    paths.sort_unstable();
    paths
}

#[test]
fn the_daemon_set_has_these_rights_and_no_others() {
    let [daemon_set] = <[Value; 1]>::try_from(documents("daemonset.yaml")).unwrap();
    let pod = &daemon_set["spec"]["template"]["spec"];
    for absent in [
        "hostPID",
        "hostNetwork",
        "hostIPC",
        "securityContext",
        "initContainers",
    ] {
        assert_eq!(pod[absent], Value::Null, "{absent}");
    }
    let containers = pod["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1);
    let security = &containers[0]["securityContext"];
    assert_eq!(security["privileged"], false);
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
    let capabilities = json!({
        "drop": ["ALL"],
        "add": ["BPF", "PERFMON", "NET_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH"],
    });
    assert_eq!(security["capabilities"], capabilities);
    let resources =
        json!({"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}});
    assert_eq!(containers[0]["resources"], resources);
    // Of the node's own files only the checkpoint of container logs is written.
    assert_eq!(
        host_paths(pod),
        [
            ("/proc", "/host/proc", true),
            ("/sys/fs/cgroup", "/host/cgroup", true),
            ("/var/lib/plumbline", "/var/lib/plumbline", false),
            ("/var/log/pods", "/var/log/pods", true),
        ]
    );
    // Without it the agent would read its own log.
    let uid = json!({"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}});
    assert!(containers[0]["env"].as_array().unwrap().contains(&uid));
    assert_eq!(
        daemon_set["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"],
        "10%"
    );
}

#[test]
fn the_role_reads_what_is_watched_and_nothing_else() {
    let documents = documents("rbac.yaml");
    let roles: Vec<_> = documents
        .iter()
        .filter(|document| document["kind"] == "ClusterRole")
        .collect();
    let rule = |group: &str, resources: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": ["list", "watch"]});
    let rules = [
        rule("", &["pods"]),
        rule("", &["services"]),
        rule("", &["nodes"]),
        rule("", &["namespaces"]),
        rule("discovery.k8s.io", &["endpointslices"]),
        rule("networking.k8s.io", &["ingresses", "networkpolicies"]),
        rule(
            "policy.networking.k8s.io",
            &[
                "adminnetworkpolicies",
                "baselineadminnetworkpolicies",
                "clusternetworkpolicies",
            ],
        ),
        rule("gateway.networking.k8s.io", &["grpcroutes", "httproutes"]),
        rule(
            "cilium.io",
            &["ciliumclusterwidenetworkpolicies", "ciliumnetworkpolicies"],
        ),
        rule(
            "crd.projectcalico.org",
            &["globalnetworkpolicies", "networkpolicies"],
        ),
        rule(
            "crd.antrea.io",
            &["clusternetworkpolicies", "networkpolicies"],
        ),
        rule("k8s.ovn.org", &["egressfirewalls"]),
    ];
    assert_eq!(
        roles
            .iter()
            .map(|role| role["rules"].clone())
            .collect::<Vec<_>>(),
        [json!(rules)]
    );
}

#[test]
fn the_shipped_configuration_is_read_from_where_it_is_mounted() {
    let file = config::read_file(&base().join("plumbline.conf")).unwrap();
    let [daemon_set] = <[Value; 1]>::try_from(documents("daemonset.yaml")).unwrap();
    let pod = &daemon_set["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let named = |list: &Value, name: &str| {
        let all = list.as_array().unwrap().iter();
        let found = all.filter(|one| one["name"] == name).cloned();
        found.collect::<Vec<_>>().pop().unwrap()
    };
    let path = named(&container["env"], "PLUMBLINE_CONFIG")["value"].clone();
    assert_eq!(path, "/etc/plumbline/plumbline.yaml");
    let mounts = &container["volumeMounts"];
    assert_eq!(named(mounts, "config")["mountPath"], "/etc/plumbline");
    assert_eq!(named(mounts, "config").get("subPath"), None);
    let state = named(mounts, "state")["mountPath"].clone();
    assert_eq!(file.state.dir, state.as_str().map(PathBuf::from));
    let volume = named(&pod["volumes"], "config");
    assert_eq!(volume["configMap"]["name"], "plumbline-config");
    let [kustomization] = <[Value; 1]>::try_from(documents("kustomization.yaml")).unwrap();
    let generated = named(&kustomization["configMapGenerator"], "plumbline-config");
    assert_eq!(generated["files"], json!(["plumbline.yaml=plumbline.conf"]));
    // A hash would roll the DaemonSet instead of letting agents take the change over.
    assert_eq!(generated["options"]["disableNameSuffixHash"], true);
}

#[test]
fn the_agent_declares_itself() {
    let declared = load(&base()).unwrap();
    assert_eq!(declared.problems, []);
    let pods: Vec<_> = declared
        .pods
        .iter()
        .map(|pod| (pod.owner.kind.as_str(), pod.owner.name.as_str()))
        .collect();
    assert_eq!(pods, [("DaemonSet", "plumbline")]);
    assert_eq!(declared.pods[0].containers[0].cpu_request_millis, Some(50));
}
