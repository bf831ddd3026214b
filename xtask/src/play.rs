//! `cargo xtask play`, hidden: what processes in the demo's containers do when no packaged program fits. Each runs until it is killed.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use plumbline_tests::wait::thread_cpu_ns;

use crate::shell;

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// A client's pause between two rounds of requests.
const PAUSE: Duration = Duration::from_millis(100);
/// Threads that burn at the same time.
const BURNERS: usize = 2;
/// CPU time each burns in a burst: together the limit of half a CPU four times over in one window of 100 ms, and 20 % of a
/// CPU on average.
const BURST_CPU: Duration = Duration::from_millis(100);
/// A burst ends after this even if others had the CPU.
const BURST_MAX: Duration = Duration::from_millis(400);
/// From one burst to the next.
const BURST_EVERY: Duration = Duration::from_secs(1);

/// What to do.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(clap::Subcommand)]
enum Role {
    /// Serve a short HTTP answer on each address; `[::]:PORT` serves IPv4 too
    Serve { addresses: Vec<SocketAddr> },
    /// Ask each address for a page, again and again
    Request { addresses: Vec<SocketAddr> },
    /// Burn 200 ms of CPU at the beginning of each second
    Burst,
    /// Do nothing
    Idle,
}

/// The command; returns only with an error.
pub(crate) fn command(arguments: &Arguments) -> Result<()> {
    match &arguments.role {
        Role::Serve { addresses } => serve(addresses),
        Role::Request { addresses } => request(addresses),
        Role::Burst => burst(),
        Role::Idle => loop {
            thread::park();
        },
    }
}

fn serve(addresses: &[SocketAddr]) -> Result<()> {
    let mut servers = Vec::new();
    for address in addresses {
        let listener =
            TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
        servers.push(thread::spawn(move || {
            listener.incoming().flatten().for_each(answer)
        }));
    }
    servers.into_iter().for_each(|server| drop(server.join()));
    Ok(())
}

/// Answers one request. A client that goes away is none of our business.
fn answer(mut client: TcpStream) {
    let mut talk = || {
        client.set_read_timeout(Some(PATIENCE))?;
        let mut request = [0; 1024];
        if client.read(&mut request)? > 0 {
            client.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nok\n")?;
        }
        std::io::Result::Ok(())
    };
    drop(talk());
}

fn request(addresses: &[SocketAddr]) -> Result<()> {
    loop {
        for address in addresses {
            // The server may not be up yet: ask again in the next round.
            drop(ask(*address));
        }
        thread::sleep(PAUSE);
    }
}

fn ask(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET / HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    stream.read_to_end(&mut Vec::new()).map(drop)
}

fn burst() -> Result<()> {
    loop {
        let began = shell::now();
        thread::scope(|scope| {
            for _ in 0..BURNERS {
                scope.spawn(|| burn(began + BURST_MAX));
            }
        });
        thread::sleep(BURST_EVERY.saturating_sub(began.elapsed()));
    }
}

fn burn(until: Instant) {
    // A fresh thread: its CPU clock begins at zero.
    while u128::from(thread_cpu_ns()) < BURST_CPU.as_nanos() && shell::now() < until {
        std::hint::spin_loop();
    }
}
