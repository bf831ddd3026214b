//! What the canary does: a cgroup made and removed, and in its own cgroup a listener, a connection with some bytes both
//! ways, a UDP server that is asked something, and a short burn of CPU time.
//!
//! A socket belongs to the cgroup of the process that makes it, so that a child does it: a copy of the agent that ends
//! without ever becoming another program.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, accept_with, bind, connect,
    getsockname, listen, recv, recvfrom, send, sendto, socket_with,
};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::time::{ClockId, clock_gettime};

/// CPU time that it burns.
pub(in super::super) const BURN: Duration = Duration::from_millis(4);

/// What is sent each way.
const TEXT: &[u8; 7] = b"canary\n";
/// Bytes of payload each way.
pub(in super::super) const PAYLOAD: u64 = TEXT.len() as u64;

/// Each call on a socket may take this long.
const PATIENCE: Duration = Duration::from_secs(2);

/// Ports that are tried before it is given up.
const TRIES: u32 = 8;

/// Says that all went well where only errors can be told.
const DONE: Errno = Errno::CANCELED;

/// Does it all.
pub(super) fn act(directory: &Path) -> io::Result<()> {
    let probe = directory.join("probe");
    match fs::remove_dir(&probe) {
        // Left by an agent that was killed between the next two lines.
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    fs::create_dir(&probe)?;
    fs::remove_dir(&probe)?;
    let members = File::options()
        .write(true)
        .open(directory.join("cgroup.procs"))?;
    let mut command = Command::new("/proc/self/exe");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: between fork and exec only system calls are made, and nothing is allocated.
    unsafe {
        command.pre_exec(move || Err(child(&members).err().unwrap_or(DONE).into()));
    }
    match command.spawn() {
        Err(error) if error.raw_os_error() == Some(DONE.raw_os_error()) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::other("the child became another program")),
    }
}

/// The child's life: only system calls.
fn child(members: &File) -> Result<(), Errno> {
    // It holds copies of the agent's descriptors: it must not outlive the agent.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::io::write(members, b"0")?;
    connection()?;
    datagram()?;
    burn();
    Ok(())
}

fn connection() -> Result<(), Errno> {
    let listener = tcp()?;
    bind(&listener, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
    listen(&listener, 1)?;
    let client = tcp()?;
    let address = SocketAddrV4::try_from(getsockname(&listener)?)?;
    connect(&client, &address)?;
    let server = accept_with(&listener, SocketFlags::CLOEXEC)?;
    set_socket_timeout(&server, Timeout::Recv, Some(PATIENCE))?;
    for (from, to) in [(&client, &server), (&server, &client)] {
        send(from, TEXT, SendFlags::NOSIGNAL)?;
        if receive(to)? != TEXT.len() {
            return Err(Errno::IO);
        }
    }
    drop(client);
    // The server closes after it has seen the client's end, which makes both counts exact.
    if receive(&server)? == 0 {
        Ok(())
    } else {
        Err(Errno::IO)
    }
}

/// A socket whose program chose its port gets a datagram from one without, and is closed.
fn datagram() -> Result<(), Errno> {
    let server = bound()?;
    let client = udp()?;
    let address = SocketAddrV4::try_from(getsockname(&server)?)?;
    sendto(&client, TEXT, SendFlags::NOSIGNAL, &address)?;
    let mut buffer = [0_u8; TEXT.len()];
    // With the sender's address, or no hook is asked.
    let (_, length, _) = recvfrom(&server, &mut buffer, RecvFlags::empty())?;
    if length == TEXT.len() {
        Ok(())
    } else {
        Err(Errno::IO)
    }
}

/// A UDP socket bound to a port that was asked for: the kernel says which is free.
fn bound() -> Result<OwnedFd, Errno> {
    let mut tries = 0..TRIES;
    loop {
        let lent = udp()?;
        bind(&lent, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
        let free = SocketAddrV4::try_from(getsockname(&lent)?)?;
        drop(lent);
        let socket = udp()?;
        match bind(&socket, &free) {
            Ok(()) => return Ok(socket),
            // Somebody was quicker.
            Err(Errno::ADDRINUSE) if tries.next().is_some() => {}
            Err(error) => return Err(error),
        }
    }
}

/// Bytes that came; 0 at the end.
fn receive(socket: &OwnedFd) -> Result<usize, Errno> {
    let mut buffer = [0_u8; TEXT.len()];
    recv(socket, &mut buffer, RecvFlags::WAITALL).map(|(_, length)| length)
}

fn tcp() -> Result<OwnedFd, Errno> {
    socket(SocketType::STREAM)
}

fn udp() -> Result<OwnedFd, Errno> {
    socket(SocketType::DGRAM)
}

fn socket(kind: SocketType) -> Result<OwnedFd, Errno> {
    let socket = socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)?;
    for timeout in [Timeout::Recv, Timeout::Send] {
        set_socket_timeout(&socket, timeout, Some(PATIENCE))?;
    }
    Ok(socket)
}

fn burn() {
    let used = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::try_from(now).unwrap_or_default()
    };
    let begun = used();
    while used().saturating_sub(begun) < BURN {}
}
