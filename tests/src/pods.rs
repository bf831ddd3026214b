//! Plays pods exactly as the kubelet lays them out: cgroups, network namespaces, real processes, and the dump that
//! `kubectl` would give of them. All below a directory of its own, which goes when the sandbox is dropped.

mod dump;
pub mod spec;

use std::fs::{self, File};
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cgroup;
use crate::netns::{Addresses, Netns};
use crate::wait::{monotonic_ns, rfc3339_now};
use spec::{ContainerSpec, PodSpec, ServiceSpec, container_dir, pod_path};

/// A node to play pods on.
#[derive(Debug)]
pub struct Sandbox {
    root: PathBuf,
    node: Netns,
    host: Netns,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pods: Vec<Pod>,
    others: Vec<Value>,
    addresses_given: u8,
}

/// A pod that runs. Clones are handles of the same pod.
#[derive(Clone, Debug)]
pub struct Pod(Arc<PodParts>);

#[derive(Debug)]
struct PodParts {
    spec: PodSpec,
    uid: String,
    config_hash: Option<String>,
    place: Place,
    top: PathBuf,
    addresses: Option<Addresses>,
    started: String,
    containers: Mutex<Vec<Container>>,
}

/// A container that runs. Clones are handles of the same container.
#[derive(Clone, Debug)]
pub struct Container {
    spec: ContainerSpec,
    id: String,
    place: Place,
    started: String,
}

/// A cgroup and a network namespace in which processes can be started.
#[derive(Clone, Debug)]
pub struct Place {
    path: PathBuf,
    cgroup_id: u64,
    netns: Netns,
}

/// Sandboxes made by this process, for their names, and ids made up, so that no two are equal.
static MADE: AtomicU32 = AtomicU32::new(0);

impl Sandbox {
    /// Makes `<cgroup2 mount>/<prefix>-<pid>` (further ones of the same process: `<prefix>-<pid>-<n>`) and a network
    /// namespace that plays the node, with a bridge for the pods.
    ///
    /// # Errors
    /// Without root, a cgroup2 mount, or `ip` from iproute2.
    pub fn new(prefix: &str) -> Result<Self> {
        let mount = cgroup::mount()?;
        let base = format!("{prefix}-{}", std::process::id());
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let name = if made == 0 {
            base
        } else {
            format!("{base}-{made}")
        };
        let root = mount.join(name);
        let (node, host) = (Netns::new()?, Netns::host()?);
        node.make_bridge()?;
        cgroup::create(&root)?;
        Ok(Self {
            root,
            node,
            host,
            state: Mutex::new(State {
                addresses_given: 1,
                ..State::default()
            }),
        })
    }

    /// The directory below which the kubelet's tree begins: what the agent gets as `--cgroup-root`.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The namespace that plays the node: it holds the bridge and reaches all pods but those of the host's network.
    #[must_use]
    pub fn node(&self) -> &Netns {
        &self.node
    }

    /// Starts a pod: its cgroup, its network, and the pause container that holds them.
    ///
    /// # Errors
    /// When the kernel or `ip` refuses.
    pub fn pod(&self, spec: PodSpec) -> Result<Pod> {
        let uid = made_up_uid(&spec.name);
        let config_hash = spec.static_pod.then(|| made_up_hex(&spec.name, 32));
        let path = self
            .root
            .join(pod_path(&spec, config_hash.as_deref().unwrap_or(&uid)));
        let (netns, addresses) = if spec.host_network {
            (self.host.clone(), None)
        } else {
            let netns = Netns::new()?;
            let mut state = self.state();
            state.addresses_given += 1;
            let addresses = self.node.connect_pod(&netns, state.addresses_given)?;
            (netns, Some(addresses))
        };
        let place = Place::make(path, netns)?;
        let pause = place.below(&container_dir(
            spec.driver,
            spec.runtime,
            &made_up_hex("pause", 64),
        ))?;
        pause.spawn(quiet(Command::new("sleep").arg("infinity")))?;
        let (top, started) = (self.root.clone(), rfc3339_now());
        let pod = Pod(Arc::new(PodParts {
            spec,
            uid,
            config_hash,
            place,
            top,
            addresses,
            started,
            containers: Mutex::default(),
        }));
        self.state().pods.push(pod.clone());
        Ok(pod)
    }

    /// A cgroup of the node outside the pods, such as `system.slice/kubelet.service`, in the node's namespace.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn unit(&self, path: &str) -> Result<Place> {
        Place::make(self.root.join(path), self.node.clone())
    }

    /// Declares a Service.
    pub fn service(&self, service: &ServiceSpec) {
        let count = self.state().others.len();
        self.object(dump::service(service, count));
    }

    /// Declares any other object: it is put into the dump as it is.
    pub fn object(&self, object: Value) {
        self.state().others.push(object);
    }

    /// What `kubectl get pods,services -A -o json` would print.
    #[must_use]
    pub fn dump(&self) -> Value {
        let state = self.state();
        let mut items: Vec<Value> = state.pods.iter().map(dump::pod).collect();
        items.extend(state.others.iter().cloned());
        dump::list(items)
    }

    /// Writes the dump to a file. The file is replaced at once, so that a watching agent never reads half of it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_dump(&self, path: &Path) -> Result<()> {
        let new = path.with_extension("new");
        let mut file = File::create(&new).with_context(|| format!("create {}", new.display()))?;
        serde_json::to_writer_pretty(&mut file, &self.dump()).context("write the dump")?;
        file.flush().context("write the dump")?;
        fs::rename(&new, path).with_context(|| format!("replace {}", path.display()))
    }

    /// Kills and removes everything. Dropping does the same, but can only print what went wrong.
    ///
    /// # Errors
    /// When processes or directories remain.
    pub fn close(self) -> Result<()> {
        self.clean()
    }

    /// Removes sandboxes of that prefix whose process is gone, and tells how many there were.
    ///
    /// # Errors
    /// When the mount cannot be read, or something of them remains.
    pub fn sweep(prefix: &str) -> Result<usize> {
        let mount = cgroup::mount()?;
        let mut swept = 0;
        for entry in fs::read_dir(&mount)
            .with_context(|| format!("read {}", mount.display()))?
            .flatten()
        {
            let name = entry.file_name();
            let Some(rest) = name
                .to_str()
                .and_then(|name| name.strip_prefix(prefix)?.strip_prefix('-'))
            else {
                continue;
            };
            let Some(pid) = rest
                .split('-')
                .next()
                .and_then(|digits| digits.parse::<u32>().ok())
            else {
                continue;
            };
            if Path::new(&format!("/proc/{pid}")).exists() {
                continue;
            }
            cgroup::remove(&entry.path())?;
            swept += 1;
        }
        Ok(swept)
    }

    fn clean(&self) -> Result<()> {
        cgroup::remove(&self.root)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Err(error) = self.clean() {
            // Printing would fail where stderr is closed, and a panic while panicking would abort.
            drop(writeln!(
                std::io::stderr(),
                "sandbox {} is not fully removed: {error:#}",
                self.root.display()
            ));
        }
    }
}

impl Pod {
    /// Starts a container: makes its cgroup. Processes are started in it afterwards.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn container(&self, spec: ContainerSpec) -> Result<Container> {
        let parts = &self.0;
        let id = made_up_hex(&spec.name, 64);
        let place =
            parts
                .place
                .below(&container_dir(parts.spec.driver, parts.spec.runtime, &id))?;
        if let Some(limit) = &spec.cpu_limit
            && cgroup::enable_cpu(&parts.top, &place.path)
        {
            let quota = format!("{} 100000", millis(limit)? * 100);
            fs::write(place.path.join("cpu.max"), quota).context("write cpu.max")?;
        }
        let container = Container {
            spec,
            id,
            place,
            started: rfc3339_now(),
        };
        parts
            .containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(container.clone());
        Ok(container)
    }

    /// `metadata.namespace`.
    #[must_use]
    pub fn namespace(&self) -> &str {
        if self.0.spec.namespace.is_empty() {
            "default"
        } else {
            &self.0.spec.namespace
        }
    }

    /// `metadata.name`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.spec.name
    }

    /// `metadata.uid`.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.0.uid
    }

    /// Addresses of the pod; `None` in the host's network.
    #[must_use]
    pub fn addresses(&self) -> Option<Addresses> {
        self.0.addresses
    }

    /// The IPv4 address: 127.0.0.1 for a pod in the host's network.
    #[must_use]
    pub fn ipv4(&self) -> IpAddr {
        self.0
            .addresses
            .map_or(std::net::Ipv4Addr::LOCALHOST, |addresses| addresses.ipv4)
            .into()
    }

    /// The IPv6 address: ::1 for a pod in the host's network.
    #[must_use]
    pub fn ipv6(&self) -> IpAddr {
        self.0
            .addresses
            .map_or(std::net::Ipv6Addr::LOCALHOST, |addresses| addresses.ipv6)
            .into()
    }

    /// The pod's network namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.0.place.netns
    }

    /// Directory of the pod's cgroup.
    #[must_use]
    pub fn cgroup_path(&self) -> &Path {
        &self.0.place.path
    }

    /// Kills the pod's processes and removes its cgroups, as when it is deleted. It leaves the dump, too, if `sandbox` is
    /// where it runs.
    ///
    /// # Errors
    /// When something of it remains.
    pub fn delete(&self, sandbox: &Sandbox) -> Result<()> {
        sandbox.state().pods.retain(|pod| pod.uid() != self.uid());
        cgroup::remove(&self.0.place.path)
    }
}

impl Container {
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
    fn make(path: PathBuf, netns: Netns) -> Result<Self> {
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

/// No standard streams: a process that outlives a killed test must not hold its pipes open.
fn quiet(command: &mut Command) -> &mut Command {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
}

/// Thousandths of a CPU of a quantity such as `250m`, `2` or `0.5`.
fn millis(quantity: &str) -> Result<u64> {
    if let Some(millis) = quantity.strip_suffix('m') {
        return millis
            .parse()
            .with_context(|| format!("quantity {quantity}"));
    }
    let (whole, fraction) = quantity.split_once('.').unwrap_or((quantity, ""));
    let digits = format!("{fraction:0<3}");
    let whole: u64 = whole
        .parse()
        .with_context(|| format!("quantity {quantity}"))?;
    let part: u64 = digits
        .get(..3)
        .unwrap_or_default()
        .parse()
        .with_context(|| format!("quantity {quantity}"))?;
    Ok(whole * 1_000 + part)
}

/// Hex digits that no other call gives, in this process or another.
fn made_up_hex(name: &str, digits: usize) -> String {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let mut state = monotonic_ns() ^ (u64::from(std::process::id()) << 32) ^ u64::from(serial);
    let mut text = String::new();
    for byte in name.bytes() {
        state = mixed(state ^ u64::from(byte));
    }
    while text.len() < digits {
        state = mixed(state);
        text.push_str(&format!("{state:016x}"));
    }
    text.truncate(digits);
    text
}

/// The step of splitmix64 (Sebastiano Vigna, public domain).
pub(crate) fn mixed(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn made_up_uid(name: &str) -> String {
    let hex = made_up_hex(name, 32);
    let parts = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)]
        .map(|(from, to)| hex.get(from..to).unwrap_or_default());
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use super::{made_up_hex, made_up_uid, millis};

    #[test]
    fn quantities_of_cpu() {
        for (text, expected) in [
            ("250m", 250),
            ("2", 2_000),
            ("0.5", 500),
            ("1.25", 1_250),
            ("0.0001", 0),
        ] {
            assert_eq!(millis(text).unwrap(), expected, "{text}");
        }
        assert!(millis("x").is_err());
    }

    #[test]
    fn ids_have_their_shape_and_differ() {
        assert_eq!(made_up_hex("a", 64).len(), 64);
        assert_ne!(made_up_hex("a", 64), made_up_hex("a", 64));
        let lengths: Vec<usize> = made_up_uid("a").split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
    }
}
