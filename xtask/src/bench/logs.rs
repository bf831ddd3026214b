//! `cargo xtask bench logs`: how much of the reader of container logs a CPU second buys. No root, no network.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{setup, shell};

/// How much to read.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Bytes of log files for each length of lines
    #[arg(long, value_name = "N", default_value_t = 2_000_000_000)]
    bytes: u64,
    /// Repetitions
    #[arg(long, value_name = "N", default_value_t = 3)]
    reps: u32,
}

/// Lengths of lines in the files: usual ones, and such as containerd cuts into parts.
const LINES: [(u64, &str); 2] = [
    (150, "lines of 150 B"),
    (60_000, "parts of 16 KiB, four a record"),
];

/// Builds, writes the files, reads them, prints a line for each reading.
pub(crate) fn command(arguments: &Arguments) -> Result<()> {
    let mut build = setup::Cargo::find().command();
    shell::run(build.args([
        "build",
        "--release",
        "--quiet",
        "--package",
        "plumbline-logs",
        "--example",
        "throughput",
    ]))?;
    let program = shell::target().join("release/examples/throughput");
    for (line, what) in LINES {
        let directory = tempfile::tempdir().context("make a folder for the log files")?;
        let (bytes, line) = (arguments.bytes.to_string(), line.to_string());
        let mut generate = Command::new(&program);
        shell::run(
            generate
                .arg("generate")
                .arg(directory.path())
                .args([&bytes, &line]),
        )?;
        for _ in 0..arguments.reps {
            let figures =
                shell::stdout_of(Command::new(&program).arg("read").arg(directory.path()))?;
            shell::out(format_args!("{what}: {}", figures.trim_end()));
        }
    }
    Ok(())
}
