//! Flow tables: TCP connections counted by owner, role, peer and server port.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Flows of two readings (the one being written and the one being read): about 2.4 MiB. Full: the connection is counted
/// in the overflow entry of its owner.
pub const FLOWS_MAX: u32 = 16_384;

/// Containers that can have a program: at most 500 pods of 4 containers on a node. Full: the attachment fails and says so.
pub const CONTAINERS_MAX: u32 = 2_048;

/// Overflow entries: one for each role of each container, made by the agent before it attaches.
pub const OVERFLOW_MAX: u32 = 2 * CONTAINERS_MAX;

/// Slots for sockets in FIN_WAIT2. Two sockets in one slot: at most one byte too few in one count.
pub const FIN_WAIT_SLOTS: u32 = 1_024;

/// [`FlowKey::family`]: the peer is IPv4, in the first word.
pub const FAMILY_V4: u8 = 4;
/// [`FlowKey::family`]: the peer is IPv6.
pub const FAMILY_V6: u8 = 6;
/// [`FlowKey::family`]: no peer: an overflow entry.
pub const FAMILY_NONE: u8 = 0;

/// [`FlowKey::role`]: the owner connected.
pub const ROLE_CLIENT: u8 = 1;
/// [`FlowKey::role`]: the owner accepted.
pub const ROLE_SERVER: u8 = 2;

/// What is counted together.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowKey {
    /// Container cgroup of the socket's creator.
    pub owner: u64,
    /// The other end, as words in network byte order; IPv4 (also IPv4-mapped) in the first, the others zero.
    pub peer: [u32; 4],
    /// The server's port; 0 in an overflow entry.
    pub server_port: u16,
    /// One of the `FAMILY_` constants.
    pub family: u8,
    /// One of the `ROLE_` constants.
    pub role: u8,
    /// The reading that this entry belongs to: programs write to the current epoch while the agent reads and deletes
    /// those before it, so that no count is lost. 0 in an overflow entry.
    pub epoch: u32,
}

const _: () = assert!(size_of::<FlowKey>() == 32);

/// Which end of a connection the owner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It connected.
    Client,
    /// It accepted.
    Server,
}

impl FlowKey {
    /// The key of the overflow entry of an owner.
    #[inline(always)]
    #[must_use]
    pub const fn overflow(owner: u64, role: u8) -> Self {
        Self {
            owner,
            peer: [0; 4],
            server_port: 0,
            family: FAMILY_NONE,
            role,
            epoch: 0,
        }
    }

    /// The owner's end; `None` for bytes that are no role.
    #[must_use]
    pub const fn side(&self) -> Option<Side> {
        match self.role {
            ROLE_CLIENT => Some(Side::Client),
            ROLE_SERVER => Some(Side::Server),
            _ => None,
        }
    }

    /// The other end; `None` in an overflow entry.
    #[must_use]
    pub fn peer(&self) -> Option<IpAddr> {
        address(self.family, self.peer)
    }
}

/// An address from its words in network byte order; `None` for a family that is none.
#[must_use]
pub fn address(family: u8, words: [u32; 4]) -> Option<IpAddr> {
    match family {
        FAMILY_V4 => Some(IpAddr::V4(Ipv4Addr::from(words[0].to_ne_bytes()))),
        FAMILY_V6 => Some(IpAddr::V6(Ipv6Addr::from_bits(
            words
                .iter()
                .fold(0, |bits, word| bits << 32 | u128::from(u32::from_be(*word))),
        ))),
        _ => None,
    }
}

/// The words of an address: the inverse of [`address`].
#[must_use]
pub fn words(address: IpAddr) -> (u8, [u32; 4]) {
    match address {
        IpAddr::V4(v4) => (FAMILY_V4, [u32::from_ne_bytes(v4.octets()), 0, 0, 0]),
        IpAddr::V6(v6) => {
            let [[a, b], [c, d], [e, f], [g, h]] = pairs(v6);
            let word = |high: u16, low: u16| (u32::from(high) << 16 | u32::from(low)).to_be();
            (FAMILY_V6, [word(a, b), word(c, d), word(e, f), word(g, h)])
        }
    }
}

fn pairs(v6: Ipv6Addr) -> [[u16; 2]; 4] {
    let [a, b, c, d, e, f, g, h] = v6.segments();
    [[a, b], [c, d], [e, f], [g, h]]
}

/// Counts of one flow in one epoch. Programs add atomically, from several CPUs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCounts {
    /// Connections established.
    pub connections: u64,
    /// Connection attempts that failed: refused, unreachable, out of time, or given up by the program.
    pub failures: u64,
    /// Of these, those that retransmitted the SYN and never got an answer.
    pub timeouts: u64,
    /// Connections closed.
    pub closed: u64,
    /// Payload bytes of closed connections that the peer acknowledged.
    pub sent_bytes: u64,
    /// Payload bytes of closed connections that were received.
    pub received_bytes: u64,
    /// Segments that closed connections sent again.
    pub retransmits: u64,
    /// Sum over closed connections of the smoothed round-trip time in microseconds.
    pub srtt_us_sum: u64,
}

const _: () = assert!(size_of::<FlowCounts>() == 64);

impl FlowCounts {
    /// Nothing.
    pub const ZERO: Self = Self {
        connections: 0,
        failures: 0,
        timeouts: 0,
        closed: 0,
        sent_bytes: 0,
        received_bytes: 0,
        retransmits: 0,
        srtt_us_sum: 0,
    };
}

/// Bytes that a socket had received when it entered FIN_WAIT2.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FinWait {
    /// The socket; 0 is none.
    pub cookie: u64,
    /// Its `bytes_received` then.
    pub bytes_received: u64,
}

const _: () = assert!(size_of::<FinWait>() == 16);

/// What the kernel's TCP knows of a socket that closes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closing {
    /// State before CLOSE.
    pub old_state: u32,
    /// The owner connected.
    pub client: bool,
    /// `bytes_acked`: payload, plus SYN of a client, plus FIN when acknowledged.
    pub bytes_acked: u64,
    /// `bytes_received`: payload, plus the peer's FIN.
    pub bytes_received: u64,
    /// Nothing is in flight: `snd_una == snd_nxt`.
    pub all_acked: bool,
    /// In FIN_WAIT2: nothing was received since the socket entered it. `None` when that is not known.
    pub quiet_since_fin_wait2: Option<bool>,
}

/// States of `enum tcp_state`, which is part of the kernel's BPF interface.
pub mod state {
    /// The connection is up.
    pub const ESTABLISHED: u32 = 1;
    /// A client waits for the answer to its SYN.
    pub const SYN_SENT: u32 = 2;
    /// A server waits for the third segment.
    pub const SYN_RECV: u32 = 3;
    /// We closed first; our FIN is not acknowledged.
    pub const FIN_WAIT1: u32 = 4;
    /// Our FIN is acknowledged.
    pub const FIN_WAIT2: u32 = 5;
    /// Both FINs are acknowledged.
    pub const TIME_WAIT: u32 = 6;
    /// Nothing left.
    pub const CLOSE: u32 = 7;
    /// The peer closed first.
    pub const CLOSE_WAIT: u32 = 8;
    /// The peer closed first, then we did.
    pub const LAST_ACK: u32 = 9;
    /// A listener.
    pub const LISTEN: u32 = 10;
    /// Both closed at once.
    pub const CLOSING: u32 = 11;
}

impl Closing {
    /// Payload bytes sent and acknowledged: without the SYN that a client's count holds and the FIN that was sent.
    #[inline(always)]
    #[must_use]
    pub const fn sent(&self) -> u64 {
        let syn = self.client as u64;
        let fin_sent = matches!(
            self.old_state,
            state::FIN_WAIT2 | state::TIME_WAIT | state::CLOSING | state::LAST_ACK
        );
        let fin = (fin_sent && self.all_acked) as u64;
        self.bytes_acked.saturating_sub(syn + fin)
    }

    /// Payload bytes received: without the peer's FIN. From FIN_WAIT2 the FIN was counted if anything came since.
    #[inline(always)]
    #[must_use]
    pub const fn received(&self) -> u64 {
        let fin = match self.old_state {
            state::CLOSE_WAIT | state::LAST_ACK | state::CLOSING => 1,
            state::FIN_WAIT2 => !matches!(self.quiet_since_fin_wait2, Some(true)) as u64,
            _ => 0,
        };
        self.bytes_received.saturating_sub(fin)
    }
}

#[cfg(not(target_arch = "bpf"))]
mod pod {
    // SAFETY: repr(C) without padding (the sizes are asserted), any bits are valid.
    unsafe impl aya::Pod for super::FlowKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::FlowCounts {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::FinWait {}
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::{Closing, FlowKey, ROLE_SERVER, Side, address, state, words};

    #[test]
    fn addresses_decode_and_unknown_families_do_not() {
        for text in ["10.1.2.3", "255.0.0.1", "::", "a01:203::9", "fe80::1:2:3"] {
            let want: IpAddr = text.parse().unwrap();
            let (family, words) = words(want);
            assert_eq!(address(family, words), Some(want));
        }
        for family in [0, 2, 10, 255] {
            assert_eq!(address(family, [1; 4]), None);
        }
    }

    #[test]
    fn words_lie_in_memory_as_on_the_wire() {
        let (_, words) = words("102:304::1".parse().unwrap());
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(bytes, [1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn an_overflow_key_has_a_side_and_no_peer() {
        let key = FlowKey::overflow(7, ROLE_SERVER);
        assert_eq!(
            (key.side(), key.peer(), key.server_port),
            (Some(Side::Server), None, 0)
        );
        assert_eq!(FlowKey { role: 3, ..key }.side(), None);
    }

    /// Counters as the kernel keeps them, for 100 bytes sent and 50 received, and the state that the socket closed from.
    #[test]
    fn payload_is_counted_without_syn_and_fin() {
        let closing = |old_state, client, acked, received, all_acked, quiet| {
            let closing = Closing {
                old_state,
                client,
                bytes_acked: acked,
                bytes_received: received,
                all_acked,
                quiet_since_fin_wait2: quiet,
            };
            (closing.sent(), closing.received())
        };
        // We close first, the peer's FIN arrives in FIN_WAIT2.
        assert_eq!(
            closing(state::FIN_WAIT2, true, 102, 51, true, Some(false)),
            (100, 50)
        );
        assert_eq!(
            closing(state::FIN_WAIT2, false, 101, 51, true, Some(false)),
            (100, 50)
        );
        // We close and nobody waits for the peer's FIN.
        assert_eq!(
            closing(state::FIN_WAIT2, false, 101, 50, true, Some(true)),
            (100, 50)
        );
        // The peer closes first.
        assert_eq!(
            closing(state::LAST_ACK, true, 102, 51, true, None),
            (100, 50)
        );
        assert_eq!(
            closing(state::LAST_ACK, false, 100, 51, false, None),
            (100, 50)
        );
        assert_eq!(
            closing(state::CLOSE_WAIT, false, 100, 51, true, None),
            (100, 50)
        );
        // Both at once.
        assert_eq!(
            closing(state::CLOSING, true, 102, 51, true, None),
            (100, 50)
        );
        // Reset.
        assert_eq!(
            closing(state::ESTABLISHED, true, 101, 50, true, None),
            (100, 50)
        );
        assert_eq!(
            closing(state::FIN_WAIT1, false, 100, 50, false, None),
            (100, 50)
        );
        // Never below zero, whatever the kernel says.
        assert_eq!(closing(state::LAST_ACK, true, 0, 0, true, None), (0, 0));
    }
}
