//! More of everything than an agent has room for, from inside one container: short connections to ever new peers, thousands
//! of listening ports, datagrams from ever new ports.

use std::io::{Read, Write, stdin};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::{Counts, Endpoint, listen, worker};
use crate::wait::monotonic_ns;

/// Connections over loopback, each to another address of 127.0.0.0/8, so that the client has as many peers as connections.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Flood {
    /// Connections in all.
    pub connections: u32,
    /// Time over which they are spread, in milliseconds: a pace, which a busy machine does not hold.
    pub wall_ms: u64,
    /// The first of [`Flood::PORTS`] ports that the server side listens on.
    pub first_port: u16,
}

impl Flood {
    /// Ports of the server side, each with a thread of its own.
    pub const PORTS: u16 = 8;
    /// Threads of the client side.
    const CLIENTS: u32 = 4;
    /// Bytes that a client sends.
    const REQUEST: usize = 16;
    /// Bytes that a server answers.
    const RESPONSE: usize = 8;
}

/// What both sides counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flooded {
    /// The side that connected.
    pub client: Counts,
    /// The side that accepted.
    pub server: Counts,
    /// How long it took, in milliseconds.
    pub wall_ms: u64,
}

/// Datagrams over loopback to one server, each from a new socket and so from another port, and to another address of
/// 127.0.0.0/8.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Spray {
    /// Datagrams each second: a pace, which a busy machine does not hold.
    pub per_second: u32,
    /// How many seconds' worth are sent.
    pub seconds: u32,
    /// The server's port.
    pub port: u16,
}

/// What was sprayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sprayed {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that the server received; its buffer holds only so many.
    pub received: u64,
    /// How long it took, in milliseconds.
    pub wall_ms: u64,
}

/// Listening ports that are opened and closed together.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Ports {
    /// Where: all IPv4 addresses, or one of them.
    pub address: Ipv4Addr,
    /// The first port.
    pub first: u16,
    /// How many.
    pub count: u16,
}

/// Floods, and tells both counts.
pub(super) fn flood(plan: &Flood) -> Result<Flooded> {
    let per_server = plan.connections / u32::from(Flood::PORTS);
    ensure!(
        plan.connections
            .is_multiple_of(u32::from(Flood::PORTS) * Flood::CLIENTS),
        "the connections must divide evenly"
    );
    let listeners = (0..Flood::PORTS)
        .map(|n| {
            listen::open(&Endpoint::tcp(
                (Ipv4Addr::UNSPECIFIED, plan.first_port + n).into(),
            ))
        })
        .collect::<Result<Vec<_>>>()?;
    worker::say("ready");
    let begun = monotonic_ns();
    let (client, server) = thread::scope(|scope| {
        let servers: Vec<_> = listeners
            .iter()
            .map(|listener| scope.spawn(move || serve(listener, per_server)))
            .collect();
        let clients: Vec<_> = (0..Flood::CLIENTS)
            .map(|n| scope.spawn(move || connect(plan, n, begun)))
            .collect();
        let sum = |threads: Vec<thread::ScopedJoinHandle<'_, Result<Counts>>>| -> Result<Counts> {
            let mut sum = Counts::default();
            for thread in threads {
                sum.add(
                    &thread
                        .join()
                        .map_err(|_panic| anyhow!("a thread panicked"))??,
                );
            }
            Ok(sum)
        };
        // A client that failed leaves servers waiting: its error counts, and the process ends with it.
        let client = sum(clients)?;
        anyhow::Ok((client, sum(servers)?))
    })?;
    Ok(Flooded {
        client,
        server,
        wall_ms: (monotonic_ns() - begun) / 1_000_000,
    })
}

fn serve(listener: &TcpListener, connections: u32) -> Result<Counts> {
    let mut counts = Counts::default();
    for _ in 0..connections {
        let (mut stream, _) = listener.accept().context("accept")?;
        let mut request = [0; Flood::REQUEST];
        stream.read_exact(&mut request).context("read a request")?;
        stream.write_all(&[1; Flood::RESPONSE]).context("answer")?;
        // The client closes first, so that its TIME_WAIT has a peer of its own and no port runs out.
        stream
            .read_to_end(&mut Vec::new())
            .context("read the end")?;
        counts.add(&one(Flood::RESPONSE, Flood::REQUEST));
    }
    Ok(counts)
}

fn connect(plan: &Flood, client: u32, begun: u64) -> Result<Counts> {
    let mut counts = Counts::default();
    let pace = plan.wall_ms * 1_000_000 / u64::from(plan.connections.max(1));
    for n in (client..plan.connections).step_by(usize::try_from(Flood::CLIENTS)?) {
        let due = begun + pace * u64::from(n);
        thread::sleep(Duration::from_nanos(due.saturating_sub(monotonic_ns())));
        let [_, a, b, c] = (n + 2).to_be_bytes();
        let port = plan.first_port + u16::try_from(n / Flood::CLIENTS % u32::from(Flood::PORTS))?;
        let target = SocketAddr::new(Ipv4Addr::new(127, a, b, c).into(), port);
        let mut stream =
            TcpStream::connect(target).with_context(|| format!("connect to {target}"))?;
        stream.write_all(&[1; Flood::REQUEST]).context("ask")?;
        let mut response = [0; Flood::RESPONSE];
        stream
            .read_exact(&mut response)
            .context("read the answer")?;
        counts.add(&one(Flood::REQUEST, Flood::RESPONSE));
    }
    Ok(counts)
}

/// Sprays, tells the count, and keeps the server until stdin is closed.
pub(super) fn spray(plan: &Spray) -> Result<()> {
    let server = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, plan.port)).context("bind the server")?;
    server.set_nonblocking(true).context("set O_NONBLOCK")?;
    worker::say("ready");
    let begun = monotonic_ns();
    let mut sprayed = Sprayed {
        sent: 0,
        received: 0,
        wall_ms: 0,
    };
    let mut buffer = [0; 64];
    for n in 0..plan.per_second * plan.seconds {
        let due = begun + u64::from(n) * 1_000_000_000 / u64::from(plan.per_second);
        // The pace of a millisecond: a sleep for each datagram would take longer than sending it.
        if due > monotonic_ns() + 1_000_000 {
            thread::sleep(Duration::from_millis(1));
        }
        let [_, a, b, c] = (n + 2).to_be_bytes();
        let target = SocketAddr::new(Ipv4Addr::new(127, a, b, c).into(), plan.port);
        let client = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("make a client")?;
        client.send_to(&[1; 16], target).context("send")?;
        sprayed.sent += 1;
        while server.recv_from(&mut buffer).is_ok() {
            sprayed.received += 1;
        }
    }
    sprayed.wall_ms = (monotonic_ns() - begun) / 1_000_000;
    worker::print(&sprayed)?;
    stdin()
        .read_to_end(&mut Vec::new())
        .context("wait for the end of stdin")?;
    drop(server);
    Ok(())
}

fn one(sent: usize, received: usize) -> Counts {
    let bytes = |bytes| u64::try_from(bytes).unwrap_or(u64::MAX);
    Counts {
        connections: 1,
        failures: 0,
        sent_bytes: bytes(sent),
        received_bytes: bytes(received),
    }
}

/// Obeys `open`, `close` and `exit` as [`listen::obey`] does, for more ports than fit into a plan.
pub(super) fn ports(plan: &Ports) -> Result<()> {
    raise_open_files(u64::from(plan.count) + 64)?;
    let mut listening: Vec<TcpListener> = Vec::new();
    worker::say("ready");
    for line in stdin().lines() {
        match line.context("read a command")?.as_str() {
            "open" => {
                for n in 0..plan.count {
                    let address = (plan.address, plan.first + n).into();
                    listening.push(listen::open(&Endpoint::tcp(address))?);
                }
                worker::say("open");
            }
            "close" => {
                listening.clear();
                worker::say("close");
            }
            "exit" => break,
            other => bail!("unknown command {other:?}: open, close or exit"),
        }
    }
    Ok(())
}

/// Makes room for so many descriptors, if the hard limit has it.
fn raise_open_files(wanted: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let enough = |bound: Option<u64>| bound.is_none_or(|bound| bound >= wanted);
    ensure!(
        enough(limit.maximum),
        "{wanted} open files are needed, and the hard limit is {:?}",
        limit.maximum
    );
    if enough(limit.current) {
        return Ok(());
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).context("raise the limit of open files")
}
