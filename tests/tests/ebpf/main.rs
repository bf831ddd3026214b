//! The kernel side against exact counts: real eBPF, real pods, real traffic. As root.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::too_many_lines,
    clippy::wildcard_enum_match_arm,
    reason = "a test panics where it fails, prints what it measured, keeps its table of cases in one place, and looks \
              only at the facts that it is about"
)]

mod attribution;
mod connections;
mod cpu;
mod flows;
mod listeners;
mod matrix;
mod observer;
mod quota;
mod scrape;
mod udp;
mod verifier;
