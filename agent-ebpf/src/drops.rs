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

/// The record of a listener found no room in the ring. The scan of listeners makes up for it.
pub const LISTENERS_FULL: Reason = Reason {
    index: 0,
    place: "listener_events",
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

/// The record of a cgroup found no room in the ring. The rescan of cgroups makes up for it.
pub const CGROUPS_FULL: Reason = Reason {
    index: 8,
    place: "cgroup_events",
    reason: "full",
};
/// A container told of more listeners than one may in a second: its record was left out, for the sake of the others. The
/// scan of listeners makes up for it.
pub const LISTENERS_BUDGET: Reason = Reason {
    index: 9,
    place: "listener_events",
    reason: "budget",
};
/// A container had more flows than one may between two readings: this one was counted in its overflow entry, and the room
/// is left to the others.
pub const FLOWS_BUDGET: Reason = Reason {
    index: 10,
    place: "flows",
    reason: "budget",
};

/// A UDP flow found no room in its table and was counted in the overflow entry of its owner: peer and port are lost.
pub const UDP_FLOWS_FULL: Reason = Reason {
    index: 11,
    place: "udp_flows",
    reason: "full",
};
/// The same, since its container had more than one may between two readings.
pub const UDP_FLOWS_BUDGET: Reason = Reason {
    index: 12,
    place: "udp_flows",
    reason: "budget",
};
/// A UDP socket whose program chose its port found no room: left to the scans, which find it outside the dynamic range.
pub const UDP_SOCKETS_FULL: Reason = Reason {
    index: 13,
    place: "udp_sockets",
    reason: "full",
};
/// The same, since its container has as many such sockets as one may.
pub const UDP_SOCKETS_BUDGET: Reason = Reason {
    index: 14,
    place: "udp_sockets",
    reason: "budget",
};
/// A record found no room in the ring of UDP. The scan of sockets makes up for it.
pub const UDP_EVENTS_FULL: Reason = Reason {
    index: 15,
    place: "udp_events",
    reason: "full",
};
/// A UDP socket of a cgroup whose attachment is not filled in yet.
pub const UDP_UNATTRIBUTED: Reason = Reason {
    index: 16,
    place: "udp",
    reason: "unattributed",
};
/// A datagram whose headers are not in one piece, or a fragment: its bytes are not counted.
pub const UDP_UNPARSED: Reason = Reason {
    index: 17,
    place: "udp_packets",
    reason: "unparsed",
};

/// Every reason, in the order of the indexes.
pub const REASONS: [Reason; 18] = [
    LISTENERS_FULL,
    FLOWS_FULL,
    OVERFLOW_MISSING,
    UNATTRIBUTED,
    SOCKET_UNKNOWN,
    PATH_UNREADABLE,
    CPU_STALLED,
    FLAGS_MISSING,
    CGROUPS_FULL,
    LISTENERS_BUDGET,
    FLOWS_BUDGET,
    UDP_FLOWS_FULL,
    UDP_FLOWS_BUDGET,
    UDP_SOCKETS_FULL,
    UDP_SOCKETS_BUDGET,
    UDP_EVENTS_FULL,
    UDP_UNATTRIBUTED,
    UDP_UNPARSED,
];

/// Entries of the map of counters.
pub const CAPACITY: u32 = 18;

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
