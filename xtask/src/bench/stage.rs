//! Where the measuring takes place: 20 pods, two of which work, and a collector on the node.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use plumbline_tests::{
    agent::wait as wait_for_end,
    cgroup,
    pods::{
        Container, Pod, Sandbox,
        spec::{ContainerSpec, PodSpec, PortSpec},
    },
};

use serde::de::DeserializeOwned;

use super::{
    datagrams::Datagrams,
    load::{self, Counted, Kind, Programs, Switched},
};
use crate::{interrupt, process, shell};

/// Begins the name of the directory below the cgroup2 mount.
const PREFIX: &str = "plumbline-bench";
/// Pods in all; a container and the pause container in each.
pub(super) const PODS: u32 = 20;
/// A second address of the server's pod, which the bridge does not lead to.
const ROUTED: Ipv4Addr = Ipv4Addr::new(10, 245, 0, 2);
/// What the pods that do not work listen on: declared, and loopback-only.
const IDLE_PORTS: [&str; 2] = ["0.0.0.0:8080", "127.0.0.1:9090"];
/// How long a server may take to listen.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// How often waiting looks again.
const STEP: Duration = Duration::from_millis(20);

/// The pods as long as they run. Dropped, everything of them is gone.
pub(super) struct Stage<'a> {
    /// The node that is played.
    pub(super) sandbox: Sandbox,
    /// For configurations, logs and the agent's socket.
    pub(super) dir: &'a Path,
    programs: &'a Programs,
    server: Container,
    server_pid: u32,
    server_address: IpAddr,
    client: Container,
    url: String,
}

/// One phase of load and what it used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Worked {
    /// By wrk.
    pub(super) counted: Counted,
    /// CPU time of both containers, in microseconds.
    pub(super) cpu_us: u64,
    /// Connections that the server's namespace accepted.
    pub(super) connections: u64,
}

impl<'a> Stage<'a> {
    /// Starts everything but the agent: so many pods, two of which are to work.
    ///
    /// # Errors
    /// When pods cannot be made or nginx does not start.
    pub(super) fn set(programs: &'a Programs, dir: &'a Path, pods: u32) -> Result<Self> {
        Sandbox::sweep(PREFIX).context("remove what a killed benchmark left")?;
        let sandbox = Sandbox::new(PREFIX)?;
        let (web, server) = pod(&sandbox, "web")?;
        let (_, client) = pod(&sandbox, "client")?;
        route(&sandbox, &web)?;
        let player = shell::own_program()?;
        for number in 3..=pods {
            interrupt::check()?;
            let (_, container) = idle_pod(&sandbox, &format!("idle-{number}"))?;
            let mut command = Command::new(&player);
            command.args(["play", "serve"]).args(IDLE_PORTS);
            container.spawn(quiet(&mut command))?;
        }
        let log = |name: &str| {
            let path = dir.join(format!("{name}.log"));
            fs::File::create(&path).with_context(|| format!("create {}", path.display()))
        };
        let mut nginx = programs.nginx(&dir.join("web"), &load::web_server())?;
        load::stay(&mut nginx, 0);
        let server_child = server.spawn(quiet(&mut nginx).stderr(log("web")?))?;
        let mut collector = programs.nginx(&dir.join("collector"), &load::collector())?;
        let unit = sandbox.unit("system.slice/collector.service")?;
        unit.spawn(quiet(&mut collector).stderr(log("collector")?))?;
        sandbox.write_dump(&dir.join("declared.json"))?;
        let stage = Self {
            url: format!("http://{}:{}/", web.ipv4(), load::PORT),
            dir,
            programs,
            server,
            server_pid: server_child.id(),
            server_address: web.ipv4(),
            client,
            sandbox,
        };
        stage.wait_for(web.ipv4(), load::PORT)?;
        stage.wait_for(IpAddr::from(Ipv4Addr::LOCALHOST), load::COLLECTOR_PORT)?;
        Ok(stage)
    }

    /// Until somebody listens there, seen from the node.
    fn wait_for(&self, address: IpAddr, port: u16) -> Result<()> {
        let give_up = shell::now() + START_PATIENCE;
        loop {
            let connected = self
                .sandbox
                .node()
                .run(|| TcpStream::connect_timeout(&(address, port).into(), START_PATIENCE))?;
            match connected {
                Ok(_) => return Ok(()),
                Err(_) if shell::now() < give_up => {
                    interrupt::check()?;
                    thread::sleep(STEP);
                }
                Err(error) => {
                    return Err(error).with_context(|| format!("nobody listens on {port}"));
                }
            }
        }
    }

    /// The containers that work.
    pub(super) fn cgroups(&self) -> [&Path; 2] {
        [self.server.cgroup_path(), self.client.cgroup_path()]
    }

    /// CPU time of the containers that work, in microseconds.
    fn used_us(&self) -> Result<u64> {
        self.cgroups()
            .iter()
            .map(|path| cgroup::usage_us(path))
            .sum()
    }

    /// Has wrk load the server for whole seconds.
    ///
    /// # Errors
    /// When wrk fails or sees errors; when the person interrupts.
    pub(super) fn work(&self, kind: Kind, seconds: u32) -> Result<Worked> {
        let mut command = self.programs.wrk(kind, seconds, &self.url)?;
        load::stay(process::bind_to_us(&mut command), 1);
        let (used, accepted) = (self.used_us()?, self.accepted()?);
        let output = finish(
            self.client.spawn(&mut command)?,
            Duration::from_secs(60 + u64::from(seconds)),
        )?;
        Ok(Worked {
            counted: load::counted(&output)?,
            cpu_us: self.used_us()? - used,
            connections: self.accepted()? - accepted,
        })
    }

    fn accepted(&self) -> Result<u64> {
        Ok(super::machine::tcp_opens(self.server_pid)?.1)
    }

    /// Has a pair of threads in the client's container switch.
    ///
    /// # Errors
    /// When they fail; when the person interrupts.
    pub(super) fn switch(&self, round_trips: u64) -> Result<Switched> {
        self.load(&["--round-trips", &round_trips.to_string()])
    }

    /// Has a process in the client's container use UDP, to a socket of its own in the server's pod among others; with `hooks`
    /// also beside hooks of another cgroup.
    ///
    /// # Errors
    /// When it fails; when the person interrupts.
    pub(super) fn datagrams(&self, count: u64, hooks: bool) -> Result<Datagrams> {
        let namespace = format!("/proc/{}/ns/net", self.server_pid);
        let beside = self.sandbox.unit("system.slice/beside.service")?;
        let (count, bridged) = (count.to_string(), self.server_address.to_string());
        let routed = ROUTED.to_string();
        let beside = beside.cgroup_path().display().to_string();
        let container = self.client.cgroup_path().display().to_string();
        let mut what = vec!["--datagrams", &count, "--namespace", &namespace];
        what.extend(["--bridged", &bridged, "--routed", &routed]);
        what.extend(["--container", &container, "--beside", &beside]);
        what.extend(hooks.then_some("--hooks"));
        self.load(&what)
    }

    fn load<T: DeserializeOwned>(&self, what: &[&str]) -> Result<T> {
        let player = shell::own_program()?;
        let mut command = Command::new(player);
        command
            .arg("bench-load")
            .args(what)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        process::bind_to_us(&mut command);
        let output = finish(self.client.spawn(&mut command)?, Duration::from_secs(120))?;
        serde_json::from_str(&output).with_context(|| format!("bench-load said {output:?}"))
    }

    /// Removes everything, and says what would not go.
    ///
    /// # Errors
    /// When something remains.
    pub(super) fn close(self) -> Result<()> {
        self.sandbox.close()
    }
}

/// Has the node route what goes to [`ROUTED`]: pods send it to their gateway, which is the node.
fn route(sandbox: &Sandbox, to: &Pod) -> Result<()> {
    to.netns()
        .ip(&[&format!("addr add {ROUTED}/32 dev eth0")])?;
    let node = sandbox.node();
    node.ip(&[&format!("route add {ROUTED}/32 via {}", to.ipv4())])?;
    node.run(|| {
        // Only for datagrams that leave by the interface by which they came does the node tell the sender of a shorter way.
        for (setting, value) in [
            ("ip_forward", "1"),
            ("conf/cni0/send_redirects", "0"),
            ("conf/all/send_redirects", "0"),
        ] {
            let path = Path::new("/proc/sys/net/ipv4").join(setting);
            fs::write(&path, value).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    })?
}

fn pod(sandbox: &Sandbox, name: &str) -> Result<(Pod, Container)> {
    let pod = sandbox.pod(spec(name))?;
    with_container(pod, name)
}

/// A pod that talks to nobody.
fn idle_pod(sandbox: &Sandbox, name: &str) -> Result<(Pod, Container)> {
    let pod = sandbox.isolated(spec(name))?;
    with_container(pod, name)
}

fn spec(name: &str) -> PodSpec {
    PodSpec {
        namespace: "bench".into(),
        name: format!("{name}-5c6b7d8f9-m4tzl"),
        owner: Some(("Deployment".into(), name.into())),
        ..PodSpec::default()
    }
}

fn with_container(pod: Pod, name: &str) -> Result<(Pod, Container)> {
    let container = pod.container(ContainerSpec {
        name: name.into(),
        ports: vec![PortSpec::named("http", load::PORT)],
        cpu_request: Some("100m".into()),
        ..ContainerSpec::default()
    })?;
    Ok((pod, container))
}

/// Bound to us, and no standard streams.
fn quiet(command: &mut Command) -> &mut Command {
    process::bind_to_us(
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    )
}

/// What a child printed, once it ended well.
fn finish(mut child: Child, patience: Duration) -> Result<String> {
    let give_up = shell::now() + patience;
    loop {
        // Both print a few lines, which a pipe holds.
        if let Some(ended) = wait_for_end(&mut child, STEP) {
            let output = child
                .wait_with_output()
                .context("read what a process printed")?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            if !ended.success() {
                bail!("the load ended with {ended}: {}", text(&output.stderr));
            }
            return Ok(text(&output.stdout));
        }
        let stop = interrupt::check().and_then(|()| {
            if shell::now() < give_up {
                return Ok(());
            }
            bail!("the load does not end after {} s", patience.as_secs())
        });
        if let Err(error) = stop {
            child.kill().context("kill the load")?;
            return Err(error);
        }
    }
}
