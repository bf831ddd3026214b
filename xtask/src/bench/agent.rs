//! The agent under measurement: the release binary, in a cgroup of its own on the node that is played, exporting to a
//! collector that takes everything.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use plumbline_tests::{cgroup, pods::Place};
use serde_json::Value;

use super::{
    footprint::{Memory, Objects},
    kernel::{self, Program},
    load::COLLECTOR_PORT,
    stage::Stage,
};
use crate::{interrupt, process, shell};

/// How long it may take to load its probes and be ready.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take to end: its last export has 3 s.
const STOP_PATIENCE: Duration = Duration::from_secs(8);
/// How often waiting looks again.
const STEP: Duration = Duration::from_millis(20);
/// Under load: six times as often as the product does by itself, so that even short phases hold exports.
pub(super) const OFTEN_MS: &str = "10000";

/// The running agent. Killed when dropped.
pub(super) struct Agent {
    child: Child,
    unit: Place,
    socket: PathBuf,
    log: PathBuf,
}

impl Agent {
    /// Starts it without the probes in `disable`, and waits until it is ready and its probes are attached. It exports as
    /// often as it does by itself unless `export_ms` says otherwise.
    ///
    /// # Errors
    /// With the end of its log.
    pub(super) fn start(
        stage: &Stage<'_>,
        binary: &Path,
        disable: &[&str],
        export_ms: Option<&str>,
    ) -> Result<Self> {
        let unit = stage.sandbox.unit("system.slice/plumbline.service")?;
        let (socket, log) = (
            stage.dir.join("plumbline.sock"),
            stage.dir.join("plumbline.log"),
        );
        let mut command = Command::new(binary);
        command
            .args(["run", "--node-name", "bench-node"])
            .arg("--cgroup-root")
            .arg(stage.sandbox.root())
            .arg("--declared")
            .arg(stage.dir.join("declared.json"))
            .arg("--socket")
            .arg(&socket);
        for probe in disable {
            command.args(["--disable", probe]);
        }
        let foreign = |name: &str| {
            name.starts_with("OTEL_") || name.starts_with("PLUMBLINE_") || name == "NODE_NAME"
        };
        for (name, _) in std::env::vars_os().filter(|(name, _)| foreign(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        command
            .env(
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                format!("http://127.0.0.1:{COLLECTOR_PORT}"),
            )
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
        if let Some(interval) = export_ms {
            command.env("OTEL_METRIC_EXPORT_INTERVAL", interval);
        }
        let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file);
        process::bind_to_us(&mut command);
        let child = unit.spawn(&mut command)?;
        let mut agent = Self {
            child,
            unit,
            socket,
            log,
        };
        agent.wait_until_ready(disable)?;
        Ok(agent)
    }

    fn wait_until_ready(&mut self, disable: &[&str]) -> Result<()> {
        let give_up = shell::now() + START_PATIENCE;
        loop {
            interrupt::check()?;
            if let Some(status) = self.child.try_wait().context("look after the agent")? {
                bail!("the agent ended ({status}):\n{}", self.tail());
            }
            if plumbline_tests::agent::get(&self.socket, "/readyz").is_ok() {
                return self.check_probes(disable);
            }
            if shell::now() >= give_up {
                bail!(
                    "the agent is not ready after {} s:\n{}",
                    START_PATIENCE.as_secs(),
                    self.tail()
                );
            }
            thread::sleep(STEP);
        }
    }

    /// What was asked for must be measured: an agent that sees nothing costs nothing.
    fn check_probes(&self, disable: &[&str]) -> Result<()> {
        let status = plumbline_tests::agent::get_json(&self.socket, "/status")?;
        let probes = status["probes"]
            .as_array()
            .context("the status names no probes")?;
        for (probe, flag) in [
            ("tcp", "tcp"),
            ("udp", "udp"),
            ("cpu_windows", "cpu-windows"),
        ] {
            if disable.contains(&flag) {
                continue;
            }
            let found = probes.iter().find(|found| found["probe"] == probe);
            let health = found
                .and_then(|found| found["health"].as_str())
                .unwrap_or("missing");
            if !health.eq_ignore_ascii_case("ok") {
                bail!(
                    "probe {probe} is {health}, so its cost cannot be measured: {}",
                    Value::from(probes.clone())
                );
            }
        }
        Ok(())
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time it has used, in microseconds.
    ///
    /// # Errors
    /// When its cgroup is gone.
    pub(super) fn used_us(&self) -> Result<u64> {
        cgroup::usage_us(self.unit.cgroup_path())
    }

    /// Its memory now.
    ///
    /// # Errors
    /// When it is gone.
    pub(super) fn memory(&self) -> Result<Memory> {
        Memory::of(self.pid())
    }

    /// Its programs, as the kernel counts them.
    ///
    /// # Errors
    /// When it is gone, or has no programs.
    pub(super) fn programs(&self) -> Result<Vec<Program>> {
        let own: BTreeSet<u32> = Objects::of(self.pid())?.programs.into_keys().collect();
        let mut programs = kernel::programs()?;
        programs.retain(|program| own.contains(&program.id));
        if programs.is_empty() {
            bail!("the agent holds no eBPF program");
        }
        Ok(programs)
    }

    /// Ends it as a kubelet would, and waits until its programs are gone.
    ///
    /// # Errors
    /// When it does not end, or not well.
    pub(super) fn stop(mut self) -> Result<()> {
        let pid = libc::pid_t::try_from(self.pid()).context("pid out of range")?;
        // SAFETY: kill takes two numbers; the child has not been waited for, so its pid is still its own.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        match plumbline_tests::agent::wait(&mut self.child, STOP_PATIENCE) {
            Some(status) if status.success() => {}
            Some(status) => bail!("the agent ended with {status}:\n{}", self.tail()),
            None => bail!("the agent does not end on SIGTERM:\n{}", self.tail()),
        }
        Ok(())
    }

    fn tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines
            .get(lines.len().saturating_sub(15)..)
            .unwrap_or_default()
            .join("\n")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Gone already is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
