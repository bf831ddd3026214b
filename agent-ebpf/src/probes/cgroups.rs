//! Cgroup directories that come and go.
//!
//! Hooks: raw tracepoints `cgroup_mkdir` and `cgroup_rmdir`, whose arguments are `struct cgroup *` and `const char *path`
//! (<https://github.com/torvalds/linux/blob/v5.10/include/trace/events/cgroup.h#L54>). Raw, because an ordinary tracepoint
//! needs tracefs, which is not mounted everywhere. The id lies in a struct whose layout we do not know, so that user space
//! asks for it. Kernel: 5.5 (`bpf_probe_read_kernel_str`). Fallback: the agent's rescan. Maps: the ring.

use core::ptr::{addr_of_mut, from_mut};

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use plumbline_ebpf::drops::{CGROUPS_FULL, PATH_UNREADABLE};
use plumbline_ebpf::event::{CGROUP_MADE, CGROUP_REMOVED, CgroupRecord, PATH_CAPACITY};

use super::{drops, events};

/// A directory is being made; it can be opened some microseconds later.
#[raw_tracepoint]
pub(crate) fn plumb_mkdir(ctx: RawTracePointContext) -> i32 {
    record(&ctx, CGROUP_MADE);
    0
}

/// A directory was removed.
#[raw_tracepoint]
pub(crate) fn plumb_rmdir(ctx: RawTracePointContext) -> i32 {
    record(&ctx, CGROUP_REMOVED);
    0
}

#[inline(always)]
fn record(ctx: &RawTracePointContext, kind: u32) {
    let path: *const u8 = ctx.arg(1);
    let Some(mut entry) = events::reserve::<CgroupRecord>(CGROUPS_FULL) else {
        return;
    };
    // In place: the record is larger than the stack.
    let record = entry.as_mut_ptr();
    // SAFETY: the ring reserved a whole record, aligned to 8 bytes.
    let to = unsafe { addr_of_mut!((*record).path) };
    // SAFETY: the buffer has this capacity; the helper checks the source.
    let read = unsafe { bpf_probe_read_kernel_str(to.cast(), PATH_CAPACITY as u32, path.cast()) };
    if read <= 0 {
        entry.discard(0);
        drops::count(PATH_UNREADABLE);
        return;
    }
    // SAFETY: as above; the path is not touched by these.
    let record = unsafe { &mut *record };
    record.kind = kind;
    record.length = read as u32;
    // SAFETY: no arguments, no state.
    record.at_ns = unsafe { bpf_ktime_get_ns() };
    let _: *mut CgroupRecord = from_mut(record);
    entry.submit(0);
}
