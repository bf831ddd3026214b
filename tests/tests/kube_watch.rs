//! The watch of the API server against a real control plane: equal objects give what a dump of them gives, a restart of the
//! server is survived, and the shipped role is enough and no more than enough.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use plumbline::clock;
use plumbline::sources::Sink;
use plumbline::sources::kube::{KubeSettings, run};
use plumbline::sources::manifests::load;
use plumbline_core::declared::Declared;
use plumbline_core::observation::{Fact, Health, Observation, ProbeStatus};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

const NODE: &str = "node-a";
/// For the slowest step on the busiest machine: the API server's start.
const PATIENCE: Duration = Duration::from_secs(120);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// etcd, API server, controllers and scheduler, from `tests/k8s/control-plane`.
struct ControlPlane {
    cache: PathBuf,
    admin: PathBuf,
}

impl ControlPlane {
    fn up() -> Self {
        let cache =
            std::env::var_os("K8S_CACHE").map_or_else(|| root().join("target/k8s"), PathBuf::from);
        script(&cache, "down");
        let admin = PathBuf::from(script(&cache, "up").lines().last().unwrap());
        Self { cache, admin }
    }

    fn up_again(&self) {
        script(&self.cache, "up");
    }

    /// Ends the API server alone; the others wait for it.
    fn stop_server(&self) {
        let pid = fs::read_to_string(self.cache.join("run/kube-apiserver.pid")).unwrap();
        let stopped = Command::new("kill")
            .args(["-9", pid.trim()])
            .status()
            .unwrap();
        assert!(stopped.success());
    }

    fn kubectl(
        &self,
        kubeconfig: &Path,
        args: &[&str],
        input: Option<&Value>,
    ) -> Result<String, String> {
        let mut command = Command::new(self.cache.join("bin/kubectl"));
        command.arg("--kubeconfig").arg(kubeconfig).args(args);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let text = input.map(Value::to_string).unwrap_or_default();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap())
        } else {
            Err(String::from_utf8(output.stderr).unwrap())
        }
    }

    fn admin(&self, args: &[&str]) -> String {
        self.kubectl(&self.admin, args, None)
            .unwrap_or_else(|error| panic!("kubectl {args:?}: {error}"))
    }

    fn apply(&self, object: &Value) {
        self.kubectl(&self.admin, &["apply", "-f", "-"], Some(object))
            .unwrap();
    }

    /// What files say of the same objects.
    fn dumped(&self) -> Declared {
        let scratch = tempfile::tempdir().unwrap();
        let selector = format!("spec.nodeName={NODE}");
        let pods = self.admin(&[
            "get",
            "pods",
            "-A",
            "-o",
            "json",
            "--field-selector",
            &selector,
        ]);
        fs::write(scratch.path().join("pods.json"), pods).unwrap();
        fs::write(
            scratch.path().join("services.json"),
            self.admin(&["get", "services", "-A", "-o", "json"]),
        )
        .unwrap();
        let own = format!("metadata.name={NODE}");
        fs::write(
            scratch.path().join("nodes.json"),
            self.admin(&["get", "nodes", "-o", "json", "--field-selector", &own]),
        )
        .unwrap();
        load(scratch.path()).unwrap()
    }

    /// A kubeconfig for the account that the shipped manifests make, with the rights that they give it.
    fn shipped_account(&self, scratch: &Path) -> PathBuf {
        let base = root().join("deploy/kustomize/base");
        self.admin(&["apply", "-f", base.join("namespace.yaml").to_str().unwrap()]);
        self.admin(&[
            "apply",
            "-n",
            "plumbline",
            "-f",
            base.join("rbac.yaml").to_str().unwrap(),
        ]);
        let token = self.admin(&["create", "token", "-n", "plumbline", "plumbline"]);
        let mut config: Value =
            serde_json::from_str(&self.admin(&["config", "view", "--raw", "-o", "json"])).unwrap();
        config["users"][0]["user"] = json!({"token": token.trim()});
        let path = scratch.join("kubeconfig");
        fs::write(&path, config.to_string()).unwrap();
        path
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        script(&self.cache, "down");
    }
}

fn script(cache: &Path, verb: &str) -> String {
    let script = root().join("tests/k8s/control-plane");
    let output = Command::new(script)
        .arg(verb)
        .env("K8S_CACHE", cache)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "control-plane {verb}");
    String::from_utf8(output.stdout).unwrap()
}

/// The agent's watch in a thread of its own, and what it told last.
struct Watch {
    receiver: mpsc::Receiver<Observation>,
    shutdown: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    declared: Option<Declared>,
    status: Option<ProbeStatus>,
    told: usize,
}

impl Watch {
    fn start(kubeconfig: &Path) -> Self {
        let (sink, receiver) = Sink::new();
        let (shutdown, stopped) = oneshot::channel::<()>();
        let settings = KubeSettings {
            kubeconfig: Some(kubeconfig.to_owned()),
            node_name: NODE.to_owned(),
        };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let stopped = async { drop(stopped.await) };
            runtime.block_on(run(settings, sink, stopped)).unwrap();
        });
        let (shutdown, thread) = (Some(shutdown), Some(thread));
        Self {
            receiver,
            shutdown,
            thread,
            declared: None,
            status: None,
            told: 0,
        }
    }

    fn receive(&mut self) {
        while let Ok(observation) = self.receiver.try_recv() {
            let fact = observation.fact;
            if let Fact::Declared(declared) = fact {
                assert_ne!(self.declared.as_ref(), Some(&declared), "told twice");
                self.declared = Some(declared);
                self.told += 1;
            } else if let Fact::Probe(status) = fact {
                // Names of peers have probes of their own: this server is too old for one of them.
                if status.probe == "declared" {
                    self.status = Some(status);
                }
            } else {
                panic!("{fact:?}");
            }
        }
    }

    /// Waits until `holds` of what was told last.
    fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = clock::instant() + PATIENCE;
        while clock::instant() < deadline {
            self.receive();
            if holds(self) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!(
            "{what}: not in {PATIENCE:?}; told {:#?} {:#?}",
            self.declared, self.status
        );
    }

    /// Waits until the watch says what a dump says.
    fn until_equal(&mut self, cluster: &ControlPlane) {
        self.until("as in the dump", |watch| {
            let Some(told) = &watch.declared else {
                return false;
            };
            let dumped = cluster.dumped();
            let all = |of: &Declared| {
                let (nodes, problems) = (of.nodes.clone(), of.problems.clone());
                (of.pods.clone(), of.services.clone(), nodes, problems)
            };
            all(told) == all(&dumped)
        });
    }

    fn health(&self) -> Option<Health> {
        self.status.as_ref().map(|status| status.health)
    }

    fn reason(&self) -> &str {
        self.status
            .as_ref()
            .and_then(|status| status.reason.as_deref())
            .unwrap_or_default()
    }

    fn pods(&self) -> Vec<&str> {
        let pods = self.declared.iter().flat_map(|declared| &declared.pods);
        pods.map(|pod| pod.name.as_str()).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.shutdown.take());
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

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
    let account = cluster.shipped_account(scratch.path());
    objects(&cluster);
    let mut watch = Watch::start(&account);
    watch.until_equal(&cluster);
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
    // What no rule reads is not told; what follows it is.
    let told = watch.told;
    cluster.admin(&["annotate", "-n", "shop", "pod", "web", "note=x"]);
    cluster.admin(&["label", "-n", "shop", "pod", "host", "tier=front"]);
    watch.until_equal(&cluster);
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
    watch.until_equal(&cluster);

    survives_a_restart(&cluster, &mut watch);
    role_is_enough_and_no_more(&cluster, &account);
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
    cluster.admin(&["delete", "clusterrolebinding", "plumbline"]);
    let mut watch = Watch::start(account);
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
