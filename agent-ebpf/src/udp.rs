//! UDP: associations counted by owner, role, peer and server port, and the sockets whose programs chose their port.
//!
//! UDP has no connections. An association is a `connect`, or the first datagram between an unconnected socket and a peer
//! that the table of pairs does not hold (any more).

/// Flows of two readings: about 1.7 MiB. Full: counted in the overflow entry of the owner.
pub const FLOWS_MAX: u32 = 16_384;

/// New flow entries that one hook makes for one container between two readings; further ones go to the overflow entry of
/// the container, so that one that talks to everybody leaves room for the others.
pub const FLOWS_PER_HOOK: u32 = 256;

/// Sockets whose programs chose their port: about 1.2 MiB. Full: the socket is left to scans, which find
/// it outside the dynamic range.
pub const SOCKETS_MAX: u32 = 16_384;

/// Such sockets of one container; the same happens to further ones.
pub const SOCKETS_PER_OWNER: u64 = 1_024;

/// Pairs of a socket and a peer that are remembered. Two pairs in one slot: an association is counted again.
pub const PAIRS: u32 = 16_384;

/// Bytes of the ring of ports that were bound and closed: 2,300 records between two wake-ups of the agent. Full: dropped
/// and counted, and the next scan finds it. A ring of its own, so that a flood leaves TCP listeners alone.
pub const RING_BYTES: u32 = 128 * 1_024;

/// What a program knows of the attachment that runs. The agent writes the owner right after each attach.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// Container cgroup; 0 until it is filled in.
    pub owner: u64,
    /// The reading that `flows` is of.
    pub epoch: u32,
    /// New flow entries in that reading; see [`FLOWS_PER_HOOK`].
    pub flows: u32,
    /// How often this hook refused the container something because it had used up its share: sockets where programs choose
    /// ports, else flows. Exact.
    pub refused: u64,
}

const _: () = assert!(size_of::<Attachment>() == 24);

/// [`Socket::role`] of one that got its port before anything saw what its container receives: that it sends says
/// little, since it may have received before. What it receives from a peer that it had not sent to says that it serves.
pub const UNHEARD: u8 = 3;

/// In the map of containers that are heard: the agent was asked to.
pub const ASKED: u32 = 1;

/// Likewise: what the container receives is seen.
pub const HEARD: u32 = 2;

/// A socket whose program chose its port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Socket {
    /// Container cgroup of its creator.
    pub owner: u64,
    /// Local address, as in [`crate::flow::FlowKey::peer`].
    pub address: [u32; 4],
    /// Local port.
    pub port: u16,
    /// One of the `FAMILY_` constants of [`crate::flow`]; `FAMILY_NONE` while `bind` has not succeeded.
    pub family: u8,
    /// Zero or [`UNHEARD`], or one of the `ROLE_` constants once it has sent or received: what came first decides in the
    /// dynamic range.
    pub role: u8,
    /// 1 once it was connected: it serves its peer alone.
    pub connected: u32,
}

const _: () = assert!(size_of::<Socket>() == 32);

/// A socket and a peer that have met.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    /// The socket's cookie; 0 is none.
    pub cookie: u64,
    /// Hash of the peer's address and port.
    pub peer: u64,
}

const _: () = assert!(size_of::<Pair>() == 16);

/// Counts of one flow in one epoch. Programs add atomically, from several CPUs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Associations begun.
    pub associations: u64,
    /// Datagrams handed to the IP layer.
    pub sent_packets: u64,
    /// Their payload bytes.
    pub sent_bytes: u64,
    /// Datagrams that reached the socket, whether or not it had room.
    pub received_packets: u64,
    /// Their payload bytes.
    pub received_bytes: u64,
}

const _: () = assert!(size_of::<Counts>() == 40);

impl Counts {
    /// Nothing.
    pub const ZERO: Self = Self {
        associations: 0,
        sent_packets: 0,
        sent_bytes: 0,
        received_packets: 0,
        received_bytes: 0,
    };
}

/// The dynamic range of ports as programs get it.
#[must_use]
pub const fn range(first: u16, last: u16) -> u32 {
    (first as u32) << 16 | last as u32
}

/// Whether the kernel may have chosen the port by itself.
#[inline(always)]
#[must_use]
pub const fn is_dynamic(range: u32, port: u16) -> bool {
    let (first, last) = ((range >> 16) as u16, (range & 0xffff) as u16);
    first <= port && port <= last
}

#[cfg(not(target_arch = "bpf"))]
mod pod {
    // SAFETY: repr(C) without padding (the sizes are asserted), any bits are valid.
    unsafe impl aya::Pod for super::Attachment {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Socket {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Pair {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Counts {}
}

#[cfg(test)]
mod tests {
    use super::{is_dynamic, range};

    #[test]
    fn the_range_has_both_its_ends() {
        let range = range(32_768, 60_999);
        let dynamic = [32_767, 32_768, 60_999, 61_000].map(|port| is_dynamic(range, port));
        assert_eq!(dynamic, [false, true, true, false]);
    }
}
