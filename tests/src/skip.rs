//! Says when a machine cannot run a test, and why. `cargo xtask test` counts these lines.

use std::io::Write;

use rustix::net::{AddressFamily, SocketType, ipproto};

/// Prints `skipped: <why>` past the test harness, which shows nothing that passing tests print.
pub fn skipped(why: &str) {
    // A closed stdout only loses the line.
    writeln!(std::io::stdout(), "skipped: {why}").ok();
}

/// Whether the test must be skipped because it is not run by root. Says so.
#[must_use]
pub fn without_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skipped("needs root to make cgroups and network namespaces and to load eBPF");
    }
    !root
}

/// Whether this kernel makes no MPTCP sockets: before Linux 5.6, or built without. The caller says what it leaves out.
#[must_use]
pub fn without_mptcp() -> bool {
    rustix::net::socket(
        AddressFamily::INET,
        SocketType::STREAM,
        Some(ipproto::MPTCP),
    )
    .is_err()
}
