//! The pods of the demo, with real processes in them, and what deviates in them from what they declare.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use plumbline_tests::pods::{
    Container, Pod, Sandbox,
    spec::{ContainerSpec, Handler, Kind, PodSpec, PortRef, PortSpec, ProbeKind, ProbeSpec},
};

use super::nginx::Nginx;
use crate::{process, shell};

/// Begins the name of the directory below the cgroup2 mount.
const PREFIX: &str = "plumbline-demo";
/// Where the web server's debug endpoint listens, on all addresses and undeclared.
pub(super) const DEBUG_PORT: u16 = 6060;
/// Where the web server does not listen, so that connects fail.
const CLOSED_PORT: u16 = 5432;
/// Ports for the pod in the host's network are looked for from here on: below what the kernel gives out by itself.
const HOST_PORTS_FROM: u16 = 21_100;

/// A deviation that the scene contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seeded {
    /// The rule that must find it.
    pub(super) rule: &'static str,
    /// Where.
    pub(super) namespace: &'static str,
    /// Name of the workload.
    pub(super) workload: &'static str,
    /// In which container.
    pub(super) container: &'static str,
    /// On which port, where it is about one.
    pub(super) port: Option<u16>,
}

/// The pods as long as they run. Dropped, everything of them is gone.
pub(super) struct Scene {
    sandbox: Sandbox,
    /// What must be found in it, and nothing else.
    pub(super) seeded: Vec<Seeded>,
}

/// What is needed to start the pods.
struct Stage<'a> {
    sandbox: &'a Sandbox,
    nginx: &'a Nginx,
    /// This program, which plays what no packaged program does.
    player: PathBuf,
    dir: &'a Path,
}

impl Scene {
    /// Starts all pods; their logs go below `dir`.
    pub(super) fn start(nginx: &Nginx, dir: &Path) -> Result<Self> {
        Sandbox::sweep(PREFIX).context("remove what a killed demo left")?;
        let sandbox = Sandbox::new(PREFIX)?;
        let player = shell::own_program()?;
        let stage = Stage {
            sandbox: &sandbox,
            nginx,
            player,
            dir,
        };
        let web = stage.web()?;
        stage.cart(&web)?;
        let host_port = stage.node_agent()?;
        let has_quota = stage.report()?;
        let mut seeded = vec![
            Seeded {
                rule: "C001",
                namespace: "shop",
                workload: "cart",
                container: "log-shipper",
                port: None,
            },
            Seeded {
                rule: "C007",
                namespace: "batch",
                workload: "report",
                container: "burner",
                port: None,
            },
            Seeded {
                rule: "P001",
                namespace: "shop",
                workload: "web",
                container: "nginx",
                port: Some(DEBUG_PORT),
            },
            // The same port, which is the usual one of profilers.
            Seeded {
                rule: "P004",
                namespace: "shop",
                workload: "web",
                container: "nginx",
                port: Some(DEBUG_PORT),
            },
            Seeded {
                rule: "P007",
                namespace: "kube-system",
                workload: "node-agent",
                container: "agent",
                port: Some(host_port),
            },
        ];
        if has_quota {
            // The job's limit is enforced, so that the kernel stops each of its bursts.
            seeded.push(Seeded {
                rule: "C004",
                namespace: "batch",
                workload: "report",
                container: "burner",
                port: None,
            });
        }
        Ok(Self { sandbox, seeded })
    }

    /// What the agent gets as `--cgroup-root`.
    pub(super) fn cgroup_root(&self) -> &Path {
        self.sandbox.root()
    }

    /// Writes what `kubectl get pods -A -o json` would print.
    pub(super) fn write_dump(&self, path: &Path) -> Result<()> {
        self.sandbox.write_dump(path)
    }

    /// Removes everything, and says what would not go.
    pub(super) fn close(self) -> Result<()> {
        self.sandbox.close()
    }
}

impl Stage<'_> {
    /// A real web server. It declares 8080. Its debug endpoint on all addresses is P001 and P004; its admin endpoint on loopback is
    /// nobody's business; the sidecar's ports, one of them declared by nothing but its probe, are as they should be.
    fn web(&self) -> Result<Pod> {
        let pod = self.pod("shop", "web-6f8d9c7b5d-x2x9p", ("Deployment", "web"))?;
        let nginx = pod.container(ContainerSpec {
            ports: vec![PortSpec::named("http", 8080)],
            cpu_limit: Some("2".into()),
            ..container("nginx", Some("100m"))
        })?;
        let dir = self.dir.join("nginx");
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        self.spawn(&nginx, &mut self.nginx.command(&dir)?)?;
        let sidecar = pod.container(ContainerSpec {
            kind: Kind::Sidecar,
            ports: vec![PortSpec::named("metrics", 9090)],
            probes: vec![ProbeSpec {
                kind: ProbeKind::Readiness,
                handler: Handler::Http(PortRef::Number(9091)),
            }],
            ..container("proxy", Some("50m"))
        })?;
        self.play(&sidecar, &["serve", "[::]:9090", "0.0.0.0:9091"])?;
        Ok(pod)
    }

    /// A client of the web server, over IPv4 and IPv6: its connections become flows, and those to a port where nobody listens
    /// failed ones. The container beside it has no CPU
    /// request, which is C001.
    fn cart(&self, web: &Pod) -> Result<()> {
        let pod = self.pod("shop", "cart-5c6b7d8f9-m4tzl", ("Deployment", "cart"))?;
        let client = pod.container(container("cart", Some("50m")))?;
        let to = [
            SocketAddr::new(web.ipv4(), 8080).to_string(),
            SocketAddr::new(web.ipv6(), 9090).to_string(),
            SocketAddr::new(web.ipv4(), CLOSED_PORT).to_string(),
        ];
        self.play(&client, &["request", &to[0], &to[1], &to[2]])?;
        let shipper = pod.container(container("log-shipper", None))?;
        self.play(&shipper, &["idle"])
    }

    /// A pod in the host's network with one declared port and one undeclared, which is P007. Returns the latter.
    fn node_agent(&self) -> Result<u16> {
        let [declared, undeclared] = free_host_ports()?;
        let pod = self.sandbox.pod(PodSpec {
            host_network: true,
            ..pod_spec(
                "kube-system",
                "node-agent-8kq2v",
                ("DaemonSet", "node-agent"),
            )
        })?;
        let agent = pod.container(ContainerSpec {
            ports: vec![PortSpec::named("metrics", declared)],
            ..container("agent", Some("20m"))
        })?;
        self.play(
            &agent,
            &[
                "serve",
                &format!("0.0.0.0:{declared}"),
                &format!("0.0.0.0:{undeclared}"),
            ],
        )?;
        Ok(undeclared)
    }

    /// A job that may use half a CPU and on average uses a fifth, but all of it in one burst a second: C007. Whether its
    /// limit is enforced: only where the host gives the cpu controller to cgroup v2.
    fn report(&self) -> Result<bool> {
        let pod = self.pod("batch", "report-29400000-7xw4s", ("CronJob", "report"))?;
        let burner = pod.container(ContainerSpec {
            cpu_limit: Some("500m".into()),
            ..container("burner", None)
        })?;
        self.play(&burner, &["burst"])?;
        Ok(burner.cgroup_path().join("cpu.max").exists())
    }

    fn pod(&self, namespace: &str, name: &str, owner: (&str, &str)) -> Result<Pod> {
        self.sandbox.pod(pod_spec(namespace, name, owner))
    }

    fn play(&self, container: &Container, role: &[&str]) -> Result<()> {
        self.spawn(container, Command::new(&self.player).arg("play").args(role))
    }

    /// Starts a process whose output goes to a log of its container.
    fn spawn(&self, container: &Container, command: &mut Command) -> Result<()> {
        let log = self.dir.join(format!("{}.log", container.name()));
        let file = fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let copy = file
            .try_clone()
            .with_context(|| format!("share {}", log.display()))?;
        process::bind_to_us(command.stdin(Stdio::null()).stdout(file).stderr(copy));
        container.spawn(command).map(drop)
    }
}

fn pod_spec(namespace: &str, name: &str, (kind, owner): (&str, &str)) -> PodSpec {
    PodSpec {
        namespace: namespace.into(),
        name: name.into(),
        owner: Some((kind.into(), owner.into())),
        ..PodSpec::default()
    }
}

fn container(name: &str, cpu_request: Option<&str>) -> ContainerSpec {
    ContainerSpec {
        name: name.into(),
        cpu_request: cpu_request.map(str::to_owned),
        ..ContainerSpec::default()
    }
}

/// Two ports that nobody uses on this machine at this moment.
fn free_host_ports() -> Result<[u16; 2]> {
    let mut free = (HOST_PORTS_FROM..=u16::MAX)
        .filter(|port| std::net::TcpListener::bind(("0.0.0.0", *port)).is_ok());
    let mut next = || free.next().context("this machine has no free port left");
    Ok([next()?, next()?])
}
