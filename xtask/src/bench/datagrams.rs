//! The load of UDP: one process that sends from pod to pod and to itself, binds and connects, and says what CPU time that
//! took.
//!
//! It has sockets in both pods' network namespaces, so its datagrams take the ways of all that pods send; see [`Way`]. A socket
//! stays in the cgroup in which it was made: the process makes some in its container, and others after it has moved to a cgroup
//! that nobody watches.
//!
//! What hooks cost every socket of the node, watched or not, is not in the ratio of the two: as soon as any cgroup has a program
//! for the addresses of datagrams, the kernel takes the socket's lock for each of them. So where no agent runs, the process
//! itself attaches a program that does nothing to a cgroup without members, and detaches it, turn by turn.

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
    kernel::Addresses,
    paired::{SIDES, Turn, turns},
};

/// What small services send.
const BYTES: usize = 64;

/// Times that a port is waited for which somebody has.
const BIND_TRIES: u32 = 1_000;

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
    /// By the way they went.
    pub(super) exchanged: BTreeMap<Way, Exchanged>,
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
    fn new(other: Other<'_>) -> Result<Self> {
        let bound = |address: IpAddr| {
            UdpSocket::bind((address, 0)).with_context(|| format!("make a UDP socket at {address}"))
        };
        let there = |address| Netns::open(other.namespace)?.run(|| bound(address))?;
        Ok(Self {
            from: bound(Ipv4Addr::UNSPECIFIED.into())?,
            to: [
                there(other.routed)?,
                there(other.bridged)?,
                bound(Ipv4Addr::LOCALHOST.into())?,
            ],
        })
    }
}

/// Does all of them, `count` times each, and with `hooks` those of hooks elsewhere, too. Afterwards the process is in the cgroup
/// `beside`.
///
/// # Errors
/// When the kernel refuses, or a datagram is lost.
pub(super) fn run(count: u64, other: Other<'_>, beside: &Path, hooks: bool) -> Result<Datagrams> {
    let watched = Sockets::new(other)?;
    let bound = measured(count, || bind(count))?;
    let connected = measured(count, || connect(count))?;
    let members = beside.join("cgroup.procs");
    fs::write(&members, "0").with_context(|| format!("write {}", members.display()))?;
    let sides: [Sockets; SIDES] = [watched, Sockets::new(other)?, Sockets::new(other)?];
    let mut exchanged = BTreeMap::new();
    for (nth, way) in Way::ALL.into_iter().enumerate() {
        let work = |side: usize, count| exchange(&sides[side].from, &sides[side].to[nth], count);
        let watched = turns(count, |_| Ok(()), work)?;
        let hooked = match hooks {
            true => hooked(count, beside, |count| work(SIDES - 1, count))?,
            false => Vec::new(),
        };
        exchanged.insert(way, Exchanged { watched, hooked });
    }
    Ok(Datagrams {
        exchanged,
        bound,
        connected,
    })
}

/// The same sockets while a cgroup that nobody is in has hooks, and while none has.
fn hooked(count: u64, beside: &Path, work: impl Fn(u64) -> Result<()>) -> Result<Vec<Turn>> {
    let nobody = beside.join("nobody");
    fs::create_dir(&nobody).with_context(|| format!("create {}", nobody.display()))?;
    let program = Addresses::load()?;
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

    use super::{Other, Way, run};

    #[test]
    fn everything_is_done_and_costs_time() {
        let beside = tempfile::tempdir().unwrap();
        let other = Other {
            namespace: Path::new("/proc/self/ns/net"),
            bridged: Ipv4Addr::LOCALHOST.into(),
            routed: Ipv4Addr::new(127, 0, 0, 2).into(),
        };
        let done = run(40, other, beside.path(), false).unwrap();
        assert!(beside.path().join("cgroup.procs").exists(), "it moved");
        for way in Way::ALL {
            let exchanged = &done.exchanged[&way];
            let [turn] = exchanged.watched[..] else {
                panic!("{done:?}");
            };
            assert_eq!((turn.count, exchanged.hooked.len()), (40, 0));
            let spent = [turn.with_ns, turn.without_ns, turn.again_ns];
            assert!(spent.iter().all(|ns| *ns > 0), "{done:?}");
        }
        for work in [done.bound, done.connected] {
            assert!(work.count == 40 && work.cpu_ns > 0, "{done:?}");
        }
    }
}
