//! Plays pods exactly as the kubelet lays them out: cgroups, network namespaces, real processes, and the dump that
//! `kubectl` would give of them. All below a directory of its own, which goes when the sandbox is dropped.

mod dump;
mod place;
pub mod spec;
pub(crate) mod text;

use std::fs::{self, File};
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cgroup;
use crate::netns::{Addresses, Netns};
use crate::wait::rfc3339_now;
pub use place::{Container, Place};
use spec::{ContainerSpec, PodSpec, ServiceSpec, container_dir, pod_path};
use text::{made_up_hex, made_up_uid, millis};

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
        let (netns, addresses) = if spec.host_network {
            (self.host.clone(), None)
        } else {
            let netns = Netns::new()?;
            let mut state = self.state();
            state.addresses_given += 1;
            let addresses = self.node.connect_pod(&netns, state.addresses_given)?;
            (netns, Some(addresses))
        };
        self.place(spec, netns, addresses)
    }

    /// Starts a pod in a network namespace.
    fn place(&self, spec: PodSpec, netns: Netns, addresses: Option<Addresses>) -> Result<Pod> {
        let uid = made_up_uid(&spec.name);
        let config_hash = spec.static_pod.then(|| made_up_hex(&spec.name, 32));
        let path = self
            .root
            .join(pod_path(&spec, config_hash.as_deref().unwrap_or(&uid)));
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

    /// Starts a pod with one container, both of that name and the commonest kind.
    ///
    /// # Errors
    /// When the kernel or `ip` refuses.
    pub fn solo(&self, name: &str) -> Result<(Pod, Container)> {
        let pod = self.pod(PodSpec {
            name: name.to_owned(),
            ..PodSpec::default()
        })?;
        let container = pod.container(ContainerSpec {
            name: name.to_owned(),
            ..ContainerSpec::default()
        })?;
        Ok((pod, container))
    }

    /// Starts a pod in a network of its own that reaches nobody: there can be any number of these.
    ///
    /// # Errors
    /// When the kernel or `ip` refuses.
    pub fn isolated(&self, spec: PodSpec) -> Result<Pod> {
        self.place(spec, Netns::new()?, None)
    }

    /// As [`Sandbox::solo`], in a network of its own that reaches nobody: there can be any number of these.
    ///
    /// # Errors
    /// When the kernel or `ip` refuses.
    pub fn alone(&self, name: &str) -> Result<(Pod, Container)> {
        let pod = self.isolated(PodSpec {
            name: name.to_owned(),
            ..PodSpec::default()
        })?;
        let container = pod.container(ContainerSpec {
            name: name.to_owned(),
            ..ContainerSpec::default()
        })?;
        Ok((pod, container))
    }

    /// A cgroup of the node outside the pods, such as `system.slice/kubelet.service`, in the node's namespace.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn unit(&self, path: &str) -> Result<Place> {
        Place::make(self.root.join(path), self.node.clone())
    }

    /// Likewise in the network of the machine itself, which is that of process 1.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn host_unit(&self, path: &str) -> Result<Place> {
        Place::make(self.root.join(path), Netns::host()?)
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

/// No standard streams: a process that outlives a killed test must not hold its pipes open.
fn quiet(command: &mut Command) -> &mut Command {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
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
        let declares = spec.cpu_limit.is_some() || spec.cpu_request.is_some();
        if declares
            && cgroup::enable_cpu(&parts.top, &place.path)
            && let Some(limit) = &spec.cpu_limit
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
        let mut containers = parts
            .containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        containers.push(container.clone());
        // The controller of one container is also that of those beside it.
        containers.iter().try_for_each(Container::weigh)?;
        drop(containers);
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

    /// The pod's own addresses in all three notations: IPv4, IPv6, IPv4-mapped. Empty in the host's network.
    #[must_use]
    pub fn notations(&self) -> Vec<IpAddr> {
        let Some(own) = self.0.addresses else {
            return Vec::new();
        };
        vec![
            own.ipv4.into(),
            own.ipv6.into(),
            own.ipv4.to_ipv6_mapped().into(),
        ]
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
