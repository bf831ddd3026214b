//! The load of UDP: one process that sends from pod to pod and to itself, binds and connects, and says what CPU time that
//! took.
//!
//! It has a socket in each pod's network namespace, so its datagrams take the way of all that pods send: two veth pairs and
//! the node's bridge. Within one namespace they take the shortest way there is, on which hooks weigh most.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use plumbline_tests::{netns::Netns, wait::process_cpu_ns};
use serde::{Deserialize, Serialize};

/// What small services send.
const BYTES: usize = 64;

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

/// Parts of the work that are measured one by one: samples.
const PARTS: u64 = 5;

/// What the process did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Datagrams {
    /// Datagrams sent to an address of another pod and received there with the sender's: both ends, part by part.
    pub(super) between_pods: Vec<Work>,
    /// The same within one network namespace.
    pub(super) within: Vec<Work>,
    /// Sockets made, bound to a port that was chosen, and closed.
    pub(super) bound: Work,
    /// Sockets made, connected, and closed.
    pub(super) connected: Work,
}

/// Does all of them, `count` times each; the other pod has that network namespace and address.
///
/// # Errors
/// When the kernel refuses, or a datagram is lost.
pub(super) fn run(count: u64, namespace: &Path, address: IpAddr) -> Result<Datagrams> {
    let from = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("make a UDP socket")?;
    let here = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("make a UDP socket")?;
    let there = Netns::open(namespace)?
        .run(|| UdpSocket::bind((address, 0)))?
        .with_context(|| format!("make a UDP socket at {address}"))?;
    let own = here.local_addr().context("own address")?;
    Ok(Datagrams {
        between_pods: exchanges(&from, &there, count)?,
        within: exchanges(&from, &here, count)?,
        bound: measured(count, || bind(count))?,
        connected: measured(count, || connect(own, count))?,
    })
}

fn exchanges(from: &UdpSocket, to: &UdpSocket, count: u64) -> Result<Vec<Work>> {
    let address = to.local_addr().context("own address")?;
    let part = count.div_ceil(PARTS);
    (0..PARTS)
        .map(|_| measured(part, || exchange(from, to, address, part)))
        .collect()
}

fn measured(count: u64, work: impl FnOnce() -> Result<()>) -> Result<Work> {
    let before = process_cpu_ns();
    work()?;
    Ok(Work {
        count,
        cpu_ns: process_cpu_ns() - before,
    })
}

fn exchange(from: &UdpSocket, to: &UdpSocket, address: SocketAddr, count: u64) -> Result<()> {
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

/// A port that is free stays so: nobody else is in the network namespace.
fn bind(count: u64) -> Result<()> {
    let lent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    let address = lent.local_addr().context("own address")?;
    drop(lent);
    for _ in 0..count {
        UdpSocket::bind(address).with_context(|| format!("bind {address}"))?;
    }
    Ok(())
}

fn connect(address: SocketAddr, count: u64) -> Result<()> {
    for _ in 0..count {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("make a UDP socket")?;
        socket.connect(address).context("connect")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, path::Path};

    use super::run;

    #[test]
    fn everything_is_done_and_costs_time() {
        let own = Path::new("/proc/self/ns/net");
        let done = run(40, own, Ipv4Addr::LOCALHOST.into()).unwrap();
        let parts = done.between_pods.iter().chain(&done.within);
        assert!(parts.clone().count() == 10, "{done:?}");
        assert!(
            parts
                .into_iter()
                .all(|part| part.count == 8 && part.cpu_ns > 0),
            "{done:?}"
        );
        for work in [done.bound, done.connected] {
            assert!(work.count == 40 && work.cpu_ns > 0, "{done:?}");
        }
    }
}
