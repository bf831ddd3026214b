//! Listening sockets of every kind, opened and closed on command.

use std::io::stdin;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use anyhow::{Context, Result, bail};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, ipproto, sockopt};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::{Endpoint, RandomListeners, worker};
use crate::netns::Netns;
use crate::pods::text::mixed;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1_024;

/// Opens a listener.
pub(super) fn open(endpoint: &Endpoint) -> Result<TcpListener> {
    let protocol: Protocol = if endpoint.mptcp {
        ipproto::MPTCP
    } else {
        ipproto::TCP
    };
    let socket = bound(endpoint, SocketType::STREAM, protocol)?;
    rustix::net::listen(&socket, BACKLOG)
        .with_context(|| format!("listen on {}", endpoint.address))?;
    Ok(socket.into())
}

/// A socket that has its port.
fn bound(endpoint: &Endpoint, kind: SocketType, protocol: Protocol) -> Result<OwnedFd> {
    let family = if endpoint.address.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(protocol))
        .context("make a socket")?;
    if kind == SocketType::STREAM {
        // Of UDP it would let several sockets have one port.
        sockopt::set_socket_reuseaddr(&socket, true).context("set SO_REUSEADDR")?;
    }
    if endpoint.reuse_port {
        sockopt::set_socket_reuseport(&socket, true).context("set SO_REUSEPORT")?;
    }
    if matches!(endpoint.address, SocketAddr::V6(_)) {
        sockopt::set_ipv6_v6only(&socket, endpoint.v6only).context("set IPV6_V6ONLY")?;
    }
    rustix::net::bind(&socket, &endpoint.address)
        .with_context(|| format!("bind {}", endpoint.address))?;
    Ok(socket)
}

/// Obeys [`super::Plan::Listen`], and answers whether the listeners are `open` or `close`d once it is done. A closed stdin is
/// `exit`.
pub(super) fn obey(endpoints: &[Endpoint]) -> Result<()> {
    let mut listening = Vec::new();
    worker::say("ready");
    for line in stdin().lines() {
        match line.context("read a command")?.as_str() {
            "open" => listening = all(endpoints)?,
            "close" => listening.clear(),
            "leave" => leave()?,
            "exit" => break,
            other => match other.strip_prefix("inside ") {
                Some(path) => listening = Netns::open(path.as_ref())?.run(|| all(endpoints))??,
                None => bail!("unknown command {other:?}"),
            },
        }
        worker::say(if listening.is_empty() {
            "close"
        } else {
            "open"
        });
    }
    Ok(())
}

fn all(endpoints: &[Endpoint]) -> Result<Vec<TcpListener>> {
    endpoints.iter().map(open).collect()
}

/// Goes to a network namespace of its own: sockets stay in that in which they were made.
fn leave() -> Result<()> {
    // SAFETY: the process has one thread, and a new network takes no descriptor away.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("go to a new network namespace")
}

/// Opens and closes TCP listeners and UDP sockets at random: `<n>` on stdin makes so many changes, answered with `done`.
pub(super) fn obey_at_random(plan: &RandomListeners) -> Result<()> {
    let mut state = mixed(plan.seed);
    let mut listening = Vec::new();
    worker::say("ready");
    for line in stdin().lines() {
        let changes: u32 = line
            .context("read a command")?
            .parse()
            .context("how many changes")?;
        for _ in 0..changes {
            change(plan, &mut state, &mut listening)?;
        }
        worker::say("done");
    }
    Ok(())
}

/// Closes one, more often the more there are, or opens one.
fn change(plan: &RandomListeners, state: &mut u64, listening: &mut Vec<OwnedFd>) -> Result<()> {
    let mut draw = |limit: usize| -> Result<usize> {
        *state = mixed(*state);
        let drawn = *state >> 16;
        Ok(usize::try_from(drawn % u64::try_from(limit)?)?)
    };
    if draw(plan.ports.len())? < listening.len() {
        let closed = draw(listening.len())?;
        drop(listening.swap_remove(closed));
        return Ok(());
    }
    let address = plan.addresses[draw(plan.addresses.len())?];
    let endpoint = Endpoint {
        reuse_port: draw(2)? == 0,
        v6only: draw(2)? == 0,
        ..Endpoint::tcp(SocketAddr::new(
            address,
            plan.ports[draw(plan.ports.len())?],
        ))
    };
    let opened = if draw(2)? == 0 {
        bound(&endpoint, SocketType::DGRAM, ipproto::UDP)
    } else {
        open(&endpoint).map(OwnedFd::from)
    };
    match opened {
        Ok(listener) => listening.push(listener),
        // Another of them has it.
        Err(error) if error.downcast_ref() == Some(&Errno::ADDRINUSE) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}
