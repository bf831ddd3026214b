//! Builds the eBPF object from source, so that `plumbline` embeds it and never loads one from disk or network.

use anyhow::{Context as _, anyhow};
use aya_build::{Package, Toolchain};

/// A rustup toolchain with rust-src other than `nightly`, such as Debian's rustc linked as `debian`.
const TOOLCHAIN: &str = "PLUMBLINE_EBPF_TOOLCHAIN";

/// The object must load on Linux 5.10, so that LLVM may use version 2 of the instruction set and not its default. aya-build
/// fixes the compiler's flags, but for those of the profile, which cargo takes from the environment. The second spares
/// macros and build scripts, which run on the host.
const ENVIRONMENT: [(&str, &str); 4] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3"),
    ("CARGO_UNSTABLE_PROFILE_RUSTFLAGS", "true"),
    ("CARGO_PROFILE_RELEASE_RUSTFLAGS", "-Ctarget-cpu=v2"),
    (
        "CARGO_PROFILE_RELEASE_BUILD_OVERRIDE_RUSTFLAGS",
        "-Cdebuginfo=0",
    ),
];

fn main() -> anyhow::Result<()> {
    println!("cargo:rerun-if-env-changed={TOOLCHAIN}");
    println!("cargo:rerun-if-changed=../agent-ebpf/src");
    println!("cargo:rustc-check-cfg=cfg(plumbline_no_ebpf)");
    if std::env::var_os("AYA_BUILD_SKIP").is_some_and(|skip| skip == "1") {
        println!("cargo:rustc-cfg=plumbline_no_ebpf");
        return Ok(());
    }
    let toolchain = std::env::var(TOOLCHAIN).ok();
    for (name, value) in ENVIRONMENT {
        // SAFETY: a build script has one thread; the cargo that aya-build starts reads this.
        unsafe { std::env::set_var(name, value) }
    }
    if toolchain.is_some() {
        // SAFETY: a build script has one thread; aya-build and the cargo it starts read this to allow `-Z build-std`.
        unsafe { std::env::set_var("RUSTC_BOOTSTRAP", "1") }
    }
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../agent-ebpf");
    let package = Package {
        name: "plumbline-ebpf",
        root_dir: root,
        ..Package::default()
    };
    aya_build::build_ebpf(
        [package],
        toolchain
            .as_deref()
            .map_or(Toolchain::Nightly, Toolchain::Custom),
    )
    .map_err(|e| anyhow!("{e:#}"))
    .context("build the eBPF object; `cargo xtask setup` installs what it needs and says how")
}
