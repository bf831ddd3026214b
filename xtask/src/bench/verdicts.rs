//! Whether a target is met, and when that cannot be said.

use serde::Serialize;

use super::{
    datagrams::{Case, Way},
    results::{ArmResults, Footprint, Quantity, QuantityResults},
    rounds::{Arm, Plan, Sample},
    statistics::per,
};

/// What is measured twice without the agent may differ by this much, or nothing is judged.
const NOISE_MAX: f64 = 0.01;

/// A target and whether it is met.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Verdict {
    /// What was aimed at.
    pub(super) target: String,
    /// What was measured.
    pub(super) measured: String,
    /// Absent when nothing can be said.
    pub(super) met: Option<bool>,
    /// Why nothing can be said.
    pub(super) refused: Option<String>,
}

/// Pods that the targets of an idle agent are for.
const PODS_AIMED_AT: u32 = 110;

/// The targets of an agent that has nothing to do, where there are as many pods as they are for.
pub(super) fn idle_verdicts(footprint: &Footprint) -> Vec<Verdict> {
    if footprint.pods != PODS_AIMED_AT {
        return Vec::new();
    }
    vec![
        Verdict {
            target: format!("idle with {PODS_AIMED_AT} pods: at most 0.5 % of a core"),
            measured: format!("{:.2} %", footprint.idle_cpu_percent),
            met: Some(footprint.idle_cpu_percent <= 0.5),
            refused: None,
        },
        Verdict {
            target: format!("idle with {PODS_AIMED_AT} pods: at most 40 MiB resident"),
            measured: format!("{:.1} MiB", per(footprint.idle.rss_kib, 1024)),
            met: Some(footprint.idle.rss_kib <= 40 * 1024),
            refused: None,
        },
    ]
}

/// Every target of the product that is measured here.
pub(super) fn verdicts(
    plan: &Plan,
    arms: &[ArmResults],
    samples: &[Sample],
    footprint: &Footprint,
) -> Vec<Verdict> {
    let mut verdicts: Vec<Verdict> = [
        (Quantity::ShortRequests, 0.96),
        (Quantity::KeptRequests, 0.99),
    ]
    .into_iter()
    .map(|(quantity, at_least)| ratio_verdict(arms, samples, quantity, at_least))
    .collect();
    let cases = [Case::Clients, Case::Served].into_iter();
    for case in cases.filter(|_| plan.datagrams > 0) {
        verdicts.push(datagram_verdict(arms, samples, case));
    }
    let mib = |kib: u64| per(kib, 1024);
    let binary = &footprint.binary;
    verdicts.push(Verdict {
        target: "release binary, stripped: at most 15 MiB".into(),
        measured: format!("{:.1} MiB", per(binary.bytes, 1 << 20)),
        met: binary.stripped.then_some(binary.bytes <= 15 << 20),
        refused: (!binary.stripped).then(|| "it has a symbol table".into()),
    });
    verdicts.push(Verdict {
        target: format!(
            "idle memory with {} pods: at most 30 MiB resident",
            footprint.pods
        ),
        measured: format!("{:.1} MiB", mib(footprint.idle.rss_kib)),
        met: Some(footprint.idle.rss_kib <= 30 * 1024),
        refused: None,
    });
    verdicts
}

fn ratio_verdict(
    arms: &[ArmResults],
    samples: &[Sample],
    quantity: Quantity,
    at_least: f64,
) -> Verdict {
    let target = format!("{}: at least {at_least:.2} of none", quantity.name());
    let ratio = |arm| found(arms, arm, quantity)?.to_none;
    let (Some(agent), Some(noise)) = (ratio(Arm::Agent), ratio(Arm::NoneAgain)) else {
        return nothing(target);
    };
    let refused = too_noisy("the two arms without the agent", noise).or_else(|| foreign(samples));
    Verdict {
        target,
        measured: format!("{agent:.3} (A/A {noise:.3})"),
        met: refused.is_none().then_some(agent >= at_least),
        refused,
    }
}

/// The price of a datagram is that of hooks anywhere on the node times that of our programs: both are measured in turns of
/// milliseconds, which the machine's bad seconds spare.
fn datagram_verdict(arms: &[ArmResults], samples: &[Sample], case: Case) -> Verdict {
    let at_most = 1.05;
    let quantity = Quantity::DatagramCpu(case, Way::Routed);
    let target = format!("{}: at most {at_most:.2} of none", quantity.name());
    let hooks = found(arms, Arm::None, quantity).and_then(|found| found.hooked);
    let programs = found(arms, Arm::Agent, quantity).and_then(|found| found.beside);
    let (Some(hooks), Some(programs)) = (hooks, programs) else {
        return nothing(target);
    };
    let whole = hooks.ratio.median * programs.ratio.median;
    let refused = too_noisy("turns without hooks", hooks.noise.median)
        .or_else(|| {
            too_noisy(
                "turns of sockets that nobody watches",
                programs.noise.median,
            )
        })
        .or_else(|| foreign(samples));
    Verdict {
        target,
        measured: format!(
            "{whole:.3}: hooks on any cgroup {:.3} (A/A {:.3}), times our programs {:.3} (A/A {:.3})",
            hooks.ratio.median, hooks.noise.median, programs.ratio.median, programs.noise.median
        ),
        met: refused.is_none().then_some(whole <= at_most),
        refused,
    }
}

fn found(arms: &[ArmResults], arm: Arm, quantity: Quantity) -> Option<&QuantityResults> {
    let arm = arms.iter().find(|results| results.arm == arm)?;
    arm.quantities.iter().find(|one| one.quantity == quantity)
}

fn nothing(target: String) -> Verdict {
    Verdict {
        target,
        measured: "nothing".into(),
        met: None,
        refused: Some("an arm is missing".into()),
    }
}

fn too_noisy(what: &str, noise: f64) -> Option<String> {
    let off = (noise - 1.0).abs();
    (off > NOISE_MAX).then(|| {
        format!(
            "{what} differ by {:.1} %, more than {:.0} %",
            off * 100.0,
            NOISE_MAX * 100.0
        )
    })
}

fn foreign(samples: &[Sample]) -> Option<String> {
    let disturbed = samples.iter().filter(|sample| sample.foreign_programs > 0);
    let disturbed = disturbed.count();
    (disturbed > 0).then(|| {
        format!(
            "another plumbline ran before {disturbed} of {} samples",
            samples.len()
        )
    })
}
