//! The ring of rare events, shared by all hook families.
//!
//! Map: `PLUMB_EVENTS`. Full: the record is dropped and counted; scans make up for it. Kernel: 5.8.

use aya_ebpf::macros::map;
use aya_ebpf::maps::RingBuf;
use aya_ebpf::maps::ring_buf::RingBufEntry;
use plumbline_ebpf::drops::Reason;
use plumbline_ebpf::event::RING_BYTES;

use super::drops;

#[map]
static PLUMB_EVENTS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// Room for a record, or a count of what found none, for the given reason.
#[inline(always)]
pub(crate) fn reserve<T: 'static>(full: Reason) -> Option<RingBufEntry<T>> {
    let entry = PLUMB_EVENTS.reserve(0);
    if entry.is_none() {
        drops::count(full);
    }
    entry
}
