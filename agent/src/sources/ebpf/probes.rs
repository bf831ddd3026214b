//! From a plan to attached programs: each step that fails takes one probe with it and no other.

use std::collections::BTreeSet;
use std::io;

use anyhow::{Context as _, anyhow};
use aya::maps::{MapData, PerCpuArray, RingBuf};
use plumbline_core::id::CgroupId;
use plumbline_core::observation::{Health, ProbeStatus};
use plumbline_ebpf::{flow, names, udp};

use super::connections::Entries;
use super::flows::Flows;
use super::keeper::{Datagrams, Keeper};
use super::plan::{self, CGROUPS, CPU_WINDOWS, Plan, TCP, UDP, Verdict};
use super::windows::Windows;
use super::{Settings, Stats, UdpMode};
use crate::clock;

/// What is attached, and how each probe is.
pub(super) struct Probes {
    pub(super) keeper: Option<Keeper>,
    pub(super) events: Option<RingBuf<MapData>>,
    pub(super) drops: Option<PerCpuArray<MapData, u64>>,
    pub(super) flows: Option<Flows<flow::FlowCounts>>,
    pub(super) udp: Option<Udp>,
    pub(super) windows: Option<Windows>,
    /// For who follows open connections, until taken.
    pub(super) followed: Option<Entries>,
    pub(super) tcp: ProbeStatus,
    pub(super) udp_status: ProbeStatus,
    pub(super) cpu_windows: ProbeStatus,
    pub(super) cgroups: ProbeStatus,
    /// How the probe of open connections is, while it does not run and say so itself.
    pub(super) connections: Option<ProbeStatus>,
}

/// What is attached of UDP.
pub(super) struct Udp {
    pub(super) datagrams: Datagrams,
    pub(super) flows: Flows<udp::Counts>,
    pub(super) events: RingBuf<MapData>,
    pub(super) drops: PerCpuArray<MapData, u64>,
    /// Containers whose attachment was refused.
    pub(super) refused: u64,
    /// Those in which a program chose a port, or it is not clear who serves: what they receive is to be seen.
    pub(super) serving: BTreeSet<CgroupId>,
}

impl Udp {
    fn load(settings: &Settings) -> anyhow::Result<Self> {
        let packets = settings.udp == UdpMode::Flows;
        let mut datagrams = Datagrams::load(packets, settings.ephemeral_ports)?;
        Ok(Self {
            flows: Flows::of_udp(&mut datagrams)?,
            events: datagrams.map(names::UDP_EVENTS)?,
            drops: datagrams.map(names::DROPS)?,
            datagrams,
            refused: 0,
            serving: BTreeSet::new(),
        })
    }
}

impl Probes {
    /// Does what the plan says.
    pub(super) fn attach(plan: &Plan, settings: &Settings) -> Self {
        let mut probes = Self {
            keeper: None,
            events: None,
            drops: None,
            flows: None,
            udp: None,
            windows: None,
            followed: None,
            tcp: plan.tcp.status(TCP),
            udp_status: plan.udp.status(UDP),
            cpu_windows: plan.cpu_windows.status(CPU_WINDOWS),
            cgroups: plan.cgroups.status(CGROUPS),
            connections: None,
        };
        if !plan.needs_object() {
            return probes;
        }
        if plan.udp == Verdict::Attach {
            match Udp::load(settings) {
                Ok(udp) => probes.udp = Some(udp),
                Err(error) => probes.udp_status = plan::broken(UDP, &format!("{error:#}")),
            }
        }
        match Keeper::load(settings.flows_max) {
            Ok(keeper) => probes.attach_to(plan, keeper),
            Err(error) => probes.give_up(&format!("{error:#}")),
        }
        probes
    }

    /// How each probe is.
    pub(super) const fn statuses(&self) -> [&ProbeStatus; 4] {
        [
            &self.tcp,
            &self.udp_status,
            &self.cpu_windows,
            &self.cgroups,
        ]
    }

    /// Figures as of now; of CPU time as of its last reading.
    pub(super) fn stats(&self) -> Stats {
        let keeper = self.keeper.as_ref();
        let mut programs = keeper.map(Keeper::programs).unwrap_or_default();
        programs.extend(self.udp.iter().flat_map(|udp| udp.datagrams.programs()));
        Stats {
            programs,
            attached: keeper.map_or(0, Keeper::attached),
            cpu: self
                .windows
                .as_ref()
                .map(|windows| windows.totals().clone()),
        }
    }

    fn attach_to(&mut self, plan: &Plan, mut keeper: Keeper) {
        // Events of cgroups first: what is made while the tree is walked must not be missed.
        if plan.cgroups == Verdict::Attach
            && let Err(error) = attach_cgroups(&mut keeper)
        {
            self.cgroups = plan::broken(CGROUPS, &format!("{error:#}"));
        }
        if plan.tcp == Verdict::Attach {
            let loaded = keeper.load_tcp().and_then(|()| {
                let flows = Flows::of_tcp(&mut keeper)?;
                Ok((flows, keeper.map(names::FOLLOWED)?))
            });
            match loaded {
                Ok((flows, followed)) => {
                    (self.flows, self.followed) = (Some(flows), Some(followed));
                }
                Err(error) => self.tcp = plan::broken(TCP, &format!("{error:#}")),
            }
        }
        if plan.cpu_windows == Verdict::Attach {
            match attach_cpu(&mut keeper) {
                Ok(windows) => self.windows = Some(windows),
                Err(error) => {
                    let error_text = format!("{error:#}");
                    self.cpu_windows = if is_denied(&error) && perf_is_for_admins() {
                        plan::unsupported(
                            CPU_WINDOWS,
                            &format!(
                                "missing CAP_SYS_ADMIN, which this kernel asks for perf events \
                                 (kernel.perf_event_paranoid; {error_text})"
                            ),
                        )
                    } else {
                        plan::broken(CPU_WINDOWS, &error_text)
                    };
                }
            }
        }
        let rings = keeper
            .map(names::EVENTS)
            .and_then(|events| Ok((events, keeper.map(names::DROPS)?)));
        match rings {
            Ok((events, drops)) => {
                (self.events, self.drops) = (Some(events), Some(drops));
                self.keeper = Some(keeper);
            }
            Err(error) => self.give_up(&format!("{error:#}")),
        }
    }

    /// Nothing is attached.
    fn give_up(&mut self, error: &str) {
        (self.keeper, self.flows, self.windows) = (None, None, None);
        self.followed = None;
        for status in [&mut self.tcp, &mut self.cpu_windows, &mut self.cgroups] {
            if status.health == Health::Ok {
                *status = plan::broken(&status.probe, error);
            }
        }
    }
}

fn attach_cgroups(keeper: &mut Keeper) -> anyhow::Result<()> {
    keeper.trace(names::RMDIR, "cgroup_rmdir")?;
    keeper.trace(names::MKDIR, "cgroup_mkdir")
}

fn attach_cpu(keeper: &mut Keeper) -> anyhow::Result<Windows> {
    keeper.load_tick()?;
    keeper.trace(names::SWITCH, "sched_switch")?;
    keeper.tick(&online_cpus()?)?;
    Windows::new(keeper, clock::monotonic())
}

/// Whether the kernel refused for want of rights.
fn is_denied(error: &anyhow::Error) -> bool {
    let mut causes = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.kind() == io::ErrorKind::PermissionDenied)
}

/// Whether perf events are for nobody but who has CAP_SYS_ADMIN: Debian's kernels know a level of restriction that the
/// kernel itself does not, and no CAP_PERFMON there.
fn perf_is_for_admins() -> bool {
    let level = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").ok();
    let level = level.and_then(|text| text.trim().parse::<i32>().ok());
    level.is_some_and(|level| level > 2)
}

/// CPUs that run.
pub(super) fn online_cpus() -> anyhow::Result<BTreeSet<u32>> {
    let cpus = aya::util::online_cpus().map_err(|(path, error)| anyhow!(error).context(path));
    Ok(cpus
        .context("find out which CPUs are online")?
        .into_iter()
        .collect())
}
