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

/// A `cgroup/sock_addr` program of UDP, and the attach type that it has in `enum bpf_attach_type`.
pub const UDP_ADDRESS: [(&str, u32); 6] = [
    ("plumb_bind4", 8),
    ("plumb_bind6", 9),
    ("plumb_conn4", 10),
    ("plumb_conn6", 11),
    ("plumb_send4", 14),
    ("plumb_send6", 15),
];
/// The same of those that see what was received, which containers get on need.
pub const UDP_RECEIVE: [(&str, u32); 2] = [("plumb_recv4", 19), ("plumb_recv6", 20)];
/// Those of them that see which port a program chooses.
pub const UDP_BIND: [&str; 2] = ["plumb_bind4", "plumb_bind6"];
/// The `cgroup/sock` programs of UDP. They ask the attachment nothing.
pub const UDP_SOCKET: [&str; 3] = ["plumb_bound4", "plumb_bound6", "plumb_close"];
/// The `cgroup_skb` programs of UDP, and their attach types.
pub const UDP_PACKET: [(&str, u32); 2] = [("plumb_in", 0), ("plumb_out", 1)];

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

/// [`OWNER`] of the attachments of UDP.
pub const UDP_OWNER: &str = "PLUMB_UDP_OWNER";
/// [`FLOWS`] of UDP.
pub const UDP_FLOWS: &str = "PLUMB_UDP_FLOWS";
/// [`OVERFLOW`] of UDP.
pub const UDP_OVERFLOW: &str = "PLUMB_UDP_OVER";
/// [`EPOCH`] of UDP.
pub const UDP_EPOCH: &str = "PLUMB_UDP_EPOCH";
/// The dynamic range of ports.
pub const UDP_PORTS: &str = "PLUMB_UDP_PORTS";
/// The same of containers where it is another.
pub const UDP_RANGES: &str = "PLUMB_UDP_RANGE";
/// Sockets and peers that have met.
pub const UDP_PAIRS: &str = "PLUMB_UDP_PAIRS";
/// Sockets whose programs chose their port.
pub const UDP_SOCKETS: &str = "PLUMB_UDP_SOCKS";
/// How many of them each container has.
pub const UDP_QUOTA: &str = "PLUMB_UDP_QUOTA";
/// Containers whose received datagrams are seen.
pub const UDP_HEARD: &str = "PLUMB_UDP_HEARD";
/// Ring of ports that are served.
pub const UDP_EVENTS: &str = "PLUMB_UDP_RING";
/// Every map of the object of UDP.
pub const UDP_MAPS: [&str; 12] = [
    DROPS,
    UDP_OWNER,
    UDP_FLOWS,
    UDP_OVERFLOW,
    UDP_EPOCH,
    UDP_PORTS,
    UDP_RANGES,
    UDP_PAIRS,
    UDP_SOCKETS,
    UDP_QUOTA,
    UDP_HEARD,
    UDP_EVENTS,
];

/// Attach type under which the kernel keeps the storage of a `sock_ops` attachment: `BPF_CGROUP_SOCK_OPS` of
/// `enum bpf_attach_type`.
pub const OWNER_ATTACH_TYPE: u32 = 3;

#[cfg(test)]
mod tests {
    use super::{MAPS, PROGRAMS, UDP_ADDRESS, UDP_MAPS, UDP_PACKET, UDP_RECEIVE, UDP_SOCKET};

    #[test]
    fn the_kernel_keeps_every_name_whole() {
        let of_udp = UDP_ADDRESS.iter().chain(&UDP_RECEIVE).chain(&UDP_PACKET);
        let of_udp = of_udp.map(|(name, _)| name);
        let all = PROGRAMS.iter().chain(&MAPS).chain(&UDP_MAPS);
        for name in all.chain(&UDP_SOCKET).chain(of_udp) {
            assert!(name.len() <= 15, "{name} has {} characters", name.len());
            assert!(
                name.to_lowercase().starts_with("plumb_"),
                "{name}: leftovers are found by their prefix"
            );
        }
    }
}
