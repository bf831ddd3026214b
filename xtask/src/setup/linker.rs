//! A bpf-linker that reads the toolchain's bitcode: one that is there, or built against the toolchain's own LLVM.

use std::{
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::toolchain::Toolchain;
use crate::shell;

/// The release that is built when none fits.
const VERSION: &str = "0.13.0";
/// The LLVMs that release can be built against; each is a feature of its own.
pub(crate) const LLVM_MAJORS: RangeInclusive<u32> = 21..=23;
/// Enough to see whether a linker understands a toolchain: stable Rust for the host, linked for BPF with debug information.
const TRIAL: &str = "#![no_std]\n#[unsafe(no_mangle)]\npub extern \"C\" fn f(a: u64) -> u64 { a.wrapping_mul(3) }\n";

/// Finds or builds a bpf-linker.
pub(crate) fn ensure(toolchain: &Toolchain) -> Result<PathBuf> {
    let own = shell::tools().join("bin/bpf-linker");
    let bitcode = trial_bitcode(toolchain)?;
    // The workspace's own goes first: it was built against exactly this toolchain.
    let known = [
        Some(own.clone()),
        shell::which("bpf-linker", &shell::path()),
    ];
    if let Some(linker) = known
        .into_iter()
        .flatten()
        .find(|linker| links(linker, &bitcode).is_ok())
    {
        return Ok(linker);
    }
    build(toolchain)?;
    links(&own, &bitcode)
        .with_context(|| format!("{} was built, but does not work", shell::relative(&own)))?;
    Ok(own)
}

/// Bitcode as the toolchain makes it.
fn trial_bitcode(toolchain: &Toolchain) -> Result<PathBuf> {
    let dir = shell::target().join("xtask");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let (source, bitcode) = (dir.join("trial.rs"), dir.join("trial.bc"));
    fs::write(&source, TRIAL).with_context(|| format!("write {}", source.display()))?;
    let mut rustc = Command::new(toolchain.sysroot.join("bin/rustc"));
    rustc
        .args([
            "--crate-type=lib",
            "--emit=llvm-bc",
            "-Cpanic=abort",
            "-Cdebuginfo=2",
            "-o",
        ])
        .arg(&bitcode)
        .arg(&source);
    shell::stdout_of(&mut rustc)?;
    Ok(bitcode)
}

/// Whether the linker makes an object of the bitcode.
fn links(linker: &Path, bitcode: &Path) -> Result<()> {
    ensure!(linker.exists(), "{} does not exist", linker.display());
    let object = bitcode.with_extension("o");
    let mut command = Command::new(linker);
    command
        .args([
            "--target", "bpf", "--btf", "--emit", "obj", "--export", "f", "-o",
        ])
        .arg(&object)
        .arg(bitcode);
    shell::stdout_of(&mut command).map(|_| ())
}

/// Builds bpf-linker into the workspace's tools. It needs no LLVM packages: the shared library inside the toolchain has all
/// it uses, and is by construction the version that wrote the bitcode.
fn build(toolchain: &Toolchain) -> Result<()> {
    let prefix = llvm_prefix(toolchain)?;
    let feature = format!("llvm-{}", toolchain.llvm_major);
    let mut cargo = super::cargo_install("bpf-linker", VERSION);
    cargo
        .args(["--features", &feature])
        .env("LLVM_PREFIX", &prefix);
    if let Some(first) = &toolchain.path_first {
        cargo.env("PATH", shell::path_with(std::slice::from_ref(first))?);
    }
    shell::run_logged(
        &format!("building bpf-linker {VERSION} (one to three minutes)"),
        "bpf-linker",
        &mut cargo,
    )
}

/// A folder laid out as bpf-linker's build wants it, `lib/libLLVM.so`, pointing to the toolchain's LLVM.
fn llvm_prefix(toolchain: &Toolchain) -> Result<PathBuf> {
    let library = llvm_library(toolchain)?;
    let name = library.file_name().context("a library has a name")?;
    let prefix = shell::tools().join("llvm").join(name);
    let lib = prefix.join("lib");
    fs::create_dir_all(&lib).with_context(|| format!("create {}", lib.display()))?;
    // Under its own name too: that is what the linked program asks for at run time.
    for link in [lib.join("libLLVM.so"), lib.join(name)] {
        if link.symlink_metadata().is_ok() {
            fs::remove_file(&link).with_context(|| format!("remove {}", link.display()))?;
        }
        std::os::unix::fs::symlink(&library, &link)
            .with_context(|| format!("link {}", link.display()))?;
    }
    Ok(prefix)
}

/// The shared LLVM that the toolchain's rustc loads.
fn llvm_library(toolchain: &Toolchain) -> Result<PathBuf> {
    // rustc names its driver, the driver names LLVM; ldd follows both.
    let rustc = toolchain.sysroot.join("bin/rustc");
    let said = shell::stdout_of(Command::new("ldd").arg(&rustc))?;
    let library = llvm_of_ldd(&said).with_context(|| {
        format!(
            "{} carries its LLVM inside; put a bpf-linker for LLVM {} on PATH",
            rustc.display(),
            toolchain.llvm_major
        )
    })?;
    fs::canonicalize(library).with_context(|| format!("find {library}"))
}

/// The path of libLLVM in ldd's output.
fn llvm_of_ldd(said: &str) -> Option<&str> {
    let line = said
        .lines()
        .map(str::trim)
        .find(|line| line.starts_with("libLLVM"))?;
    line.split_once("=> ")?
        .1
        .split(" (")
        .next()
        .filter(|path| path.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::llvm_of_ldd;

    #[test]
    fn llvm_in_ldd() {
        let said = "\tlinux-vdso.so.1 (0x1)\n\tlibLLVM.so.22.1 => /lib/x/libLLVM.so.22.1 (0x2)\n\tlibc.so.6 => /lib/libc.so.6 (0x3)\n";
        assert_eq!(llvm_of_ldd(said), Some("/lib/x/libLLVM.so.22.1"));
        assert_eq!(llvm_of_ldd("\tlibLLVM.so.22.1 => not found\n"), None);
        assert_eq!(llvm_of_ldd("\tlibc.so.6 => /lib/libc.so.6 (0x3)\n"), None);
    }
}
