//! `cargo xtask setup`: finds, or installs, what building the eBPF object needs. Asks the machine each time instead of trusting a note of an earlier run.

mod apt;
mod component;
mod linker;
mod toolchain;

pub(crate) use apt::Apt;
pub(crate) use component::Component;

use std::{ffi::OsString, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure as ensure_that};

use crate::shell;
use toolchain::Toolchain;

/// The variable by which `agent/build.rs` is told the toolchain.
const TOOLCHAIN_VARIABLE: &str = "PLUMBLINE_EBPF_TOOLCHAIN";

/// What cargo must be given to build the eBPF object.
pub(crate) struct EbpfTools {
    toolchain: Toolchain,
    linker: PathBuf,
    path: OsString,
}

impl EbpfTools {
    /// `cargo` with the environment that lets `agent/build.rs` build the eBPF object.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new("cargo");
        command
            .current_dir(shell::root())
            .env("PATH", &self.path)
            .env(TOOLCHAIN_VARIABLE, &self.toolchain.name);
        command.env_remove("AYA_BUILD_SKIP");
        command
    }
}

/// cargo with the eBPF object if this machine can build it, else without.
pub(crate) enum Cargo {
    /// Builds everything.
    WithEbpf(EbpfTools),
    /// Builds the host side alone, for this reason.
    HostOnly(String),
}

impl Cargo {
    /// Like [`ensure`], but a machine that cannot build the eBPF object still gets the host side.
    pub(crate) fn find() -> Self {
        ensure().map_or_else(|error| Self::HostOnly(format!("{error:#}")), Self::WithEbpf)
    }

    /// A `cargo` command in the workspace.
    pub(crate) fn command(&self) -> Command {
        match self {
            Self::WithEbpf(tools) => tools.cargo(),
            Self::HostOnly(_) => {
                let mut command = Command::new("cargo");
                command
                    .current_dir(shell::root())
                    .env("AYA_BUILD_SKIP", "1");
                command
            }
        }
    }
}

/// Finds what the eBPF build needs and installs what is missing, saying what it does. Quick and silent when all is there.
///
/// # Errors
/// What is missing and how to get it, when neither way of installing it works here.
pub(crate) fn ensure() -> Result<EbpfTools> {
    let toolchain =
        toolchain::ensure().context("no Rust toolchain that can build the eBPF object")?;
    let linker =
        linker::ensure(&toolchain).context("no bpf-linker that works with that toolchain")?;
    let linker_dir = linker
        .parent()
        .context("bpf-linker lies in a folder")?
        .to_owned();
    // Without rustup, aya-build takes whatever cargo comes first.
    let first: Vec<PathBuf> = toolchain
        .path_first
        .iter()
        .cloned()
        .chain([linker_dir])
        .collect();
    let path = shell::path_with(&first)?;
    Ok(EbpfTools {
        toolchain,
        linker,
        path,
    })
}

/// `cargo install` of a tool into the workspace's own folder, from the registry, locked. Built for a quick build rather than a
/// quick tool: these run for a second or two each.
pub(crate) fn cargo_install(name: &str, version: &str) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.args([
        "install",
        name,
        "--version",
        version,
        "--locked",
        "--force",
        "--no-default-features",
        "--root",
    ]);
    cargo.arg(shell::tools());
    for (setting, value) in [
        ("OPT_LEVEL", "1"),
        ("DEBUG", "0"),
        ("LTO", "off"),
        ("CODEGEN_UNITS", "16"),
    ] {
        cargo.env(format!("CARGO_PROFILE_RELEASE_{setting}"), value);
    }
    cargo
}

/// Makes sure that a program is there, if need be by installing Debian's package of it. Folders for root count: who is not
/// root runs such programs by sudo.
///
/// # Errors
/// The line to run as root, or that there is no apt here.
pub(crate) fn program(name: &str, package: &str) -> Result<()> {
    let mut path = shell::path();
    path.push(":/usr/sbin:/sbin");
    if shell::which(name, &path).is_some() {
        return Ok(());
    }
    let apt =
        Apt::find().with_context(|| format!("there is no `{name}` on PATH; install {package}"))?;
    apt.install(&[package])
        .with_context(|| format!("there is no `{name}`"))?;
    ensure_that!(
        shell::which(name, &path).is_some(),
        "{package} is installed, but there is no `{name}` on PATH"
    );
    Ok(())
}

/// The command: ensures, then says what is in use and how to build without xtask.
pub(crate) fn command() -> Result<()> {
    let tools = ensure()?;
    let toolchain = &tools.toolchain;
    shell::out(format_args!(
        "toolchain   {} ({}, LLVM {})",
        toolchain.name, toolchain.version, toolchain.llvm_major
    ));
    shell::out(format_args!(
        "bpf-linker  {}",
        shell::relative(&tools.linker)
    ));
    let dir = tools
        .linker
        .parent()
        .map(|dir| dir.display().to_string())
        .unwrap_or_default();
    shell::out(
        "\nEverything the eBPF build needs is there. The other commands of xtask use it by themselves; for plain cargo:",
    );
    shell::out(format_args!(
        "  export PATH={dir}:$PATH {TOOLCHAIN_VARIABLE}={}",
        toolchain.name
    ));
    Ok(())
}
