//! Known series of connections, one after the other on each of several ports.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};

use super::exchange::{as_client, as_server, header};
use super::{Counts, Endpoint, Fail, Lanes, Tally, listen, worker};

/// Serves every lane to its end.
pub(super) fn serve(plan: &Lanes) -> Result<Tally> {
    let address = *plan.addresses.first().context("no address to bind")?;
    ensure!(!plan.framed, "framed connections are served by a pool");
    let mut listeners = Vec::new();
    for lane in 0..plan.lanes {
        let address = SocketAddr::new(address, plan.first_port + lane);
        listeners.push((
            lane,
            listen::open(&Endpoint {
                mptcp: plan.mptcp,
                ..Endpoint::tcp(address)
            })?,
        ));
    }
    worker::say("ready");
    on_threads(listeners, |(lane, listener)| {
        let mut tally = Tally::default();
        for exchange in plan.series(lane) {
            let (stream, peer) = listener.accept().context("accept")?;
            let counts =
                as_server(stream, &exchange, 0).with_context(|| format!("{exchange:?}"))?;
            tally.count(false, peer.ip(), plan.first_port + lane, &counts);
        }
        Ok(tally)
    })
}

/// Makes the connections of every lane.
pub(super) fn connect(plan: &Lanes) -> Result<Tally> {
    on_threads((0..plan.lanes).collect(), |lane| {
        let mut tally = Tally::default();
        let addresses: Vec<IpAddr> = plan.addresses.clone();
        for (exchange, address) in plan.series(lane).iter().zip(addresses.iter().cycle()) {
            let target = SocketAddr::new(
                *address,
                plan.first_port + if plan.framed { 0 } else { lane },
            );
            let stream =
                TcpStream::connect(target).with_context(|| format!("connect to {target}"))?;
            let prefix = header(exchange);
            let prefix = if plan.framed { &prefix[..] } else { &[] };
            let counts =
                as_client(stream, exchange, prefix).with_context(|| format!("{exchange:?}"))?;
            tally.count(true, target.ip(), target.port(), &counts);
        }
        Ok(tally)
    })
}

/// Makes connection attempts that must fail.
pub(super) fn fail(plan: &Fail) -> Result<Tally> {
    let mut tally = Tally::default();
    let attempts = usize::try_from(plan.attempts).context("attempts")?;
    for target in plan.targets.iter().cycle().take(attempts) {
        match TcpStream::connect(target) {
            Ok(_) => return Err(anyhow!("{target} accepts connections")),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionRefused | ErrorKind::TimedOut
                ) =>
            {
                let counts = Counts {
                    failures: 1,
                    ..Counts::default()
                };
                tally.count(true, target.ip(), target.port(), &counts);
            }
            Err(error) => return Err(error).with_context(|| format!("connect to {target}")),
        }
    }
    Ok(tally)
}

fn on_threads<T: Send>(lanes: Vec<T>, work: impl Fn(T) -> Result<Tally> + Sync) -> Result<Tally> {
    thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = lanes
            .into_iter()
            .map(|lane| scope.spawn(move || work(lane)))
            .collect();
        let mut all = Tally::default();
        for lane in running {
            all.add(&lane.join().map_err(|_panic| anyhow!("a lane panicked"))??);
        }
        Ok(all)
    })
}
