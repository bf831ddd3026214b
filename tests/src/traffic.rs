//! Exact work for containers: plans that `plumbline-traffic` carries out, and the counts it prints. The counts are what an
//! observer must have seen: the oracle.

pub mod burn;
mod datagrams;
mod exchange;
pub mod flood;
mod lanes;
mod listen;
mod long;
mod pool;
mod worker;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};

pub use worker::Worker;

use crate::pods::text::mixed;

/// What one process does.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum Plan {
    /// Serves a known series of connections on each lane, then prints a [`Tally`].
    Serve(Lanes),
    /// Makes a known series of connections on each lane, then prints a [`Tally`].
    Connect(Lanes),
    /// Connects to ports where nobody listens, then prints a [`Tally`].
    Fail(Fail),
    /// Serves any number of framed connections with several processes until stdin closes, then prints a [`Tally`].
    Pool(Pool),
    /// Listens, hands the socket to whoever connects to a Unix socket, and never accepts. Ends when stdin closes.
    PassListener {
        /// Where to listen.
        endpoint: Endpoint,
        /// Path of the Unix socket.
        through: PathBuf,
        /// Closes its own copy once the socket was handed over.
        then_close: bool,
    },
    /// Opens and closes listeners as told by lines on stdin: `open`, `close`, `exit`; `inside PATH` opens them in that network
    /// namespace, and `leave` goes to a new one and takes them along.
    Listen {
        /// Opened and closed together.
        endpoints: Vec<Endpoint>,
    },
    /// Opens and closes listeners at random; see [`RandomListeners`].
    RandomListeners(RandomListeners),
    /// Answers on any number of connections until stdin closes; for [`Plan::Long`].
    Answer {
        /// Where to listen.
        endpoint: Endpoint,
    },
    /// Holds connections open, and obeys `move`, `churn` and `close` on stdin, each answered with the [`Tally`] so far.
    Long(Long),
    /// Opens UDP sockets and uses them as told by lines on stdin: the module `datagrams` has the words.
    Datagrams,
    /// Makes many short connections to itself, then prints [`flood::Flooded`].
    Flood(flood::Flood),
    /// Sends datagrams from many ports, prints [`flood::Sprayed`], and keeps the server until stdin closes.
    Spray(flood::Spray),
    /// Opens and closes many listening ports as told by lines on stdin: `open`, `close`, `exit`.
    Ports(flood::Ports),
    /// Uses CPU, then prints [`burn::Burnt`].
    Burn(burn::Burn),
}

/// Where to listen.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    /// Address to bind.
    pub address: SocketAddr,
    /// An MPTCP socket rather than a TCP one.
    #[serde(default)]
    pub mptcp: bool,
    /// With SO_REUSEPORT.
    #[serde(default)]
    pub reuse_port: bool,
    /// With IPV6_V6ONLY.
    #[serde(default)]
    pub v6only: bool,
}

impl Endpoint {
    /// A plain TCP listener.
    #[must_use]
    pub fn tcp(address: SocketAddr) -> Self {
        Self {
            address,
            mptcp: false,
            reuse_port: false,
            v6only: false,
        }
    }
}

/// Connections made one after the other on several ports at once. Server and client draw the same series from the seed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lanes {
    /// Server: the address to bind. Client: the addresses to connect to in turn; IPv4-mapped ones use an IPv6 socket.
    pub addresses: Vec<IpAddr>,
    /// Port of the first lane; the others follow.
    pub first_port: u16,
    /// How many lanes.
    pub lanes: u16,
    /// Connections on each lane.
    pub connections: u32,
    /// Seed of the series.
    pub seed: u64,
    /// Each connection begins with a header that tells its exchange, so that any server process can take it.
    #[serde(default)]
    pub framed: bool,
    /// The orders to draw from; all of [`Order::ALL`] when empty.
    #[serde(default)]
    pub orders: Vec<Order>,
    /// The largest payload in one direction; [`PAYLOAD_MAX`] when absent.
    #[serde(default)]
    pub payload_max: Option<u32>,
    /// The server's sockets are MPTCP.
    #[serde(default)]
    pub mptcp: bool,
}

/// Connection attempts that fail.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fail {
    /// Whom to connect to in turn.
    pub targets: Vec<SocketAddr>,
    /// How many attempts.
    pub attempts: u32,
}

/// Listeners that come and go: a number on stdin makes so many changes, answered with `done`. All end with stdin.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RandomListeners {
    /// Addresses to bind.
    pub addresses: Vec<IpAddr>,
    /// Ports to bind; about half of them at a time.
    pub ports: Vec<u16>,
    /// Seed of the changes.
    pub seed: u64,
}

/// Connections that live long, and short ones beside them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Long {
    /// Whom to connect to in turn.
    pub targets: Vec<SocketAddr>,
    /// Long connections.
    pub connections: usize,
    /// Short connections that each of eight threads makes by one `churn`.
    pub short: usize,
    /// Seed of the sizes.
    pub seed: u64,
}

/// A server of several processes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pool {
    /// Where to listen; `None`: the socket comes from a [`Plan::PassListener`].
    pub endpoint: Option<Endpoint>,
    /// Path of the Unix socket that the listener comes through.
    pub passed_through: Option<PathBuf>,
    /// Child processes that accept.
    pub workers: u16,
    /// Directories that workers move themselves into, in turn.
    #[serde(default)]
    pub cgroups: Vec<PathBuf>,
}

/// One connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// How it ends.
    pub order: Order,
    /// Bytes that the client sends.
    pub request: u32,
    /// Bytes that the server sends after it has received all of them.
    pub response: u32,
}

/// Who closes first, and how. In all of them both sides read everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The client closes; the server follows at once.
    ClientFirst,
    /// The client closes; the server follows later.
    ClientFirstLatePeer,
    /// The server closes; the client follows at once.
    ServerFirst,
    /// The server closes; the client follows later.
    ServerFirstLatePeer,
    /// The client shuts its sending side down before the response; the server closes after it.
    ClientShutdown,
    /// The server shuts its sending side down after the response; the client closes; then the server.
    ServerShutdown,
    /// Both close, the server without waiting for the client's FIN: where the link is slow, they cross.
    Simultaneous,
    /// The client shuts its sending side down, reads the response, and closes before the server does.
    ClientShutdownThenClose,
}

impl Order {
    /// Every order.
    pub const ALL: [Self; 8] = [
        Self::ClientFirst,
        Self::ClientFirstLatePeer,
        Self::ServerFirst,
        Self::ServerFirstLatePeer,
        Self::ClientShutdown,
        Self::ServerShutdown,
        Self::Simultaneous,
        Self::ClientShutdownThenClose,
    ];
}

/// The largest payload in one direction.
pub const PAYLOAD_MAX: u32 = 1 << 20;

impl Lanes {
    /// The series of one lane. Of the payloads one in eight is 0, one in 64 is 1 MiB, and the others are spread evenly over
    /// the powers of two between.
    #[must_use]
    pub fn series(&self, lane: u16) -> Vec<Exchange> {
        let orders = if self.orders.is_empty() {
            &Order::ALL[..]
        } else {
            &self.orders
        };
        let limit = self.payload_max.unwrap_or(PAYLOAD_MAX).saturating_add(1);
        let mut state = mixed(self.seed ^ u64::from(lane));
        let mut draw = move || {
            state = mixed(state);
            state
        };
        (0..self.connections)
            .map(|_| Exchange {
                order: *pick(orders, draw()),
                request: payload(draw()) % limit,
                response: payload(draw()) % limit,
            })
            .collect()
    }
}

fn pick<T>(from: &[T], drawn: u64) -> &T {
    let length = u64::try_from(from.len())
        .expect("usize fits into u64")
        .max(1);
    let index = usize::try_from(drawn % length).expect("less than a usize");
    from.get(index)
        .expect("the index is less than the length, which is not 0")
}

fn payload(drawn: u64) -> u32 {
    match drawn % 64 {
        0..8 => 0,
        8 => PAYLOAD_MAX,
        _ => {
            let power = (drawn >> 8) % 20;
            let size = (1 << power) + (drawn >> 16) % (1 << power);
            u32::try_from(size).unwrap_or(PAYLOAD_MAX)
        }
    }
}

/// What one process did, counted by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// One row per role, peer and server port.
    pub rows: Vec<TallyRow>,
}

/// Exact counts of one role, peer and server port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TallyRow {
    /// Which connections.
    #[serde(flatten)]
    pub key: TallyKey,
    /// What they did.
    #[serde(flatten)]
    pub counts: Counts,
}

/// Which connections a row counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TallyKey {
    /// The counting process connected.
    pub client: bool,
    /// The other end; IPv4-mapped addresses are folded to IPv4.
    pub peer: IpAddr,
    /// The server's port.
    pub server_port: u16,
}

/// Exact counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Connections that were established and closed.
    pub connections: u64,
    /// Connection attempts that failed.
    pub failures: u64,
    /// Bytes written.
    pub sent_bytes: u64,
    /// Bytes read.
    pub received_bytes: u64,
}

impl Counts {
    /// Adds the other's counts.
    pub fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        self.failures += other.failures;
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
    }

    /// What the other end of the same connections counts.
    #[must_use]
    pub fn mirrored(&self) -> Self {
        Self {
            sent_bytes: self.received_bytes,
            received_bytes: self.sent_bytes,
            ..*self
        }
    }
}

impl Tally {
    /// Counts one connection or attempt.
    pub fn count(&mut self, client: bool, peer: IpAddr, server_port: u16, counts: &Counts) {
        let key = TallyKey {
            client,
            peer: peer.to_canonical(),
            server_port,
        };
        match self.rows.iter_mut().find(|row| row.key == key) {
            Some(row) => row.counts.add(counts),
            None => self.rows.push(TallyRow {
                key,
                counts: *counts,
            }),
        }
    }

    /// Adds another tally.
    pub fn add(&mut self, other: &Self) {
        for row in &other.rows {
            self.count(
                row.key.client,
                row.key.peer,
                row.key.server_port,
                &row.counts,
            );
        }
    }

    /// The rows by key.
    #[must_use]
    pub fn by_key(&self) -> BTreeMap<TallyKey, Counts> {
        self.rows.iter().map(|row| (row.key, row.counts)).collect()
    }

    /// All rows together.
    #[must_use]
    pub fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.rows.iter().for_each(|row| total.add(&row.counts));
        total
    }
}

/// Carries a plan out in this process: the whole of `plumbline-traffic`.
///
/// # Errors
/// When a step of the plan fails; the counts are then worthless and not printed.
pub fn act(plan: Plan) -> Result<()> {
    match plan {
        Plan::Serve(plan) => worker::print(&lanes::serve(&plan)?),
        Plan::Connect(plan) => worker::print(&lanes::connect(&plan)?),
        Plan::Fail(plan) => worker::print(&lanes::fail(&plan)?),
        Plan::Pool(plan) => worker::print(&pool::serve(&plan)?),
        Plan::PassListener {
            endpoint,
            through,
            then_close,
        } => pool::pass(endpoint, &through, then_close),
        Plan::RandomListeners(plan) => listen::obey_at_random(&plan),
        Plan::Answer { endpoint } => long::answer(&endpoint),
        Plan::Long(plan) => long::obey(&plan),
        Plan::Listen { endpoints } => listen::obey(&endpoints),
        Plan::Datagrams => datagrams::obey(),
        Plan::Flood(plan) => worker::print(&flood::flood(&plan)?),
        Plan::Spray(plan) => flood::spray(&plan),
        Plan::Ports(plan) => flood::ports(&plan),
        Plan::Burn(plan) => worker::print(&burn::burn(&plan)?),
    }
}

#[cfg(test)]
mod tests {
    use super::{Lanes, Order, PAYLOAD_MAX};

    #[test]
    fn series_are_repeatable_and_cover_the_extremes() {
        let lanes = Lanes {
            addresses: Vec::new(),
            first_port: 0,
            lanes: 1,
            connections: 2_000,
            seed: 7,
            framed: false,
            orders: Vec::new(),
            payload_max: None,
            mptcp: false,
        };
        let series = lanes.series(0);
        assert_eq!(series, lanes.series(0));
        assert_ne!(series, lanes.series(1));
        for order in Order::ALL {
            assert!(
                series.iter().any(|exchange| exchange.order == order),
                "{order:?}"
            );
        }
        for size in [0, PAYLOAD_MAX] {
            assert!(series.iter().any(|exchange| exchange.request == size));
            assert!(series.iter().any(|exchange| exchange.response == size));
        }
        assert!(
            series
                .iter()
                .any(|exchange| exchange.request == 0 && exchange.response == 0)
        );
    }
}
