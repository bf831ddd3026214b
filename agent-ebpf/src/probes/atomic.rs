//! The one atomic operation that Linux 5.10 has: adding to a word in memory, without a result.

use core::arch::asm;

/// Adds `many` to `*counter`.
///
/// Rust gives the target no `AtomicU64::fetch_add`, since its oldest instruction set has no compare-and-swap.
///
/// # Safety
///
/// `counter` points to an aligned u64 in a map's value.
#[inline(always)]
pub(crate) unsafe fn add(counter: *mut u64, many: u64) {
    // SAFETY: BPF_XADD on the word that the caller vouches for; touches no other memory and no stack.
    unsafe {
        asm!("lock *(u64 *)({counter} + 0) += {many}", counter = in(reg) counter, many = in(reg) many, options(nostack));
    }
}
