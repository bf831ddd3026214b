//! Bounded tables of what the kernel did, one folder entry per kind: listeners, flows, CPU.
//!
//! Each table has a limit, says what it does when full, and counts what it left out.

pub mod cpu;
pub mod flows;
pub mod history;
pub(crate) mod host;
pub(crate) mod ledger;
pub mod listeners;
pub(crate) mod logs;
pub mod node_cpu;
pub mod verdicts;
