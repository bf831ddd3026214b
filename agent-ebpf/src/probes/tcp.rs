//! All of TCP, per container: listeners, connections, failed connects, bytes at close.
//!
//! Hook: `sock_ops`, attached to each container's cgroup. The kernel runs it in the cgroup of the socket's creator, also
//! in softirq and for accepted sockets. Costs per connection, nothing per packet: callbacks that tell nothing return
//! first. Measured: 3.3 us a connection for both ends, 17 callbacks of 0.2 us (Linux 6.18 on a busy 2-core VM, 7,241
//! connections over loopback, the kernel's run-time statistics on). Kernel: 5.8 (ring), all else older. Fallback: the scans of listeners; no flows.
//!
//! Maps: `PLUMB_OWNER` (storage of the attachment; the agent fills it in right after each attach), `PLUMB_FLOWS` (full:
//! counted in `PLUMB_OVERFLOW`, which the agent fills in before each attach), `PLUMB_FIN_WAIT`, `PLUMB_FOLLOWED` (the agent
//! makes the entries and counts what finds no place), and the ring.

use core::ptr::{addr_of, addr_of_mut, read_volatile};

use aya_ebpf::bindings::{
    BPF_F_NO_PREALLOC, BPF_NOEXIST, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB,
    BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_RTO_CB_FLAG, BPF_SOCK_OPS_STATE_CB,
    BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_TCP_LISTEN_CB,
};
#[expect(
    deprecated,
    reason = "its successor came with Linux 6.2, and we load on 5.10"
)]
use aya_ebpf::btf_maps::CgroupStorage;
use aya_ebpf::helpers::{bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_sock_ops_cb_flags_set};
use aya_ebpf::macros::{btf_map, map, sock_ops};
use aya_ebpf::maps::{Array, HashMap};
use aya_ebpf::programs::SockOpsContext;
use plumbline_ebpf::connection::{CONNECTIONS_MAX, Connection};
use plumbline_ebpf::drops::{
    FLAGS_MISSING, FLOWS_BUDGET, FLOWS_FULL, LISTENERS_BUDGET, LISTENERS_FULL, OVERFLOW_MISSING,
    SOCKET_UNKNOWN, UNATTRIBUTED,
};
use plumbline_ebpf::event::{LISTENER_CLOSED, LISTENER_OPENED, ListenerRecord};
use plumbline_ebpf::flow::{
    Closing, FAMILY_V4, FAMILY_V6, FIN_WAIT_SLOTS, FLOWS_MAX, FinWait, FlowCounts, FlowKey,
    OVERFLOW_MAX, ROLE_CLIENT, ROLE_SERVER, state,
};
use plumbline_ebpf::owner::{
    Budget, FLOWS_PER_EPOCH, LISTENER_PERIOD_SHIFT, LISTENERS_PER_PERIOD, Owner,
};

use super::{assembly, drops, events};

#[btf_map]
#[expect(
    deprecated,
    reason = "its successor came with Linux 6.2, and we load on 5.10"
)]
static PLUMB_OWNER: CgroupStorage<Owner> = CgroupStorage::new();

#[map]
static PLUMB_FLOWS: HashMap<FlowKey, FlowCounts> = HashMap::with_max_entries(FLOWS_MAX, 0);

#[map]
static PLUMB_OVERFLOW: HashMap<FlowKey, FlowCounts> = HashMap::with_max_entries(OVERFLOW_MAX, 0);

#[map]
static PLUMB_EPOCH: Array<u32> = Array::with_max_entries(1, 0);

#[map]
static PLUMB_FIN_WAIT: Array<FinWait> = Array::with_max_entries(FIN_WAIT_SLOTS, 0);

#[map]
static PLUMB_FOLLOWED: HashMap<u64, Connection> =
    HashMap::with_max_entries(CONNECTIONS_MAX, BPF_F_NO_PREALLOC);

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// `::ffff:0:0/96` as the third word of an address in network byte order.
const MAPPED: u32 = 0xffff_u32.to_be();

/// Reads one field of the context. LLVM merges two adjacent reads of four bytes into one of eight, which the verifier
/// refuses (`invalid bpf_context access off=48 size=8`): a volatile read is left alone.
macro_rules! field {
    ($ctx:expr, $($field:tt)+) => {{
        // SAFETY: the kernel passes a whole context and translates reads of its fields.
        unsafe { read_volatile(addr_of!((*$ctx.ops).$($field)+)) }
    }};
}

/// An address and its family, as they stand in keys and records.
struct Address {
    family: u8,
    words: [u32; 4],
}

/// A TCP callback of a socket of the container.
#[sock_ops]
pub(crate) fn plumb_tcp(ctx: SockOpsContext) -> u32 {
    let op = field!(ctx, op);
    // About 17 callbacks a connection: what tells nothing leaves first.
    if !matches!(
        op,
        BPF_SOCK_OPS_STATE_CB
            | BPF_SOCK_OPS_TCP_CONNECT_CB
            | BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB
            | BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB
            | BPF_SOCK_OPS_TCP_LISTEN_CB
    ) {
        return 1;
    }
    if let Some(owner) = owner()
        && let Some(change) = observe(&ctx, op, owner)
    {
        record(&ctx, owner, &change);
    }
    1
}

#[inline(always)]
fn observe(ctx: &SockOpsContext, op: u32, owner: u64) -> Option<Change> {
    match op {
        BPF_SOCK_OPS_STATE_CB => state_changed(ctx, owner),
        BPF_SOCK_OPS_TCP_CONNECT_CB => {
            watch(ctx, CLIENT_FLAGS);
            None
        }
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => {
            if field!(ctx, bpf_sock_ops_cb_flags) & CLIENT_FLAGS != CLIENT_FLAGS {
                drops::count(FLAGS_MISSING);
                watch(ctx, CLIENT_FLAGS);
            }
            Some(established(ROLE_CLIENT))
        }
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => {
            watch(ctx, BPF_SOCK_OPS_STATE_CB_FLAG);
            // Two sockets that connected to each other (or one to itself) both end up here.
            Some(established(if is_client(ctx) {
                ROLE_CLIENT
            } else {
                ROLE_SERVER
            }))
        }
        BPF_SOCK_OPS_TCP_LISTEN_CB => {
            watch(ctx, BPF_SOCK_OPS_STATE_CB_FLAG);
            listener(ctx, LISTENER_OPENED, owner);
            None
        }
        _ => None,
    }
}

/// Nothing at close tells the role, so that it is kept in the callback flags: only sockets that connect get the RTO flag.
const CLIENT_FLAGS: u32 = BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTO_CB_FLAG;

#[inline(always)]
fn is_client(ctx: &SockOpsContext) -> bool {
    field!(ctx, bpf_sock_ops_cb_flags) & BPF_SOCK_OPS_RTO_CB_FLAG != 0
}

/// What happened to a connection.
struct Change {
    role: u8,
    counts: FlowCounts,
}

/// The container, or `None` (counted) while the agent has not filled in the attachment.
#[inline(always)]
fn owner() -> Option<u64> {
    // SAFETY: the storage of an attachment is there as long as its program runs.
    let cgroup = unsafe { addr_of!((*PLUMB_OWNER.get_ptr_mut()).cgroup) };
    // SAFETY: as above; the agent exchanges the whole storage at once.
    let owner = unsafe { read_volatile(cgroup) };
    if owner == 0 {
        drops::count(UNATTRIBUTED);
        return None;
    }
    Some(owner)
}

/// Whether the container may do this once more in this period, and that it does. CPUs that begin a period at once may lose
/// each other's first counts, which makes the budget larger by as many.
#[inline(always)]
fn spend(budget: *mut Budget, period: u64, most: u64) -> bool {
    // SAFETY: callers pass a budget in the attachment's storage.
    let began = unsafe { addr_of_mut!((*budget).period) };
    // SAFETY: as above.
    let spent = unsafe { addr_of_mut!((*budget).spent) };
    // SAFETY: as above, an aligned word.
    if unsafe { read_volatile(began) } != period {
        // SAFETY: as above.
        unsafe { spent.write_volatile(0) };
        // SAFETY: as above.
        unsafe { began.write_volatile(period) };
    }
    // SAFETY: as above.
    if unsafe { read_volatile(spent) } < most {
        // SAFETY: as above.
        unsafe { assembly::add_atomic(spent, 1) };
        return true;
    }
    // SAFETY: as above.
    let refused = unsafe { addr_of_mut!((*budget).refused) };
    // SAFETY: as above.
    unsafe { assembly::add_atomic(refused, 1) };
    false
}

/// Asks for callbacks, on top of what other programs asked for: the helper replaces all flags.
#[inline(always)]
fn watch(ctx: &SockOpsContext, flags: u32) {
    let all = field!(ctx, bpf_sock_ops_cb_flags) | flags;
    // SAFETY: the context of this program.
    if unsafe { bpf_sock_ops_cb_flags_set(ctx.ops, all as i32) } != 0 {
        drops::count(SOCKET_UNKNOWN);
    }
}

#[inline(always)]
fn state_changed(ctx: &SockOpsContext, owner: u64) -> Option<Change> {
    let old = field!(ctx, __bindgen_anon_1.args[0]);
    let new = field!(ctx, __bindgen_anon_1.args[1]);
    match (old, new) {
        (state::LISTEN, _) => {
            listener(ctx, LISTENER_CLOSED, owner);
            None
        }
        (state::SYN_SENT, state::CLOSE) => Some(failed(ctx)),
        // To the same state: closed by the application before the peer's FIN, right before the socket goes to CLOSE.
        (state::FIN_WAIT1 | state::FIN_WAIT2, state::FIN_WAIT2) => {
            note_fin_wait(ctx);
            None
        }
        (
            state::ESTABLISHED
            | state::FIN_WAIT1
            | state::FIN_WAIT2
            | state::TIME_WAIT
            | state::CLOSE_WAIT
            | state::LAST_ACK
            | state::CLOSING,
            state::CLOSE,
        ) => Some(closed(ctx, old)),
        _ => None,
    }
}

#[inline(always)]
fn listener(ctx: &SockOpsContext, kind: u32, owner: u64) {
    let Some(Address { family, words }) = local(ctx) else {
        drops::count(SOCKET_UNKNOWN);
        return;
    };
    // SAFETY: no arguments, no state.
    let at_ns = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the storage of the attachment.
    let budget = unsafe { addr_of_mut!((*PLUMB_OWNER.get_ptr_mut()).listeners) };
    if !spend(budget, at_ns >> LISTENER_PERIOD_SHIFT, LISTENERS_PER_PERIOD) {
        drops::count(LISTENERS_BUDGET);
        return;
    }
    let Some(mut entry) = events::reserve::<ListenerRecord>(LISTENERS_FULL) else {
        return;
    };
    entry.write(ListenerRecord {
        kind,
        port: field!(ctx, local_port) as u16,
        family,
        pad: 0,
        address: words,
        owner,
        cookie: cookie(ctx),
        at_ns,
    });
    entry.submit(0);
}

#[inline(always)]
fn established(role: u8) -> Change {
    Change {
        role,
        counts: FlowCounts {
            connections: 1,
            ..FlowCounts::ZERO
        },
    }
}

/// A connect came to nothing. Without any answer (`segs_in`) to a SYN that was sent again, it ran out of time.
#[inline(always)]
fn failed(ctx: &SockOpsContext) -> Change {
    let timeout = field!(ctx, total_retrans) > 0 && field!(ctx, segs_in) == 0;
    Change {
        role: ROLE_CLIENT,
        counts: FlowCounts {
            failures: 1,
            timeouts: u64::from(timeout),
            ..FlowCounts::ZERO
        },
    }
}

#[inline(always)]
fn closed(ctx: &SockOpsContext, old_state: u32) -> Change {
    let client = is_client(ctx);
    let bytes_received = field!(ctx, bytes_received);
    let closing = Closing {
        old_state,
        client,
        bytes_acked: field!(ctx, bytes_acked),
        bytes_received,
        all_acked: field!(ctx, snd_una) == field!(ctx, snd_nxt),
        quiet_since_fin_wait2: if old_state == state::FIN_WAIT2 {
            quiet(ctx, bytes_received)
        } else {
            None
        },
    };
    let role = if client { ROLE_CLIENT } else { ROLE_SERVER };
    let (sent_bytes, received_bytes) = left(ctx, role, closing.sent(), closing.received());
    let counts = FlowCounts {
        closed: 1,
        sent_bytes,
        received_bytes,
        retransmits: u64::from(field!(ctx, total_retrans)),
        // The kernel keeps eight times the smoothed round-trip time.
        srtt_us_sum: u64::from(field!(ctx, srtt_us) >> 3),
        ..FlowCounts::ZERO
    };
    Change { role, counts }
}

/// What of the bytes is left for the flow: nothing when the agent follows the connection, and then the bytes are the entry's.
#[inline(always)]
fn left(ctx: &SockOpsContext, role: u8, sent_bytes: u64, received_bytes: u64) -> (u64, u64) {
    let Some(entry) = PLUMB_FOLLOWED.get_ptr_mut(cookie(ctx)) else {
        return (sent_bytes, received_bytes);
    };
    let counts = Connection {
        sent_bytes,
        received_bytes,
        closed_as: 0,
    };
    // SAFETY: the map's value. A connection closes once, and the agent only makes and removes entries.
    unsafe { entry.write_volatile(counts) };
    // SAFETY: the map's value.
    let closed_as = unsafe { addr_of_mut!((*entry).closed_as) };
    // SAFETY: an aligned u64 in a map's value. The reader looks again once it sees the role.
    unsafe { assembly::add_atomic(closed_as, u64::from(role)) };
    (0, 0)
}

/// Keeps what was received when the peer acknowledged our FIN, to tell later whether its own FIN came.
#[inline(always)]
fn note_fin_wait(ctx: &SockOpsContext) {
    let cookie = cookie(ctx);
    let Some(slot) = PLUMB_FIN_WAIT.get_ptr_mut(slot(cookie)) else {
        return;
    };
    let note = FinWait {
        cookie,
        bytes_received: field!(ctx, bytes_received),
    };
    // SAFETY: the map's value. Two CPUs may write at once; the reader checks the cookie.
    unsafe { slot.write_volatile(note) };
}

/// Whether nothing came since; `None` when another socket took the slot.
#[inline(always)]
fn quiet(ctx: &SockOpsContext, bytes_received: u64) -> Option<bool> {
    let cookie = cookie(ctx);
    let slot = PLUMB_FIN_WAIT.get_ptr_mut(slot(cookie))?;
    // SAFETY: the map's value.
    let note = unsafe { slot.read_volatile() };
    (note.cookie == cookie).then_some(note.bytes_received == bytes_received)
}

#[inline(always)]
fn slot(cookie: u64) -> u32 {
    cookie as u32 & (FIN_WAIT_SLOTS - 1)
}

/// Adds to the entry of the socket's flow; makes it if it is new; adds to the owner's overflow entry if there is no room.
#[inline(always)]
fn record(ctx: &SockOpsContext, owner: u64, change: &Change) {
    let Some(Address { family, words }) = remote(ctx) else {
        drops::count(SOCKET_UNKNOWN);
        return;
    };
    let role = change.role;
    let server_port = if role == ROLE_CLIENT {
        // Network byte order in the upper half: https://github.com/torvalds/linux/blob/v5.10/net/core/filter.c#L9007
        u32::from_be(field!(ctx, remote_port)) as u16
    } else {
        field!(ctx, local_port) as u16
    };
    let epoch = PLUMB_EPOCH.get(0).copied().unwrap_or(0);
    let key = FlowKey {
        owner,
        peer: words,
        server_port,
        family,
        role,
        epoch,
    };
    if let Some(counts) = PLUMB_FLOWS.get_ptr_mut(key) {
        add(counts, &change.counts);
        return;
    }
    // SAFETY: the storage of the attachment.
    let budget = unsafe { addr_of_mut!((*PLUMB_OWNER.get_ptr_mut()).flows) };
    let reason = if spend(budget, u64::from(epoch), FLOWS_PER_EPOCH) {
        if PLUMB_FLOWS
            .insert(key, change.counts, u64::from(BPF_NOEXIST))
            .is_ok()
        {
            return;
        }
        // Another CPU was quicker, or the table is full.
        if let Some(counts) = PLUMB_FLOWS.get_ptr_mut(key) {
            add(counts, &change.counts);
            return;
        }
        FLOWS_FULL.index
    } else {
        FLOWS_BUDGET.index
    };
    drops::count_at(reason, 1);
    match PLUMB_OVERFLOW.get_ptr_mut(FlowKey {
        peer: [assembly::zero(); 4],
        ..FlowKey::overflow(owner, role)
    }) {
        Some(counts) => add(counts, &change.counts),
        None => drops::count(OVERFLOW_MISSING),
    }
}

/// Atomic, since sockets of one flow close on several CPUs. Nothing is spent on adding nothing.
#[inline(always)]
fn add(counts: *mut FlowCounts, change: &FlowCounts) {
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
    add!(connections failures timeouts closed sent_bytes received_bytes retransmits srtt_us_sum);
}

#[inline(always)]
fn cookie(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the context of this program.
    unsafe { bpf_get_socket_cookie(ctx.ops.cast()) }
}

/// For family 10 only the ip6 fields hold anything.
#[inline(always)]
fn local(ctx: &SockOpsContext) -> Option<Address> {
    match field!(ctx, family) {
        AF_INET => Some(v4(field!(ctx, local_ip4))),
        AF_INET6 => Some(v6([
            field!(ctx, local_ip6[0]),
            field!(ctx, local_ip6[1]),
            field!(ctx, local_ip6[2]),
            field!(ctx, local_ip6[3]),
        ])),
        _ => None,
    }
}

#[inline(always)]
fn remote(ctx: &SockOpsContext) -> Option<Address> {
    match field!(ctx, family) {
        AF_INET => Some(v4(field!(ctx, remote_ip4))),
        AF_INET6 => Some(v6([
            field!(ctx, remote_ip6[0]),
            field!(ctx, remote_ip6[1]),
            field!(ctx, remote_ip6[2]),
            field!(ctx, remote_ip6[3]),
        ])),
        _ => None,
    }
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
