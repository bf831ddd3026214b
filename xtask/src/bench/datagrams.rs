//! The load of UDP: one process that sends from pod to pod and to itself, binds and connects, and says what CPU time that
//! took.
//!
//! It has sockets in both pods' network namespaces, so its datagrams take the ways of all that pods send; see [`Way`]. A socket
//! stays in the cgroup in which it was made: the process makes some in its container, and others after it has moved to a cgroup
//! that nobody watches.
//!
//! What hooks cost every socket of the node, watched or not, is not in the ratio of the two: as soon as any cgroup has a program
//! for the addresses of datagrams that are sent, or received, the kernel takes the socket's lock for each of them. So where no
//! agent runs, the process itself attaches programs that do nothing to a cgroup without members, and detaches them, turn by turn.
//!
//! The agent looks at what a container receives only once a program in it has chosen a port: see [`Case`].

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use plumbline_tests::{netns::Netns, wait::process_cpu_ns};
use serde::{Deserialize, Serialize};

use super::{
    kernel::{Addresses, Hook},
    paired::{SIDES, Turn, turns},
};

/// What small services send.
const BYTES: usize = 64;

/// Times that a port is waited for which somebody has.
const BIND_TRIES: u32 = 1_000;

/// Ports that are tried, until one is free.
const CHOSEN: std::ops::Range<u16> = 20_000..20_100;

/// Datagrams between two that are waited for: as many fit into a socket's buffer.
const BURST: u64 = 16;

/// What was done so often, and the CPU time of it.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Work {
    /// How often.
    pub(super) count: u64,
    /// CPU time of all of them.
    pub(super) cpu_ns: u64,
}

/// How datagrams go, from the longest way to the shortest, on which hooks weigh most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Way {
    /// To another pod, two veth pairs and the node's routing: as with network plugins that give each pod a route.
    Routed,
    /// To another pod, two veth pairs and the node's bridge.
    Bridged,
    /// Within one network namespace.
    Within,
}

impl Way {
    /// In the order of [`Sockets::to`].
    const ALL: [Self; 3] = [Self::Routed, Self::Bridged, Self::Within];
}

/// What pods do with UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Case {
    /// They ask others: one of two datagrams is sent by a watched socket, the other received by one.
    Clients,
    /// One serves a port that it chose: each datagram is sent and received by watched sockets.
    Served,
}

impl Case {
    /// The hooks that the agent needs for it.
    const fn hooks(self) -> &'static [Hook] {
        match self {
            Self::Clients => &[Hook::Send],
            Self::Served => &[Hook::Send, Hook::Receive],
        }
    }
}

/// Datagrams sent to an address and received with the sender's: both ends, turn by turn.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Exchanged {
    /// By sockets of the container, and by those that nobody watches.
    pub(super) watched: Vec<Turn>,
    /// While some cgroup has hooks, and while none has. Empty beside an agent, which has some all the time.
    pub(super) hooked: Vec<Turn>,
}

/// What the process did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Datagrams {
    /// By the way they went, before any watched socket had a port that was chosen.
    pub(super) clients: BTreeMap<Way, Exchanged>,
    /// By the way they went, to sockets with a port that was chosen.
    pub(super) served: BTreeMap<Way, Exchanged>,
    /// Sockets made, bound to a port that was chosen, and closed.
    pub(super) bound: Work,
    /// Sockets made, connected, and closed.
    pub(super) connected: Work,
}

/// The pod that datagrams go to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Other<'a> {
    /// Its network namespace.
    pub(super) namespace: &'a Path,
    /// Its address that the node's bridge leads to.
    pub(super) bridged: IpAddr,
    /// Its address that the node routes to.
    pub(super) routed: IpAddr,
}

/// Sockets of one cgroup.
struct Sockets {
    from: UdpSocket,
    to: [UdpSocket; Way::ALL.len()],
}

impl Sockets {
    /// In the cgroup that the process is in. Who receives has a port that was chosen, or one of the kernel's.
    fn new(other: Other<'_>, chosen: bool) -> Result<Self> {
        let to = |address| {
            if chosen {
                choose(address)
            } else {
                lent(address)
            }
        };
        let there = |address| Netns::open(other.namespace)?.run(|| to(address))?;
        Ok(Self {
            from: lent(Ipv4Addr::UNSPECIFIED.into())?,
            to: [
                there(other.routed)?,
                there(other.bridged)?,
                to(Ipv4Addr::LOCALHOST.into())?,
            ],
        })
    }
}

/// A socket with a port that the kernel chose.
fn lent(address: IpAddr) -> Result<UdpSocket> {
    UdpSocket::bind((address, 0)).with_context(|| format!("make a UDP socket at {address}"))
}

/// A socket with a port of our choice, of those that the kernel does not give out.
fn choose(address: IpAddr) -> Result<UdpSocket> {
    for port in CHOSEN {
        match UdpSocket::bind((address, port)) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            bound => return bound.with_context(|| format!("bind port {port} of {address}")),
        }
    }
    bail!("none of the ports {CHOSEN:?} of {address} is free")
}

/// Puts the process into a cgroup.
fn enter(cgroup: &Path) -> Result<()> {
    let members = cgroup.join("cgroup.procs");
    fs::write(&members, "0").with_context(|| format!("write {}", members.display()))
}

/// The cgroups that the process is in, one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cgroups<'a> {
    /// That of a container.
    pub(super) container: &'a Path,
    /// One that nobody watches.
    pub(super) beside: &'a Path,
}

/// Does all of them, `count` times each, and with `hooks` those of hooks elsewhere, too.
///
/// # Errors
/// When the kernel refuses, or a datagram is lost.
pub(super) fn run(
    count: u64,
    other: Other<'_>,
    cgroups: Cgroups<'_>,
    hooks: bool,
) -> Result<Datagrams> {
    let asking = Sockets::new(other, false)?;
    enter(cgroups.beside)?;
    let nobody = || Sockets::new(other, true);
    let unwatched: [Sockets; SIDES] = [nobody()?, nobody()?, nobody()?];
    let hooks = hooks.then_some(cgroups.beside);
    let clients = each_way(count, Case::Clients, hooks, |side, way, count| {
        let (one, another) = match side {
            0 => (&asking, &unwatched[0]),
            side => (&unwatched[side], &unwatched[0]),
        };
        exchange(&one.from, &another.to[way], count / 2)?;
        exchange(&another.from, &one.to[way], count - count / 2)
    })?;
    enter(cgroups.container)?;
    let bound = measured(count, || bind(count))?;
    let connected = measured(count, || connect(count))?;
    let serving = Sockets::new(other, true)?;
    enter(cgroups.beside)?;
    let served = each_way(count, Case::Served, hooks, |side, way, count| {
        let sockets = if side == 0 {
            &serving
        } else {
            &unwatched[side]
        };
        exchange(&sockets.from, &sockets.to[way], count)
    })?;
    Ok(Datagrams {
        clients,
        served,
        bound,
        connected,
    })
}

/// Does `work` with each side and way, so often. With a cgroup, also with the sockets of the last side while a cgroup below it,
/// which nobody is in, has hooks, and while none has.
fn each_way(
    count: u64,
    case: Case,
    hooks: Option<&Path>,
    work: impl Fn(usize, usize, u64) -> Result<()>,
) -> Result<BTreeMap<Way, Exchanged>> {
    let mut exchanged = BTreeMap::new();
    for (nth, way) in Way::ALL.into_iter().enumerate() {
        let watched = turns(count, |_| Ok(()), |side, count| work(side, nth, count))?;
        let hooked = match hooks {
            Some(beside) => hooked(count, case, beside, |count| work(SIDES - 1, nth, count))?,
            None => Vec::new(),
        };
        exchanged.insert(way, Exchanged { watched, hooked });
    }
    Ok(exchanged)
}

fn hooked(
    count: u64,
    case: Case,
    beside: &Path,
    work: impl Fn(u64) -> Result<()>,
) -> Result<Vec<Turn>> {
    let nobody = beside.join("nobody");
    fs::create_dir(&nobody).with_context(|| format!("create {}", nobody.display()))?;
    let program = Addresses::load(case.hooks())?;
    let mut links = None;
    let prepare = |side| {
        links = (side == 0).then(|| program.attach(&nobody)).transpose()?;
        // The kernel has just changed its code.
        work(2 * BURST)
    };
    let turns = turns(count, prepare, |_, count| work(count))?;
    drop(links);
    fs::remove_dir(&nobody).with_context(|| format!("remove {}", nobody.display()))?;
    Ok(turns)
}

fn measured(count: u64, work: impl FnOnce() -> Result<()>) -> Result<Work> {
    let before = process_cpu_ns();
    work()?;
    Ok(Work {
        count,
        cpu_ns: process_cpu_ns() - before,
    })
}

fn exchange(from: &UdpSocket, to: &UdpSocket, count: u64) -> Result<()> {
    let address = to.local_addr().context("the other's address")?;
    let (payload, mut buffer) = ([7; BYTES], [0; BYTES]);
    let mut left = count;
    while left > 0 {
        let burst = left.min(BURST);
        for _ in 0..burst {
            from.send_to(&payload, address).context("send a datagram")?;
        }
        for _ in 0..burst {
            let (length, _) = to.recv_from(&mut buffer).context("receive a datagram")?;
            if length != BYTES {
                bail!("a datagram of {length} bytes");
            }
        }
        left -= burst;
    }
    Ok(())
}

/// Binds to a port that somebody may have just now: whoever asks for any port is given it for a moment.
fn bind_to(address: SocketAddr) -> Result<()> {
    let mut tries = 0;
    loop {
        match UdpSocket::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && tries < BIND_TRIES => tries += 1,
            bound => {
                bound.with_context(|| format!("bind {address}"))?;
                return Ok(());
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn bind(count: u64) -> Result<()> {
    let lent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    let address = lent.local_addr().context("own address")?;
    drop(lent);
    for _ in 0..count {
        bind_to(address)?;
    }
    Ok(())
}

fn connect(count: u64) -> Result<()> {
    let other = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("make a UDP socket")?;
    let address = other.local_addr().context("own address")?;
    for _ in 0..count {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("make a UDP socket")?;
        socket.connect(address).context("connect")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, path::Path};

    use super::{Cgroups, Other, Way, run};

    #[test]
    fn everything_is_done_and_costs_time() {
        let [container, beside] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let other = Other {
            namespace: Path::new("/proc/self/ns/net"),
            bridged: Ipv4Addr::LOCALHOST.into(),
            routed: Ipv4Addr::new(127, 0, 0, 2).into(),
        };
        let cgroups = Cgroups {
            container: container.path(),
            beside: beside.path(),
        };
        let done = run(40, other, cgroups, false).unwrap();
        for cgroup in [container, beside] {
            assert!(cgroup.path().join("cgroup.procs").exists(), "it moved");
        }
        for exchanged in [&done.clients, &done.served] {
            for way in Way::ALL {
                let exchanged = &exchanged[&way];
                let [turn] = exchanged.watched[..] else {
                    panic!("{done:?}");
                };
                assert_eq!((turn.count, exchanged.hooked.len()), (40, 0));
                let spent = [turn.with_ns, turn.without_ns, turn.again_ns];
                assert!(spent.iter().all(|ns| *ns > 0), "{done:?}");
            }
        }
        for work in [done.bound, done.connected] {
            assert!(work.count == 40 && work.cpu_ns > 0, "{done:?}");
        }
    }
}
