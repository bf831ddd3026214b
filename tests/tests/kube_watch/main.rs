//! The watch of the API server against a real control plane: equal objects give what a dump of them gives; restarts of the
//! server, 410, and new tokens are survived; and the shipped role is enough and no more than enough.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod cluster;
mod proxy;
mod watching;

use std::path::Path;
use std::time::Duration;

use plumbline::clock;
use plumbline::sources::kube::Peers;
use plumbline_core::observation::Health;
use serde_json::{Value, json};

use cluster::{ControlPlane, root};
use proxy::Proxy;
use watching::Watch;

const NODE: &str = "node-a";
/// For the slowest step on the busiest machine: the API server's start.
const PATIENCE: Duration = Duration::from_secs(120);

fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": name}},
        "spec": {
            "nodeName": node, "hostNetwork": name == "host",
            "initContainers": [{"name": "init", "image": "init:1", "resources": {"limits": {"cpu": "2"}}}],
            "containers": [{
                "name": "main", "image": "main:1",
                "ports": [{"name": "http", "containerPort": 8080}, {"containerPort": 9090, "protocol": "UDP"}],
                "livenessProbe": {"httpGet": {"port": "http"}}, "readinessProbe": {"tcpSocket": {"port": 8081}},
                "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}},
            }],
        },
    })
}

fn objects(cluster: &ControlPlane) {
    cluster.admin(&["create", "namespace", "shop"]);
    for node in [NODE, "node-b"] {
        cluster.apply(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}}));
    }
    for (name, node) in [("web", NODE), ("host", NODE), ("elsewhere", "node-b")] {
        cluster.apply(&pod(name, node));
    }
    cluster.apply(&json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "cart", "namespace": "shop"},
        "spec": {
            "replicas": 2, "selector": {"matchLabels": {"app": "cart"}},
            "template": {
                "metadata": {"labels": {"app": "cart"}},
                "spec": {"nodeName": NODE, "containers": [{"name": "cart", "image": "cart:1", "ports": [{"containerPort": 80}]}]},
            },
        },
    }));
    cluster.apply(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "type": "NodePort", "selector": {"app": "web"},
            "ports": [{"name": "a", "port": 80, "targetPort": "http"}, {"name": "b", "port": 81, "protocol": "UDP"}],
        },
    }));
}

/// What a kubelet would report of the pod `web`.
fn start_containers(cluster: &ControlPlane) {
    let container = |name: &str, id: &str| {
        json!({
            "name": name, "image": "x", "imageID": "x", "ready": true, "restartCount": 0,
            "containerID": format!("containerd://{}", id.repeat(64)),
            "state": {"running": {"startedAt": "2026-11-22T08:00:04Z"}},
        })
    };
    let status = json!({"status": {
        "phase": "Running", "podIP": "10.244.1.5", "podIPs": [{"ip": "10.244.1.5"}, {"ip": "fd00::5"}],
        "initContainerStatuses": [container("init", "a")], "containerStatuses": [container("main", "b")],
    }});
    cluster.admin(&[
        "patch",
        "-n",
        "shop",
        "pod",
        "web",
        "--subresource=status",
        "--type=merge",
        "-p",
        &status.to_string(),
    ]);
}

#[test]
#[ignore = "builds a Kubernetes control plane when K8S_CACHE holds none: as root, with apt, some 8 minutes"]
fn the_api_server_and_a_dump_say_the_same() {
    let scratch = tempfile::tempdir().unwrap();
    let cluster = ControlPlane::up();
    cluster.apply_shipped();
    let proxy = Proxy::start(cluster.port());
    let account = cluster.account(scratch.path(), proxy.port());
    objects(&cluster);
    let mut watch = Watch::start(&account, Peers::Node);
    watch.until_equal(&cluster);
    tells_soon(&cluster, &mut watch);
    watch.until("two replicas", |watch| {
        watch
            .pods()
            .iter()
            .filter(|name| name.starts_with("cart-"))
            .count()
            == 2
    });
    watch.until("healthy", |watch| watch.health() == Some(Health::Ok));
    let declared = watch.declared.clone().unwrap();
    assert_eq!(declared.pods.len(), 4, "{:?}", watch.pods());
    assert!(
        declared.source.starts_with("api:https://127.0.0.1:"),
        "{}",
        declared.source
    );
    let owners = declared
        .pods
        .iter()
        .map(|pod| format!("{} {}", pod.owner.kind, pod.owner.name));
    assert_eq!(
        owners.collect::<Vec<_>>(),
        ["Deployment cart", "Deployment cart", "Pod host", "Pod web"]
    );

    start_containers(&cluster);
    watch.until("a container id", |watch| {
        let web = watch
            .declared
            .iter()
            .flat_map(|declared| &declared.pods)
            .find(|pod| pod.name == "web");
        web.is_some_and(|web| {
            web.containers
                .iter()
                .all(|container| container.container_id.is_some())
                && web.ips.len() == 2
        })
    });
    watch.until_equal(&cluster);
    tells_what_changes(&cluster, &mut watch);
    says_what_is_not_served(&mut watch);
    survives_a_restart(&cluster, &mut watch);
    survives_a_new_token(&cluster, &proxy, &mut watch, &scratch.path().join("token"));
    survives_410(&cluster, &proxy, &mut watch);
    drop(watch);
    role_is_enough_and_no_more(&cluster, &account);
}

/// How long it takes, for whoever runs this.
#[expect(clippy::print_stderr, reason = "what this measures")]
fn tells_soon(cluster: &ControlPlane, watch: &mut Watch) {
    let applied = clock::instant();
    cluster.apply(&pod("quick", NODE));
    watch.until("a new pod", |watch| watch.pods().contains(&"quick"));
    eprintln!(
        "measured: an applied pod is declared after {:?}, kubectl's own time included",
        applied.elapsed()
    );
    cluster.admin(&[
        "delete",
        "-n",
        "shop",
        "pod",
        "quick",
        "--grace-period=0",
        "--force",
    ]);
}

/// What no rule reads is not told; what follows it is.
fn tells_what_changes(cluster: &ControlPlane, watch: &mut Watch) {
    let told = watch.told;
    cluster.admin(&["annotate", "-n", "shop", "pod", "web", "note=x"]);
    cluster.admin(&["label", "-n", "shop", "pod", "host", "tier=front"]);
    watch.until_equal(cluster);
    assert_eq!(watch.told, told + 1);
    cluster.admin(&[
        "delete",
        "-n",
        "shop",
        "pod",
        "host",
        "--grace-period=0",
        "--force",
    ]);
    cluster.admin(&["delete", "-n", "shop", "service", "web"]);
    watch.until("the pod gone", |watch| !watch.pods().contains(&"host"));
    watch.until_equal(cluster);
}

/// This server is too old for EndpointSlices of today: one source less, said once, and the rest works.
fn says_what_is_not_served(watch: &mut Watch) {
    watch.until("what is not served", |watch| {
        watch.others.contains_key("peers.endpointslices")
    });
    let status = &watch.others["peers.endpointslices"];
    assert_eq!(status.health, Health::Unsupported);
    assert!(
        status.reason.as_ref().unwrap().contains("not served here"),
        "{status:?}"
    );
    assert_eq!(watch.as_of("endpointslices"), None);
    assert!(watch.as_of("pods").is_some() && watch.as_of("nodes").is_some());
}

/// The account is made anew, so that its former tokens are worthless; the file has a good one a little later.
fn survives_a_new_token(cluster: &ControlPlane, proxy: &Proxy, watch: &mut Watch, token: &Path) {
    cluster.admin(&["delete", "serviceaccount", "-n", "plumbline", "plumbline"]);
    cluster.apply_shipped();
    proxy.cut();
    watch.until("refused", |watch| {
        watch.reason().contains("credentials refused (401")
    });
    cluster.write_token(token);
    watch.until("healthy with the new token", |watch| {
        watch.health() == Some(Health::Ok)
    });
    cluster.apply(&pod("renewed", NODE));
    watch.until_equal(cluster);
}

/// While the watch is cut off, the server forgets what was before.
fn survives_410(cluster: &ControlPlane, proxy: &Proxy, watch: &mut Watch) {
    proxy.refuse(true);
    proxy.cut();
    let list: Value =
        serde_json::from_str(&cluster.admin(&["get", "--raw", "/api/v1/pods?limit=1"])).unwrap();
    let before = list["metadata"]["resourceVersion"].as_str().unwrap();
    cluster.admin(&[
        "delete",
        "-n",
        "shop",
        "pod",
        "renewed",
        "--grace-period=0",
        "--force",
    ]);
    cluster.apply(&pod("meanwhile", NODE));
    for number in 0..5 {
        cluster.admin(&[
            "annotate",
            "--overwrite",
            "-n",
            "shop",
            "pod",
            "meanwhile",
            &format!("n={number}"),
        ]);
    }
    // Its cache begins with what is there when it starts.
    cluster.stop_server();
    cluster.up_again();
    let watching = format!("/api/v1/pods?watch=true&timeoutSeconds=1&resourceVersion={before}");
    let events = cluster.kubectl(cluster.admin_config(), &["get", "--raw", &watching], None);
    let told = events.unwrap_or_else(|error| error);
    assert!(
        told.contains("too old resource version"),
        "this server still knows: {told}"
    );
    proxy.refuse(false);
    watch.until_equal(cluster);
    assert!(watch.pods().contains(&"meanwhile") && !watch.pods().contains(&"renewed"));
    watch.until("healthy after 410", |watch| {
        watch.health() == Some(Health::Ok)
    });
}

fn survives_a_restart(cluster: &ControlPlane, watch: &mut Watch) {
    let (before, told) = (watch.declared.clone(), watch.told);
    cluster.stop_server();
    watch.until("broken", |watch| watch.health() == Some(Health::Broken));
    assert!(
        watch.reason().contains("pods") && watch.reason().contains("stays in force"),
        "{}",
        watch.reason()
    );
    assert_eq!((&watch.declared, watch.told), (&before, told));
    cluster.up_again();
    watch.until("healthy again", |watch| watch.health() == Some(Health::Ok));
    cluster.apply(&pod("after", NODE));
    watch.until("a pod of after the restart", |watch| {
        watch.pods().contains(&"after")
    });
    watch.until_equal(cluster);
}

fn role_is_enough_and_no_more(cluster: &ControlPlane, account: &Path) {
    for allowed in [
        &["get", "pods", "-A"][..],
        &["get", "services", "-A"],
        &["get", "nodes"],
    ] {
        cluster.kubectl(account, allowed, None).unwrap();
    }
    for denied in [
        &["get", "secrets", "-A"][..],
        &["get", "configmaps", "-A"],
        &["get", "node", NODE],
        &["get", "endpoints", "-A"],
        &["get", "pod", "web", "-n", "shop"],
        &["delete", "pod", "web", "-n", "shop"],
        &["label", "pod", "web", "-n", "shop", "a=b"],
        &["exec", "web", "-n", "shop", "--", "true"],
        &["get", "--raw", "/api/v1/nodes/node-a/proxy/pods"],
    ] {
        let error = cluster.kubectl(account, denied, None).unwrap_err();
        assert!(error.contains("orbidden"), "{denied:?}: {error}");
    }
    lists_no_more(cluster, account);
    cluster.admin(&["delete", "clusterrolebinding", "plumbline"]);
    let mut watch = Watch::start(account, Peers::Node);
    watch.until("the missing right by name", |watch| {
        watch.health() == Some(Health::Broken) && watch.reason().contains("may not list pods")
    });
    assert_eq!(watch.declared, None);
    let rbac = root().join("deploy/kustomize/base/rbac.yaml");
    cluster.admin(&["apply", "-n", "plumbline", "-f", rbac.to_str().unwrap()]);
    watch.until("healthy with the right back", |watch| {
        watch.health() == Some(Health::Ok)
    });
    watch.until_equal(cluster);
}

/// `kubectl auth can-i --list`: but for what everybody may do, exactly the shipped rules.
fn lists_no_more(cluster: &ControlPlane, account: &Path) {
    let list = cluster
        .kubectl(account, &["auth", "can-i", "--list", "-n", "shop"], None)
        .unwrap();
    let mut rights: Vec<String> = list
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        // Asking what one may do, and what the server serves.
        .filter(|line| {
            !line.contains(".authorization.k8s.io")
                && !line.contains(".authentication.k8s.io")
                && !line.starts_with('[')
        })
        .collect();
    rights.sort();
    assert_eq!(rights, shipped_rights());
}

/// The rules of the shipped role, as `can-i --list` writes them.
fn shipped_rights() -> Vec<String> {
    let rbac = std::fs::read_to_string(root().join("deploy/kustomize/base/rbac.yaml")).unwrap();
    let mut rights = Vec::new();
    let mut group = "";
    for line in rbac.lines() {
        let list = |key: &str| {
            Some(
                line.trim_start_matches(['-', ' '])
                    .strip_prefix(key)?
                    .trim_matches([' ', '[', ']', '"']),
            )
        };
        if let Some(name) = list("apiGroups:") {
            group = name;
        } else if let Some(resources) = list("resources:") {
            for resource in resources.split(", ") {
                let dot = if group.is_empty() { "" } else { "." };
                rights.push(format!("{resource}{dot}{group} [] [] [list watch]"));
            }
        } else if let Some(names) = list("resourceNames:") {
            let right = rights.last_mut().unwrap();
            *right = right.replacen("[] []", &format!("[] [{names}]"), 1);
        }
    }
    rights.sort();
    rights
}
