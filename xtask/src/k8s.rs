//! `cargo xtask k8s`: a real Kubernetes control plane on loopback, for tests and for looking around. The work is done by
//! `tests/k8s/control-plane`, which needs no Rust.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::shell;

/// What to do with it.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Build or download what is missing, start etcd, API server, controllers and scheduler; prints the kubeconfig
    Up,
    /// Stop what `up` started
    Down {
        /// Keep etcd's data, so that the next `up` goes on with it
        #[arg(long)]
        keep_state: bool,
    },
    /// Build or download what is missing: some 8 minutes once, as root, with apt
    Fetch,
}

/// The command.
pub(crate) fn command(arguments: &Arguments) -> Result<()> {
    let mut script = Command::new(shell::root().join("tests/k8s/control-plane"));
    match arguments.verb {
        Verb::Up => script.arg("up"),
        Verb::Down { keep_state: false } => script.arg("down"),
        Verb::Down { keep_state: true } => script.args(["down", "--keep-state"]),
        Verb::Fetch => script.arg("fetch"),
    };
    shell::run(script.env("K8S_CACHE", cache()))
}

/// Where binaries and state are.
fn cache() -> PathBuf {
    std::env::var_os("K8S_CACHE").map_or_else(|| shell::root().join("target/k8s"), PathBuf::from)
}
