//! Where processes are started: a cgroup and a network namespace, those of a container or of the node.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context, Result};

use super::spec::ContainerSpec;
use super::text::millis;
use crate::cgroup;
use crate::netns::Netns;

/// A container that runs. Clones are handles of the same container.
#[derive(Clone, Debug)]
pub struct Container {
    pub(super) spec: ContainerSpec,
    pub(super) id: String,
    pub(super) place: Place,
    pub(super) started: String,
}

/// A cgroup and a network namespace in which processes can be started.
#[derive(Clone, Debug)]
pub struct Place {
    pub(super) path: PathBuf,
    pub(super) cgroup_id: u64,
    pub(super) netns: Netns,
}

impl Container {
    /// Writes `cpu.weight` as the kubelet and the runtime do, where there is the controller: 1,024 shares a CPU, at least 2,
    /// and of these the linear curve.
    pub(super) fn weigh(&self) -> Result<()> {
        let file = self.place.path.join("cpu.weight");
        if !file.exists() {
            return Ok(());
        }
        let request = self
            .spec
            .cpu_request
            .as_ref()
            .or(self.spec.cpu_limit.as_ref());
        let millis = request.map(|request| millis(request)).transpose()?;
        let shares = (millis.unwrap_or(0) * 1_024 / 1_000).clamp(2, 262_144);
        let weight = 1 + (shares - 2) * 9_999 / 262_142;
        fs::write(file, weight.to_string()).context("write cpu.weight")
    }

    /// Name in the pod.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The runtime's id: 64 hex digits.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Id of the container's cgroup: the inode of its directory.
    #[must_use]
    pub fn cgroup_id(&self) -> u64 {
        self.place.cgroup_id
    }

    /// Directory of the container's cgroup.
    #[must_use]
    pub fn cgroup_path(&self) -> &Path {
        &self.place.path
    }

    /// Where its processes run.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Starts a process in the container: it is in its cgroup and network namespace before its program begins.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        self.place.spawn(command)
    }

    /// A cgroup inside the container, as crun, systemd or dockerd inside make.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn child_cgroup(&self, name: &str) -> Result<Place> {
        self.place.below(name)
    }

    /// Kills all processes of the container.
    ///
    /// # Errors
    /// When processes remain.
    pub fn kill(&self) -> Result<()> {
        cgroup::kill(&self.place.path)
    }
}

impl Place {
    pub(super) fn make(path: PathBuf, netns: Netns) -> Result<Self> {
        let cgroup_id = cgroup::create(&path)?;
        Ok(Self {
            path,
            cgroup_id,
            netns,
        })
    }

    /// The same network in a cgroup below this one.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn below(&self, name: &str) -> Result<Self> {
        Self::make(self.path.join(name), self.netns.clone())
    }

    /// Id of the cgroup: the inode of its directory.
    #[must_use]
    pub fn cgroup_id(&self) -> u64 {
        self.cgroup_id
    }

    /// Directory of the cgroup.
    #[must_use]
    pub fn cgroup_path(&self) -> &Path {
        &self.path
    }

    /// Starts a process in the cgroup and the network namespace: it is in both before its program begins, so every socket
    /// it makes belongs there. It is killed with the sandbox, not when the `Child` is dropped.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        let procs = self.path.join("cgroup.procs");
        let procs = File::options()
            .write(true)
            .open(&procs)
            .with_context(|| format!("open {}", procs.display()))?;
        self.netns.enter(command)?;
        // SAFETY: write is safe to call between fork and exec. The closure runs once in each child of this command.
        unsafe {
            command.pre_exec(move || {
                rustix::io::write(procs.as_fd(), b"0")
                    .map(drop)
                    .map_err(Into::into)
            });
        }
        command.spawn().with_context(|| {
            format!(
                "start {:?} in {}",
                command.get_program(),
                self.path.display()
            )
        })
    }
}
