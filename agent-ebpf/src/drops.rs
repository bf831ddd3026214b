//! Why something was not recorded. Counted where it happens: nobody else can see it.

/// One reason: an index into the map of counters, and how it is called outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Index in the map.
    pub index: u32,
    /// The map, ring or table that lost something.
    pub place: &'static str,
    /// In one word.
    pub reason: &'static str,
}

/// A record found no room in the ring. The rescan of cgroups and the scan of listeners make up for it.
pub const EVENTS_FULL: Reason = Reason {
    index: 0,
    place: "events",
    reason: "full",
};
/// A flow found no room in its table and was counted in the overflow entry of its owner: peer and port are lost.
pub const FLOWS_FULL: Reason = Reason {
    index: 1,
    place: "flows",
    reason: "full",
};
/// The owner had no overflow entry either: the count is lost.
pub const OVERFLOW_MISSING: Reason = Reason {
    index: 2,
    place: "flows_overflow",
    reason: "full",
};
/// A socket of a cgroup whose attachment is not filled in yet: left to the scans.
pub const UNATTRIBUTED: Reason = Reason {
    index: 3,
    place: "tcp",
    reason: "unattributed",
};
/// A socket that is neither IPv4 nor IPv6, or whose callback flags could not be set.
pub const SOCKET_UNKNOWN: Reason = Reason {
    index: 4,
    place: "tcp",
    reason: "unsupported_socket",
};
/// The path of a cgroup event could not be read (lockdown). The rescan makes up for it.
pub const PATH_UNREADABLE: Reason = Reason {
    index: 5,
    place: "cgroup_events",
    reason: "unreadable",
};
/// A CPU reported nothing for longer than the ring of windows holds: the oldest windows of that time are missing.
pub const CPU_STALLED: Reason = Reason {
    index: 6,
    place: "cpu_windows",
    reason: "stalled",
};

/// A socket that connects had lost the flags that we gave it: another program replaced them, or it began to connect before
/// we were attached. Given again; but for what that program does later, its close is seen.
pub const FLAGS_MISSING: Reason = Reason {
    index: 7,
    place: "tcp",
    reason: "flags_replaced",
};

/// A UDP flow found no room in its table and was counted in the overflow entry of its owner: peer and port are lost.
pub const UDP_FLOWS_FULL: Reason = Reason {
    index: 8,
    place: "udp_flows",
    reason: "full",
};
/// The same, since its container had made its share of new entries.
pub const UDP_FLOWS_QUOTA: Reason = Reason {
    index: 9,
    place: "udp_flows",
    reason: "quota",
};
/// A UDP socket's own port found no room: the scan finds when it closes.
pub const UDP_SOCKETS_FULL: Reason = Reason {
    index: 10,
    place: "udp_sockets",
    reason: "full",
};
/// The same, since its container has its share of such sockets.
pub const UDP_SOCKETS_QUOTA: Reason = Reason {
    index: 11,
    place: "udp_sockets",
    reason: "quota",
};
/// A record found no room in the ring of UDP. The scan of sockets makes up for it.
pub const UDP_EVENTS_FULL: Reason = Reason {
    index: 12,
    place: "udp_events",
    reason: "full",
};
/// A UDP socket of a cgroup whose attachment is not filled in yet.
pub const UDP_UNATTRIBUTED: Reason = Reason {
    index: 13,
    place: "udp",
    reason: "unattributed",
};
/// A datagram whose headers are not in one piece, or a fragment: its bytes are not counted.
pub const UDP_UNPARSED: Reason = Reason {
    index: 14,
    place: "udp_packets",
    reason: "unparsed",
};

/// Every reason, in the order of the indexes.
pub const REASONS: [Reason; 15] = [
    EVENTS_FULL,
    FLOWS_FULL,
    OVERFLOW_MISSING,
    UNATTRIBUTED,
    SOCKET_UNKNOWN,
    PATH_UNREADABLE,
    CPU_STALLED,
    FLAGS_MISSING,
    UDP_FLOWS_FULL,
    UDP_FLOWS_QUOTA,
    UDP_SOCKETS_FULL,
    UDP_SOCKETS_QUOTA,
    UDP_EVENTS_FULL,
    UDP_UNATTRIBUTED,
    UDP_UNPARSED,
];

/// Entries of the map of counters.
pub const CAPACITY: u32 = 15;

const _: () = assert!(REASONS.len() == CAPACITY as usize);

#[cfg(test)]
mod tests {
    use super::REASONS;

    #[test]
    fn an_index_is_a_position() {
        for (position, reason) in REASONS.iter().enumerate() {
            assert_eq!(reason.index as usize, position, "{}", reason.place);
        }
    }

    #[test]
    fn no_two_reasons_share_a_name() {
        let mut names: Vec<_> = REASONS.iter().map(|r| (r.place, r.reason)).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), REASONS.len());
    }
}
