//! The agent's binary under more than it has room for, held against exact counts. `PLUMBLINE_TEST_TIER=full` runs the loads
//! that the product promises to stand, the usual tier a twentieth. As root; everything happens in namespaces of its own.
//!
//! Each load shows the same four things: every connection is accounted for, the agent stays within [`node::MEMORY_BYTES_MAX`],
//! the data of another pod is exact and whole, and the state is right again afterwards.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a test panics where it fails, prints what it measured, and looks only at the facts that it is about"
)]

mod cgroups;
mod churn;
mod connections;
mod datagrams;
mod memory;
mod node;
mod ports;
mod recording;
mod stall;
