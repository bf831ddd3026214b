//! `cargo xtask bench`: what the agent costs those it watches, from one run with all arms interleaved.

mod agent;
mod datagrams;
mod footprint;
mod kernel;
mod load;
mod logs;
mod machine;
mod paired;
mod policy;
mod results;
mod rounds;
mod stage;
mod statistics;
mod table;
mod verdicts;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

pub(crate) use load::{Arguments as LoadArguments, command as load};

use crate::{build, interrupt, setup, shell};
use agent::Agent;
use load::Programs;
use machine::Machine;
use results::{Footprint, Results};
use rounds::{Arm, Plan};
use stage::{PODS, Stage};
use statistics::{Spread, per};

/// How much to measure.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A few short repetitions: to see that it works, not to judge by
    #[arg(long)]
    quick: bool,
    /// Repetitions of each arm [default: 10; with --quick: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    reps: Option<u32>,
    /// Seconds of each kind of connections in each arm [default: 5; with --quick: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    seconds: Option<u32>,
    /// Also arms with one probe each: which of them costs
    #[arg(long)]
    split: bool,
    /// Decides the order of arms
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print everything that was measured, each sample too, as one JSON object
    #[arg(long)]
    json: bool,
    /// The agent's binary, already built
    #[arg(long, value_name = "PATH", global = true)]
    agent: Option<PathBuf>,
    /// Connections alone, without context switches, UDP and the kernel's statistics: for more repetitions, where the two arms
    /// without the agent differ too much
    #[arg(long)]
    http: bool,
    /// Something else than what the agent costs those it watches
    #[command(subcommand)]
    only: Option<Only>,
}

/// What can be measured by itself.
#[derive(clap::Subcommand)]
enum Only {
    /// Container logs: bytes and records per CPU second, and memory, from files to encoded requests
    Logs(logs::Arguments),
    /// NetworkPolicies: flows that one core judges against 500 of them
    Policy(policy::Arguments),
    /// The agent with nothing to do on larger nodes: CPU seconds an hour, and memory
    Idle(Idle),
}

/// How large nodes are, and how long each is looked at.
#[derive(clap::Args)]
struct Idle {
    /// Pods of each node in turn; each has a container and its pause container. 500 pods are 1,000 containers
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [110, 500], value_parser = clap::value_parser!(u32).range(2..))]
    pods: Vec<u32>,
    /// Seconds
    #[arg(long, value_name = "N", default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
}

/// The command: measures and prints. Missed targets are no failure: this measures, tests judge.
///
/// # Errors
/// When something cannot be built, fetched, started or measured; when the person interrupts.
pub(crate) fn command(arguments: &Arguments) -> Result<()> {
    if let Some(Only::Logs(arguments)) = &arguments.only {
        return logs::command(arguments);
    }
    if let Some(Only::Policy(arguments)) = &arguments.only {
        return policy::command(arguments);
    }
    setup::program("ip", "iproute2")?;
    let programs = Programs::ensure()?;
    let binary = match &arguments.agent {
        Some(binary) => binary.clone(),
        None => build::agent(&setup::ensure()?, true)?,
    };
    if !shell::is_root() {
        return as_root(&binary);
    }
    interrupt::watch()?;
    let dir = tempfile::Builder::new()
        .prefix("plumbline-bench-")
        .tempdir()
        .context("make a folder for the benchmark")?;
    if let Some(Only::Idle(idle)) = &arguments.only {
        shell::out(table::idle(&idle_nodes(idle, &binary, &programs)?));
        return Ok(());
    }
    let measured = measure(
        &arguments.plan(binary),
        arguments.quick,
        &programs,
        dir.path(),
    );
    if measured.is_err() && !interrupt::came() {
        shell::note(format_args!(
            "the logs of all processes are left in {}",
            dir.keep().display()
        ));
    }
    let results = measured?;
    if arguments.json {
        shell::out(serde_json::to_string_pretty(&results).context("write JSON")?);
    } else {
        shell::out(table::text(&results));
    }
    Ok(())
}

impl Arguments {
    fn plan(&self, binary: PathBuf) -> Plan {
        let mut arms = vec![Arm::None, Arm::NoneAgain, Arm::Agent];
        if !self.http {
            arms.push(Arm::Counted);
        }
        if self.split {
            arms.extend([Arm::TcpOnly, Arm::UdpOnly, Arm::CpuOnly]);
        }
        let usual = |quick, full| if self.quick { quick } else { full };
        let beside_http = |many: u32| if self.http { 0 } else { many.into() };
        Plan {
            arms,
            repetitions: self.reps.unwrap_or(usual(3, 10)),
            seconds: self.seconds.unwrap_or(usual(1, 5)),
            round_trips: beside_http(usual(20_000, 100_000)),
            datagrams: beside_http(usual(20_000, 60_000)),
            settle_seconds: usual(1, 3),
            seed: self.seed,
            binary,
        }
    }
}

/// Starts this program again as root: cgroups, namespaces and eBPF need it, building does not.
fn as_root(binary: &Path) -> Result<()> {
    shell::note("pods and eBPF need root: going on by sudo");
    let mut sudo = Command::new("sudo");
    sudo.arg("-E")
        .arg(shell::own_program()?)
        .args(std::env::args_os().skip(1))
        .arg("--agent")
        .arg(binary);
    shell::run(&mut sudo).context("the benchmark needs root; run it as root where there is no sudo")
}

/// From the first pod to the last cleaning up. Whatever is started here stops when this returns, however it does.
fn measure(plan: &Plan, quick: bool, programs: &Programs, dir: &Path) -> Result<Results> {
    let load_average_at_start = machine::load_average();
    let stage = Stage::set(programs, dir, PODS)?;
    shell::note(format_args!(
        "{PODS} pods below {}; load average {load_average_at_start:.1}",
        stage.sandbox.root().display()
    ));
    let samples = rounds::run(&stage, plan)?;
    let seconds = if quick { 10 } else { 30 };
    let mut footprint = idle(&stage, &plan.binary, PODS, seconds)?;
    footprint.peak_under_load_kib = samples
        .iter()
        .filter_map(|sample| Some(sample.memory.as_ref()?.peak_kib))
        .max();
    stage.close()?;
    let counted = plan.arms.contains(&Arm::Counted);
    let kernel = match counted {
        true => results::kernel(&samples),
        false => Vec::new(),
    };
    if kernel.iter().any(|phase| phase.programs.is_empty()) {
        bail!(
            "the kernel counted no run of our programs in one of the phases: nothing was measured"
        );
    }
    let arms = results::arms(plan, &samples);
    Ok(Results {
        command: command_line(plan),
        machine: Machine::this()?,
        load_average_at_start,
        load_average: Spread::of(samples.iter().map(|sample| sample.load_average)),
        steal_seconds: per(samples.iter().map(|sample| sample.steal_ticks).sum(), 100),
        verdicts: verdicts::verdicts(plan, &arms, &samples, &footprint),
        agent_us_per_connection: results::agent_us_per_connection(&samples),
        arms,
        kernel,
        footprint,
        samples,
        plan: plan.clone(),
    })
}

/// The agent with nothing to do, on nodes of different sizes.
fn idle_nodes(sizes: &Idle, binary: &Path, programs: &Programs) -> Result<Vec<Footprint>> {
    let mut all = Vec::new();
    for pods in &sizes.pods {
        let dir = tempfile::Builder::new()
            .prefix("plumbline-bench-")
            .tempdir()
            .context("make a folder for the benchmark")?;
        shell::note(format_args!("starting {pods} pods"));
        let stage = Stage::set(programs, dir.path(), *pods)?;
        all.push(idle(&stage, binary, *pods, sizes.seconds)?);
        stage.close()?;
    }
    Ok(all)
}

/// The agent with nothing to do.
fn idle(stage: &Stage<'_>, binary: &Path, pods: u32, seconds: u32) -> Result<Footprint> {
    shell::note(format_args!("the agent alone for {seconds} s"));
    let agent = Agent::start(stage, binary, &[], None)?;
    // What starting costs is not what being idle costs.
    rounds::pause(Duration::from_secs(5))?;
    let used = agent.used_us()?;
    rounds::pause(Duration::from_secs(seconds.into()))?;
    let used = agent.used_us()? - used;
    let memory = agent.memory()?;
    agent.stop()?;
    Ok(Footprint {
        binary: footprint::binary(binary)?,
        idle_seconds: seconds,
        pods,
        idle: memory,
        idle_cpu_percent: per(used, u64::from(seconds) * 1_000_000) * 100.0,
        peak_under_load_kib: None,
    })
}

/// What gives the same measurement again.
fn command_line(plan: &Plan) -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    format!(
        "cargo xtask {}, with {}",
        arguments.join(" "),
        shell::relative(&plan.binary)
    )
}
