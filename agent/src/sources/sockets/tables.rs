//! Listening sockets of network namespaces: from `sock_diag` where a namespace can be entered, else from procfs.
//!
//! Both have the same sockets. `sock_diag` also tells the cgroup of a socket's creator, its cookie, and V6ONLY.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::path::PathBuf;

use plumbline_core::declared::Transport;
use plumbline_core::id::CgroupId;
use plumbline_core::observation::Holder;
use procfs::ProcError;
use procfs::net::{TcpNetEntry, TcpState, UdpNetEntry, UdpState};
use procfs::process::Process;

use super::process::has_udp;
use super::scan::ROWS_MAX;
use crate::sources::sock_diag::message::{Entry, IPV4, IPV6, LISTENING, Query, TCP};
use crate::sources::sock_diag::netns::{self, Namespace};
use crate::sources::sock_diag::socket::{DiagError, DiagSocket};

/// A listening socket of one network namespace, or a UDP socket without a peer.
pub(super) struct Socket {
    pub(super) transport: Transport,
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) netns: u64,
    /// Cgroup of its creator, as all that follows only from `sock_diag`.
    pub(super) creator: Option<CgroupId>,
    pub(super) v6only: Option<bool>,
    pub(super) cookie: Option<u64>,
    pub(super) holders: Vec<Holder>,
    /// One of its holders, or another process of the same pod, is in its network namespace.
    pub(super) at_home: bool,
}

/// Inode of the root cgroup. Kernels before 5.14 also tell it where a v1 hierarchy (net_cls, net_prio) has taken the place of
/// the v2 cgroup in the socket, so that it is nobody's.
const ROOT: CgroupId = CgroupId(1);

/// Listening sockets by inode.
pub(super) type Sockets = BTreeMap<u64, Socket>;

/// Where listening sockets are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// `sock_diag`, and procfs for namespaces that cannot be entered.
    SockDiag,
    /// procfs alone.
    Procfs,
}

/// What one namespace told.
pub(super) struct Told {
    pub(super) sockets: Sockets,
    /// It has more than were asked for.
    pub(super) cut: bool,
    /// Its range of dynamic ports.
    pub(super) ports: Option<(u16, u16)>,
}

/// Asks each namespace; those that could not be asked, or not to the end, are missing from the result.
pub(super) fn by_sock_diag(ways: BTreeMap<u64, Vec<PathBuf>>) -> BTreeMap<u64, Told> {
    let namespaces = ways.into_iter();
    let namespaces = namespaces
        .map(|(inode, ways)| Namespace { inode, ways })
        .collect();
    let visits = match netns::visit(namespaces, true) {
        Ok(visits) => visits,
        Err(error) => {
            tracing::warn!(error = %format!("{error:#}"), "listening sockets are read from procfs");
            return BTreeMap::new();
        }
    };
    let mut asked = BTreeMap::new();
    for (netns, opened) in visits {
        let answer = opened
            .map_err(|closed| closed.to_string())
            .and_then(|mut opened| {
                let (sockets, cut) =
                    ask(&mut opened.socket, netns).map_err(|error| error.to_string())?;
                Ok(Told {
                    sockets,
                    cut,
                    ports: opened.ports,
                })
            });
        match answer {
            Ok(told) => drop(asked.insert(netns, told)),
            Err(error) => tracing::debug!(netns, error, "a network namespace is read from procfs"),
        }
    }
    asked
}

/// Its sockets, and whether there are more: of each family at most [`ROWS_MAX`], so that none hides the other.
fn ask(socket: &mut DiagSocket, netns: u64) -> Result<(Sockets, bool), DiagError> {
    let (mut sockets, mut cut) = (Sockets::new(), false);
    for family in [IPV4, IPV6] {
        let most = sockets.len() + ROWS_MAX;
        let query = Query {
            family,
            protocol: TCP,
            states: LISTENING,
            info: false,
        };
        socket.dump(query, |entry| {
            if sockets.len() >= most {
                cut = true;
                return ControlFlow::Break(());
            }
            sockets.insert(entry.inode.into(), told(&entry, netns));
            ControlFlow::Continue(())
        })?;
    }
    // Of the kernel's own sockets.
    sockets.remove(&0);
    Ok((sockets, cut))
}

fn told(entry: &Entry, netns: u64) -> Socket {
    Socket {
        transport: Transport::Tcp,
        address: entry.local,
        port: entry.local_port,
        netns,
        creator: entry.cgroup.filter(|cgroup| *cgroup != ROOT),
        v6only: entry.v6only,
        cookie: Some(entry.cookie),
        holders: Vec::new(),
        at_home: false,
    }
}

/// Reads the tables that a process sees.
///
/// # Errors
///
/// The process ended, or may not be looked at.
pub(super) fn by_procfs(process: &Process, netns: u64) -> Result<Sockets, ProcError> {
    let entries = process.tcp()?.into_iter().chain(if_there(process.tcp6())?);
    let listening = |entry: &TcpNetEntry| entry.state == TcpState::Listen && entry.inode != 0;
    let socket = |entry: TcpNetEntry| {
        let socket = seen(Transport::Tcp, entry.local_address, netns);
        (entry.inode, socket)
    };
    Ok(entries.filter(listening).map(socket).collect())
}

/// Reads the UDP sockets without a peer that a process sees. Whether a program chose their port is not told.
///
/// # Errors
///
/// The process ended, or may not be looked at.
pub(super) fn udp_by_procfs(process: &Process, netns: u64) -> Result<Sockets, ProcError> {
    if !has_udp(process) {
        return Ok(Sockets::new());
    }
    let entries = process.udp()?.into_iter().chain(if_there(process.udp6())?);
    let waiting = |entry: &UdpNetEntry| {
        entry.state == UdpState::Close && entry.inode != 0 && entry.local_address.port() != 0
    };
    let socket = |entry: UdpNetEntry| {
        let socket = seen(Transport::Udp, entry.local_address, netns);
        (entry.inode, socket)
    };
    Ok(entries.filter(waiting).map(socket).collect())
}

/// The table of IPv6 is absent when the kernel runs without.
fn if_there<T>(table: Result<Vec<T>, ProcError>) -> Result<Vec<T>, ProcError> {
    match table {
        Err(ProcError::NotFound(_)) => Ok(Vec::new()),
        table => table,
    }
}

/// A socket as procfs tells it.
fn seen(transport: Transport, address: SocketAddr, netns: u64) -> Socket {
    Socket {
        transport,
        address: address.ip().to_canonical(),
        port: address.port(),
        netns,
        creator: None,
        v6only: None,
        cookie: None,
        holders: Vec::new(),
        at_home: false,
    }
}
