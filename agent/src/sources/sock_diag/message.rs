//! Requests and answers of `sock_diag` as bytes. Total: whatever bytes come, nothing panics and nothing is made up.
//!
//! Layouts: `struct nlmsghdr` and `struct nlattr` of `linux/netlink.h`, `struct inet_diag_req_v2` and `struct inet_diag_msg`
//! of `linux/inet_diag.h`, `struct tcp_info` of `linux/tcp.h`, all in the byte order of the machine but for ports and
//! addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use plumbline_core::id::CgroupId;
use plumbline_ebpf::flow::state;

/// `AF_INET`.
pub(crate) const IPV4: u8 = 2;
/// `AF_INET6`.
pub(crate) const IPV6: u8 = 10;
/// `IPPROTO_TCP`.
pub(crate) const TCP: u8 = 6;

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `NLMSG_DONE`.
const DONE: u16 = 3;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `NLM_F_DUMP`.
const DUMP: u16 = 0x300;

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of `struct inet_diag_req_v2`.
const ASK: usize = 56;
/// Bytes of `struct inet_diag_msg`.
const BODY: usize = 72;
/// Bytes of `struct inet_diag_sockid`.
const ID: usize = 48;

/// `INET_DIAG_INFO`: `struct tcp_info`.
const INFO: u16 = 2;
/// `INET_DIAG_SKV6ONLY`: one byte, only of listeners and unconnected sockets of IPv6.
const SKV6ONLY: u16 = 11;
/// `INET_DIAG_CGROUP_ID`: since Linux 5.8.
const CGROUP_ID: u16 = 21;

/// States of TCP connections that may still move bytes. `TIME_WAIT` is none: its socket is gone.
pub(crate) const OPEN: u32 = 1 << state::ESTABLISHED
    | 1 << state::FIN_WAIT1
    | 1 << state::FIN_WAIT2
    | 1 << state::CLOSE_WAIT
    | 1 << state::LAST_ACK
    | 1 << state::CLOSING;
/// The state of TCP listeners.
pub(crate) const LISTENING: u32 = 1 << state::LISTEN;

/// Which sockets are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Query {
    /// [`IPV4`] or [`IPV6`].
    pub(crate) family: u8,
    /// [`TCP`].
    pub(crate) protocol: u8,
    /// Bits by number of state.
    pub(crate) states: u32,
    /// With byte counts.
    pub(crate) info: bool,
}

/// What names one socket to the kernel: `struct inet_diag_sockid`, cookie included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SocketId([u8; ID]);

#[cfg(test)]
impl SocketId {
    /// The name of no socket.
    pub(crate) const NONE: Self = Self([0; ID]);
}

/// Asks for all sockets of a kind.
pub(crate) fn dump(query: Query) -> [u8; HEADER + ASK] {
    ask(query, REQUEST | DUMP, &[0; ID])
}

/// Asks for one socket.
pub(crate) fn find(query: Query, id: &SocketId) -> [u8; HEADER + ASK] {
    ask(query, REQUEST, &id.0)
}

fn ask(query: Query, flags: u16, id: &[u8; ID]) -> [u8; HEADER + ASK] {
    let mut bytes = [0; HEADER + ASK];
    let length = u32::try_from(bytes.len()).expect("72 fits into u32");
    bytes[0..4].copy_from_slice(&length.to_ne_bytes());
    bytes[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
    bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    bytes[16] = query.family;
    bytes[17] = query.protocol;
    bytes[18] = u8::from(query.info) << (INFO - 1);
    bytes[20..24].copy_from_slice(&query.states.to_ne_bytes());
    bytes[24..].copy_from_slice(id);
    bytes
}

/// One message of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// A socket.
    Socket(Entry),
    /// The end of a dump.
    Done,
    /// The kernel's error number, positive.
    Error(i32),
    /// Bytes that make no sense; what follows them is lost.
    Malformed,
}

/// A socket as the kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// [`IPV4`] or [`IPV6`], before IPv4-mapped addresses are folded.
    pub(crate) family: u8,
    /// Its TCP state by number.
    pub(crate) state: u8,
    /// Its name.
    pub(crate) id: SocketId,
    /// Its cookie, equal to `bpf_get_socket_cookie`.
    pub(crate) cookie: u64,
    /// Local address; IPv4-mapped addresses are folded to IPv4.
    pub(crate) local: IpAddr,
    /// Local port.
    pub(crate) local_port: u16,
    /// The other end, folded alike; unspecified when there is none.
    pub(crate) remote: IpAddr,
    /// The other end's port; 0 when there is none.
    pub(crate) remote_port: u16,
    /// Its inode; 0 for sockets without a descriptor.
    pub(crate) inode: u32,
    /// Cgroup of its creator; `None` before Linux 5.8.
    pub(crate) cgroup: Option<CgroupId>,
    /// Whether it refuses IPv4; `None` for IPv4 sockets and for connections.
    pub(crate) v6only: Option<bool>,
    /// Byte counts, if asked for; never of a socket in TIME_WAIT.
    pub(crate) sample: Option<Sample>,
}

/// Byte counts of one connection at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    /// State by number, read a moment before the counts.
    pub(crate) state: u8,
    /// `tcpi_bytes_acked`: payload, plus a client's SYN, plus our FIN once it is acknowledged.
    pub(crate) acked: u64,
    /// `tcpi_bytes_received`: payload, plus the peer's FIN.
    pub(crate) received: u64,
    /// Payload sent at least once: `tcpi_bytes_sent - tcpi_bytes_retrans` (Linux 4.19). Holds neither SYN nor FIN.
    pub(crate) sent_once: Option<u64>,
    /// `tcpi_unacked`: segments on their way.
    pub(crate) unacked: u32,
    /// Bytes on their way, read a moment before the counts: `idiag_wqueue - tcpi_notsent_bytes`.
    pub(crate) in_flight: u64,
}

/// The messages in what one call received. Ends after [`Message::Malformed`].
pub(crate) fn messages(bytes: &[u8]) -> impl Iterator<Item = Message> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        loop {
            let bytes = rest.filter(|bytes| !bytes.is_empty())?;
            let Some((kind, body, after)) = split(bytes) else {
                rest = None;
                return Some(Message::Malformed);
            };
            rest = Some(after);
            match kind {
                BY_FAMILY => {
                    let socket = entry(body).map_or(Message::Malformed, Message::Socket);
                    rest = rest.filter(|_| socket != Message::Malformed);
                    return Some(socket);
                }
                // Both carry a negative error number, or 0; the second after what it is about.
                DONE | ERROR => {
                    let error = u32_at(body, 0).map_or(0, u32::cast_signed);
                    return Some(if error < 0 {
                        Message::Error(error.saturating_neg())
                    } else {
                        Message::Done
                    });
                }
                // NLMSG_NOOP and what may come to be.
                _ => {}
            }
        }
    })
}

/// The first message: its kind, its body, and what follows.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let kind = u16_at(bytes, 4)?;
    let body = bytes.get(HEADER..length)?;
    let after = bytes.get(aligned(length)..).unwrap_or_default();
    Some((kind, body, after))
}

fn entry(body: &[u8]) -> Option<Entry> {
    let fixed = body.get(..BODY)?;
    let family = fixed[0];
    let id: [u8; ID] = fixed.get(4..4 + ID)?.try_into().ok()?;
    let port = |at: usize| Some(u16::from_be_bytes([*id.get(at)?, *id.get(at + 1)?]));
    let (low, high) = (u32_at(&id, 40)?, u32_at(&id, 44)?);
    let mut entry = Entry {
        family,
        state: fixed[1],
        id: SocketId(id),
        cookie: u64::from(high) << 32 | u64::from(low),
        local: address(family, id.get(4..20)?)?,
        local_port: port(0)?,
        remote: address(family, id.get(20..36)?)?,
        remote_port: port(2)?,
        inode: u32_at(fixed, 68)?,
        cgroup: None,
        v6only: None,
        sample: None,
    };
    let waiting = u32_at(fixed, 60)?;
    for (kind, value) in attributes(body.get(BODY..)?) {
        match kind {
            INFO => entry.sample = sample(value, entry.state, waiting),
            SKV6ONLY => entry.v6only = value.first().map(|only| *only != 0),
            CGROUP_ID => entry.cgroup = u64_at(value, 0).map(CgroupId),
            _ => {}
        }
    }
    Some(entry)
}

fn address(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        IPV4 => {
            let octets: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
            Some(Ipv4Addr::from(octets).into())
        }
        IPV6 => {
            let octets: [u8; 16] = bytes.get(..16)?.try_into().ok()?;
            Some(IpAddr::from(Ipv6Addr::from(octets)).to_canonical())
        }
        _ => None,
    }
}

/// Offsets in `struct tcp_info`, which only ever grows at its end:
/// <https://github.com/torvalds/linux/blob/v5.10/include/uapi/linux/tcp.h#L206>
fn sample(info: &[u8], state: u8, waiting: u32) -> Option<Sample> {
    let sent_once = || Some(u64_at(info, 200)?.saturating_sub(u64_at(info, 208)?));
    let not_sent = u32_at(info, 144).unwrap_or(0);
    Some(Sample {
        state,
        acked: u64_at(info, 120)?,
        received: u64_at(info, 128)?,
        sent_once: sent_once(),
        unacked: u32_at(info, 24)?,
        in_flight: waiting.saturating_sub(not_sent).into(),
    })
}

/// Attributes by kind; ends where they make no sense.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// `NLA_TYPE_MASK`: the upper bits are flags.
    const KIND: u16 = 0x3fff;
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & KIND;
        let value = rest.get(4..length)?;
        rest = rest.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Messages and attributes begin at multiples of four.
const fn aligned(length: usize) -> usize {
    length.saturating_add(3) & !3
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    bytes.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    bytes.try_into().ok().map(u64::from_ne_bytes)
}

#[cfg(test)]
mod tests;
