//! One connection, either side of it: what is sent, and in which order it is closed.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{Counts, Exchange, Order};

/// How late a late peer closes. Longer than any delayed acknowledgement, shorter than FIN_WAIT2's end.
const LATE: Duration = Duration::from_millis(60);

/// The server of a simultaneous close goes this long after its response: the client's FIN is sent by then, and on a link that
/// holds it up not yet there.
const MOMENT: Duration = Duration::from_millis(4);

/// A stuck peer must fail the test rather than hang it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes moved by one call.
const CHUNK: usize = 64 * 1024;

/// Bytes of the header of a framed exchange: order, request, response.
pub(super) const HEADER: usize = 9;

/// The header of a framed exchange. It is payload: both sides count it.
pub(super) fn header(exchange: &Exchange) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    let order = Order::ALL
        .iter()
        .position(|order| *order == exchange.order)
        .unwrap_or_default();
    bytes[0] = u8::try_from(order).expect("there are few orders");
    bytes[1..5].copy_from_slice(&exchange.request.to_be_bytes());
    bytes[5..].copy_from_slice(&exchange.response.to_be_bytes());
    bytes
}

/// Reads a header back.
pub(super) fn parse(bytes: &[u8; HEADER]) -> Result<Exchange> {
    let [order, request @ .., r0, r1, r2, r3] = *bytes;
    let order = *Order::ALL
        .get(usize::from(order))
        .context("unknown order in the header")?;
    Ok(Exchange {
        order,
        request: u32::from_be_bytes(request),
        response: u32::from_be_bytes([r0, r1, r2, r3]),
    })
}

/// The client's side. `prefix` is sent before the request.
pub(super) fn as_client(
    mut stream: TcpStream,
    exchange: &Exchange,
    prefix: &[u8],
) -> Result<Counts> {
    prepare(&stream)?;
    stream.write_all(prefix).context("send the header")?;
    send(&mut stream, exchange.request)?;
    if matches!(
        exchange.order,
        Order::ClientShutdown | Order::ClientShutdownThenClose
    ) {
        stream.shutdown(Shutdown::Write).context("shut down")?;
    }
    receive(&mut stream, exchange.response)?;
    match exchange.order {
        Order::ClientFirst
        | Order::ClientFirstLatePeer
        | Order::Simultaneous
        | Order::ClientShutdownThenClose => {}
        Order::ServerFirst | Order::ClientShutdown | Order::ServerShutdown => {
            expect_end(&mut stream)?
        }
        Order::ServerFirstLatePeer => {
            expect_end(&mut stream)?;
            thread::sleep(LATE);
        }
    }
    drop(stream);
    let prefix = u64::try_from(prefix.len()).expect("usize fits into u64");
    Ok(Counts {
        connections: 1,
        failures: 0,
        sent_bytes: u64::from(exchange.request) + prefix,
        received_bytes: exchange.response.into(),
    })
}

/// The server's side, after the header if there was one.
pub(super) fn as_server(mut stream: TcpStream, exchange: &Exchange, prefix: u64) -> Result<Counts> {
    prepare(&stream)?;
    receive(&mut stream, exchange.request)?;
    if matches!(
        exchange.order,
        Order::ClientShutdown | Order::ClientShutdownThenClose
    ) {
        expect_end(&mut stream)?;
    }
    send(&mut stream, exchange.response)?;
    match exchange.order {
        Order::ClientFirst => expect_end(&mut stream)?,
        Order::ClientFirstLatePeer => {
            expect_end(&mut stream)?;
            thread::sleep(LATE);
        }
        Order::ServerFirst | Order::ServerFirstLatePeer | Order::ClientShutdown => {}
        Order::ServerShutdown => {
            stream.shutdown(Shutdown::Write).context("shut down")?;
            expect_end(&mut stream)?;
        }
        Order::Simultaneous => thread::sleep(MOMENT),
        Order::ClientShutdownThenClose => thread::sleep(LATE),
    }
    drop(stream);
    Ok(Counts {
        connections: 1,
        failures: 0,
        sent_bytes: exchange.response.into(),
        received_bytes: u64::from(exchange.request) + prefix,
    })
}

fn prepare(stream: &TcpStream) -> Result<()> {
    stream.set_nodelay(true).context("set TCP_NODELAY")?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .context("set a deadline")?;
    stream
        .set_write_timeout(Some(PATIENCE))
        .context("set a deadline")
}

fn send(stream: &mut TcpStream, bytes: u32) -> Result<()> {
    let chunk = [0x5a; CHUNK];
    let mut left = usize::try_from(bytes).context("payload size")?;
    while left > 0 {
        let now = left.min(CHUNK);
        stream.write_all(&chunk[..now]).context("send")?;
        left -= now;
    }
    Ok(())
}

fn receive(stream: &mut TcpStream, bytes: u32) -> Result<()> {
    let mut chunk = [0; CHUNK];
    let mut left = usize::try_from(bytes).context("payload size")?;
    while left > 0 {
        let now = left.min(CHUNK);
        let got = stream.read(&mut chunk[..now]).context("receive")?;
        ensure!(got > 0, "the peer ended {left} bytes early");
        left -= got;
    }
    Ok(())
}

fn expect_end(stream: &mut TcpStream) -> Result<()> {
    match stream.read(&mut [0; 1]).context("wait for the end")? {
        0 => Ok(()),
        _ => bail!("the peer sent more than was agreed"),
    }
}

#[cfg(test)]
mod tests {
    use super::{header, parse};
    use crate::traffic::{Exchange, Order};

    #[test]
    fn headers_come_back() {
        for order in Order::ALL {
            let exchange = Exchange {
                order,
                request: 0x0102_0304,
                response: u32::MAX,
            };
            assert_eq!(parse(&header(&exchange)).unwrap(), exchange);
        }
    }
}
