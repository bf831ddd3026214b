//! The ABI between the kernel side and the agent. Builds for bpf (without std) and for the host.
//!
//! - [`names`]: programs and maps, spelled once.
//! - [`event`]: records of the ring: listeners and cgroup directories.
//! - [`flow`]: keys and counts of the flow tables.
//! - [`connection`]: connections whose bytes are followed while they are open.
//! - [`owner`]: what an attachment knows of its container, and what of shared tables that may use.
//! - [`cpu`]: CPU time in 100 ms windows.
//! - [`drops`]: why something was not recorded.
//!
//! Every type is `#[repr(C)]`, has no implicit padding, and decodes totally: bytes that make no sense give `None`.
#![cfg_attr(target_arch = "bpf", no_std)]

pub mod connection;
pub mod cpu;
pub mod drops;
pub mod event;
pub mod flow;
pub mod names;
pub mod owner;
