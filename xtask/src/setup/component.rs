//! Parts of a Rust toolchain that a minimal one lacks: rustfmt and clippy, by rustup or by apt.

use std::process::Command;

use anyhow::{Context as _, Result, anyhow};

use super::{Apt, Cargo};
use crate::shell;

/// A part of the toolchain that cargo calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Component {
    /// What cargo calls it.
    command: &'static str,
    /// What rustup calls it.
    rustup: &'static str,
    /// Debian's package of it, beside rustc-web.
    package: &'static str,
}

impl Component {
    /// `cargo fmt`.
    pub(crate) const FMT: Self = Self {
        command: "fmt",
        rustup: "rustfmt",
        package: "rustfmt-web",
    };
    /// `cargo clippy`.
    pub(crate) const CLIPPY: Self = Self {
        command: "clippy",
        rustup: "clippy",
        package: "rust-web-clippy",
    };

    /// Makes sure that this cargo has it.
    ///
    /// # Errors
    /// Why neither rustup nor apt could install it, or the line to run as root.
    pub(crate) fn ensure(self, cargo: &Cargo) -> Result<()> {
        let Err(missing) = self.answers(cargo) else {
            return Ok(());
        };
        let by_rustup = shell::which("rustup", &shell::path()).map(|_| self.add());
        match by_rustup {
            Some(Ok(())) => {}
            // A toolchain that is only linked to rustup, as Debian's may be, takes no components.
            Some(Err(error)) => self
                .install()
                .with_context(|| format!("nor by rustup: {error:#}"))?,
            None => self.install()?,
        }
        self.answers(cargo).map_err(|error| {
            anyhow!(
                "{error:#}; before {} was installed: {missing:#}",
                self.rustup
            )
        })
    }

    fn answers(self, cargo: &Cargo) -> Result<()> {
        let mut command = cargo.command();
        shell::stdout_of(command.args([self.command, "--version"])).map(|_| ())
    }

    fn add(self) -> Result<()> {
        let mut command = Command::new("rustup");
        // In the workspace, where the same toolchain is active as for cargo.
        command
            .current_dir(shell::root())
            .args(["component", "add", self.rustup])
            .env("RUSTUP_MAX_RETRIES", "1");
        shell::run_logged(
            &format!("adding {} by rustup", self.rustup),
            "rustup-component",
            &mut command,
        )
    }

    fn install(self) -> Result<()> {
        let Self {
            command, package, ..
        } = self;
        Apt::find()
            .filter(|apt| apt.offers(package))
            .with_context(|| {
                format!(
                    "there is no `cargo {command}`, and no apt here offers {package}; install {} for this toolchain",
                    self.rustup
                )
            })?
            .install(&[package])
            .with_context(|| format!("there is no `cargo {command}`"))
    }
}
