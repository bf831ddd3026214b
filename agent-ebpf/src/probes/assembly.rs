//! What Rust cannot say for this target.

use core::arch::asm;

/// Adds `many` to `*counter`, atomically and without a result: the one atomic operation that Linux 5.10 has.
///
/// Rust gives the target no `AtomicU64::fetch_add`, since its oldest instruction set has no compare-and-swap.
///
/// # Safety
///
/// `counter` points to an aligned u64 in a map's value.
#[inline(always)]
pub(crate) unsafe fn add_atomic(counter: *mut u64, many: u64) {
    // SAFETY: BPF_XADD on the word that the caller vouches for; touches no other memory and no stack.
    unsafe {
        asm!("lock *(u64 *)({counter} + 0) += {many}", counter = in(reg) counter, many = in(reg) many, options(nostack));
    }
}

/// Zero, which LLVM does not know to be zero: of a run of known zeros it would make a call of `memset`. That adds to a
/// pointer in a loop, which the verifier allows only with CAP_PERFMON (`R5 tried to add from different maps, paths or
/// scalars, pointer arithmetic with it prohibited for !root`).
#[inline(always)]
pub(crate) fn zero() -> u32 {
    let zero: u64;
    // SAFETY: sets a register, touches no memory and no stack.
    unsafe {
        asm!("{zero} = 0", zero = out(reg) zero, options(pure, nomem, nostack));
    }
    zero as u32
}
