//! Datagrams and their bytes, on request: runs for every packet of the container's sockets, TCP included, which leaves
//! after its protocol was read.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use plumbline_ebpf::drops::UDP_UNPARSED;
use plumbline_ebpf::flow::{ROLE_CLIENT, ROLE_SERVER};
use plumbline_ebpf::udp::Counts;

use super::{Address, attachment, drops, field, record, role, v4, v6};

/// `IPPROTO_UDP`.
const UDP: u8 = 17;
/// `ETH_P_IP` in network byte order.
const IPV4: u32 = 0x0800_u16.to_be() as u32;
/// `ETH_P_IPV6` in network byte order.
const IPV6: u32 = 0x86dd_u16.to_be() as u32;
/// Extension headers that are looked past. The stack itself sends two at most.
const EXTENSIONS_MAX: usize = 4;

/// A packet reaches a socket.
#[cgroup_skb(ingress)]
pub(crate) fn plumb_in(ctx: SkBuffContext) -> i32 {
    passed(ctx.skb.skb, true);
    1
}

/// A packet leaves a socket.
#[cgroup_skb(egress)]
pub(crate) fn plumb_out(ctx: SkBuffContext) -> i32 {
    passed(ctx.skb.skb, false);
    1
}

/// What a packet's headers tell.
struct Headers {
    from: Address,
    to: Address,
    from_port: u16,
    to_port: u16,
    payload: u64,
}

#[inline(always)]
fn passed(skb: *mut __sk_buff, received: bool) {
    let Some(headers) = headers(skb) else {
        return;
    };
    let Some(attachment) = attachment() else {
        return;
    };
    let (local_port, peer, peer_port) = if received {
        (headers.to_port, &headers.from, headers.from_port)
    } else {
        (headers.from_port, &headers.to, headers.to_port)
    };
    // SAFETY: the context of this program.
    let cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
    let role = role(attachment.1, cookie, local_port, received).unwrap_or(ROLE_CLIENT);
    let server_port = if role == ROLE_SERVER {
        local_port
    } else {
        peer_port
    };
    // One buffer may hold many datagrams (UDP_SEGMENT, UDP_GRO).
    let packets = match field!(skb, gso_segs) {
        0 => 1,
        segments => u64::from(segments),
    };
    let payload = headers.payload;
    let counts = if received {
        Counts {
            received_packets: packets,
            received_bytes: payload,
            ..Counts::ZERO
        }
    } else {
        Counts {
            sent_packets: packets,
            sent_bytes: payload,
            ..Counts::ZERO
        }
    };
    record(attachment, role, peer, server_port, &counts);
}

/// `None` for anything but UDP, and (counted) for UDP that cannot be read.
#[inline(always)]
fn headers(skb: *mut __sk_buff) -> Option<Headers> {
    let packet = Packet {
        start: field!(skb, data) as usize,
        end: field!(skb, data_end) as usize,
    };
    match field!(skb, protocol) {
        IPV4 => {
            if packet.byte(9)? != UDP {
                return None;
            }
            // Only the first fragment has ports; sockets get whole datagrams.
            if packet.half(6)? & 0x1fff != 0 {
                return unparsed();
            }
            let offset = usize::from(packet.byte(0)? & 0xf) * 4;
            let addresses = (v4(packet.word(12)?), v4(packet.word(16)?));
            packet.udp(skb, addresses, offset)
        }
        IPV6 => {
            let offset = packet.past_extensions()?;
            let words = |at| {
                Some([
                    packet.word(at)?,
                    packet.word(at + 4)?,
                    packet.word(at + 8)?,
                    packet.word(at + 12)?,
                ])
            };
            let addresses = (v6(words(8)?), v6(words(24)?));
            packet.udp(skb, addresses, offset)
        }
        _ => None,
    }
}

#[inline(always)]
fn unparsed<T>() -> Option<T> {
    drops::count(UDP_UNPARSED);
    None
}

/// The bytes of a packet that lie in one piece, from its IP header on.
struct Packet {
    start: usize,
    end: usize,
}

impl Packet {
    /// A pointer to `T`, if the packet has it there.
    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*const T> {
        let pointer = self.start + offset;
        (pointer + size_of::<T>() <= self.end).then_some(pointer as *const T)
    }

    #[inline(always)]
    fn byte(&self, offset: usize) -> Option<u8> {
        let pointer = self.at::<u8>(offset)?;
        // SAFETY: within the packet, as just seen.
        Some(unsafe { *pointer })
    }

    /// In host byte order.
    #[inline(always)]
    fn half(&self, offset: usize) -> Option<u16> {
        let pointer = self.at::<[u8; 2]>(offset)?;
        // SAFETY: within the packet, as just seen.
        Some(u16::from_be_bytes(unsafe { *pointer }))
    }

    /// In network byte order.
    #[inline(always)]
    fn word(&self, offset: usize) -> Option<u32> {
        let pointer = self.at::<[u8; 4]>(offset)?;
        // SAFETY: within the packet, as just seen.
        Some(u32::from_ne_bytes(unsafe { *pointer }))
    }

    /// Where UDP begins behind an IPv6 header; `None` if something else does.
    #[inline(always)]
    fn past_extensions(&self) -> Option<usize> {
        let (mut next, mut offset) = (self.byte(6)?, 40_usize);
        for _ in 0..EXTENSIONS_MAX {
            // Hop-by-hop options, routing, fragment, destination options.
            if !matches!(next, 0 | 43 | 44 | 60) {
                break;
            }
            // All that is asked of a header, read at once: the verifier takes nothing from a test of the first byte alone
            // (`invalid access to packet, off=0 size=1, R0(id=101,off=0,r=0)`).
            let header = self.at::<[u8; 4]>(offset)?;
            // SAFETY: within the packet, as just seen.
            let [following, length, high, low] = unsafe { *header };
            offset += if next == 44 {
                // The first fragment has ports, and sockets get whole datagrams.
                if u16::from_be_bytes([high, low]) >> 3 != 0 {
                    return unparsed();
                }
                8
            } else {
                (usize::from(length) + 1) * 8
            };
            next = following;
        }
        if next == UDP { Some(offset) } else { None }
    }

    #[inline(always)]
    fn udp(
        &self,
        skb: *mut __sk_buff,
        (from, to): (Address, Address),
        offset: usize,
    ) -> Option<Headers> {
        let Some(header) = self.at::<[u8; 8]>(offset) else {
            return unparsed();
        };
        // SAFETY: within the packet, as just seen.
        let bytes = unsafe { *header };
        let length = u16::from_be_bytes([bytes[4], bytes[5]]);
        let length = match length {
            // More than 16 bits can tell.
            0 => field!(skb, len).saturating_sub(offset as u32),
            length => u32::from(length),
        };
        Some(Headers {
            from,
            to,
            from_port: u16::from_be_bytes([bytes[0], bytes[1]]),
            to_port: u16::from_be_bytes([bytes[2], bytes[3]]),
            payload: u64::from(length.saturating_sub(8)),
        })
    }
}
