//! The seam: all that needs rights for as long as the agent lives. Loads programs, attaches them, detaches them. Knows no
//! pods and no paths, so that it can move into a process of its own.

mod datagrams;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use aya::Ebpf;
#[expect(
    deprecated,
    reason = "its successor came with Linux 6.2, and we load on 5.10"
)]
use aya::maps::CgroupStorage;
use aya::maps::cgroup_storage::CgroupStorageKey;
use aya::maps::{Map, MapData, MapError};
use aya::programs::links::FdLink;
use aya::programs::perf_event::{
    PerfEvent, PerfEventConfig, PerfEventLink, PerfEventScope, SamplePolicy, SoftwareEvent,
};
use aya::programs::{CgroupAttachMode, Program, ProgramError, RawTracePoint, SockOps};
use plumbline_core::id::CgroupId;
use plumbline_ebpf::names;
use plumbline_ebpf::owner::Owner;
use rustix::fs::{Dir, Mode, OFlags, openat};

pub(super) use datagrams::Datagrams;

use super::{ProgramStats, object};

/// Between two runs of the CPU clock program on one CPU. A window of 100 ms is complete once every CPU was heard of after
/// its end, so that more often would only wake idle CPUs.
const TICK_NS: u64 = 100_000_000;

/// Programs that others may have beside ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// On the same callbacks of TCP.
    SockOps,
    /// On the same hooks of UDP.
    Cgroup,
}

impl Kind {
    /// As it is said.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::SockOps => "sock_ops",
            Self::Cgroup => "cgroup",
        }
    }

    /// Numbers of `enum bpf_prog_type`.
    const fn types(self) -> &'static [u32] {
        match self {
            Self::SockOps => &[13],
            // CGROUP_SKB, CGROUP_SOCK, CGROUP_SOCK_ADDR.
            Self::Cgroup => &[8, 9, 18],
        }
    }
}

/// Programs of others that are named.
const OTHERS_MAX: usize = 8;

/// What the kernel tells of a link's descriptor is some 200 bytes.
const FDINFO_MAX: usize = 1_024;

/// Owner of the loaded object and of every attachment. Dropping it detaches everything.
#[derive(Debug)]
pub(super) struct Keeper {
    ebpf: Ebpf,
    #[expect(
        deprecated,
        reason = "its successor came with Linux 6.2, and we load on 5.10"
    )]
    owners: Option<CgroupStorage<MapData, Owner>>,
    links: BTreeMap<CgroupId, FdLink>,
    ticking: BTreeMap<u32, PerfEventLink>,
    flows_max: u32,
}

/// Why a container has no program.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttachError {
    /// The directory is not there: not yet, or no longer.
    #[error("the cgroup is gone")]
    Gone,
    /// The kernel refused.
    #[error("{0}")]
    Refused(String),
}

impl Keeper {
    /// Makes the maps.
    pub(super) fn load(flows_max: u32) -> anyhow::Result<Self> {
        Ok(Self {
            ebpf: object::load(flows_max)?,
            owners: None,
            links: BTreeMap::new(),
            ticking: BTreeMap::new(),
            flows_max,
        })
    }

    /// Entries of the flow table.
    pub(super) const fn flows_max(&self) -> u32 {
        self.flows_max
    }

    /// Takes a map for reading. Call it after the programs that use the map are loaded.
    pub(super) fn map<T: TryFrom<Map, Error = MapError>>(
        &mut self,
        name: &str,
    ) -> anyhow::Result<T> {
        object::take(&mut self.ebpf, name)
    }

    /// Loads the network program, so that it can be attached.
    pub(super) fn load_tcp(&mut self) -> anyhow::Result<()> {
        let program: &mut SockOps = self.program(names::TCP)?;
        program.load().map_err(|error| refused(names::TCP, error))?;
        self.owners = Some(object::take(&mut self.ebpf, names::OWNER)?);
        Ok(())
    }

    /// Attaches the network program to a container's cgroup and tells it whose sockets it sees. Once more is nothing.
    pub(super) fn attach(&mut self, cgroup: CgroupId, directory: &Path) -> Result<(), AttachError> {
        if self.links.contains_key(&cgroup) {
            return Ok(());
        }
        let directory = open_cgroup(cgroup, directory)?;
        let program: &mut SockOps = self
            .program(names::TCP)
            .map_err(|error| AttachError::from(&error))?;
        // Single is flags 0, the only mode in which links of several agents live side by side.
        let link = program
            .attach(directory, CgroupAttachMode::Single)
            .map_err(AttachError::from)?;
        let link = program.take_link(link).map_err(AttachError::from)?;
        let link = FdLink::try_from(link).map_err(|error| AttachError::from(&anyhow!(error)))?;
        let owners = self
            .owners
            .as_mut()
            .ok_or_else(|| AttachError::Refused("the program is not loaded".into()))?;
        let key = CgroupStorageKey::new(cgroup.0, names::OWNER_ATTACH_TYPE);
        let owner = Owner {
            cgroup: cgroup.0,
            ..Owner::default()
        };
        owners
            .insert(key, owner, 0)
            .map_err(|error| AttachError::from(&anyhow!(error)))?;
        self.links.insert(cgroup, link);
        Ok(())
    }

    /// Takes the network program off a container's cgroup.
    pub(super) fn detach(&mut self, cgroup: CgroupId) {
        self.links.remove(&cgroup);
    }

    /// Containers whose program was detached by someone else: the link is there and leads nowhere. So is that of a cgroup that
    /// is gone. `idle`: see [`idle_links`].
    pub(super) fn detached(&self, idle: &BTreeSet<u32>) -> Vec<CgroupId> {
        let detached = self.links.iter().filter(|(_, link)| is_among(idle, link));
        detached.map(|(cgroup, _)| *cgroup).collect()
    }

    /// Containers that were refused something because they had used up their share, with how often: new flows, and records
    /// of listeners. Reads every attachment's storage, so that it is worth calling only when a counter has moved.
    pub(super) fn refusals(&self) -> Vec<(CgroupId, u64, u64)> {
        let Some(owners) = &self.owners else {
            return Vec::new();
        };
        let of = |cgroup: &CgroupId| {
            let key = CgroupStorageKey::new(cgroup.0, names::OWNER_ATTACH_TYPE);
            // The container is gone, and its storage with it.
            let owner = owners.get(key, 0).ok()?;
            Some((*cgroup, owner.flows.refused, owner.listeners.refused))
        };
        let all = self.links.keys().filter_map(of);
        all.filter(|(_, flows, listeners)| flows + listeners > 0)
            .collect()
    }

    /// Containers with a network program.
    pub(super) fn attached(&self) -> usize {
        self.links.len()
    }

    /// Loads and attaches a program on a raw tracepoint.
    pub(super) fn trace(&mut self, program: &str, tracepoint: &str) -> anyhow::Result<()> {
        let raw: &mut RawTracePoint = self.program(program)?;
        raw.load().map_err(|error| refused(program, error))?;
        raw.attach(tracepoint)
            .with_context(|| format!("attach to the raw tracepoint {tracepoint}"))?;
        Ok(())
    }

    /// Loads the CPU clock program.
    pub(super) fn load_tick(&mut self) -> anyhow::Result<()> {
        let program: &mut PerfEvent = self.program(names::TICK)?;
        program.load().map_err(|error| refused(names::TICK, error))
    }

    /// Starts the CPU clock program on the CPUs that are online and have none yet; a CPU that went away loses its own.
    pub(super) fn tick(&mut self, online: &BTreeSet<u32>) -> anyhow::Result<()> {
        self.ticking.retain(|cpu, _| online.contains(cpu));
        for cpu in online {
            if self.ticking.contains_key(cpu) {
                continue;
            }
            let program: &mut PerfEvent = self.program(names::TICK)?;
            let link = program
                .attach(
                    PerfEventConfig::Software(SoftwareEvent::CpuClock),
                    PerfEventScope::AllProcessesOneCpu { cpu: *cpu },
                    SamplePolicy::Period(TICK_NS),
                    false,
                )
                .with_context(|| format!("open the clock of CPU {cpu}"))?;
            let link = program.take_link(link).context("keep the clock")?;
            self.ticking.insert(*cpu, link);
        }
        Ok(())
    }

    /// Stops the CPU clock program of a CPU, to be started anew: one that was offline for a moment has lost it.
    pub(super) fn stop_tick(&mut self, cpu: u32) {
        self.ticking.remove(&cpu);
    }

    /// Ids of our programs.
    pub(super) fn ids(&self) -> BTreeSet<u32> {
        ids_of(&self.ebpf)
    }

    /// Network programs of others.
    pub(super) fn other_sock_ops(&self) -> Vec<String> {
        other_programs(Kind::SockOps, &self.ids())
    }

    /// What the kernel says about the programs that are loaded.
    pub(super) fn programs(&self) -> Vec<ProgramStats> {
        stats_of(&self.ebpf)
    }

    fn program<'a, T>(&'a mut self, name: &str) -> anyhow::Result<&'a mut T>
    where
        &'a mut T: TryFrom<&'a mut Program, Error = ProgramError>,
    {
        program(&mut self.ebpf, name)
    }
}

/// A program of an object.
fn program<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut T>
where
    &'a mut T: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| anyhow!("the object has no program {name}"))?;
    <&'a mut T>::try_from(program).with_context(|| format!("use the program {name}"))
}

/// Ids of the programs of an object that are loaded.
fn ids_of(ebpf: &Ebpf) -> BTreeSet<u32> {
    let programs = ebpf.programs();
    let info = programs.filter_map(|(_, program)| program.info().ok());
    info.map(|info| info.id()).collect()
}

/// Programs of others, by name and id. Empty also without `CAP_SYS_ADMIN`, which the list takes.
pub(super) fn other_programs(kind: Kind, ours: &BTreeSet<u32>) -> Vec<String> {
    aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .filter(|info| kind.types().contains(&(info.program_type() as u32)))
        .filter(|info| !ours.contains(&info.id()))
        .map(|info| {
            let name = info.name_as_str().unwrap_or("without a name");
            format!("{name} (id {})", info.id())
        })
        .take(OTHERS_MAX)
        .collect()
}

/// What the kernel says about the programs of an object that are loaded, by name.
fn stats_of(ebpf: &Ebpf) -> Vec<ProgramStats> {
    let loaded = ebpf
        .programs()
        .filter_map(|(name, program)| Some((name, program.info().ok()?)));
    let mut programs: Vec<ProgramStats> = loaded
        .map(|(name, info)| ProgramStats {
            name: name.to_owned(),
            id: info.id(),
            run_count: info.run_count(),
            run_time: info.run_time(),
            verified_instructions: info.verified_instruction_count(),
        })
        .collect();
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    programs
}

/// Whether a link is one of those.
fn is_among(ids: &BTreeSet<u32>, link: &FdLink) -> bool {
    !ids.is_empty() && link.info().is_ok_and(|info| ids.contains(&info.id()))
}

/// Ids of this process's cgroup links that are attached to no cgroup: the kernel then tells 0
/// (<https://github.com/torvalds/linux/blob/v5.10/kernel/bpf/cgroup.c#L849>). What cannot be read is not among them.
pub(super) fn idle_links() -> BTreeSet<u32> {
    let directory = rustix::fs::open(
        "/proc/self/fdinfo",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let Ok(directory) = directory else {
        return BTreeSet::new();
    };
    // There are thousands: one buffer for all, and no path from the root for each.
    let mut buffer = [0_u8; FDINFO_MAX];
    let entries = Dir::read_from(&directory).into_iter().flatten().flatten();
    let idle = entries.filter_map(|entry| {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = openat(&directory, entry.file_name(), flags, Mode::empty()).ok()?;
        let length = rustix::io::read(&file, &mut buffer).ok()?;
        idle_link(std::str::from_utf8(buffer.get(..length)?).ok()?)
    });
    idle.collect()
}

/// The link of an fdinfo, if it is attached to no cgroup.
fn idle_link(fdinfo: &str) -> Option<u32> {
    let field = |name: &str| {
        let value = fdinfo.lines().find_map(|line| line.strip_prefix(name));
        value.and_then(|value| value.trim().parse::<u32>().ok())
    };
    let link = field("link_id:")?;
    (field("cgroup_id:") == Some(0)).then_some(link)
}

/// Opens the directory, if it is still the cgroup that is meant.
fn open_cgroup(cgroup: CgroupId, directory: &Path) -> Result<File, AttachError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let file = rustix::fs::open(directory, flags, Mode::empty()).map_err(io::Error::from);
    let file = file.map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            AttachError::Gone
        } else {
            AttachError::Refused(format!("open {}: {error}", directory.display()))
        }
    })?;
    let inode = rustix::fs::fstat(&file).map(|stat| stat.st_ino);
    if inode == Ok(cgroup.0) {
        Ok(File::from(file))
    } else {
        Err(AttachError::Gone)
    }
}

impl From<ProgramError> for AttachError {
    fn from(error: ProgramError) -> Self {
        if let ProgramError::SyscallError(error) = &error {
            match error
                .io_error
                .raw_os_error()
                .map(rustix::io::Errno::from_raw_os_error)
            {
                Some(rustix::io::Errno::NOENT | rustix::io::Errno::NODEV) => return Self::Gone,
                Some(rustix::io::Errno::PERM) => {
                    return Self::Refused(
                        "not permitted: CAP_NET_ADMIN is missing, or another tool attached a program of this kind here or \
                         above exclusively (`bpftool cgroup tree` shows it)"
                            .into(),
                    );
                }
                _ => {}
            }
        }
        Self::from(&anyhow!(error))
    }
}

impl From<anyhow::Error> for AttachError {
    fn from(error: anyhow::Error) -> Self {
        Self::from(&error)
    }
}

impl From<&anyhow::Error> for AttachError {
    fn from(error: &anyhow::Error) -> Self {
        Self::Refused(format!("{error:#}"))
    }
}

/// The verifier's log is long: its last lines tell, before the statistics.
fn refused(program: &str, error: ProgramError) -> anyhow::Error {
    const STATISTICS: [&str; 5] = [
        "processed ",
        "verification time ",
        "stack depth ",
        "max_states_per_insn ",
        "insns processed ",
    ];
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    else {
        return anyhow!(error).context(format!("load {program}"));
    };
    let log = verifier_log.to_string();
    let telling = |line: &&str| {
        !line.trim().is_empty() && !STATISTICS.iter().any(|start| line.starts_with(start))
    };
    let mut last: Vec<&str> = log.lines().rev().filter(telling).take(3).collect();
    last.reverse();
    anyhow!(
        "load {program}: the kernel refused it ({io_error}): {}",
        last.join(" | ")
    )
}
