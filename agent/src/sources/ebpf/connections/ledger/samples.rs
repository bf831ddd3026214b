//! What the counters of one reading say about a connection (pure).

use plumbline_core::observation::Role;
use plumbline_ebpf::flow::{ROLE_CLIENT, ROLE_SERVER, state};

use crate::sources::sock_diag::message::Sample;

/// A role as one reading has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Guess {
    pub(super) role: Role,
    /// Nothing was on its way, so that all counts are of one moment.
    pub(super) exact: bool,
}

/// Which end a closed connection was.
pub(super) fn role_of(closed_as: u64) -> Option<Role> {
    if closed_as == u64::from(ROLE_CLIENT) {
        Some(Role::Client)
    } else if closed_as == u64::from(ROLE_SERVER) {
        Some(Role::Server)
    } else {
        None
    }
}

/// Neither end has sent a FIN that our counts of sent bytes could hold.
pub(super) fn is_open(state: u8) -> bool {
    matches!(u32::from(state), state::ESTABLISHED | state::CLOSE_WAIT)
}

/// A connection's role from its counts. Nothing that `sock_diag` tells is a role, but a client's SYN is acknowledged like a
/// byte and is no payload: so what was acknowledged is one more than the payload that was sent and arrived.
///
/// While something is on its way the counts are not all of one moment; then two readings must agree. The state that comes
/// with a reading may be older than its counts, so that a later reading must still find the connection open.
pub(super) fn guess(sample: Sample) -> Option<Guess> {
    let exact = sample.unacked == 0;
    let in_flight = if exact { 0 } else { sample.in_flight };
    let arrived = sample.sent_once?.checked_sub(in_flight)?;
    let role = match sample.acked.checked_sub(arrived)? {
        0 => Role::Server,
        1 => Role::Client,
        _ => return None,
    };
    is_open(sample.state).then_some(Guess { role, exact })
}

/// Payload bytes acknowledged: without a client's SYN, and without a FIN, which `sent_once` never holds.
pub(super) fn sent(sample: &Sample, role: Role) -> u64 {
    let payload = sample.acked.saturating_sub(u64::from(role == Role::Client));
    sample
        .sent_once
        .map_or(payload, |sent_once| payload.min(sent_once))
}

/// Payload bytes received: without the peer's FIN.
pub(super) fn received(sample: &Sample) -> u64 {
    let fin = matches!(
        u32::from(sample.state),
        state::CLOSE_WAIT | state::LAST_ACK | state::CLOSING
    );
    sample.received.saturating_sub(u64::from(fin))
}
