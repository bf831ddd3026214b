//! `plumbline check`: a live node for a limited time.

use std::path::Path;
use std::time::Duration;

use plumbline_core::finding::Finding;
use plumbline_core::observation::{Health, OPTIONAL_PROBES, ProbeStatus};
use plumbline_core::settings::Grace;
use plumbline_core::snapshot::Snapshot;

use crate::cli::CheckArgs;
use crate::config::{Config, DeclaredSource, File, Problem};
use crate::run::Node;
use crate::sources::ebpf::UdpMode;

/// Readings lag behind what they measure: the node is observed this much longer than asked, so that the CPU windows of the
/// whole duration are in.
const SETTLE: Duration = Duration::from_millis(2_500);

/// Complete scans that a condition must be found in.
const SCANS: u32 = 2;

/// What a check found.
#[derive(Debug)]
pub struct Checked {
    /// Open findings, worst first.
    pub findings: Vec<Finding>,
    /// Findings that the configuration hides.
    pub suppressed: Vec<Finding>,
    /// What was not measured or compared: with it, no findings does not mean none.
    pub missing: Vec<String>,
    /// Declared objects that could not be used, and why.
    pub unused: Vec<String>,
}

/// Adapts a configuration to a check, but for what was set by hand.
///
/// # Errors
///
/// Nothing to compare with was given, or the duration is out of range.
pub fn adapt(config: &mut Config, args: &CheckArgs, file: &File) -> Result<(), Vec<Problem>> {
    let mut problems = Vec::new();
    let duration = args.duration.0;
    let longest = plumbline_core::settings::CPU_MEAN_WINDOW_MAX;
    if duration < Duration::from_secs(2) || duration > Duration::from_secs(3_600) {
        problems.push(Problem {
            at: "--duration".into(),
            message: "must be between 2s and 1h".into(),
        });
    }
    if config.declared == DeclaredSource::None {
        let message = "say what pods declared with --declared PATH or --kube; without it nothing can be compared";
        problems.push(Problem {
            at: "check".into(),
            message: message.into(),
        });
    }
    if args.node.grace.is_none() && file.grace.is_none() {
        config.core.grace = Grace::Scans(SCANS);
    }
    if args.node.cpu_startup_exclusion.is_none() && file.cpu.startup_exclusion.is_none() {
        config.core.cpu_startup_exclusion = Duration::ZERO;
    }
    if args.node.cpu_mean_window.is_none() && file.cpu.mean_window.is_none() {
        config.core.cpu_mean_window = duration.min(longest);
    }
    if args.node.scan_interval.is_none() && file.scan_interval.is_none() {
        config.scan_interval =
            (duration / (SCANS + 2)).clamp(Duration::from_millis(500), config.scan_interval);
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}

/// Observes and says what was found.
///
/// # Errors
///
/// What [`Node::start`] says.
pub async fn check(
    config: &Config,
    duration: Duration,
    record: Option<&Path>,
) -> anyhow::Result<Checked> {
    let mut node = Node::start(config, duration, record)?;
    tracing::info!(duration = %humantime::format_duration(duration), "observing");
    let mut seen = 0;
    node.observe(duration + SETTLE, |evaluation| {
        if evaluation.open.len() != seen {
            seen = evaluation.open.len();
            let containers = evaluation.snapshot.containers.len();
            tracing::info!(
                containers,
                scans = evaluation.snapshot.scans,
                findings = seen,
                "so far"
            );
        }
    })
    .await;
    let (_, last) = node.finish().await;
    Ok(Checked {
        missing: missing(config, &last.snapshot),
        unused: unused(&last.snapshot),
        findings: last.open,
        suppressed: last.suppressed,
    })
}

/// Everything without which "no findings" would not mean that there are none.
fn missing(config: &Config, snapshot: &Snapshot) -> Vec<String> {
    let mut missing: Vec<String> = snapshot
        .probes
        .iter()
        .filter(|probe| matters(probe))
        .map(|probe| {
            let reason = probe.reason.as_deref().unwrap_or("no reason given");
            format!("probe {} does not measure: {reason}", probe.probe)
        })
        .collect();
    let asked = [
        ("tcp", config.tcp),
        ("udp", config.udp != UdpMode::Off),
        ("cpu_windows", config.cpu_windows),
        ("listeners", true),
        ("declared", true),
    ];
    for (name, _) in asked.into_iter().filter(|(_, wanted)| *wanted) {
        if snapshot.probes.iter().all(|probe| probe.probe != name) {
            missing.push(format!(
                "probe {name} has not reported in time; give a longer --duration"
            ));
        }
    }
    if let Grace::Scans(scans) = config.core.grace
        && snapshot.scans < scans
    {
        let done = snapshot.scans;
        missing.push(format!(
            "only {done} of {scans} scans of the node's sockets were done; give a longer --duration"
        ));
    }
    let mut others = snapshot
        .containers
        .iter()
        .filter(|container| !container.is_self && !container.gone)
        .peekable();
    if others.peek().is_some() && others.all(|container| container.pod.is_none()) {
        missing.push(
            "no running container is in the declarations: they are matched by container id or pod UID, which \
             `kubectl get pods,services -A -o json` has and manifests that were never applied have not"
                .into(),
        );
    }
    missing
}

/// Declared objects that could not be used.
fn unused(snapshot: &Snapshot) -> Vec<String> {
    let problems = snapshot
        .declared
        .iter()
        .flat_map(|declared| &declared.problems);
    problems
        .map(|problem| format!("not used: {}: {}", problem.at, problem.message))
        .collect()
}

/// A probe that was asked for and does not measure. `Off` was not asked for; the canary measures nothing itself, and no rule
/// asks for names of peers.
fn matters(probe: &ProbeStatus) -> bool {
    if probe.probe.starts_with("peers.") {
        return false;
    }
    match probe.health {
        Health::Unsupported => !OPTIONAL_PROBES.contains(&probe.probe.as_str()),
        Health::Broken => probe.probe != "canary",
        Health::Ok | Health::Off => false,
    }
}
