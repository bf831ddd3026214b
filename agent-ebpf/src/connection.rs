//! Connections whose bytes are followed while they are open.
//!
//! The agent makes an entry for a connection and reads its running counts elsewhere (`sock_diag`). When the connection
//! closes, the program finds the entry and leaves the final counts in it, instead of adding them to the flow: so the agent,
//! which knows what it has told already, adds the rest, and nothing is counted twice. A connection without an entry is
//! counted at close as a whole.

/// Connections followed at once: made one by one as needed, about 100 bytes each, so at most 1.6 MiB. Full: the agent counts
/// those that found no place, and their bytes arrive when they close.
pub const CONNECTIONS_MAX: u32 = 16_384;

/// A followed connection, by the cookie of its socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// Payload bytes that the peer acknowledged, since the connection began. 0 while it is open.
    pub sent_bytes: u64,
    /// Payload bytes received, since the connection began. 0 while it is open.
    pub received_bytes: u64,
    /// 0 while it is open; then [`ROLE_CLIENT`] or [`ROLE_SERVER`], written after the counts.
    ///
    /// [`ROLE_CLIENT`]: crate::flow::ROLE_CLIENT
    /// [`ROLE_SERVER`]: crate::flow::ROLE_SERVER
    pub closed_as: u64,
}

const _: () = assert!(size_of::<Connection>() == 24);

#[cfg(not(target_arch = "bpf"))]
mod pod {
    // SAFETY: repr(C) without padding (the size is asserted), any bits are valid.
    unsafe impl aya::Pod for super::Connection {}
}
