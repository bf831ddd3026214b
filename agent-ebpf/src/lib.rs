//! The ABI between the kernel side and the agent.
#![cfg_attr(target_arch = "bpf", no_std)]
