//! Names of programs and maps: what the loader asks the object for, and what a leftover would be called.
//!
//! The kernel keeps 15 characters. Attributes take no constants, so the kernel side repeats the names as identifiers; a
//! test of the agent compares these constants with the built object.

/// The `sock_ops` program: TCP of one container.
pub const TCP: &str = "plumb_tcp";
/// The raw tracepoint program on `sched_switch`.
pub const SWITCH: &str = "plumb_switch";
/// The `perf_event` program that closes windows of tasks that do not switch.
pub const TICK: &str = "plumb_tick";
/// The raw tracepoint program on `cgroup_mkdir`.
pub const MKDIR: &str = "plumb_mkdir";
/// The raw tracepoint program on `cgroup_rmdir`.
pub const RMDIR: &str = "plumb_rmdir";
/// Every program.
pub const PROGRAMS: [&str; 5] = [TCP, SWITCH, TICK, MKDIR, RMDIR];

/// Ring of rare events.
pub const EVENTS: &str = "PLUMB_EVENTS";
/// Counters of what was not recorded, one per reason and CPU.
pub const DROPS: &str = "PLUMB_DROPS";
/// Container cgroup of the `sock_ops` attachment that runs.
pub const OWNER: &str = "PLUMB_OWNER";
/// Flow counts by key and epoch.
pub const FLOWS: &str = "PLUMB_FLOWS";
/// Flow counts per owner and role for which [`FLOWS`] had no room.
pub const OVERFLOW: &str = "PLUMB_OVERFLOW";
/// The epoch that programs write to.
pub const EPOCH: &str = "PLUMB_EPOCH";
/// Bytes received by sockets in FIN_WAIT2.
pub const FIN_WAIT: &str = "PLUMB_FIN_WAIT";
/// Connections whose bytes are followed, by cookie.
pub const FOLLOWED: &str = "PLUMB_FOLLOWED";
/// CPU time per leaf cgroup and CPU.
pub const CPU: &str = "PLUMB_CPU";
/// The last scheduler event of each CPU.
pub const CPU_CLOCK: &str = "PLUMB_CPU_CLOCK";
/// Every map.
pub const MAPS: [&str; 10] = [
    EVENTS, DROPS, OWNER, FLOWS, OVERFLOW, EPOCH, FIN_WAIT, FOLLOWED, CPU, CPU_CLOCK,
];

/// Attach type under which the kernel keeps the storage of a `sock_ops` attachment: `BPF_CGROUP_SOCK_OPS` of
/// `enum bpf_attach_type`.
pub const OWNER_ATTACH_TYPE: u32 = 3;

#[cfg(test)]
mod tests {
    use super::{MAPS, PROGRAMS};

    #[test]
    fn the_kernel_keeps_every_name_whole() {
        for name in PROGRAMS.iter().chain(&MAPS) {
            assert!(name.len() <= 15, "{name} has {} characters", name.len());
            assert!(
                name.to_lowercase().starts_with("plumb_"),
                "{name}: leftovers are found by their prefix"
            );
        }
    }
}
