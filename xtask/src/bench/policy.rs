//! `cargo xtask bench policy`: how many flows one core judges against 500 policies, each another one. No root, no network.

use std::process::Command;

use anyhow::Result;

use crate::{setup, shell};

/// How often.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Repetitions
    #[arg(long, value_name = "N", default_value_t = 3)]
    reps: u32,
}

/// Builds, judges, prints a line for each cluster.
pub(crate) fn command(arguments: &Arguments) -> Result<()> {
    let mut build = setup::Cargo::find().command();
    shell::run(build.args([
        "build",
        "--release",
        "--quiet",
        "--package",
        "plumbline-core",
        "--example",
        "policy",
    ]))?;
    let program = shell::target().join("release/examples/policy");
    for _ in 0..arguments.reps {
        let figures = shell::stdout_of(&mut Command::new(&program))?;
        shell::out(figures.trim_end());
    }
    Ok(())
}
