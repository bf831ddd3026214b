//! What the host says of itself.

/// The node's name for itself, for want of a better one.
pub(super) fn name() -> Option<String> {
    let name = rustix::system::uname().nodename().to_str().ok()?.to_owned();
    (!name.is_empty()).then_some(name)
}

/// `net.ipv4.ip_local_port_range` of the agent's network namespace: pods inherit the kernel's default, which nodes rarely
/// change. Reading another namespace's would need `CAP_SYS_ADMIN`.
pub(super) fn ephemeral_ports() -> Option<(u16, u16)> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let (first, last) = text.trim().split_once(char::is_whitespace)?;
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
}
