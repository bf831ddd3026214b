//! A way to the collector that fails on demand, with what was under way at that moment.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What becomes of the connections that are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing goes through any more, and nobody is told: no FIN, no RST.
    Vanish,
    /// From the beginning on: so many bytes a second to the server, over each connection.
    Slow(u32),
    /// The first connections end within the first line or frame of an answer.
    Cut,
    /// An HTTP/2 server that is about to end: what is under way is answered, nothing new is taken.
    GoAway,
    /// One that ends at once, and claims to have seen none of what is under way.
    GoAwayAtOnce,
}

/// Connections that [`Fault::Cut`] befalls.
pub(crate) const CUT: u32 = 3;

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    faults: watch::Sender<u32>,
    connections: Arc<AtomicU32>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn to(collector: SocketAddr, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (faults, strikes) = watch::channel(0);
        let connections = Arc::new(AtomicU32::new(0));
        Self {
            address: listener.local_addr().unwrap(),
            task: tokio::spawn(accept(
                listener,
                collector,
                fault,
                strikes,
                Arc::clone(&connections),
            )),
            faults,
            connections,
        }
    }

    /// The fault befalls all that is open now; what comes later is carried.
    pub(crate) fn strike(&self) {
        self.faults.send_modify(|faults| *faults += 1);
    }

    pub(crate) fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    collector: SocketAddr,
    fault: Fault,
    strikes: watch::Receiver<u32>,
    connections: Arc<AtomicU32>,
) {
    let mut carried = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let before = connections.fetch_add(1, Ordering::Relaxed);
        let fault = match fault {
            // Which nobody brings about.
            Fault::Cut if before >= CUT => Fault::Vanish,
            fault => fault,
        };
        let mut strikes = strikes.clone();
        strikes.mark_unchanged();
        carried.spawn(async move {
            let server = TcpStream::connect(collector).await.unwrap();
            carry(client, server, fault, strikes).await;
        });
    }
}

async fn carry(client: TcpStream, server: TcpStream, fault: Fault, strikes: watch::Receiver<u32>) {
    let ((mut asked, mut told), (mut answer, mut ask)) = (client.into_split(), server.into_split());
    let mut struck = strikes.clone();
    let vanished = async {
        if fault != Fault::Vanish || struck.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        _ = forth(&mut asked, &mut ask, fault) => {}
        _ = back(&mut answer, &mut told, fault, strikes) => {}
        // All four halves stay open.
        () = vanished => std::future::pending().await,
    }
}

/// From the client to the server.
async fn forth(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    fault: Fault,
) -> std::io::Result<()> {
    let Fault::Slow(rate) = fault else {
        tokio::io::copy(from, to).await?;
        return Ok(());
    };
    let mut some = vec![0; usize::try_from(rate / 50).unwrap()];
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    loop {
        ticks.tick().await;
        let read = from.read(&mut some).await?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&some[..read]).await?;
    }
}

/// From the server to the client; a GOAWAY stands between two frames.
async fn back(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    fault: Fault,
    mut strikes: watch::Receiver<u32>,
) -> std::io::Result<()> {
    if fault == Fault::Cut {
        let mut head = [0; 10];
        from.read_exact(&mut head).await?;
        return to.write_all(&head).await;
    }
    if matches!(fault, Fault::Vanish | Fault::Slow(_)) {
        tokio::io::copy(from, to).await?;
        return Ok(());
    }
    let mut told = false;
    loop {
        tokio::select! {
            biased;
            Ok(()) = strikes.changed(), if !told => {
                told = true;
                let last: u32 = if fault == Fault::GoAway { 0x7fff_ffff } else { 0 };
                // Eight bytes of type 7, on stream 0: the last stream that was seen, and NO_ERROR.
                let mut frame = vec![0, 0, 8, 7, 0, 0, 0, 0, 0];
                frame.extend(last.to_be_bytes());
                frame.extend(0_u32.to_be_bytes());
                to.write_all(&frame).await?;
                if fault == Fault::GoAwayAtOnce {
                    // The client closes.
                    std::future::pending::<()>().await;
                }
            }
            ready = from.readable() => {
                ready?;
                let mut head = [0; 9];
                from.read_exact(&mut head).await?;
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                let mut frame = vec![0; usize::try_from(length).unwrap()];
                from.read_exact(&mut frame).await?;
                to.write_all(&head).await?;
                to.write_all(&frame).await?;
            }
        }
    }
}
