//! `cargo xtask demo`: real pods with seeded deviations, the real agent, real receivers; shows what was found and where it arrived.

mod agent;
mod nginx;
mod receipts;
mod scene;
mod table;

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{build, dashboards, interrupt, receivers::Receivers, setup, shell};
use agent::Agent;
use nginx::Nginx;
use receipts::Receipts;
use scene::Scene;

/// How long the agent may take to find everything: CPU is judged over 8 s.
const FINDING_PATIENCE: Duration = Duration::from_secs(60);
/// How long nothing else may turn up after that.
const SETTLED: Duration = Duration::from_secs(5);
/// How often the receivers are asked.
const STEP: Duration = Duration::from_millis(500);

/// How to show it.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Print only the findings that were received, as a JSON array
    #[arg(long)]
    json: bool,
    /// Leave everything running until Ctrl-C, to look at it
    #[arg(long)]
    keep: bool,
    /// Also run every query of the Grafana dashboard against the store that the demo feeds
    #[arg(long)]
    dashboards: bool,
    /// The agent's binary, already built; used when the demo starts itself again as root
    #[arg(long, hide = true, value_name = "PATH")]
    agent: Option<PathBuf>,
}

/// The command: succeeds only if the seeded deviations and nothing else were found and received.
pub(crate) fn command(arguments: &Arguments) -> Result<()> {
    let started = shell::now();
    let binary = match &arguments.agent {
        Some(binary) => binary.clone(),
        None => prepare()?,
    };
    if !shell::is_root() {
        return as_root(arguments, &binary);
    }
    interrupt::watch()?;
    let dir = tempfile::Builder::new()
        .prefix("plumbline-demo-")
        .tempdir()
        .context("make a folder for the demo")?;
    let result = show(arguments, &binary, dir.path());
    if result.is_err() && !interrupt::came() {
        let kept = dir.keep();
        shell::note(format_args!(
            "the logs of all processes are left in {}",
            kept.display()
        ));
    }
    shell::note(format_args!(
        "demo over after {} s",
        started.elapsed().as_secs()
    ));
    result
}

/// Builds and fetches: all that may need the network.
fn prepare() -> Result<PathBuf> {
    setup::program("ip", "iproute2")?;
    let binary = build::agent_logged(&setup::ensure()?)?;
    Receivers::fetch()?;
    Nginx::ensure()?;
    Ok(binary)
}

/// Starts this program again as root: cgroups, namespaces and eBPF need it, building does not.
fn as_root(arguments: &Arguments, binary: &Path) -> Result<()> {
    shell::note("pods and eBPF need root: going on by sudo");
    let mut sudo = Command::new("sudo");
    sudo.arg("-E")
        .arg(shell::own_program()?)
        .arg("demo")
        .arg("--agent")
        .arg(binary);
    sudo.args(arguments.json.then_some("--json"))
        .args(arguments.keep.then_some("--keep"))
        .args(arguments.dashboards.then_some("--dashboards"));
    shell::run(&mut sudo).context("the demo needs root; run it as root where there is no sudo")
}

/// From the first receiver to the last cleaning up. Whatever is started here stops when this returns, however it does.
fn show(arguments: &Arguments, binary: &Path, dir: &Path) -> Result<()> {
    let nginx = Nginx::ensure()?;
    let receivers = Receivers::start(dir)?;
    shell::note(format_args!(
        "receivers: VictoriaMetrics at {}, Rotel at {}",
        receivers.metrics.url(),
        receivers.logs.endpoint()
    ));
    let scene = Scene::start(&nginx, dir)?;
    shell::note(format_args!(
        "pods: below {}",
        scene.cgroup_root().display()
    ));
    let mut agent = Agent::start(binary, &scene, &receivers, dir)?;
    shell::note(format_args!(
        "agent: pid {}, looking for {} seeded deviations",
        agent.daemon.pid(),
        scene.seeded.len()
    ));
    let receipts = observe(&mut agent, &scene, &receivers)?;
    if arguments.json {
        shell::out(serde_json::to_string_pretty(&received(&receipts)).context("write JSON")?);
    } else {
        shell::out(format_args!(
            "\n{}\n{}",
            table::findings(&receipts),
            table::details(&receipts, &receivers)?
        ));
    }
    let problems = receipts.problems();
    if arguments.dashboards {
        dashboards::check_live(&receivers.metrics.url())?;
    }
    if arguments.keep {
        keep(&agent, &receivers, binary);
    }
    agent.stop()?;
    scene.close()?;
    shell::note("cleaned up: agent, pods, their namespaces and cgroups");
    if !problems.is_empty() {
        bail!(
            "the demo did not show what it should:\n  {}",
            problems.join("\n  ")
        );
    }
    shell::note("all seeded deviations, and nothing else, were found and received");
    Ok(())
}

/// Waits until all is found and received, and then as long again as something unexpected would need to turn up.
fn observe(agent: &mut Agent, scene: &Scene, receivers: &Receivers) -> Result<Receipts> {
    let give_up = shell::now() + FINDING_PATIENCE;
    let mut complete_since = None;
    loop {
        interrupt::check()?;
        let receipts = Receipts::collect(agent.findings()?, &scene.seeded, receivers)?;
        let now = shell::now();
        complete_since = if receipts.is_complete() {
            complete_since.or(Some(now))
        } else {
            None
        };
        if complete_since.is_some_and(|since| now >= since + SETTLED) || now >= give_up {
            return Ok(receipts);
        }
        thread::sleep(STEP);
    }
}

/// The findings that were received, as the agent gives them.
fn received(receipts: &Receipts) -> Vec<&serde_json::Value> {
    receipts
        .receipts
        .iter()
        .filter(|receipt| receipt.as_log)
        .map(|receipt| &receipt.finding.0)
        .collect()
}

/// Says where to look, and waits for Ctrl-C.
fn keep(agent: &Agent, receivers: &Receivers, binary: &Path) {
    shell::note("everything keeps running until Ctrl-C:");
    shell::note(format_args!("  metrics   {}/vmui", receivers.metrics.url()));
    shell::note(format_args!(
        "  status    {} status --socket {}",
        binary.display(),
        agent.socket.display()
    ));
    shell::note(format_args!(
        "  findings  curl --unix-socket {} http://localhost/findings",
        agent.socket.display()
    ));
    while interrupt::check().is_ok() {
        thread::sleep(STEP);
    }
}
