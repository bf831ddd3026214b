//! What the host listens on.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::declared::Transport;
use crate::time::Timestamp;

/// A port that a unit of the host listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostListenerView {
    /// Its systemd service, else its first cgroup below the root.
    pub unit: String,
    /// TCP or UDP.
    pub transport: Transport,
    /// The port.
    pub port: u16,
    /// Local addresses, loopback not among them; not all where there are very many.
    pub addresses: BTreeSet<IpAddr>,
    /// Executables of the processes that hold it, as far as they could be read.
    pub executables: BTreeSet<String>,
    /// When a scan first found it.
    pub first_seen: Timestamp,
    /// Complete scans in a row that found it.
    pub scans: u32,
}
