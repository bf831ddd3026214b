//! What may be depended on: licences, sources, duplicates and two bans that protect the agent, by cargo-deny and by cargo's own graph.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{setup, shell};

/// The release of cargo-deny that is built when none is on PATH.
const VERSION: &str = "0.20.2";
/// What must never be linked into the agent: aya-ebpf replaces libc's memcpy, OpenSSL is not our TLS.
const BANNED: [&str; 3] = ["aya-ebpf", "openssl", "openssl-sys"];

/// Runs cargo-deny by `deny.toml`.
pub(crate) fn run(online: bool) -> Result<()> {
    let mut command = Command::new(tool()?);
    command.current_dir(shell::root()).args([
        "--workspace",
        "--log-level",
        "error",
        "check",
        "--hide-inclusion-graph",
    ]);
    command.args(["bans", "licenses", "sources"]);
    if online {
        command.arg("advisories");
    }
    shell::run(&mut command)
}

/// Looks for banned packages in the agent's dependencies, as cargo resolves them for this host.
pub(crate) fn tree() -> Result<()> {
    let mut command = Command::new("cargo");
    command.current_dir(shell::root());
    command.args([
        "tree",
        "--package",
        "plumbline",
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]);
    let text = shell::stdout_of(&mut command)?;
    let found = banned(&text);
    if !found.is_empty() {
        bail!(
            "plumbline depends on {}; see `cargo tree --package plumbline --invert {}`",
            found.join(", "),
            found[0]
        );
    }
    Ok(())
}

/// The banned names among `name vVERSION ...` lines.
fn banned(tree: &str) -> Vec<&str> {
    let mut found: Vec<&str> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    found.retain(|name| BANNED.contains(name));
    found.sort_unstable();
    found.dedup();
    found
}

/// cargo-deny from PATH or the workspace's tools, built there when there is none.
fn tool() -> Result<PathBuf> {
    let own = shell::tools().join("bin/cargo-deny");
    if let Some(found) =
        shell::which("cargo-deny", &shell::path()).or_else(|| own.exists().then(|| own.clone()))
    {
        return Ok(found);
    }
    let mut cargo = setup::cargo_install("cargo-deny", VERSION);
    shell::run_logged(
        &format!("building cargo-deny {VERSION} (a few minutes, once)"),
        "cargo-deny",
        &mut cargo,
    )
    .context("check needs cargo-deny")?;
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::banned;

    #[test]
    fn banned_packages_in_a_tree() {
        assert_eq!(
            banned(
                "plumbline v0.1.0 (/x)\naya v0.14.0\naya-ebpf v0.2.1\nopenssl-probe v0.1.6\naya-ebpf v0.2.1 (*)\n"
            ),
            ["aya-ebpf"]
        );
        assert!(banned("plumbline v0.1.0\nopenssl-probe v0.1.6\nrustls v0.23.0\n").is_empty());
    }
}
