//! Network namespaces without names: they end with the last process or descriptor, so a killed test leaves none.

use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// A network namespace that this process holds open.
#[derive(Clone, Debug)]
pub struct Netns(Arc<OwnedFd>);

/// The addresses of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Address in 10.244.0.0/24.
    pub ipv4: Ipv4Addr,
    /// Address in fd00:10:244::/64.
    pub ipv6: Ipv6Addr,
}

impl Addresses {
    /// The addresses of the `n`th thing on the bridge; 1 is the node's.
    #[must_use]
    pub fn nth(n: u8) -> Self {
        Self {
            ipv4: Ipv4Addr::new(10, 244, 0, n),
            ipv6: Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, n.into()),
        }
    }
}

impl Netns {
    /// A new, empty namespace with its loopback interface up.
    ///
    /// # Errors
    /// Without the right to make one.
    pub fn new() -> Result<Self> {
        // A thread of its own: the namespace of the caller's thread stays.
        let made = thread::spawn(|| -> Result<OwnedFd> {
            // SAFETY: unsharing the network namespace breaks no assumption about descriptors or memory.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
                .context("make a network namespace (needs root)")?;
            Ok(File::open("/proc/thread-self/ns/net")
                .context("open the new network namespace")?
                .into())
        });
        let descriptor = made
            .join()
            .map_err(|_panic| anyhow!("the thread that makes a network namespace died"))??;
        let namespace = Self(Arc::new(descriptor));
        namespace.ip(&["link set lo up"])?;
        Ok(namespace)
    }

    /// The namespace that `hostNetwork` pods use: that of process 1, or of this process where process 1 may not be looked
    /// at (some hosts protect it even from root).
    ///
    /// # Errors
    /// When neither can be opened.
    pub fn host() -> Result<Self> {
        let file = File::open("/proc/1/ns/net").or_else(|_denied| File::open("/proc/self/ns/net"));
        Ok(Self(Arc::new(
            file.context("open the host's network namespace")?.into(),
        )))
    }

    /// The namespace at a path as of `/proc/<pid>/ns/net`.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self(Arc::new(file.into())))
    }

    /// Its inode, by which `/proc/<pid>/ns/net` and the agent name it.
    ///
    /// # Errors
    /// When the descriptor cannot be asked.
    pub fn inode(&self) -> Result<u64> {
        Ok(rustix::fs::fstat(&*self.0)
            .context("stat a network namespace")?
            .st_ino)
    }

    /// Path by which another process of the same user reaches the namespace while this process lives.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Makes the command start inside the namespace.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated.
    pub fn enter(&self, command: &mut Command) -> Result<()> {
        let descriptor = self
            .0
            .as_fd()
            .try_clone_to_owned()
            .context("duplicate a namespace descriptor")?;
        // SAFETY: setns is safe to call between fork and exec.
        unsafe {
            command.pre_exec(move || {
                Ok(move_into_link_name_space(
                    descriptor.as_fd(),
                    Some(LinkNameSpaceType::Network),
                )?)
            });
        }
        Ok(())
    }

    /// Runs a closure on a thread inside the namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| -> Result<T> {
                move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
                    .context("enter a network namespace")?;
                Ok(work())
            });
            inside
                .join()
                .map_err(|_panic| anyhow!("the work inside the network namespace panicked"))?
        })
    }

    /// Runs lines of `ip` (iproute2) inside the namespace.
    ///
    /// # Errors
    /// With what `ip` said.
    pub fn ip(&self, lines: &[&str]) -> Result<()> {
        self.batch("ip", lines)
    }

    /// Makes what the pod sends wait until a link of so many bytes a second would have carried it, but for a burst of 400
    /// bytes. Only for small packets.
    ///
    /// # Errors
    /// With what `tc` (iproute2) said.
    pub fn slow_down(&self, bytes_per_second: u32) -> Result<()> {
        let line =
            format!("qdisc add dev eth0 root tbf rate {bytes_per_second}bps burst 400 limit 1mb");
        self.batch("tc", &[&line])
    }

    fn batch(&self, program: &str, lines: &[&str]) -> Result<()> {
        let mut command = Command::new(program);
        command
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        self.enter(&mut command)?;
        let mut child = command
            .spawn()
            .with_context(|| format!("start `{program}`: install iproute2"))?;
        let mut input = child.stdin.take().context("stdin was asked for")?;
        let written = input.write_all(lines.join("\n").as_bytes());
        drop(input);
        let output = child
            .wait_with_output()
            .with_context(|| format!("wait for {program}"))?;
        if !output.status.success() || written.is_err() {
            bail!(
                "{program}: {}: {}",
                lines.join("; "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }

    /// Makes this namespace a node: a bridge with the first addresses.
    ///
    /// # Errors
    /// With what `ip` said.
    pub fn make_bridge(&self) -> Result<()> {
        let own = Addresses::nth(1);
        self.ip(&[
            "link add cni0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            &format!("addr add {}/24 dev cni0", own.ipv4),
            &format!("addr add {}/64 dev cni0 nodad", own.ipv6),
            "link set cni0 up",
        ])
    }

    /// Joins a pod's namespace to the bridge of this one by a veth pair, `eth0` in the pod.
    ///
    /// # Errors
    /// With what `ip` said.
    pub fn connect_pod(&self, pod: &Self, n: u8) -> Result<Addresses> {
        let own = Addresses::nth(n);
        let gateway = Addresses::nth(1);
        self.ip(&[
            &format!(
                "link add veth{n} type veth peer name eth0 netns {}",
                pod.path()
            ),
            &format!("link set veth{n} master cni0 up"),
        ])?;
        pod.ip(&[
            &format!("addr add {}/24 dev eth0", own.ipv4),
            &format!("addr add {}/64 dev eth0 nodad", own.ipv6),
            "link set eth0 up",
            &format!("route add default via {}", gateway.ipv4),
            &format!("route add default via {}", gateway.ipv6),
        ])?;
        Ok(own)
    }
}
