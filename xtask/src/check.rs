//! `cargo xtask check`: everything about the source that a tool can judge. All steps run; failures are listed at the end.

mod deny;
mod tidy;

use anyhow::{Result, bail};

use crate::{setup, shell};

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
    let steps: [(&str, Box<dyn Fn() -> Result<()>>); 5] = [
        (
            "fmt",
            Box::new(|| shell::run(cargo.command().args(["fmt", "--all", "--check"]))),
        ),
        ("clippy", Box::new(|| clippy(cargo))),
        ("deny", Box::new(move || deny::run(online))),
        ("tree", Box::new(deny::tree)),
        ("tidy", Box::new(tidy::run)),
    ];
    let mut failed = Vec::new();
    for (name, step) in steps {
        shell::note(format_args!("check {name}"));
        if let Err(error) = step() {
            shell::note(format_args!("check {name}: {error:#}"));
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("check failed: {}", failed.join(", "));
    }
    shell::note("check: all is well");
    Ok(())
}

/// All targets of all packages for the host; the eBPF package has a host side too. Function length is clippy's `too_many_lines`.
fn clippy(cargo: &setup::Cargo) -> Result<()> {
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
