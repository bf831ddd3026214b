//! Ports that programs chose: `bind` sees which port they asked for, `post_bind` that they got it, `sock_release` the end.

use core::ptr::read_volatile;

use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr};
use aya_ebpf::programs::{SockAddrContext, SockContext};
use plumbline_ebpf::drops::{UDP_SOCKETS_BUDGET, UDP_SOCKETS_FULL};
use plumbline_ebpf::event::{LISTENER_CLOSED, LISTENER_OPENED};
use plumbline_ebpf::flow::FAMILY_NONE;
use plumbline_ebpf::udp::{HEARD, SOCKETS_PER_OWNER, Socket, UNHEARD};

use super::{
    Address, PLUMB_UDP_HEARD, PLUMB_UDP_QUOTA, PLUMB_UDP_SOCKS, UDP, assembly, attachment, drops,
    field, refuse, tell, v4, v6,
};

/// A program asks for a port; TCP leaves at once.
#[cgroup_sock_addr(bind4)]
pub(crate) fn plumb_bind4(ctx: SockAddrContext) -> i32 {
    asked(ctx.sock_addr);
    1
}

/// The same of IPv6.
#[cgroup_sock_addr(bind6)]
pub(crate) fn plumb_bind6(ctx: SockAddrContext) -> i32 {
    asked(ctx.sock_addr);
    1
}

/// A socket has got its port.
#[cgroup_sock(post_bind4)]
pub(crate) fn plumb_bound4(ctx: SockContext) -> i32 {
    if field!(ctx.sock, protocol) == UDP {
        got(&ctx, &v4(field!(ctx.sock, src_ip4)));
    }
    1
}

/// The same of IPv6.
#[cgroup_sock(post_bind6)]
pub(crate) fn plumb_bound6(ctx: SockContext) -> i32 {
    if field!(ctx.sock, protocol) == UDP {
        let address = v6([
            field!(ctx.sock, src_ip6[0]),
            field!(ctx.sock, src_ip6[1]),
            field!(ctx.sock, src_ip6[2]),
            field!(ctx.sock, src_ip6[3]),
        ]);
        got(&ctx, &address);
    }
    1
}

/// A socket is closed by the last that held it; TCP leaves at once.
#[cgroup_sock(sock_release)]
pub(crate) fn plumb_close(ctx: SockContext) -> i32 {
    if field!(ctx.sock, protocol) == UDP {
        let cookie = cookie(&ctx);
        if let Some(socket) = take(cookie)
            && socket.family != FAMILY_NONE
            && socket.connected == 0
        {
            tell(LISTENER_CLOSED, cookie, &socket);
        }
    }
    1
}

#[inline(always)]
fn cookie(ctx: &SockContext) -> u64 {
    let sock: *mut bpf_sock = ctx.sock;
    // SAFETY: the context of this program.
    unsafe { bpf_get_socket_cookie(sock.cast()) }
}

/// Remembers the wish until `post_bind`, which sees the port but not who chose it.
#[inline(always)]
fn asked(ctx: *mut bpf_sock_addr) {
    if field!(ctx, protocol) != UDP {
        return;
    }
    // SAFETY: the context of this program.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.cast()) };
    if field!(ctx, user_port) == 0 {
        // An earlier wish may have been refused.
        take(cookie);
        return;
    }
    let Some((attachment, owner)) = attachment() else {
        return;
    };
    if PLUMB_UDP_SOCKS.get_ptr(cookie).is_some() {
        return;
    }
    let zero = assembly::zero();
    let heard = PLUMB_UDP_HEARD.get_ptr(owner).is_some_and(|state| {
        // SAFETY: a value of the map.
        unsafe { read_volatile(state) == HEARD }
    });
    let socket = Socket {
        owner,
        address: [zero; 4],
        port: 0,
        family: FAMILY_NONE,
        role: if heard { 0 } else { UNHEARD },
        connected: zero,
    };
    let Some(used) = PLUMB_UDP_QUOTA.get_ptr_mut(owner) else {
        drops::count(UDP_SOCKETS_BUDGET);
        refuse(attachment);
        return;
    };
    // Counted before it is looked at: CPUs that bind at once may refuse each other the last places, and never take more.
    // SAFETY: an aligned u64 in a map's value.
    unsafe { assembly::add_atomic(used, 1) };
    // SAFETY: a value of the map.
    if unsafe { read_volatile(used) } > SOCKETS_PER_OWNER {
        drops::count(UDP_SOCKETS_BUDGET);
        refuse(attachment);
    } else if PLUMB_UDP_SOCKS.insert(cookie, socket, 0).is_ok() {
        return;
    } else {
        drops::count(UDP_SOCKETS_FULL);
    }
    // SAFETY: as above. Adds minus one.
    unsafe { assembly::add_atomic(used, u64::MAX) };
}

#[inline(always)]
fn got(ctx: &SockContext, address: &Address) {
    let cookie = cookie(ctx);
    let Some(socket) = PLUMB_UDP_SOCKS.get_ptr_mut(cookie) else {
        return;
    };
    // SAFETY: a value of the map.
    let before = unsafe { socket.read_volatile() };
    let bound = Socket {
        owner: before.owner,
        address: address.words,
        port: field!(ctx.sock, src_port) as u16,
        family: address.family,
        role: before.role,
        connected: before.connected,
    };
    // SAFETY: as above; only the thread that binds writes here.
    unsafe { socket.write_volatile(bound) };
    tell(LISTENER_OPENED, cookie, &bound);
}

/// Takes the entry of a socket out.
#[inline(always)]
fn take(cookie: u64) -> Option<Socket> {
    let socket = PLUMB_UDP_SOCKS.get_ptr(cookie)?;
    // SAFETY: a value of the map.
    let socket = unsafe { socket.read_volatile() };
    if PLUMB_UDP_SOCKS.remove(cookie).is_err() {
        return None;
    }
    if let Some(used) = PLUMB_UDP_QUOTA.get_ptr_mut(socket.owner)
        // A quota that began anew meanwhile does not hold this socket, and must not fall below zero.
        // SAFETY: a value of the map.
        && unsafe { read_volatile(used) } > 0
    {
        // SAFETY: an aligned u64 in a map's value. Adds minus one.
        unsafe { assembly::add_atomic(used, u64::MAX) };
    }
    Some(socket)
}
