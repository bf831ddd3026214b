//! What lies in the storage of a container's `sock_ops` attachment: whose sockets it sees, and what of the shared tables
//! the container has used. One noisy container must not blind the agent to the others.

/// Flows of one container in one epoch (1 s): a sixteenth of the table. Further ones are counted in its overflow entry.
pub const FLOWS_PER_EPOCH: u64 = 1_024;

/// Records of listeners of one container in a period of [`LISTENER_PERIOD_SHIFT`]: the ring holds those of a busy second of
/// 36 containers. Further ones are counted, and scans find what they would have told.
pub const LISTENERS_PER_PERIOD: u64 = 256;

/// A period is 2^30 ns, 1.07 s: a shift is cheaper than a division.
pub const LISTENER_PERIOD_SHIFT: u32 = 30;

/// How often a container did something in the running period.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Which period.
    pub period: u64,
    /// How often in it.
    pub spent: u64,
    /// How often it was refused, in all periods.
    pub refused: u64,
}

/// The storage of an attachment. The agent writes it right after it attaches, programs from then on. CPUs count at the same
/// time, so that around the change of a period a budget may be exceeded by some; `refused` is exact.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// The container's cgroup; 0 until the agent has filled it in.
    pub cgroup: u64,
    /// New entries of the flow table, by epoch.
    pub flows: Budget,
    /// Records of listeners.
    pub listeners: Budget,
}

const _: () = assert!(size_of::<Owner>() == 56);

#[cfg(not(target_arch = "bpf"))]
mod pod {
    // SAFETY: repr(C), of u64 only: no padding, any bits are valid.
    unsafe impl aya::Pod for super::Owner {}
}
