//! The load of UDP: one process that sends to itself, binds and connects, and says what CPU time that took.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::{Context as _, Result, bail};
use plumbline_tests::wait::process_cpu_ns;
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

/// What the process did.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Datagrams {
    /// Datagrams sent to an address and received with the sender's: both ends.
    pub(super) exchanged: Work,
    /// Sockets made, bound to a port that was chosen, and closed.
    pub(super) bound: Work,
    /// Sockets made, connected, and closed.
    pub(super) connected: Work,
}

/// Does all three, `count` times.
///
/// # Errors
/// When the kernel refuses, or a datagram is lost.
pub(super) fn run(count: u64) -> Result<Datagrams> {
    let socket = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("make a UDP socket");
    let (from, to) = (socket()?, socket()?);
    let address = to.local_addr().context("own address")?;
    Ok(Datagrams {
        exchanged: measured(count, || exchange(&from, &to, address, count))?,
        bound: measured(count, || bind(count))?,
        connected: measured(count, || connect(address, count))?,
    })
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
    use super::run;

    #[test]
    fn everything_is_done_and_costs_time() {
        let done = run(40).unwrap();
        for work in [done.exchanged, done.bound, done.connected] {
            assert!(work.count == 40 && work.cpu_ns > 0, "{done:?}");
        }
    }
}
