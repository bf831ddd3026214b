//! A real control plane.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use plumbline::sources::manifests::load;
use plumbline_core::declared::Declared;
use serde_json::{Value, json};

use crate::NODE;

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// etcd, API server, controllers and scheduler, from `tests/k8s/control-plane`.
pub(crate) struct ControlPlane {
    cache: PathBuf,
    admin: PathBuf,
}

impl ControlPlane {
    pub(crate) fn up() -> Self {
        let cache =
            std::env::var_os("K8S_CACHE").map_or_else(|| root().join("target/k8s"), PathBuf::from);
        script(&cache, "down");
        let admin = PathBuf::from(script(&cache, "up").lines().last().unwrap());
        Self { cache, admin }
    }

    /// The administrator's kubeconfig.
    pub(crate) fn admin_config(&self) -> &Path {
        &self.admin
    }

    pub(crate) fn up_again(&self) {
        script(&self.cache, "up");
    }

    /// Ends the API server alone; the others wait for it.
    pub(crate) fn stop_server(&self) {
        let pid = fs::read_to_string(self.cache.join("run/kube-apiserver.pid")).unwrap();
        let stopped = Command::new("kill")
            .args(["-9", pid.trim()])
            .status()
            .unwrap();
        assert!(stopped.success());
    }

    pub(crate) fn kubectl(
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

    pub(crate) fn admin(&self, args: &[&str]) -> String {
        self.kubectl(&self.admin, args, None)
            .unwrap_or_else(|error| panic!("kubectl {args:?}: {error}"))
    }

    pub(crate) fn apply(&self, object: &Value) {
        self.kubectl(&self.admin, &["apply", "-f", "-"], Some(object))
            .unwrap();
    }

    /// What files say of the same objects.
    pub(crate) fn dumped(&self) -> Declared {
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

    /// Makes the account that the shipped manifests make, with the rights that they give it.
    pub(crate) fn apply_shipped(&self) {
        let base = root().join("deploy/kustomize/base");
        self.admin(&["apply", "-f", base.join("namespace.yaml").to_str().unwrap()]);
        self.admin(&[
            "apply",
            "-n",
            "plumbline",
            "-f",
            base.join("rbac.yaml").to_str().unwrap(),
        ]);
    }

    /// Writes a token of that account.
    pub(crate) fn write_token(&self, file: &Path) {
        let token = self.admin(&["create", "token", "-n", "plumbline", "plumbline"]);
        fs::write(file, token.trim()).unwrap();
    }

    /// A kubeconfig for that account, with the token in a file, for the server at this port.
    pub(crate) fn account(&self, scratch: &Path, port: u16) -> PathBuf {
        let view = self.admin(&["config", "view", "--raw", "-o", "json"]);
        let mut config: Value = serde_json::from_str(&view).unwrap();
        let token = scratch.join("token");
        self.write_token(&token);
        config["users"][0]["user"] = json!({"tokenFile": token});
        config["clusters"][0]["cluster"]["server"] = json!(format!("https://127.0.0.1:{port}"));
        let path = scratch.join(format!("kubeconfig-{port}"));
        fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// The API server's port.
    pub(crate) fn port(&self) -> u16 {
        let view = self.admin(&["config", "view", "--raw", "-o", "json"]);
        let config: Value = serde_json::from_str(&view).unwrap();
        let server = config["clusters"][0]["cluster"]["server"].as_str().unwrap();
        server
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok())
            .unwrap()
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
