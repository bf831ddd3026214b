//! A connection of the agent with itself, which moves some bytes before each reading: a reading that works finds it with
//! just these. It is never told.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::time::Duration;

use rustix::net::sockopt::socket_cookie;

use crate::sources::sock_diag::message::Sample;

/// What is moved each time.
const TEXT: &[u8; 7] = b"canary\n";

/// On loopback everything happens at once; longer means that it is cut off.
const PATIENCE: Duration = Duration::from_secs(2);

/// Connections of others that are turned away, before ours.
const STRANGERS_MAX: usize = 8;

/// Readings in a row that miss it before it is said.
const MISSES: u32 = 2;

/// Both ends, and what the last reading knew of them.
#[derive(Debug)]
pub(super) struct Landmark {
    client: TcpStream,
    server: TcpStream,
    cookies: [u64; 2],
    moved: u64,
    seen: bool,
    misses: u32,
}

impl Landmark {
    /// Connects.
    ///
    /// # Errors
    ///
    /// There is no loopback.
    pub(super) fn open() -> io::Result<Self> {
        let over = |address: IpAddr| {
            let listener = TcpListener::bind((address, 0))?;
            let client = TcpStream::connect_timeout(&listener.local_addr()?, PATIENCE)?;
            let own = client.local_addr()?;
            for _ in 0..STRANGERS_MAX {
                let (server, peer) = listener.accept()?;
                if peer == own {
                    return Ok((client, server));
                }
            }
            Err(io::Error::other("others connected instead"))
        };
        let (client, server) =
            over(Ipv4Addr::LOCALHOST.into()).or_else(|_| over(Ipv6Addr::LOCALHOST.into()))?;
        client.set_write_timeout(Some(PATIENCE))?;
        server.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            cookies: [socket_cookie(&server)?, socket_cookie(&client)?],
            client,
            server,
            moved: 0,
            seen: false,
            misses: 0,
        })
    }

    /// Moves some bytes. A reading begins.
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub(super) fn advance(&mut self) -> io::Result<()> {
        self.seen = false;
        self.client.write_all(TEXT)?;
        let mut buffer = [0; TEXT.len()];
        self.server.read_exact(&mut buffer)?;
        self.moved += TEXT.len() as u64;
        Ok(())
    }

    /// Whether the reading has found one of its ends, which is then noted.
    pub(super) fn is_own(&mut self, cookie: u64, sample: Option<Sample>) -> bool {
        if cookie == self.cookies[0] {
            self.seen |= sample.is_some_and(|sample| sample.received == self.moved);
        }
        self.cookies.contains(&cookie)
    }

    /// Ends the reading: whether it was missed too often.
    pub(super) fn is_missed(&mut self) -> bool {
        self.misses = if self.seen { 0 } else { self.misses + 1 };
        self.misses >= MISSES
    }
}

#[cfg(test)]
mod tests {
    use super::{Landmark, TEXT};
    use crate::sources::sock_diag::message::Sample;

    #[test]
    fn it_is_seen_only_with_the_bytes_that_it_has_moved() {
        let mut landmark = Landmark::open().unwrap();
        let [server, client] = landmark.cookies;
        let with = |times: u64| {
            Some(Sample {
                received: times * TEXT.len() as u64,
                ..Sample::default()
            })
        };
        landmark.advance().unwrap();
        assert!(landmark.is_own(client, with(0)) && landmark.is_own(server, with(1)));
        assert!(!landmark.is_missed());
        for missed in [false, true] {
            landmark.advance().unwrap();
            // As a reading that gives out what it read before.
            assert!(landmark.is_own(server, with(1)));
            // No socket has this cookie.
            assert!(!landmark.is_own(0, with(3)), "of someone else");
            assert_eq!(landmark.is_missed(), missed);
        }
        landmark.advance().unwrap();
        assert!(landmark.is_own(server, with(4)));
        assert!(!landmark.is_missed(), "seen again");
    }
}
