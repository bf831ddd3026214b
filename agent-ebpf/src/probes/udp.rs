//! All of UDP, per container: who talks to whom, and which ports are served.
//!
//! Hooks, attached to each container's cgroup: `address` (`cgroup/connect4,6`, `sendmsg4,6`, `recvmsg4,6`), `bind`
//! (`cgroup/bind4,6`, `post_bind4,6`, `sock_release`), and on request `packet` (`cgroup_skb`). They sit in the enforcement
//! path: each always answers 1, which lets everything pass. TCP leaves each of them first. `recvmsg` comes to a container when
//! one of its programs chooses a port, or sends to one that the kernel gives out: before that it would tell nothing, and while
//! any cgroup of the node has it, the kernel locks the socket for every datagram that any program receives. Kernel: 5.9
//! (`sock_release`).
//! Fallback: scans find servers outside the dynamic range of ports; no peers.
//!
//! Maps: `PLUMB_UDP_OWNER` (storage of each attachment; the agent fills it in), `PLUMB_UDP_FLOWS` (full, or too many of one
//! container: counted in `PLUMB_UDP_OVER`, which the agent fills in before each attach), `PLUMB_UDP_PAIRS`,
//! `PLUMB_UDP_SOCKS` (bounded per container by `PLUMB_UDP_QUOTA`), `PLUMB_UDP_HEARD` and a ring.

mod address;
mod bind;
mod packet;

use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST};
#[expect(
    deprecated,
    reason = "its successor came with Linux 6.2, and we load on 5.10"
)]
use aya_ebpf::btf_maps::CgroupStorage;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, RingBuf};
use plumbline_ebpf::drops::{
    OVERFLOW_MISSING, UDP_EVENTS_FULL, UDP_FLOWS_BUDGET, UDP_FLOWS_FULL, UDP_UNATTRIBUTED,
};
use plumbline_ebpf::event::{ListenerRecord, PROTOCOL_UDP, UDP_UNCLEAR};
use plumbline_ebpf::flow::{
    CONTAINERS_MAX, FAMILY_NONE, FAMILY_V4, FAMILY_V6, FlowKey, OVERFLOW_MAX, ROLE_CLIENT,
    ROLE_SERVER,
};
use plumbline_ebpf::udp::{
    ASKED, Attachment, Counts, FLOWS_MAX, FLOWS_PER_HOOK, PAIRS, Pair, RING_BYTES, SOCKETS_MAX,
    Socket, UNHEARD, is_dynamic,
};

use super::{assembly, drops};

#[btf_map]
#[expect(
    deprecated,
    reason = "its successor came with Linux 6.2, and we load on 5.10"
)]
static PLUMB_UDP_OWNER: CgroupStorage<Attachment> = CgroupStorage::new();

#[map]
static PLUMB_UDP_FLOWS: HashMap<FlowKey, Counts> = HashMap::with_max_entries(FLOWS_MAX, 0);

#[map]
static PLUMB_UDP_OVER: HashMap<FlowKey, Counts> = HashMap::with_max_entries(OVERFLOW_MAX, 0);

#[map]
static PLUMB_UDP_EPOCH: Array<u32> = Array::with_max_entries(1, 0);

#[map]
static PLUMB_UDP_PORTS: Array<u32> = Array::with_max_entries(1, 0);

#[map]
static PLUMB_UDP_RANGE: HashMap<u64, u32> =
    HashMap::with_max_entries(CONTAINERS_MAX, BPF_F_NO_PREALLOC);

#[map]
static PLUMB_UDP_PAIRS: Array<Pair> = Array::with_max_entries(PAIRS, 0);

#[map]
static PLUMB_UDP_SOCKS: HashMap<u64, Socket> = HashMap::with_max_entries(SOCKETS_MAX, 0);

#[map]
static PLUMB_UDP_QUOTA: HashMap<u64, u64> = HashMap::with_max_entries(CONTAINERS_MAX, 0);

#[map]
static PLUMB_UDP_HEARD: HashMap<u64, u32> =
    HashMap::with_max_entries(CONTAINERS_MAX, BPF_F_NO_PREALLOC);

#[map]
static PLUMB_UDP_RING: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// `IPPROTO_UDP`.
const UDP: u32 = PROTOCOL_UDP as u32;

/// `::ffff:0:0/96` as the third word of an address in network byte order.
const MAPPED: u32 = 0xffff_u32.to_be();

/// Reads one field of a context. LLVM merges two adjacent reads of four bytes into one of eight, which the verifier
/// refuses (`invalid bpf_context access off=48 size=8`): a volatile read is left alone.
macro_rules! field {
    ($pointer:expr, $($field:tt)+) => {{
        // SAFETY: the kernel passes a whole context and translates reads of its fields.
        unsafe { core::ptr::read_volatile(core::ptr::addr_of!((*$pointer).$($field)+)) }
    }};
}
use field;

/// An address and its family, as they stand in keys and records.
#[derive(Clone, Copy)]
struct Address {
    family: u8,
    words: [u32; 4],
}

#[inline(always)]
const fn v4(word: u32) -> Address {
    Address {
        family: FAMILY_V4,
        words: [word, 0, 0, 0],
    }
}

/// IPv4-mapped addresses are folded to IPv4.
#[inline(always)]
const fn v6(words: [u32; 4]) -> Address {
    if words[0] == 0 && words[1] == 0 && words[2] == MAPPED {
        return v4(words[3]);
    }
    Address {
        family: FAMILY_V6,
        words,
    }
}

/// The attachment that runs, or `None` (counted) while the agent has not filled it in.
#[inline(always)]
fn attachment() -> Option<(*mut Attachment, u64)> {
    let attachment = PLUMB_UDP_OWNER.get_ptr_mut();
    // SAFETY: the storage of an attachment is there as long as its program runs; the agent writes it in one go.
    let owner = unsafe { read_volatile(addr_of!((*attachment).owner)) };
    if owner == 0 {
        drops::count(UDP_UNATTRIBUTED);
        return None;
    }
    Some((attachment, owner))
}

/// The entry of a socket whose program chose its port; `None` also while `bind` has not succeeded.
#[inline(always)]
fn bound(cookie: u64) -> Option<*mut Socket> {
    let socket = PLUMB_UDP_SOCKS.get_ptr_mut(cookie)?;
    // SAFETY: a value of the map.
    let family = unsafe { read_volatile(addr_of!((*socket).family)) };
    (family != FAMILY_NONE).then_some(socket)
}

/// Whether the kernel may have chosen the port by itself, in the network namespace of the container.
#[inline(always)]
fn dynamic(owner: u64, port: u16) -> bool {
    let range = match PLUMB_UDP_RANGE.get_ptr(owner) {
        // SAFETY: a value of the map.
        Some(own) => unsafe { read_volatile(own) },
        None => PLUMB_UDP_PORTS.get(0).copied().unwrap_or(0),
    };
    is_dynamic(range, port)
}

/// Which end of its associations a socket is, from its state. A port that the kernel does not give out by itself was
/// chosen: it is served. Of the dynamic range, a chosen one is served if the socket received before it sent; one that was
/// not chosen, or not seen to be, never is. `None`: it received, and nobody knows whom it had sent to.
#[inline(always)]
fn role(owner: u64, cookie: u64, port: u16, received: bool) -> Option<u8> {
    let Some(socket) = bound(cookie) else {
        return if port != 0 && !dynamic(owner, port) {
            Some(ROLE_SERVER)
        } else if received {
            None
        } else {
            Some(ROLE_CLIENT)
        };
    };
    // SAFETY: a value of the map.
    let known = unsafe { read_volatile(addr_of!((*socket).role)) };
    if known != 0 && known != UNHEARD {
        return Some(known);
    }
    let role = if received || !dynamic(owner, port) {
        ROLE_SERVER
    } else {
        ROLE_CLIENT
    };
    if known == UNHEARD && role == ROLE_CLIENT {
        return Some(role);
    }
    // SAFETY: as above; of two CPUs at once the last decides.
    unsafe { write_volatile(addr_of_mut!((*socket).role), role) };
    Some(role)
}

/// Whether the socket and the peer have met, as far as is remembered; from now on they have.
#[inline(always)]
fn met(cookie: u64, peer: &Address, port: u16) -> bool {
    const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
    let [a, b, c, d] = peer.words;
    let mut hash = (u64::from(a) << 32 | u64::from(b)).wrapping_mul(MIX);
    hash = (hash ^ hash >> 29 ^ (u64::from(c) << 32 | u64::from(d))).wrapping_mul(MIX);
    hash = (hash ^ hash >> 29 ^ u64::from(port)).wrapping_mul(MIX);
    let slot = (hash ^ cookie.wrapping_mul(MIX)) >> 40;
    let Some(pair) = PLUMB_UDP_PAIRS.get_ptr_mut(slot as u32 & (PAIRS - 1)) else {
        return true;
    };
    // SAFETY: a value of the map. Two CPUs may write at once: then an association is counted once more, or not.
    let known = unsafe { read_volatile(pair) };
    if known.cookie == cookie && known.peer == hash {
        return true;
    }
    // SAFETY: as above.
    unsafe { write_volatile(pair, Pair { cookie, peer: hash }) };
    false
}

/// Tells that a socket serves its port, or does not any more.
#[inline(always)]
fn tell(kind: u32, cookie: u64, socket: &Socket) {
    let Some(mut entry) = PLUMB_UDP_RING.reserve::<ListenerRecord>(0) else {
        drops::count(UDP_EVENTS_FULL);
        return;
    };
    entry.write(ListenerRecord {
        kind,
        port: socket.port,
        family: socket.family,
        protocol: PROTOCOL_UDP,
        address: socket.address,
        owner: socket.owner,
        cookie,
        // SAFETY: no arguments, no state.
        at_ns: unsafe { bpf_ktime_get_ns() },
    });
    entry.submit(0);
}

/// Asks the agent, once, for a look at what the container receives.
#[inline(always)]
fn ask(owner: u64) {
    if PLUMB_UDP_HEARD.get_ptr(owner).is_some() {
        return;
    }
    let Some(mut entry) = PLUMB_UDP_RING.reserve::<ListenerRecord>(0) else {
        drops::count(UDP_EVENTS_FULL);
        return;
    };
    entry.write(ListenerRecord {
        kind: UDP_UNCLEAR,
        port: 0,
        family: FAMILY_NONE,
        protocol: PROTOCOL_UDP,
        address: [assembly::zero(); 4],
        owner,
        cookie: 0,
        // SAFETY: no arguments, no state.
        at_ns: unsafe { bpf_ktime_get_ns() },
    });
    entry.submit(0);
    // Full: it is asked again.
    PLUMB_UDP_HEARD
        .insert(owner, ASKED, u64::from(BPF_NOEXIST))
        .unwrap_or_default();
}

/// Adds to the entry of a flow; makes it if it is new; adds to the owner's overflow entry if there is no room.
#[inline(always)]
fn record(
    (attachment, owner): (*mut Attachment, u64),
    role: u8,
    peer: &Address,
    server_port: u16,
    change: &Counts,
) {
    let epoch = PLUMB_UDP_EPOCH.get(0).copied().unwrap_or(0);
    let key = FlowKey {
        owner,
        peer: peer.words,
        server_port,
        family: peer.family,
        role,
        epoch,
    };
    if let Some(counts) = PLUMB_UDP_FLOWS.get_ptr_mut(key) {
        return add(counts, change);
    }
    if may_add(attachment, epoch) {
        if PLUMB_UDP_FLOWS
            .insert(key, change, u64::from(BPF_NOEXIST))
            .is_ok()
        {
            return;
        }
        // Another CPU was quicker, or the table is full.
        if let Some(counts) = PLUMB_UDP_FLOWS.get_ptr_mut(key) {
            return add(counts, change);
        }
        drops::count(UDP_FLOWS_FULL);
    } else {
        drops::count(UDP_FLOWS_BUDGET);
    }
    match PLUMB_UDP_OVER.get_ptr_mut(FlowKey {
        peer: [assembly::zero(); 4],
        ..FlowKey::overflow(owner, role)
    }) {
        Some(counts) => add(counts, change),
        None => drops::count(OVERFLOW_MISSING),
    }
}

/// Whether the container may have one more new entry from this hook in this reading. CPUs may count at once: about so many.
#[inline(always)]
fn may_add(attachment: *mut Attachment, epoch: u32) -> bool {
    // SAFETY: the storage of the attachment that runs.
    let (of, flows) = unsafe {
        (
            read_volatile(addr_of!((*attachment).epoch)),
            addr_of_mut!((*attachment).flows),
        )
    };
    let so_far = if of == epoch {
        // SAFETY: as above.
        unsafe { read_volatile(flows) }
    } else {
        // SAFETY: as above.
        unsafe { write_volatile(addr_of_mut!((*attachment).epoch), epoch) };
        0
    };
    if so_far >= FLOWS_PER_HOOK {
        refuse(attachment);
        return false;
    }
    // SAFETY: as above.
    unsafe { write_volatile(flows, so_far + 1) };
    true
}

/// Counts for the container that it was refused something.
#[inline(always)]
fn refuse(attachment: *mut Attachment) {
    // SAFETY: the storage of the attachment that runs.
    let refused = unsafe { addr_of_mut!((*attachment).refused) };
    // SAFETY: an aligned u64 in it.
    unsafe { assembly::add_atomic(refused, 1) };
}

/// Atomic, since sockets of one flow work on several CPUs. Nothing is spent on adding nothing.
#[inline(always)]
fn add(counts: *mut Counts, change: &Counts) {
    macro_rules! add {
        ($($field:ident)+) => {
            $(if change.$field != 0 {
                // SAFETY: callers pass a value of a flow table.
                let counter = unsafe { addr_of_mut!((*counts).$field) };
                // SAFETY: an aligned u64 in a map's value.
                unsafe { assembly::add_atomic(counter, change.$field) };
            })+
        };
    }
    add!(associations sent_packets sent_bytes received_packets received_bytes);
}
