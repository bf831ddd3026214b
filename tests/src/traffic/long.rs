//! Connections that live long: each moves bytes when told to, and closes when told to. Short ones beside them.

use std::io::{ErrorKind, Read, Write, stdin};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::{Counts, Endpoint, Long, Tally, listen, worker};
use crate::pods::text::mixed;

/// Bytes of a frame's header: how many follow, and how many are wanted back. It is payload.
const FRAME: usize = 8;

/// The most bytes of one exchange in one direction.
const MOVED_MAX: u64 = 20_000;

/// A short connection lives at most this long.
const LIFE_MAX_MS: u64 = 120;

/// Threads that make short connections.
const CHURNING: u64 = 8;

/// Answers on any number of connections until stdin closes. Each is closed when its client does so.
pub(super) fn answer(endpoint: &Endpoint) -> Result<()> {
    let listener = listen::open(endpoint)?;
    worker::say("ready");
    thread::spawn(move || accept(&listener));
    stdin()
        .read_to_end(&mut Vec::new())
        .context("wait for the end of stdin")?;
    Ok(())
}

fn accept(listener: &TcpListener) {
    for stream in listener.incoming().map_while(Result::ok) {
        // The client counts, and fails where an answer does not come.
        thread::spawn(move || serve(stream).ok());
    }
}

fn serve(mut stream: TcpStream) -> Result<()> {
    let mut header = [0; FRAME];
    loop {
        match stream.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let [a, b, c, d, e, f, g, h] = header;
        let wanted = |bytes| usize::try_from(u32::from_be_bytes(bytes)).context("size");
        stream.read_exact(&mut vec![0; wanted([a, b, c, d])?])?;
        stream.write_all(&vec![0x5a; wanted([e, f, g, h])?])?;
    }
}

/// Opens the connections and obeys: `move` makes an exchange on each, `churn` makes short connections, `close` closes all.
/// Each is answered with the tally so far, which holds what open connections moved.
pub(super) fn obey(plan: &Long) -> Result<()> {
    let mut tally = Tally::default();
    let mut random = Random(mixed(plan.seed));
    let mut open = Vec::new();
    for target in plan.targets.iter().cycle().take(plan.connections) {
        open.push((*target, connect(target, &mut tally)?));
    }
    worker::say("ready");
    for line in stdin().lines() {
        match line.context("read a command")?.as_str() {
            "move" => {
                for (target, stream) in &mut open {
                    exchange(stream, target, &mut random, &mut tally)?;
                }
            }
            "churn" => tally.add(&churn(plan, &mut random)?),
            "close" => open.clear(),
            other => bail!("unknown command {other:?}: move, churn or close"),
        }
        worker::print(&tally)?;
    }
    Ok(())
}

fn connect(target: &SocketAddr, tally: &mut Tally) -> Result<TcpStream> {
    let stream = TcpStream::connect(target).with_context(|| format!("connect to {target}"))?;
    stream.set_nodelay(true).context("set TCP_NODELAY")?;
    let counts = Counts {
        connections: 1,
        ..Counts::default()
    };
    tally.count(true, target.ip(), target.port(), &counts);
    Ok(stream)
}

fn exchange(
    stream: &mut TcpStream,
    target: &SocketAddr,
    random: &mut Random,
    tally: &mut Tally,
) -> Result<()> {
    let mut size = || u32::try_from(random.below(MOVED_MAX)).context("size");
    let (request, response) = (size()?, size()?);
    let mut frame = [request.to_be_bytes(), response.to_be_bytes()].concat();
    frame.resize(FRAME + usize::try_from(request).context("size")?, 0x5a);
    stream.write_all(&frame).context("send")?;
    let mut answer = vec![0; usize::try_from(response).context("size")?];
    stream.read_exact(&mut answer).context("receive")?;
    let counts = Counts {
        sent_bytes: u64::try_from(frame.len()).context("size")?,
        received_bytes: response.into(),
        ..Counts::default()
    };
    tally.count(true, target.ip(), target.port(), &counts);
    Ok(())
}

/// Short connections, several at a time: each makes some exchanges with pauses between them, and closes.
fn churn(plan: &Long, random: &mut Random) -> Result<Tally> {
    let seeds: Vec<u64> = (0..CHURNING).map(|_| random.next()).collect();
    thread::scope(|scope| {
        let running: Vec<_> = seeds
            .into_iter()
            .map(|seed| scope.spawn(move || churn_in_turn(plan, Random(seed))))
            .collect();
        let mut all = Tally::default();
        for thread in running {
            all.add(
                &thread
                    .join()
                    .map_err(|_panic| anyhow!("a thread panicked"))??,
            );
        }
        Ok(all)
    })
}

fn churn_in_turn(plan: &Long, mut random: Random) -> Result<Tally> {
    let mut tally = Tally::default();
    for target in plan.targets.iter().cycle().take(plan.short) {
        let mut stream = connect(target, &mut tally)?;
        for _ in 0..random.below(4) {
            exchange(&mut stream, target, &mut random, &mut tally)?;
            thread::sleep(Duration::from_millis(random.below(LIFE_MAX_MS / 3)));
        }
    }
    Ok(tally)
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = mixed(self.0);
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
