//! TCP connections whose bytes and ends are known exactly.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::mem::{size_of, size_of_val};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use plumbline_core::id::CgroupId;
use plumbline_core::observation::{FlowCounts, Role};

use super::watch::FlowId;

/// Who ends a connection, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Closing {
    Client,
    Server,
    ClientShutsDown,
    ServerShutsDown,
    BothShutDown,
    /// The client shuts its side down and is gone before the server's end.
    ClientLeaves,
    Reset,
}

pub(crate) const CLOSINGS: [Closing; 7] = [
    Closing::Client,
    Closing::Server,
    Closing::ClientShutsDown,
    Closing::ServerShutsDown,
    Closing::BothShutDown,
    Closing::ClientLeaves,
    Closing::Reset,
];

/// One connection: `up` bytes to the server, then `down` bytes to the client. Returns the bytes.
pub(crate) fn exchange(
    listener: &TcpListener,
    to: (IpAddr, u16),
    closing: Closing,
    up: usize,
    down: usize,
) -> (u64, u64) {
    // A reset may overtake the acknowledgement of data.
    let (up, down) = if matches!(closing, Closing::Reset) {
        (0, 0)
    } else {
        (up, down)
    };
    let mut client = TcpStream::connect(to).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    transfer(&mut client, &mut server, up);
    transfer(&mut server, &mut client, down);
    let end = |stream: &mut TcpStream| assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    match closing {
        Closing::Client => {
            drop(client);
            end(&mut server);
        }
        Closing::Server => {
            drop(server);
            end(&mut client);
        }
        Closing::ClientShutsDown => {
            client.shutdown(Shutdown::Write).unwrap();
            end(&mut server);
            drop(server);
            end(&mut client);
        }
        Closing::ServerShutsDown => {
            server.shutdown(Shutdown::Write).unwrap();
            end(&mut client);
            drop(client);
            end(&mut server);
        }
        Closing::BothShutDown => {
            client.shutdown(Shutdown::Write).unwrap();
            server.shutdown(Shutdown::Write).unwrap();
            end(&mut client);
            end(&mut server);
        }
        Closing::ClientLeaves => {
            client.shutdown(Shutdown::Write).unwrap();
            end(&mut server);
            drop(client);
        }
        Closing::Reset => linger_zero(&client),
    }
    (up as u64, down as u64)
}

/// Sends and receives at once: the socket buffers are smaller than some payloads.
fn transfer(from: &mut TcpStream, to: &mut TcpStream, bytes: usize) {
    let data = vec![7; bytes];
    std::thread::scope(|scope| {
        scope.spawn(|| from.write_all(&data).unwrap());
        let mut received = vec![0; bytes];
        to.read_exact(&mut received).unwrap();
        assert_eq!(received, data);
    });
}

fn linger_zero(stream: &TcpStream) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    set_option(
        stream.as_raw_fd(),
        libc::SOL_SOCKET,
        libc::SO_LINGER,
        &linger,
    );
}

fn set_option<T>(fd: i32, level: i32, name: i32, value: &T) {
    let length = libc::socklen_t::try_from(size_of_val(value)).unwrap();
    // SAFETY: the pointer and the length are those of the value.
    let result =
        unsafe { libc::setsockopt(fd, level, name, std::ptr::from_ref(value).cast(), length) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

fn socket(protocol: i32) -> Option<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe {
        libc::socket(
            libc::AF_INET,
            libc::SOCK_STREAM | libc::SOCK_CLOEXEC,
            protocol,
        )
    };
    // SAFETY: the kernel just gave us the descriptor, and nobody else has it.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Address of a port on the loopback interface.
fn loopback(port: u16) -> libc::sockaddr_in {
    let address = libc::in_addr {
        s_addr: u32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets()),
    };
    let family = libc::sa_family_t::try_from(libc::AF_INET).unwrap();
    libc::sockaddr_in {
        sin_family: family,
        sin_port: port.to_be(),
        sin_addr: address,
        sin_zero: [0; 8],
    }
}

/// A listener as Go opens it by default; `None` where the kernel has no MPTCP.
pub(crate) fn mptcp_listener() -> Option<TcpListener> {
    let fd = socket(libc::IPPROTO_MPTCP)?;
    let address = loopback(0);
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_in>()).unwrap();
    let to = std::ptr::from_ref(&address).cast();
    // SAFETY: the pointer and the length are those of the address.
    assert_eq!(unsafe { libc::bind(fd.as_raw_fd(), to, length) }, 0);
    // SAFETY: no pointers.
    assert_eq!(unsafe { libc::listen(fd.as_raw_fd(), 16) }, 0);
    Some(TcpListener::from(fd))
}

/// Connects to a port that nobody listens on, and returns it.
pub(crate) fn refused(address: IpAddr, attempts: u32) -> u16 {
    let port = TcpListener::bind((address, 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    for _ in 0..attempts {
        let error = TcpStream::connect((address, port)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    }
    port
}

/// One connection that is never accepted, and one attempt for which there is no room and no answer. Returns the port.
pub(crate) fn timed_out() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    // SAFETY: no pointers. Once more on the same socket sets its backlog.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    let address = listener.local_addr().unwrap();
    let waiting = TcpStream::connect(address).unwrap();
    let stuck = socket(0).unwrap();
    // One retransmission, so that it takes 3 s.
    set_option(
        stuck.as_raw_fd(),
        libc::IPPROTO_TCP,
        libc::TCP_SYNCNT,
        &1_i32,
    );
    let to = loopback(address.port());
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_in>()).unwrap();
    let to = std::ptr::from_ref(&to).cast();
    // SAFETY: the pointer and the length are those of the address.
    let result = unsafe { libc::connect(stuck.as_raw_fd(), to, length) };
    assert_eq!(result, -1);
    assert_eq!(
        std::io::Error::last_os_error().kind(),
        std::io::ErrorKind::TimedOut
    );
    drop(waiting);
    SocketAddr::port(&address)
}

/// What both ends of the connections should show.
#[derive(Default)]
pub(crate) struct Expected {
    flows: BTreeMap<FlowId, FlowCounts>,
}

impl Expected {
    /// A connection with these bytes to the server and to the client.
    pub(crate) fn connection(
        &mut self,
        client: CgroupId,
        server: CgroupId,
        peer: IpAddr,
        port: u16,
        bytes: (u64, u64),
    ) {
        let (up, down) = bytes;
        for (owner, role, sent_bytes, received_bytes) in [
            (client, Role::Client, up, down),
            (server, Role::Server, down, up),
        ] {
            // On the loopback interface both ends have the same address.
            let counts = FlowCounts {
                connections: 1,
                closed: 1,
                sent_bytes,
                received_bytes,
                ..FlowCounts::default()
            };
            self.flows
                .entry((owner, role, Some(peer), port))
                .or_default()
                .add(&counts);
        }
    }

    /// Connections that close, of both ends.
    pub(crate) fn closed(&self) -> u64 {
        self.flows.values().map(|counts| counts.closed).sum()
    }

    /// Fails for any difference, but for what depends on the machine's speed.
    pub(crate) fn compare(&self, seen: &BTreeMap<FlowId, FlowCounts>) {
        let exact = |(id, counts): (&FlowId, &FlowCounts)| {
            (
                *id,
                FlowCounts {
                    srtt_us_sum: 0,
                    retransmits: 0,
                    ..*counts
                },
            )
        };
        let seen: BTreeMap<FlowId, FlowCounts> = seen.iter().map(exact).collect();
        assert_eq!(self.flows, seen);
    }
}
