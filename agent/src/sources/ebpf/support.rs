//! What this kernel and these rights allow, found by asking the kernel and not by its version. Facts only: what follows
//! from them is in [`super::plan`].

use std::fs;
use std::io;
use std::path::Path;

use aya::maps::MapType;
use aya::programs::{ProgramError, ProgramType};
use aya::sys::{
    BpfHelper, SyscallError, is_helper_supported, is_map_supported, is_program_supported,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::object;

/// A right of which the probes need some, as a bit of `CapEff`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Its number in the kernel.
    pub bit: u32,
    /// Its name, as manifests and manuals have it.
    pub name: &'static str,
}

/// Loads programs and makes maps.
pub const CAP_BPF: Capability = Capability {
    bit: 39,
    name: "CAP_BPF",
};
/// Lets programs see the scheduler and other tracing.
pub const CAP_PERFMON: Capability = Capability {
    bit: 38,
    name: "CAP_PERFMON",
};
/// Attaches programs to the sockets of cgroups.
pub const CAP_NET_ADMIN: Capability = Capability {
    bit: 12,
    name: "CAP_NET_ADMIN",
};
/// Stands for the three above.
pub const CAP_SYS_ADMIN: Capability = Capability {
    bit: 21,
    name: "CAP_SYS_ADMIN",
};

/// What the kernel says to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has it.
    Yes,
    /// It does not.
    No,
    /// It does not tell us: rights are missing.
    Denied,
    /// Something else went wrong.
    Failed(String),
}

/// Memory for maps, which kernels before 5.11 count against `RLIMIT_MEMLOCK`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Memlock {
    /// The kernel counts it against the memory cgroup.
    NotLimited,
    /// The limit is lifted.
    Raised,
    /// The limit could not be lifted.
    Denied,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The binary contains the eBPF object.
    pub built: bool,
    /// Effective capabilities of the thread that asked.
    pub capabilities: u64,
    /// Programs on TCP callbacks of cgroups.
    pub sock_ops: Answer,
    /// Programs on `connect`, `bind`, `sendmsg` and `recvmsg` of cgroups.
    pub sock_addr: Answer,
    /// Programs on sockets of cgroups.
    pub sock: Answer,
    /// Programs on packets of cgroups.
    pub skb: Answer,
    /// Programs on raw tracepoints.
    pub raw_tracepoint: Answer,
    /// Programs on perf events.
    pub perf_event: Answer,
    /// Perf events at all (`CONFIG_PERF_EVENTS`).
    pub perf: bool,
    /// Ring buffers (5.8).
    pub ring_buffer: Answer,
    /// Storage of a cgroup's attachments.
    pub cgroup_storage: Answer,
    /// Memory for maps.
    pub memlock: Memlock,
}

impl Facts {
    /// Whether this process has the capability, or the one that stands for it.
    #[must_use]
    pub fn has(&self, capability: Capability) -> bool {
        [capability, CAP_SYS_ADMIN]
            .iter()
            .any(|c| self.capabilities >> c.bit & 1 == 1)
    }
}

/// Asks. Lifts `RLIMIT_MEMLOCK` on the way, if this kernel needs it, since nothing can be asked without.
#[must_use]
pub fn probe() -> Facts {
    let memlock = memlock();
    Facts {
        built: object::bytes().is_some(),
        capabilities: fs::read_to_string("/proc/thread-self/status")
            .ok()
            .and_then(|s| effective(&s))
            .unwrap_or(0),
        sock_ops: program(ProgramType::SockOps),
        sock_addr: program(ProgramType::CgroupSockAddr),
        sock: program(ProgramType::CgroupSock),
        skb: program(ProgramType::CgroupSkb),
        raw_tracepoint: program(ProgramType::RawTracePoint),
        perf_event: program(ProgramType::PerfEvent),
        perf: Path::new("/proc/sys/kernel/perf_event_paranoid").exists(),
        ring_buffer: map(MapType::RingBuf),
        cgroup_storage: map(MapType::CgroupStorage),
        memlock,
    }
}

/// `CapEff` in the text of `/proc/<pid>/status`.
fn effective(status: &str) -> Option<u64> {
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(value.trim(), 16).ok()
}

fn program(program: ProgramType) -> Answer {
    match is_program_supported(program) {
        Ok(supported) => supported.into(),
        Err(ProgramError::SyscallError(error)) => error.into(),
        Err(error) => Answer::Failed(error.to_string()),
    }
}

fn map(map: MapType) -> Answer {
    is_map_supported(map).map_or_else(Answer::from, Answer::from)
}

impl From<bool> for Answer {
    fn from(supported: bool) -> Self {
        if supported { Self::Yes } else { Self::No }
    }
}

impl From<SyscallError> for Answer {
    fn from(error: SyscallError) -> Self {
        if error.io_error.kind() == io::ErrorKind::PermissionDenied {
            Self::Denied
        } else {
            Self::Failed(format!("{}: {}", error.call, error.io_error))
        }
    }
}

/// Kernels since 5.11 count map memory against the memory cgroup; they also have this helper.
fn memlock() -> Memlock {
    if let Ok(true) = is_helper_supported(
        ProgramType::SocketFilter,
        BpfHelper::BPF_FUNC_ktime_get_coarse_ns,
    ) {
        return Memlock::NotLimited;
    }
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    if getrlimit(Resource::Memlock) == unlimited || setrlimit(Resource::Memlock, unlimited).is_ok()
    {
        return Memlock::Raised;
    }
    Memlock::Denied
}

/// Lifts the soft limit of open files to the hard one: every container takes a descriptor, and 1024 are soon used up.
pub(super) fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if limit != raised
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(
            error = %error,
            soft = limit.current,
            "the limit of open files cannot be raised; with hundreds of containers raise LimitNOFILE"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::effective;

    #[test]
    fn capabilities_are_read_or_absent() {
        assert_eq!(
            effective("Name:\tx\nCapPrm:\t0\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n"),
            Some(0x1ff_ffff_ffff)
        );
        assert_eq!(effective("CapEff:\t0000000000000000\n"), Some(0));
        for nonsense in ["", "CapEff:", "CapEff:\tnone", "capeff:\t1"] {
            assert_eq!(effective(nonsense), None, "{nonsense:?}");
        }
    }
}
