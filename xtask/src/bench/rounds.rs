//! The order of measuring: every arm once in each repetition, in an order that a seed decides.

use std::{path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{
    agent::{Agent, OFTEN_MS},
    datagrams::Datagrams,
    footprint::Memory,
    kernel::{self, Floor, Program, Statistics},
    load::Kind,
    machine::{self, Activity},
    stage::Stage,
    statistics::{per, shuffle},
};
use crate::{interrupt, shell};

/// What runs beside the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Arm {
    /// Nothing.
    None,
    /// Nothing again: what differs from [`Arm::None`] is noise.
    NoneAgain,
    /// The agent with both probes.
    Agent,
    /// The agent while the kernel counts, which costs time itself: gives nanoseconds and no ratios.
    Counted,
    /// The agent without CPU windows and UDP.
    TcpOnly,
    /// The agent with UDP's programs alone.
    UdpOnly,
    /// The agent without TCP and UDP.
    CpuOnly,
}

impl Arm {
    /// For tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::NoneAgain => "none again",
            Self::Agent => "agent",
            Self::Counted => "agent, counted",
            Self::TcpOnly => "agent, tcp only",
            Self::UdpOnly => "agent, udp only",
            Self::CpuOnly => "agent, cpu only",
        }
    }

    fn has_agent(self) -> bool {
        !matches!(self, Self::None | Self::NoneAgain)
    }

    fn disabled(self) -> &'static [&'static str] {
        match self {
            Self::TcpOnly => &["cpu-windows", "udp"],
            Self::UdpOnly => &["tcp", "cpu-windows"],
            Self::CpuOnly => &["tcp", "udp"],
            Self::None | Self::NoneAgain | Self::Agent | Self::Counted => &[],
        }
    }
}

/// How much is measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Plan {
    /// All arms of a repetition.
    pub(super) arms: Vec<Arm>,
    /// How often each.
    pub(super) repetitions: u32,
    /// Seconds of each kind of connection.
    pub(super) seconds: u32,
    /// Round trips of the pair of threads that switch; 0: there is no such pair.
    pub(super) round_trips: u64,
    /// Datagrams of UDP, and as many binds and connects; 0: none are measured.
    pub(super) datagrams: u64,
    /// Seconds before each arm's load: for the agent to settle, and for the others to have waited as long.
    pub(super) settle_seconds: u32,
    /// Decides the order.
    pub(super) seed: u64,
    /// The agent's binary.
    pub(super) binary: PathBuf,
}

/// Connections of one kind, in one arm of one repetition.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Phase {
    /// Answered requests.
    pub(super) requests: u64,
    /// Second by second.
    pub(super) seconds: Vec<Second>,
    /// Connections that the server accepted.
    pub(super) connections: u64,
    /// CPU time of the agent.
    pub(super) agent_cpu_us: u64,
    /// Runs of programs meanwhile, where the kernel counted.
    pub(super) programs: Vec<Runs>,
}

/// One run of wrk, of one second.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Second {
    /// Requests in that second.
    pub(super) requests_per_second: f64,
    /// CPU time of server and client per request.
    pub(super) cpu_us_per_request: f64,
}

/// Context switches, in one arm of one repetition.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Switches {
    /// Of the pair of threads.
    pub(super) switches: u64,
    /// CPU time of the pair, for each of its switches.
    pub(super) cpu_ns_per_switch: f64,
    /// Of the whole machine meanwhile.
    pub(super) machine_switches: u64,
    /// Runs of programs meanwhile, where the kernel counted.
    pub(super) programs: Vec<Runs>,
}

/// UDP, in one arm of one repetition.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Udp {
    /// What was done, and its CPU time.
    pub(super) done: Datagrams,
    /// Runs of programs meanwhile, where the kernel counted.
    pub(super) programs: Vec<Runs>,
}

/// What a program did in a phase.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Runs {
    /// Its name.
    pub(super) program: String,
    /// How often it ran.
    pub(super) runs: u64,
    /// Nanoseconds in it.
    pub(super) ns: u64,
}

/// One arm of one repetition.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Sample {
    /// Which.
    pub(super) arm: Arm,
    /// Of which repetition, from 0.
    pub(super) repetition: u32,
    /// A connection for each request.
    pub(super) short: Phase,
    /// Kept-alive connections.
    pub(super) kept_alive: Phase,
    /// The pair of threads.
    pub(super) switches: Switches,
    /// Datagrams, binds and connects.
    pub(super) udp: Udp,
    /// Memory of the agent afterwards.
    pub(super) memory: Option<Memory>,
    /// Programs of another plumbline that were loaded: they cost, too.
    pub(super) foreign_programs: usize,
    /// Load average before.
    pub(super) load_average: f64,
    /// Hundredths of a CPU second that the hypervisor gave to others meanwhile.
    pub(super) steal_ticks: u64,
}

/// All arms of all repetitions.
///
/// # Errors
/// When the agent or the load fails; when the person interrupts.
pub(super) fn run(stage: &Stage<'_>, plan: &Plan) -> Result<Vec<Sample>> {
    // Neither caches nor sockets in TIME_WAIT are in the state that they will have.
    stage.work(Kind::Short, plan.seconds.max(2))?;
    stage.work(Kind::KeptAlive, 1)?;
    let mut samples = Vec::new();
    for repetition in 0..plan.repetitions {
        let mut arms = plan.arms.clone();
        shuffle(&mut arms, plan.seed + u64::from(repetition));
        for arm in arms {
            interrupt::check()?;
            shell::note(format_args!(
                "repetition {} of {}: {}",
                repetition + 1,
                plan.repetitions,
                arm.name()
            ));
            samples.push(one(stage, plan, arm, repetition).with_context(|| {
                format!("arm `{}` of repetition {}", arm.name(), repetition + 1)
            })?);
        }
    }
    Ok(samples)
}

fn one(stage: &Stage<'_>, plan: &Plan, arm: Arm, repetition: u32) -> Result<Sample> {
    let (foreign_programs, before) = (foreign_programs()?, Activity::now()?);
    let agent = if arm.has_agent() {
        Some(Agent::start(
            stage,
            &plan.binary,
            arm.disabled(),
            Some(OFTEN_MS),
        )?)
    } else {
        None
    };
    let bench = Bench {
        stage,
        meters: if arm == Arm::Counted {
            Some((Statistics::on()?, Floor::attach(&stage.cgroups())?))
        } else {
            None
        },
        agent,
    };
    pause(Duration::from_secs(plan.settle_seconds.into()))?;
    let load_average = machine::load_average();
    let short = bench.phase(Kind::Short, plan.seconds)?;
    let kept_alive = bench.phase(Kind::KeptAlive, plan.seconds)?;
    let switches = bench.switches(plan.round_trips)?;
    let udp = bench.udp(plan.datagrams)?;
    let memory = bench.agent.as_ref().map(Agent::memory).transpose()?;
    drop(bench.meters);
    bench.agent.map(Agent::stop).transpose()?;
    Ok(Sample {
        arm,
        repetition,
        short,
        kept_alive,
        switches,
        udp,
        memory,
        foreign_programs,
        load_average,
        steal_ticks: Activity::now()?.steal_ticks - before.steal_ticks,
    })
}

/// Programs of somebody else's agent. The kernel frees those of the last arm's agent some time after its end.
fn foreign_programs() -> Result<usize> {
    let give_up = shell::now() + Duration::from_secs(2);
    loop {
        let count = kernel::programs()?.len();
        if count == 0 || shell::now() >= give_up {
            return Ok(count);
        }
        pause(Duration::from_millis(50))?;
    }
}

/// The stage with or without an agent and the kernel's statistics.
struct Bench<'a> {
    stage: &'a Stage<'a>,
    meters: Option<(Statistics, Floor)>,
    agent: Option<Agent>,
}

impl Bench<'_> {
    fn phase(&self, kind: Kind, seconds: u32) -> Result<Phase> {
        let (programs, used) = (self.programs()?, self.agent_used_us()?);
        let mut phase = Phase {
            requests: 0,
            seconds: Vec::new(),
            connections: 0,
            agent_cpu_us: 0,
            programs: Vec::new(),
        };
        for _ in 0..seconds {
            let worked = self.stage.work(kind, 1)?;
            phase.requests += worked.counted.requests;
            phase.connections += worked.connections;
            phase.seconds.push(Second {
                requests_per_second: worked.counted.per_second,
                cpu_us_per_request: per(worked.cpu_us, worked.counted.requests),
            });
        }
        phase.agent_cpu_us = self.agent_used_us()? - used;
        phase.programs = runs(&programs, self.programs()?);
        Ok(phase)
    }

    fn switches(&self, round_trips: u64) -> Result<Switches> {
        if round_trips == 0 {
            return Ok(Switches::default());
        }
        let (programs, before) = (self.programs()?, Activity::now()?);
        let switched = self.stage.switch(round_trips)?;
        let machine_switches = Activity::now()?.switches - before.switches;
        Ok(Switches {
            switches: switched.switches,
            cpu_ns_per_switch: per(switched.cpu_ns, switched.switches),
            machine_switches,
            programs: runs(&programs, self.programs()?),
        })
    }

    fn udp(&self, count: u64) -> Result<Udp> {
        if count == 0 {
            return Ok(Udp::default());
        }
        let programs = self.programs()?;
        let done = self.stage.datagrams(count, self.agent.is_none())?;
        Ok(Udp {
            done,
            programs: runs(&programs, self.programs()?),
        })
    }

    fn agent_used_us(&self) -> Result<u64> {
        self.agent.as_ref().map_or(Ok(0), Agent::used_us)
    }

    /// The agent's programs and the empty ones, where the kernel counts.
    fn programs(&self) -> Result<Vec<Program>> {
        let (Some((_, floor)), Some(agent)) = (&self.meters, &self.agent) else {
            return Ok(Vec::new());
        };
        let mut programs = agent.programs()?;
        programs.extend(floor.read()?);
        Ok(programs)
    }
}

fn runs(before: &[Program], after: Vec<Program>) -> Vec<Runs> {
    let earlier = |id: u32| before.iter().find(|program| program.id == id);
    after
        .into_iter()
        .map(|program| {
            let (runs, ns) =
                earlier(program.id).map_or((0, 0), |program| (program.runs, program.ns));
            Runs {
                runs: program.runs - runs,
                ns: program.ns - ns,
                program: program.name,
            }
        })
        .collect()
}

/// Sleeps, unless the person interrupts.
///
/// # Errors
/// When the person interrupts.
pub(super) fn pause(duration: Duration) -> Result<()> {
    let end = shell::now() + duration;
    while shell::now() < end {
        interrupt::check()?;
        thread::sleep(Duration::from_millis(50).min(end.saturating_duration_since(shell::now())));
    }
    Ok(())
}
