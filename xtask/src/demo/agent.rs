//! The agent under demonstration: the binary as anyone would start it, and what it says on its socket.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::scene::{Scene, Seeded};
use crate::{process::Daemon, receivers::Receivers};

/// How long it may take to load its probes and answer.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// The running agent.
pub(super) struct Agent {
    /// Its process.
    pub(super) daemon: Daemon,
    /// Where `plumbline status` asks.
    pub(super) socket: PathBuf,
}

/// One finding, as the agent gives it.
#[derive(Clone)]
pub(super) struct Finding(pub(super) Value);

impl Agent {
    /// Starts it on the scene, with windows short enough to watch, and waits until it answers.
    pub(super) fn start(
        binary: &Path,
        scene: &Scene,
        receivers: &Receivers,
        dir: &Path,
    ) -> Result<Self> {
        let (declared, socket) = (dir.join("declared.json"), dir.join("plumbline.sock"));
        scene.write_dump(&declared)?;
        let mut command = Command::new(binary);
        command
            .arg("run")
            .arg("--cgroup-root")
            .arg(scene.cgroup_root())
            .arg("--declared")
            .arg(&declared)
            .arg("--socket")
            .arg(&socket);
        command.args([
            "--cluster-name",
            "demo",
            "--node-name",
            "demo-node",
            "--environment",
            "demo",
        ]);
        command.args([
            "--grace",
            "2s",
            "--scan-interval",
            "2s",
            "--cpu-startup-exclusion",
            "0s",
            "--cpu-mean-window",
            "8s",
        ]);
        // Whatever the person's own environment says about exporting is not for the demo.
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_foreign(&name.to_string_lossy()))
        {
            command.env_remove(name);
        }
        command
            .envs(receivers.environment())
            .env("OTEL_METRIC_EXPORT_INTERVAL", "1000");
        let mut daemon = Daemon::start("plumbline", &mut command, &dir.join("plumbline.log"))?;
        daemon.wait_for("answering on its socket", START_PATIENCE, || {
            plumbline_tests::agent::get(&socket, "/livez").ok()
        })?;
        Ok(Self { daemon, socket })
    }

    /// The findings that are open now.
    pub(super) fn findings(&self) -> Result<Vec<Finding>> {
        let answer = plumbline_tests::agent::get_json(&self.socket, "/findings")?;
        let findings = answer
            .as_array()
            .with_context(|| format!("GET /findings answers no array: {answer}"))?;
        Ok(findings.iter().cloned().map(Finding).collect())
    }

    /// Ends it as a kubelet would.
    ///
    /// # Errors
    /// When it ends with another status than 0.
    pub(super) fn stop(mut self) -> Result<()> {
        let status = self.daemon.stop()?;
        if !status.success() {
            bail!(
                "plumbline ended with {status}:\n{}",
                self.daemon.output().context("its log")?
            );
        }
        Ok(())
    }
}

fn is_foreign(name: &str) -> bool {
    name.starts_with("OTEL_") || name.starts_with("PLUMBLINE_") || name == "NODE_NAME"
}

impl Finding {
    /// A text below `path`, empty if absent.
    pub(super) fn text(&self, path: &str) -> &str {
        self.0
            .pointer(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// `rule_id`.
    pub(super) fn rule(&self) -> &str {
        self.text("/rule_id")
    }

    /// `fingerprint`.
    pub(super) fn fingerprint(&self) -> &str {
        self.text("/fingerprint")
    }

    /// Namespace, pod and container, as far as they are known.
    pub(super) fn place(&self) -> String {
        let parts = [
            "/resource/namespace",
            "/resource/pod",
            "/resource/container",
        ]
        .map(|path| self.text(path));
        parts
            .iter()
            .filter(|part| !part.is_empty())
            .copied()
            .collect::<Vec<_>>()
            .join("/")
    }

    /// Whether this is that deviation.
    pub(super) fn is(&self, seeded: &Seeded) -> bool {
        let port = self.0.pointer("/evidence/port").and_then(Value::as_u64);
        self.rule() == seeded.rule
            && self.text("/resource/namespace") == seeded.namespace
            && self.text("/resource/owner/name") == seeded.workload
            && self.text("/resource/container") == seeded.container
            && port == seeded.port.map(u64::from)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Finding, Seeded};

    #[test]
    fn a_finding_is_the_seeded_one_only_if_all_agrees() {
        let seeded = Seeded {
            rule: "P001",
            namespace: "shop",
            workload: "web",
            container: "nginx",
            port: Some(6060),
        };
        let owner = json!({ "kind": "Deployment", "name": "web" });
        let resource =
            json!({ "namespace": "shop", "owner": owner, "pod": "web-1", "container": "nginx" });
        let finding = |port: u16| {
            Finding(
                json!({ "rule_id": "P001", "resource": resource, "evidence": { "port": port } }),
            )
        };
        assert!(finding(6060).is(&seeded));
        assert!(!finding(8080).is(&seeded));
        assert!(!finding(6060).is(&Seeded {
            rule: "P007",
            ..seeded.clone()
        }));
        assert!(!finding(6060).is(&Seeded {
            container: "proxy",
            ..seeded.clone()
        }));
        assert!(!finding(6060).is(&Seeded {
            port: None,
            ..seeded
        }));
        assert_eq!(finding(1).place(), "shop/web-1/nginx");
    }
}
