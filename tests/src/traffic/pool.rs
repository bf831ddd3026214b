//! Servers of several processes on one port: forked before they accept, each with its own listener (SO_REUSEPORT), or with
//! a listener that another process made and handed over.

use std::fs;
use std::io::{ErrorKind, IoSlice, IoSliceMut, PipeReader, PipeWriter, Read, Write, pipe, stdin};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use super::exchange::{HEADER, as_server, parse};
use super::{Endpoint, Pool, Tally, listen, worker};
use crate::wait::{PATIENCE, poll};

/// Serves with forked workers until stdin closes; the tally is that of all of them.
pub(super) fn serve(plan: &Pool) -> Result<Tally> {
    let shared = match (&plan.endpoint, &plan.passed_through) {
        (Some(endpoint), _) if endpoint.reuse_port => None,
        (Some(endpoint), _) => Some(listen::open(endpoint)?),
        (None, Some(path)) => Some(take_over(path)?),
        (None, None) => bail!("neither an endpoint nor a socket to take one over from"),
    };
    // The workers see the end of this pipe when the parent closes it.
    let (stop, stopper) = pipe().context("make a pipe")?;
    let mut results = Vec::new();
    for number in 0..plan.workers {
        let (reader, writer) = pipe().context("make a pipe")?;
        // SAFETY: this process has one thread, so the child may go on as a full copy.
        let forked = unsafe { libc::fork() };
        ensure!(forked >= 0, "fork: {}", std::io::Error::last_os_error());
        if forked == 0 {
            drop((stopper, reader, std::mem::take(&mut results)));
            worker_process(plan, number, shared, &stop, writer);
        }
        drop(writer);
        results.push(reader);
    }
    let mut tally = Tally::default();
    let mut listening = 0;
    for reader in &mut results {
        reader
            .read_exact(&mut [0; 1])
            .context("a worker ended before it listened")?;
        listening += 1;
    }
    ensure!(listening == plan.workers, "not all workers listen");
    worker::say("ready");
    stdin()
        .read_to_end(&mut Vec::new())
        .context("wait for the end of stdin")?;
    drop((stopper, shared));
    for mut reader in results {
        let mut text = String::new();
        reader
            .read_to_string(&mut text)
            .context("read a worker's tally")?;
        tally.add(&serde_json::from_str(&text).context("a worker failed: see stderr")?);
    }
    Ok(tally)
}

/// The child's life; it never returns to the parent's code.
fn worker_process(
    plan: &Pool,
    number: u16,
    shared: Option<TcpListener>,
    stop: &PipeReader,
    mut result: PipeWriter,
) -> ! {
    let done = work(plan, number, shared, stop, &mut result);
    let status = match done {
        Ok(()) => 0,
        Err(error) => {
            writeln!(std::io::stderr(), "worker {number}: {error:#}").ok();
            1
        }
    };
    // SAFETY: _exit ends this process at once; nothing of the parent's copy may run its destructors.
    unsafe { libc::_exit(status) }
}

fn work(
    plan: &Pool,
    number: u16,
    shared: Option<TcpListener>,
    stop: &PipeReader,
    result: &mut PipeWriter,
) -> Result<()> {
    let directories = plan.cgroups.len().max(1);
    if let Some(directory) = plan.cgroups.get(usize::from(number) % directories) {
        fs::write(directory.join("cgroup.procs"), "0").context("move into a cgroup")?;
    }
    let listener = match (shared, &plan.endpoint) {
        (Some(listener), _) => listener,
        (None, Some(endpoint)) => listen::open(endpoint)?,
        (None, None) => bail!("no listener"),
    };
    listener.set_nonblocking(true).context("set O_NONBLOCK")?;
    result.write_all(b"\n").context("tell the parent")?;
    let port = listener.local_addr().context("own port")?.port();
    let mut tally = Tally::default();
    while wait_for_connection(listener.as_fd(), stop.as_fd())? {
        let (mut stream, peer) = match listener.accept() {
            Ok(accepted) => accepted,
            // Another worker was faster.
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error).context("accept"),
        };
        stream.set_nonblocking(false).context("clear O_NONBLOCK")?;
        let mut header = [0; HEADER];
        stream.read_exact(&mut header).context("read the header")?;
        let prefix = u64::try_from(HEADER).expect("usize fits into u64");
        let counts = as_server(stream, &parse(&header)?, prefix)?;
        tally.count(false, peer.ip(), port, &counts);
    }
    result
        .write_all(&serde_json::to_vec(&tally).context("write the tally")?)
        .context("tell the parent")
}

/// `false` when nothing waits and the parent said stop.
fn wait_for_connection(listener: BorrowedFd<'_>, stop: BorrowedFd<'_>) -> Result<bool> {
    let mut ready = [
        PollFd::from_borrowed_fd(listener, PollFlags::IN),
        PollFd::from_borrowed_fd(stop, PollFlags::IN),
    ];
    rustix::event::poll(&mut ready, None).context("poll")?;
    Ok(ready
        .first()
        .is_some_and(|listener| listener.revents().contains(PollFlags::IN)))
}

/// Listens and hands the socket to the first who connects to `through`.
pub(super) fn pass(endpoint: Endpoint, through: &Path, then_close: bool) -> Result<()> {
    let mut listener = Some(listen::open(&endpoint)?);
    let door =
        UnixListener::bind(through).with_context(|| format!("bind {}", through.display()))?;
    worker::say("ready");
    let (taker, _) = door.accept().context("accept the taker")?;
    if let Some(listener) = &listener {
        let descriptors = [listener.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        ensure!(
            control.push(SendAncillaryMessage::ScmRights(&descriptors)),
            "no room for one descriptor"
        );
        rustix::net::sendmsg(
            &taker,
            &[IoSlice::new(b"l")],
            &mut control,
            SendFlags::empty(),
        )
        .context("hand over")?;
    }
    if then_close {
        listener = None;
    }
    stdin()
        .read_to_end(&mut Vec::new())
        .context("wait for the end of stdin")?;
    drop(listener);
    Ok(())
}

fn take_over(through: &Path) -> Result<TcpListener> {
    let giver = poll(PATIENCE, || UnixStream::connect(through).ok())
        .context("nobody hands a listener over")?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0; 1];
    rustix::net::recvmsg(
        &giver,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )
    .context("take over")?;
    let mut descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        RecvAncillaryMessage::ScmCredentials(_) | _ => None,
    });
    let descriptor: OwnedFd = descriptors
        .next()
        .and_then(|mut rights| rights.next())
        .context("no descriptor came")?;
    Ok(descriptor.into())
}
