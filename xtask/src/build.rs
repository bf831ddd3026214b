//! `cargo xtask build`: the agent with its eBPF object.

use std::path::PathBuf;

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
    let mut cargo = tools.cargo();
    cargo.args(["build", "--package", "plumbline"]);
    if release {
        cargo.arg("--release");
    }
    shell::run(&mut cargo)?;
    Ok(shell::target()
        .join(if release { "release" } else { "debug" })
        .join("plumbline"))
}
