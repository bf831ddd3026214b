//! The eBPF object for UDP, beside the one of `main.rs`: what a kernel lacks of it costs UDP only.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    feature(asm_experimental_arch),
    expect(
        unstable_features,
        reason = "inline assembly; the toolchain of the object is a nightly, or told to be one"
    )
)]

#[cfg(target_arch = "bpf")]
mod probes {
    pub(crate) mod assembly;
    pub(crate) mod drops;
    pub(crate) mod udp;
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

/// The verifier refuses a program that could get here.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
