//! `cargo xtask check`: everything about the source that a tool can judge. All steps run; failures are listed at the end.

mod deny;
mod tidy;

use anyhow::{Result, bail};

use crate::{
    dashboards,
    setup::{self, Component},
    shell,
};

/// Which checks to run.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Also look for known vulnerabilities; fetches their database
    #[arg(long)]
    online: bool,
}

/// The command.
pub(crate) fn command(arguments: &Arguments) -> Result<()> {
    run(&setup::Cargo::find(), arguments.online)
}

/// Runs every step, even after one failed.
pub(crate) fn run(cargo: &setup::Cargo, online: bool) -> Result<()> {
    let failed: Vec<&str> = [
        step("fmt", || {
            Component::FMT.ensure(cargo)?;
            shell::run(cargo.command().args(["fmt", "--all", "--check"]))
        }),
        step("clippy", || clippy(cargo)),
        step("deny", || deny::run(online)),
        step("tree", deny::tree),
        step("tidy", tidy::run),
        step("dashboards", dashboards::lint),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !failed.is_empty() {
        bail!("check failed: {}", failed.join(", "));
    }
    shell::note("check: all is well");
    Ok(())
}

/// One step; its name if it failed.
fn step(name: &'static str, check: impl FnOnce() -> Result<()>) -> Option<&'static str> {
    shell::note(format_args!("check {name}"));
    let error = check().err()?;
    shell::note(format_args!("check {name}: {error:#}"));
    Some(name)
}

/// All targets of all packages for the host; the eBPF package has a host side too. Function length is clippy's `too_many_lines`.
fn clippy(cargo: &setup::Cargo) -> Result<()> {
    Component::CLIPPY.ensure(cargo)?;
    let arguments = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ];
    shell::run(cargo.command().args(arguments))
}
