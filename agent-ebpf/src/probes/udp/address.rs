//! Peers, from the hooks that see addresses: `connect` of a socket, `sendmsg` to an address, `recvmsg` that asks for one.
//!
//! Not seen: `send` and `recv` of a connected socket (its `connect` is), `recv` without an address, and what a container
//! receives before one of its programs chose a port or sent to a port of the dynamic range.

use core::ptr::{addr_of_mut, write_volatile};

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use plumbline_ebpf::event::LISTENER_CLOSED;
use plumbline_ebpf::flow::{ROLE_CLIENT, ROLE_SERVER};
use plumbline_ebpf::udp::Counts;

use super::{
    Address, UDP, ask, attachment, bound, dynamic, field, met, record, role, tell, v4, v6,
};

/// One association.
const ONE: Counts = Counts {
    associations: 1,
    ..Counts::ZERO
};

/// A datagram socket gets a peer; TCP leaves at once.
#[cgroup_sock_addr(connect4)]
pub(crate) fn plumb_conn4(ctx: SockAddrContext) -> i32 {
    if field!(ctx.sock_addr, protocol) == UDP {
        connected(ctx.sock_addr, &peer4(ctx.sock_addr));
    }
    1
}

/// The same of IPv6.
#[cgroup_sock_addr(connect6)]
pub(crate) fn plumb_conn6(ctx: SockAddrContext) -> i32 {
    if field!(ctx.sock_addr, protocol) == UDP {
        connected(ctx.sock_addr, &peer6(ctx.sock_addr));
    }
    1
}

/// A datagram leaves for an address that is given with it.
#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn plumb_send4(ctx: SockAddrContext) -> i32 {
    exchanged(ctx.sock_addr, &peer4(ctx.sock_addr), false);
    1
}

/// The same of IPv6.
#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn plumb_send6(ctx: SockAddrContext) -> i32 {
    exchanged(ctx.sock_addr, &peer6(ctx.sock_addr), false);
    1
}

/// A program takes a datagram and asks where it came from.
#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn plumb_recv4(ctx: SockAddrContext) -> i32 {
    exchanged(ctx.sock_addr, &peer4(ctx.sock_addr), true);
    1
}

/// The same of IPv6.
#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn plumb_recv6(ctx: SockAddrContext) -> i32 {
    exchanged(ctx.sock_addr, &peer6(ctx.sock_addr), true);
    1
}

#[inline(always)]
fn peer4(ctx: *mut bpf_sock_addr) -> Address {
    v4(field!(ctx, user_ip4))
}

#[inline(always)]
fn peer6(ctx: *mut bpf_sock_addr) -> Address {
    v6([
        field!(ctx, user_ip6[0]),
        field!(ctx, user_ip6[1]),
        field!(ctx, user_ip6[2]),
        field!(ctx, user_ip6[3]),
    ])
}

/// The peer's port: network byte order in the lower half.
#[inline(always)]
fn peer_port(ctx: *mut bpf_sock_addr) -> u16 {
    u16::from_be(field!(ctx, user_port) as u16)
}

#[inline(always)]
fn cookie(ctx: *mut bpf_sock_addr) -> u64 {
    // SAFETY: the context of this program.
    unsafe { bpf_get_socket_cookie(ctx.cast()) }
}

#[inline(always)]
fn connected(ctx: *mut bpf_sock_addr, peer: &Address) {
    let port = peer_port(ctx);
    // Resolvers connect to port 0 only to learn which address the kernel would send from.
    if port == 0 {
        return;
    }
    let cookie = cookie(ctx);
    let Some(attachment) = attachment() else {
        return;
    };
    met(cookie, peer, port);
    let (mut role, mut server_port) = (ROLE_CLIENT, port);
    if let Some(socket) = bound(cookie) {
        // SAFETY: a value of the map.
        let known = unsafe { socket.read_volatile() };
        if known.connected == 0 {
            // SAFETY: as above.
            unsafe { write_volatile(addr_of_mut!((*socket).connected), 1) };
            tell(LISTENER_CLOSED, cookie, &known);
        }
        if known.role == ROLE_SERVER {
            (role, server_port) = (ROLE_SERVER, known.port);
        } else {
            // SAFETY: as above.
            unsafe { write_volatile(addr_of_mut!((*socket).role), ROLE_CLIENT) };
        }
    }
    record(attachment, role, peer, server_port, &ONE);
}

#[inline(always)]
fn exchanged(ctx: *mut bpf_sock_addr, peer: &Address, received: bool) {
    if field!(ctx, protocol) != UDP {
        return;
    }
    let (cookie, port) = (cookie(ctx), peer_port(ctx));
    // Nearly every datagram leaves here.
    if met(cookie, peer, port) {
        return;
    }
    let Some(attachment) = attachment() else {
        return;
    };
    let socket = field!(ctx, __bindgen_anon_1.sk);
    if socket.is_null() {
        return;
    }
    let local_port = field!(socket, src_port) as u16;
    let Some(role) = role(attachment.1, cookie, local_port, received) else {
        return;
    };
    let server_port = if role == ROLE_SERVER {
        local_port
    } else {
        // To a port that the kernel gives out: the answer of a server whose own port the kernel gave out looks the same.
        if !received && dynamic(attachment.1, port) {
            ask(attachment.1);
        }
        port
    };
    record(attachment, role, peer, server_port, &ONE);
}
