//! From samples to figures: spreads, ratios to `none`, nanoseconds per run, and whether a target is met.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    datagrams::{Case, Exchanged, Way, Work},
    footprint::{Binary, Memory},
    machine::Machine,
    paired::{Compared, Turn},
    rounds::{Arm, Phase, Plan, Runs, Sample, Second},
    statistics::{Spread, per},
    verdicts::Verdict,
};

/// Everything that was measured.
#[derive(Serialize)]
pub(super) struct Results {
    /// As it was typed.
    pub(super) command: String,
    /// Where.
    pub(super) machine: Machine,
    /// How much was measured.
    pub(super) plan: Plan,
    /// Load average at the start, and the spread of that before each sample, which the load itself raises.
    pub(super) load_average_at_start: f64,
    /// See above.
    pub(super) load_average: Option<Spread>,
    /// CPU seconds that the hypervisor gave to others.
    pub(super) steal_seconds: f64,
    /// By arm.
    pub(super) arms: Vec<ArmResults>,
    /// CPU time of the agent for each short connection, by repetition.
    pub(super) agent_us_per_connection: Option<Spread>,
    /// Kernel run-time statistics.
    pub(super) kernel: Vec<PhaseCost>,
    /// Disk and memory.
    pub(super) footprint: Footprint,
    /// Every target.
    pub(super) verdicts: Vec<Verdict>,
    /// What all of it is made from.
    pub(super) samples: Vec<Sample>,
}

/// Disk, memory and CPU of an agent that has nothing to do.
#[derive(Serialize)]
pub(super) struct Footprint {
    /// The binary.
    pub(super) binary: Binary,
    /// Seconds that the agent was left alone.
    pub(super) idle_seconds: u32,
    /// Pods meanwhile.
    pub(super) pods: u32,
    /// Afterwards.
    pub(super) idle: Memory,
    /// CPU time in that time, in percent of one CPU.
    pub(super) idle_cpu_percent: f64,
    /// The most that was resident under load, in KiB.
    pub(super) peak_under_load_kib: Option<u64>,
}

/// One arm.
#[derive(Serialize)]
pub(super) struct ArmResults {
    /// Which.
    pub(super) arm: Arm,
    /// Each measured quantity.
    pub(super) quantities: Vec<QuantityResults>,
    /// CPU time of the agent while short connections were made, in percent of one CPU.
    pub(super) agent_cpu_percent: Option<Spread>,
}

/// One quantity in one arm.
#[derive(Serialize)]
pub(super) struct QuantityResults {
    /// Which.
    pub(super) quantity: Quantity,
    /// Second by second; context switches by repetition.
    pub(super) value: Spread,
    /// Of the quarter that was disturbed least, see [`Quantity::undisturbed`]: divided by that of `none`.
    pub(super) to_none: Option<f64>,
    /// Turn by turn beside sockets that nobody watches, where that was done.
    pub(super) beside: Option<Compared>,
    /// Turn by turn beside no hooks anywhere, where that was done.
    pub(super) hooked: Option<Compared>,
}

/// What is compared between arms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Quantity {
    /// Short connections: requests per second.
    ShortRequests,
    /// Short connections: microseconds of CPU of server and client per request.
    ShortCpu,
    /// Kept-alive connections: requests per second.
    KeptRequests,
    /// Kept-alive connections: microseconds of CPU of server and client per request.
    KeptCpu,
    /// Nanoseconds of CPU per context switch of two threads that do nothing else.
    SwitchCpu,
    /// Nanoseconds of CPU per UDP datagram of 64 bytes that goes that way, both ends.
    DatagramCpu(Case, Way),
    /// Nanoseconds of CPU per UDP socket that is bound to a chosen port and closed.
    BindCpu,
    /// Nanoseconds of CPU per UDP socket that is connected and closed.
    ConnectCpu,
}

impl Quantity {
    /// All of them.
    pub(super) const ALL: [Self; 13] = [
        Self::ShortRequests,
        Self::ShortCpu,
        Self::KeptRequests,
        Self::KeptCpu,
        Self::SwitchCpu,
        Self::DatagramCpu(Case::Clients, Way::Routed),
        Self::DatagramCpu(Case::Clients, Way::Bridged),
        Self::DatagramCpu(Case::Clients, Way::Within),
        Self::DatagramCpu(Case::Served, Way::Routed),
        Self::DatagramCpu(Case::Served, Way::Bridged),
        Self::DatagramCpu(Case::Served, Way::Within),
        Self::BindCpu,
        Self::ConnectCpu,
    ];

    /// For tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ShortRequests => "short connections, requests/s",
            Self::ShortCpu => "short connections, CPU us/request",
            Self::KeptRequests => "kept-alive, requests/s",
            Self::KeptCpu => "kept-alive, CPU us/request",
            Self::SwitchCpu => "context switch, CPU ns",
            Self::DatagramCpu(Case::Clients, Way::Routed) => {
                "UDP datagram of 64 B, pods ask others, routed, CPU ns"
            }
            Self::DatagramCpu(Case::Clients, Way::Bridged) => {
                "UDP datagram of 64 B, pods ask others, bridged, CPU ns"
            }
            Self::DatagramCpu(Case::Clients, Way::Within) => {
                "UDP datagram of 64 B, pods ask others, within one network namespace, CPU ns"
            }
            Self::DatagramCpu(Case::Served, Way::Routed) => {
                "UDP datagram of 64 B, a pod asks a pod that serves, routed, CPU ns"
            }
            Self::DatagramCpu(Case::Served, Way::Bridged) => {
                "UDP datagram of 64 B, a pod asks a pod that serves, bridged, CPU ns"
            }
            Self::DatagramCpu(Case::Served, Way::Within) => {
                "UDP datagram of 64 B, a pod asks itself, CPU ns"
            }
            Self::BindCpu => "UDP bind and close, CPU ns",
            Self::ConnectCpu => "UDP connect and close, CPU ns",
        }
    }

    fn of(self, sample: &Sample) -> Vec<f64> {
        let each =
            |phase: &Phase, pick: fn(&Second) -> f64| phase.seconds.iter().map(pick).collect();
        match self {
            Self::ShortRequests => each(&sample.short, |second| second.requests_per_second),
            Self::ShortCpu => each(&sample.short, |second| second.cpu_us_per_request),
            Self::KeptRequests => each(&sample.kept_alive, |second| second.requests_per_second),
            Self::KeptCpu => each(&sample.kept_alive, |second| second.cpu_us_per_request),
            Self::SwitchCpu => {
                let switches = Some(&sample.switches).filter(|all| all.switches > 0);
                switches
                    .map(|all| all.cpu_ns_per_switch)
                    .into_iter()
                    .collect()
            }
            Self::DatagramCpu(..) => {
                let turns = self.exchanged(sample).map(|exchanged| &exchanged.watched);
                let turns = turns.into_iter().flatten();
                turns.map(|turn| per(turn.with_ns, turn.count)).collect()
            }
            Self::BindCpu => each_of(sample.udp.done.bound).into_iter().collect(),
            Self::ConnectCpu => each_of(sample.udp.done.connected).into_iter().collect(),
        }
    }

    /// Where it was done in turns.
    fn exchanged(self, sample: &Sample) -> Option<&Exchanged> {
        match self {
            Self::DatagramCpu(Case::Clients, way) => sample.udp.done.clients.get(&way),
            Self::DatagramCpu(Case::Served, way) => sample.udp.done.served.get(&way),
            Self::ShortRequests
            | Self::ShortCpu
            | Self::KeptRequests
            | Self::KeptCpu
            | Self::SwitchCpu
            | Self::BindCpu
            | Self::ConnectCpu => None,
        }
    }

    /// The quartile on the good side. A virtual machine has seconds in which the same work takes a fifth more CPU time,
    /// whoever runs: a median falls now among these, now among the others, and a ratio of medians with it.
    fn undisturbed(self, spread: Spread) -> f64 {
        match self {
            Self::ShortRequests | Self::KeptRequests => spread.upper,
            Self::ShortCpu
            | Self::KeptCpu
            | Self::SwitchCpu
            | Self::DatagramCpu(..)
            | Self::BindCpu
            | Self::ConnectCpu => spread.lower,
        }
    }
}

fn compared(
    samples: &[Sample],
    arm: Arm,
    quantity: Quantity,
    turns: fn(&Exchanged) -> &Vec<Turn>,
) -> Option<Compared> {
    let exchanged = of(samples, arm).filter_map(|sample| quantity.exchanged(sample));
    Compared::of(exchanged.flat_map(turns))
}

fn each_of(work: Work) -> Option<f64> {
    (work.count > 0).then(|| per(work.cpu_ns, work.count))
}

/// What our programs cost in one kind of work, by the kernel's statistics over all repetitions.
#[derive(Serialize)]
pub(super) struct PhaseCost {
    /// `short connections`, `kept-alive connections` or `context switches`.
    pub(super) phase: &'static str,
    /// What is counted: `connection`, `request` or `switch`.
    pub(super) unit: &'static str,
    /// How many of them.
    pub(super) units: u64,
    /// By program.
    pub(super) programs: Vec<ProgramCost>,
}

/// One program in one kind of work.
#[derive(Serialize)]
pub(super) struct ProgramCost {
    /// Its name; `empty_*` is a program that does nothing on the same hook.
    pub(super) program: String,
    /// Runs in all repetitions.
    pub(super) runs: u64,
    /// Nanoseconds per run, by repetition.
    pub(super) ns_per_run: Spread,
    /// Runs per unit of the work.
    pub(super) runs_per_unit: f64,
    /// Nanoseconds per unit of the work.
    pub(super) ns_per_unit: f64,
}

/// All arms in the order of the plan.
pub(super) fn arms(plan: &Plan, samples: &[Sample]) -> Vec<ArmResults> {
    plan.arms
        .iter()
        .map(|arm| ArmResults {
            arm: *arm,
            quantities: Quantity::ALL
                .into_iter()
                .filter_map(|quantity| {
                    let value = values(samples, *arm, quantity)?;
                    let none = values(samples, Arm::None, quantity)?;
                    Some(QuantityResults {
                        quantity,
                        value,
                        to_none: (*arm != Arm::None)
                            .then(|| quantity.undisturbed(value) / quantity.undisturbed(none)),
                        beside: compared(samples, *arm, quantity, |done| &done.watched),
                        hooked: compared(samples, *arm, quantity, |done| &done.hooked),
                    })
                })
                .collect(),
            agent_cpu_percent: Spread::of(
                of(samples, *arm)
                    .filter(|sample| sample.memory.is_some())
                    .map(|sample| {
                        per(
                            sample.short.agent_cpu_us,
                            u64::from(plan.seconds) * 1_000_000,
                        ) * 100.0
                    }),
            ),
        })
        .collect()
}

/// CPU time of the agent for each short connection.
pub(super) fn agent_us_per_connection(samples: &[Sample]) -> Option<Spread> {
    let spent = of(samples, Arm::Agent).map(|sample| &sample.short);
    Spread::of(spent.map(|short| per(short.agent_cpu_us, short.connections)))
}

/// What our programs cost.
pub(super) fn kernel(samples: &[Sample]) -> Vec<PhaseCost> {
    let counted: Vec<&Sample> = of(samples, Arm::Counted).collect();
    let phase = |phase, unit, pick: fn(&Sample) -> (u64, &[Runs])| {
        let picked: Vec<_> = counted.iter().map(|sample| pick(sample)).collect();
        let units = picked.iter().map(|(units, _)| units).sum();
        let mut by_program: BTreeMap<&str, Vec<&Runs>> = BTreeMap::new();
        for runs in picked.iter().flat_map(|(_, runs)| *runs) {
            by_program.entry(&runs.program).or_default().push(runs);
        }
        let programs = by_program
            .into_iter()
            .filter_map(|(program, all)| {
                let runs: u64 = all.iter().map(|one| one.runs).sum();
                let ns: u64 = all.iter().map(|one| one.ns).sum();
                let each = all.iter().filter(|one| one.runs > 0);
                Some(ProgramCost {
                    program: program.to_owned(),
                    runs,
                    ns_per_run: Spread::of(each.map(|one| per(one.ns, one.runs)))?,
                    runs_per_unit: per(runs, units),
                    ns_per_unit: per(ns, units),
                })
            })
            .collect();
        PhaseCost {
            phase,
            unit,
            units,
            programs,
        }
    };
    fn requests(phase: &Phase) -> (u64, &[Runs]) {
        (phase.requests, &phase.programs)
    }
    vec![
        phase(
            "short connections, both ends in pods",
            "connection",
            |sample| (sample.short.connections, &sample.short.programs),
        ),
        phase("kept-alive connections", "request", |sample| {
            requests(&sample.kept_alive)
        }),
        phase(
            "context switches of the whole machine",
            "switch",
            |sample| (sample.switches.machine_switches, &sample.switches.programs),
        ),
        phase(
            "UDP: as many datagrams of each way, binds and connects",
            "of each",
            |sample| (sample.udp.done.bound.count, &sample.udp.programs),
        ),
    ]
}

fn of(samples: &[Sample], arm: Arm) -> impl Iterator<Item = &Sample> + Clone {
    samples.iter().filter(move |sample| sample.arm == arm)
}

fn values(samples: &[Sample], arm: Arm, quantity: Quantity) -> Option<Spread> {
    Spread::of(of(samples, arm).flat_map(|sample| quantity.of(sample)))
}
