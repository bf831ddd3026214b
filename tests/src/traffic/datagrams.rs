//! UDP sockets by name, told what to do by lines on stdin; each line is answered with one line once it is done.
//!
//! ```text
//! bind NAME ADDRESS [reuse]     a socket, bound (also to port 0); answers its address
//! open NAME 4|6                 a socket that nobody bound
//! connect NAME ADDRESS
//! send NAME ADDRESS SIZE COUNT  datagrams to an address
//! write NAME SIZE COUNT         datagrams of a connected socket
//! take NAME COUNT               receives, asking where from; answers the bytes
//! read NAME COUNT               receives, asking nothing; answers the bytes
//! echo NAME COUNT               receives and sends each datagram back; answers the bytes
//! close NAME
//! flood ADDRESS COUNT RATE      one datagram of one byte from each of COUNT new sockets, to ports of ADDRESS upwards
//! ```

use std::collections::BTreeMap;
use std::io::stdin;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use super::worker;
use crate::wait::monotonic_ns;

/// How long a datagram is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// The largest datagram of IPv4 has 65,507 bytes.
const DATAGRAM_MAX: usize = 65_536;

/// Ports that a flood goes to.
const FLOOD_PORTS: u16 = 20_000;

/// Obeys until stdin closes.
pub(super) fn obey() -> Result<()> {
    let mut sockets = BTreeMap::new();
    worker::say("ready");
    for line in stdin().lines() {
        let line = line.context("read a command")?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = command(&mut sockets, &words).with_context(|| line.clone())?;
        worker::say(&answer);
    }
    Ok(())
}

fn command(sockets: &mut BTreeMap<String, UdpSocket>, words: &[&str]) -> Result<String> {
    let socket = |name: &str| sockets.get(name).ok_or_else(|| anyhow!("no socket {name}"));
    Ok(match *words {
        ["bind", name, address, ref options @ ..] => {
            let address = parse(address)?;
            let socket = open(address, options.contains(&"reuse"))?;
            rustix::net::bind(&socket, &address).with_context(|| format!("bind {address}"))?;
            let answer = socket.local_addr().context("own address")?.to_string();
            sockets.insert(name.to_owned(), socket);
            answer
        }
        ["open", name, version] => {
            let address = if version == "6" {
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
            } else {
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
            };
            sockets.insert(name.to_owned(), open(address, false)?);
            "open".into()
        }
        ["connect", name, address] => {
            socket(name)?.connect(parse::<SocketAddr>(address)?)?;
            "connected".into()
        }
        ["send", name, address, size, count] => {
            let (socket, address) = (socket(name)?, parse::<SocketAddr>(address)?);
            let payload = vec![7; parse(size)?];
            for _ in 0..parse(count)? {
                socket.send_to(&payload, address)?;
            }
            "sent".into()
        }
        ["write", name, size, count] => {
            let (socket, payload) = (socket(name)?, vec![7; parse(size)?]);
            for _ in 0..parse(count)? {
                socket.send(&payload)?;
            }
            "sent".into()
        }
        [how @ ("take" | "read" | "echo"), name, count] => {
            receive(socket(name)?, how, parse(count)?)?.to_string()
        }
        ["close", name] => {
            sockets.remove(name).context("no such socket")?;
            "closed".into()
        }
        ["flood", address, count, rate] => flood(parse(address)?, parse(count)?, parse(rate)?)?,
        _ => bail!("unknown command"),
    })
}

fn parse<T: FromStr>(word: &str) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    word.parse().with_context(|| format!("{word:?}"))
}

/// A socket that nobody bound.
fn open(like: SocketAddr, reuse: bool) -> Result<UdpSocket> {
    let family = if like.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let socket = rustix::net::socket_with(
        family,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(ipproto::UDP),
    )
    .context("make a socket")?;
    if reuse {
        sockopt::set_socket_reuseport(&socket, true).context("set SO_REUSEPORT")?;
    }
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn receive(socket: &UdpSocket, how: &str, count: usize) -> Result<usize> {
    let mut buffer = vec![0; DATAGRAM_MAX];
    let mut bytes = 0;
    for _ in 0..count {
        bytes += match how {
            "read" => socket.recv(&mut buffer)?,
            "take" => socket.recv_from(&mut buffer)?.0,
            _ => {
                let (size, from) = socket.recv_from(&mut buffer)?;
                socket.send_to(&buffer[..size], from)?
            }
        };
    }
    Ok(bytes)
}

/// Not faster than `rate` a second, so that a bounded load stays one. Answers the milliseconds that it took.
fn flood(first: SocketAddr, count: u32, rate: u32) -> Result<String> {
    let began = monotonic_ns();
    let elapsed = || Duration::from_nanos(monotonic_ns().saturating_sub(began));
    for n in 0..count {
        let due = Duration::from_secs(1) * n / rate;
        thread::sleep(due.saturating_sub(elapsed()));
        let mut to = first;
        let offset = u16::try_from(n % u32::from(FLOOD_PORTS))?;
        to.set_port(first.port() + offset);
        // Refusals of others' datagrams do not come back to a new socket.
        open(first, false)?.send_to(&[7], to)?;
    }
    Ok(elapsed().as_millis().to_string())
}
