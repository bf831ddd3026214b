//! The watch of the API server against a server on loopback that does what the test says: what a real one of today would
//! send, and what goes wrong on the way. (`tests/tests/kube_watch.rs` has a real one.)
#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use plumbline::sources::Sink;
use plumbline::sources::kube::{KubeSettings, run};
use plumbline::sources::manifests::load;
use plumbline_core::declared::Declared;
use plumbline_core::observation::{Fact, Health, Observation, ProbeStatus};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

/// What the server does next, and what it was asked.
#[derive(Default)]
struct Script {
    /// Items of each resource.
    items: BTreeMap<&'static str, Vec<Value>>,
    /// `list pods` -> status code.
    refused: BTreeMap<String, u16>,
    requests: Vec<String>,
    watches: Vec<(&'static str, TcpStream)>,
}

const RESOURCES: [&str; 4] = ["pods", "services", "nodes", "endpointslices"];

#[derive(Clone)]
struct Server {
    script: Arc<Mutex<Script>>,
    address: String,
}

impl Server {
    fn start(pods: Vec<Value>, services: Vec<Value>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let script = Script {
            items: BTreeMap::from([("pods", pods), ("services", services)]),
            ..Script::default()
        };
        let server = Self {
            script: Arc::new(Mutex::new(script)),
            address,
        };
        let accepting = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = accepting.clone();
                std::thread::spawn(move || server.serve(stream));
            }
        });
        server
    }

    /// Requests of one connection, until it is given to a watch or ends.
    fn serve(&self, mut stream: TcpStream) {
        let mut lines = BufReader::new(stream.try_clone().unwrap())
            .lines()
            .map_while(Result::ok);
        while let Some(request) = lines.next() {
            lines.by_ref().find(String::is_empty);
            let target = request.split(' ').nth(1).unwrap_or_default().to_owned();
            let path = target.split('?').next().unwrap_or_default();
            let resource = RESOURCES
                .into_iter()
                .find(|resource| path.ends_with(resource))
                .unwrap();
            let verb = if target.contains("watch=true") {
                "watch"
            } else {
                "list"
            };
            let mut script = self.script.lock().unwrap();
            script.requests.push(format!("{verb} {target}"));
            if let Some(code) = script.refused.get(&format!("{verb} {resource}")) {
                let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "R", "message": "not you", "metadata": {}});
                respond(&mut stream, *code, &status);
            } else if verb == "list" {
                let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "10"}, "items": script.items.get(resource).cloned().unwrap_or_default()});
                respond(&mut stream, 200, &list);
            } else {
                let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
                stream.write_all(head.as_bytes()).unwrap();
                script.watches.push((resource, stream));
                return;
            }
        }
    }

    /// Sends an event to the watches of a resource.
    fn event(&self, resource: &str, kind: &str, mut object: Value, version: u32) {
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let event = format!("{}\n", json!({"type": kind, "object": object}));
        let mut script = self.script.lock().unwrap();
        for (_, stream) in script
            .watches
            .iter_mut()
            .filter(|(watched, _)| *watched == resource)
        {
            stream
                .write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes())
                .unwrap();
        }
    }

    /// Cuts every watch in the middle.
    fn cut(&self) {
        for (_, stream) in self.script.lock().unwrap().watches.drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    fn refuse(&self, requests: &[&str], code: u16) {
        let mut script = self.script.lock().unwrap();
        script.refused = requests
            .iter()
            .map(|request| ((*request).to_owned(), code))
            .collect();
    }

    fn requests(&self) -> Vec<String> {
        self.script.lock().unwrap().requests.clone()
    }

    fn kubeconfig(&self, scratch: &Path) -> PathBuf {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        });
        let path = scratch.join("kubeconfig");
        fs::write(&path, config.to_string()).unwrap();
        path
    }
}

fn respond(stream: &mut TcpStream, code: u16, body: &Value) {
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
}

struct Watch {
    receiver: mpsc::Receiver<Observation>,
    shutdown: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    declared: Option<Declared>,
    status: Option<ProbeStatus>,
    /// Health of the probes for names of peers.
    extras: BTreeMap<String, ProbeStatus>,
}

impl Watch {
    fn start(server: &Server) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let kubeconfig = Some(server.kubeconfig(scratch.path()));
        let settings = KubeSettings {
            kubeconfig,
            node_name: "node-a".to_owned(),
        };
        let (sink, receiver) = Sink::new();
        let (shutdown, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let _scratch = scratch;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime
                .block_on(run(settings, sink, async { drop(stopped.await) }))
                .unwrap();
        });
        Self {
            receiver,
            shutdown: Some(shutdown),
            thread: Some(thread),
            declared: None,
            status: None,
            extras: BTreeMap::new(),
        }
    }

    fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        for _ in 0..1_200 {
            while let Ok(observation) = self.receiver.try_recv() {
                let fact = observation.fact;
                if let Fact::Declared(declared) = fact {
                    assert_ne!(self.declared.as_ref(), Some(&declared), "told twice");
                    self.declared = Some(declared);
                } else if let Fact::Probe(status) = fact {
                    if status.probe == "declared" {
                        self.status = Some(status);
                    } else {
                        let former = self.extras.insert(status.probe.clone(), status.clone());
                        assert_ne!(former, Some(status), "told twice");
                    }
                } else {
                    panic!("{fact:?}");
                }
            }
            if holds(self) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!(
            "{what}: not in a minute; told {:#?} {:#?}",
            self.declared, self.status
        );
    }

    fn until_health(&mut self, health: Health) {
        self.until("health", |watch| {
            watch
                .status
                .as_ref()
                .is_some_and(|status| status.health == health)
        });
    }

    fn until_reason(&mut self, part: &str) {
        self.until(part, |watch| {
            let reason = watch
                .status
                .as_ref()
                .and_then(|status| status.reason.as_deref());
            reason.is_some_and(|reason| reason.contains(part))
        });
    }

    fn names(&self) -> Vec<&str> {
        self.declared
            .iter()
            .flat_map(|declared| &declared.pods)
            .map(|pod| pod.name.as_str())
            .collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.shutdown.take());
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

fn pod(name: &str, port: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": "1"},
        "spec": {"containers": [{"name": "c", "ports": [{"containerPort": port}]}]},
    })
}

#[test]
fn objects_of_today_give_what_a_dump_of_them_gives() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/declared/dump.json");
    let dump: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let of = |kind: &str| {
        dump["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|item| item["kind"] == kind)
            .cloned()
            .collect()
    };
    let server = Server::start(of("Pod"), of("Service"));
    let mut watch = Watch::start(&server);
    watch.until_health(Health::Ok);
    let told = watch.declared.clone().unwrap();
    assert_eq!(
        told,
        Declared {
            source: format!("api:http://{}", server.address),
            // Not watched.
            policies_known: false,
            policies: Vec::new(),
            ..load(&path).unwrap()
        }
    );
    let lists: Vec<_> = server
        .requests()
        .into_iter()
        .filter(|request| request.starts_with("list"))
        .collect();
    assert!(lists.len() <= 4, "{lists:?}");
    let pods = lists.iter().find(|list| list.contains("/pods?")).unwrap();
    assert!(
        pods.contains("fieldSelector=spec.nodeName%3Dnode-a") && pods.contains("resourceVersion=0"),
        "{pods}"
    );
}

#[test]
fn a_pod_that_makes_no_sense_costs_only_itself() {
    let server = Server::start(vec![pod("a", 80), pod("b", 80)], Vec::new());
    let mut watch = Watch::start(&server);
    watch.until("both pods", |watch| watch.names() == ["a", "b"]);
    watch.until("all watches", |_| {
        server.script.lock().unwrap().watches.len() == 4
    });
    server.event("pods", "MODIFIED", pod("a", 70_000), 11);
    watch.until("a pod less", |watch| watch.names() == ["b"]);
    let problem = watch.declared.as_ref().unwrap().problems[0].clone();
    assert_eq!(
        problem.at,
        "pods shop/a: spec.containers[0].ports[0].containerPort"
    );
    server.event("pods", "MODIFIED", pod("a", 90), 12);
    watch.until("both again", |watch| watch.names() == ["a", "b"]);
    let declared = watch.declared.as_ref().unwrap();
    assert_eq!((declared.problems.len(), declared.problems_total), (0, 1));
    server.event("pods", "DELETED", pod("b", 80), 13);
    watch.until("b gone", |watch| watch.names() == ["a"]);
}

#[test]
fn a_missing_right_is_named_and_mends_itself() {
    let server = Server::start(vec![pod("a", 80)], Vec::new());
    server.refuse(&["list services"], 403);
    let mut watch = Watch::start(&server);
    watch.until_reason("may not list services: bind the ClusterRole");
    assert_eq!(watch.declared, None, "pods alone are half of it");
    server.refuse(&["watch services"], 404);
    watch.until_reason("cannot watch services: not served here (404 not you)");
    watch.until("what was listed", |watch| watch.names() == ["a"]);
    server.refuse(&[], 0);
    watch.until_health(Health::Ok);
}

fn own_node() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a", "resourceVersion": "1"},
        "status": {"addresses": [
            {"type": "InternalIP", "address": "192.0.2.10"}, {"type": "Hostname", "address": "node-a"},
            {"type": "ExternalIP", "address": "2001:db8::10"},
        ]},
    })
}

fn api_server_slice() -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}, "resourceVersion": "1"},
        "endpoints": [{"addresses": ["192.0.2.30"]}, {"addresses": ["192.0.2.31"]}],
        "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
    })
}

#[test]
fn the_own_node_and_the_api_servers_endpoints_are_asked_for_and_nothing_hangs_on_them() {
    let server = Server::start(vec![pod("a", 80)], Vec::new());
    server.refuse(&["list endpointslices"], 404);
    server
        .script
        .lock()
        .unwrap()
        .items
        .insert("nodes", vec![own_node()]);
    let mut watch = Watch::start(&server);
    watch.until_health(Health::Ok);
    watch.until("the node", |watch| {
        watch
            .declared
            .as_ref()
            .is_some_and(|declared| !declared.nodes.is_empty())
    });
    let nodes = watch.declared.as_ref().unwrap().nodes.clone();
    let addresses: Vec<String> = nodes[0].addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["192.0.2.10", "2001:db8::10"]);
    watch.until("what is not served", |watch| {
        let slices = watch.extras.get("peers.endpointslices");
        slices.is_some_and(|slices| {
            slices.health == Health::Unsupported
                && slices.reason.as_ref().unwrap().contains("not served here")
        })
    });
    assert_eq!(watch.extras["peers.nodes"].health, Health::Ok);
    server
        .script
        .lock()
        .unwrap()
        .items
        .insert("endpointslices", vec![api_server_slice()]);
    server.refuse(&[], 0);
    watch.until("the endpoints", |watch| {
        let servers = watch
            .declared
            .iter()
            .flat_map(|declared| &declared.api_servers);
        servers.map(ToString::to_string).collect::<Vec<_>>()
            == ["192.0.2.30:6443", "192.0.2.31:6443"]
    });
    watch.until("the probe", |watch| {
        watch.extras["peers.endpointslices"].health == Health::Ok
    });
    let asked = server.requests();
    for (path, selector) in [
        ("/api/v1/nodes?", "metadata.name%3Dnode-a"),
        (
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?",
            "metadata.name%3Dkubernetes",
        ),
    ] {
        let mut of = asked
            .iter()
            .filter(|request| request.contains(path))
            .peekable();
        assert!(of.peek().is_some(), "{asked:#?}");
        assert!(of.all(|request| request.contains(selector)), "{asked:#?}");
    }
}

#[test]
fn a_cut_watch_is_resumed_where_it_broke_off() {
    let server = Server::start(vec![pod("a", 80)], Vec::new());
    let mut watch = Watch::start(&server);
    watch.until("all watches", |_| {
        server.script.lock().unwrap().watches.len() == 4
    });
    server.event("pods", "ADDED", pod("b", 80), 25);
    watch.until("both pods", |watch| watch.names() == ["a", "b"]);
    watch.until_health(Health::Ok);
    let all = ["list", "watch"]
        .into_iter()
        .flat_map(|verb| RESOURCES.map(|resource| format!("{verb} {resource}")));
    let all: Vec<String> = all.collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    server.refuse(&all, 500);
    server.cut();
    watch.until_reason("the last state stays in force");
    assert_eq!(watch.names(), ["a", "b"]);
    server.refuse(&[], 0);
    watch.until_health(Health::Ok);
    server.event("pods", "ADDED", pod("c", 80), 26);
    watch.until("the third pod", |watch| watch.names() == ["a", "b", "c"]);
    let requests = server.requests();
    assert_eq!(
        requests
            .iter()
            .filter(|request| request.starts_with("list"))
            .count(),
        4,
        "{requests:#?}"
    );
    let resumed = requests
        .iter()
        .filter(|request| request.contains("/pods?") && request.contains("resourceVersion=25"));
    assert!(resumed.count() >= 2, "{requests:#?}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_configuration_that_cannot_be_used_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let absent = scratch.path().join("absent");
    for (kubeconfig, node, expected) in [
        (Some(absent.clone()), "node-a", "absent"),
        (
            Some(absent.clone()),
            "",
            "\"\" is no name of a node: set NODE_NAME",
        ),
        (Some(absent), "a,metadata.name=b", "is no name of a node"),
        (None, "node-a", "no kubeconfig, and not in a cluster"),
    ] {
        let settings = KubeSettings {
            kubeconfig,
            node_name: node.to_owned(),
        };
        let error = run(settings, Sink::new().0, std::future::pending())
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
}
