//! Counters of what was not recorded, one per reason and CPU.
//!
//! Map: `PLUMB_DROPS`, cannot be full. Kernel: 4.6.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use plumbline_ebpf::drops::{CAPACITY, Reason};

use super::assembly;

#[map]
static PLUMB_DROPS: PerCpuArray<u64> = PerCpuArray::with_max_entries(CAPACITY, 0);

/// Counts one.
#[inline(always)]
pub(crate) fn count(reason: Reason) {
    count_many(reason, 1);
}

/// Counts several.
#[inline(always)]
pub(crate) fn count_many(reason: Reason, many: u64) {
    count_at(reason.index, many);
}

/// Counts several, by the index of the reason.
#[inline(always)]
pub(crate) fn count_at(index: u32, many: u64) {
    if let Some(counter) = PLUMB_DROPS.get_ptr_mut(index) {
        // SAFETY: the map's value is one aligned u64. Atomic, since a softirq may interrupt a program on the same CPU.
        unsafe { assembly::add_atomic(counter, many) };
    }
}
