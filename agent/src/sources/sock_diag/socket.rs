//! Asks the kernel for the sockets of the network namespace that a netlink socket was made in.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use super::message::{self, Entry, Message, Query};

/// The kernel answers at once; longer means that something hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes taken by one call. The kernel fills at most 32 KiB.
const BUFFER: usize = 64 * 1024;

/// Why there is no (whole) answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiagError {
    /// A call failed.
    #[error("sock_diag: {0}")]
    Call(#[from] Errno),
    /// The kernel refused, or has no such dump (`ENOENT`: a kernel without `tcp_diag`).
    #[error("sock_diag is refused: {}", io::Error::from_raw_os_error(*.0))]
    Refused(i32),
    /// Bytes that make no sense, or more of them than any kernel sends.
    #[error("sock_diag answers what is not understood")]
    Malformed,
}

/// A netlink socket. It sees the network namespace of the thread that made it, whoever uses it.
#[derive(Debug)]
pub(crate) struct DiagSocket {
    descriptor: OwnedFd,
    buffer: Vec<u8>,
}

impl DiagSocket {
    /// Makes one, for the network namespace that the calling thread is in.
    ///
    /// # Errors
    ///
    /// No descriptor is to be had, or the kernel has no `sock_diag`.
    pub(crate) fn open() -> Result<Self, Errno> {
        let descriptor = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(netlink::SOCK_DIAG),
        )?;
        set_socket_timeout(&descriptor, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self {
            descriptor,
            buffer: vec![0; BUFFER],
        })
    }

    /// Hands every socket of a kind to `each`, until it breaks. After a break or an error the socket cannot be used again:
    /// the rest of the answer is still in it.
    ///
    /// The kernel walks its table while sockets come and go, so that one that lives may be missed, and one may come twice.
    ///
    /// # Errors
    ///
    /// The answer is missing or not whole.
    pub(crate) fn dump(
        &mut self,
        query: Query,
        mut each: impl FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), DiagError> {
        self.send(&message::dump(query))?;
        loop {
            let received = self.receive()?;
            for message in message::messages(&self.buffer[..received]) {
                match message {
                    Message::Socket(entry) => {
                        if each(entry).is_break() {
                            return Ok(());
                        }
                    }
                    Message::Done => return Ok(()),
                    Message::Error(code) => return Err(DiagError::Refused(code)),
                    Message::Malformed => return Err(DiagError::Malformed),
                }
            }
        }
    }

    /// The one socket of this name and cookie; `None` when it is gone.
    ///
    /// # Errors
    ///
    /// The answer makes no sense, or none comes.
    pub(crate) fn find(
        &mut self,
        query: Query,
        id: &message::SocketId,
    ) -> Result<Option<Entry>, DiagError> {
        self.send(&message::find(query, id))?;
        let received = self.receive()?;
        match message::messages(&self.buffer[..received]).next() {
            Some(Message::Socket(entry)) => Ok(Some(entry)),
            // ESTALE: another socket has the address now, which the cookie tells.
            Some(Message::Error(code))
                if [Errno::NOENT, Errno::STALE].contains(&Errno::from_raw_os_error(code)) =>
            {
                Ok(None)
            }
            Some(Message::Error(code)) => Err(DiagError::Refused(code)),
            Some(Message::Done | Message::Malformed) | None => Err(DiagError::Malformed),
        }
    }

    fn send(&self, request: &[u8]) -> Result<(), DiagError> {
        // Without an address it goes to the kernel.
        rustix::net::send(&self.descriptor, request, SendFlags::empty())?;
        Ok(())
    }

    fn receive(&mut self) -> Result<usize, DiagError> {
        loop {
            match rustix::net::recv(&self.descriptor, &mut self.buffer[..], RecvFlags::TRUNC) {
                Ok((kept, whole)) if kept == whole && whole > 0 => return Ok(kept),
                Ok(_) => return Err(DiagError::Malformed),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
