//! `cargo xtask build`: the agent with its eBPF object.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::{
    setup::{self, EbpfTools},
    shell,
};

/// What to build.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Optimised and stripped, as shipped
    #[arg(long)]
    release: bool,
}

/// The command: builds and prints where the binary is.
pub(crate) fn command(arguments: &Arguments) -> Result<()> {
    let binary = agent(&setup::ensure()?, arguments.release)?;
    shell::out(shell::relative(&binary));
    Ok(())
}

/// Builds the agent and returns its binary.
pub(crate) fn agent(tools: &EbpfTools, release: bool) -> Result<PathBuf> {
    let profile: &[&str] = if release { &["--release"] } else { &[] };
    shell::run(cargo_build(tools).args(profile))?;
    Ok(shell::target()
        .join(if release { "release" } else { "debug" })
        .join("plumbline"))
}

/// The same for development, with cargo's output in a log.
pub(crate) fn agent_logged(tools: &EbpfTools) -> Result<PathBuf> {
    shell::run_logged(
        "building the agent (some minutes the first time)",
        "build",
        &mut cargo_build(tools),
    )?;
    Ok(shell::target().join("debug/plumbline"))
}

fn cargo_build(tools: &EbpfTools) -> Command {
    let mut cargo = tools.cargo();
    cargo.args(["build", "--package", "plumbline"]);
    cargo
}
