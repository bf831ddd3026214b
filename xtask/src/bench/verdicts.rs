//! Whether a target is met, and when that cannot be said.

use serde::Serialize;

use super::{
    results::{ArmResults, Footprint, Quantity},
    rounds::{Arm, Sample},
    statistics::per,
};

/// Two arms without the agent may differ by this much, or nothing is judged.
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

/// What a ratio may be.
#[derive(Clone, Copy, Debug)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn text(self) -> String {
        match self {
            Self::AtLeast(ratio) => format!("at least {ratio:.2}"),
            Self::AtMost(ratio) => format!("at most {ratio:.2}"),
        }
    }

    fn is_met(self, measured: f64) -> bool {
        match self {
            Self::AtLeast(ratio) => measured >= ratio,
            Self::AtMost(ratio) => measured <= ratio,
        }
    }
}

/// Every target of the product that is measured here.
pub(super) fn verdicts(
    arms: &[ArmResults],
    samples: &[Sample],
    footprint: &Footprint,
) -> Vec<Verdict> {
    let mut verdicts: Vec<Verdict> = [
        (Quantity::ShortRequests, Bound::AtLeast(0.96)),
        (Quantity::KeptRequests, Bound::AtLeast(0.99)),
        (Quantity::DatagramCpu, Bound::AtMost(1.05)),
    ]
    .into_iter()
    .map(|(quantity, target)| ratio_verdict(arms, samples, quantity, target))
    .collect();
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
    target: Bound,
) -> Verdict {
    let ratio = |arm: Arm| {
        let arm = arms.iter().find(|results| results.arm == arm)?;
        let found = arm.quantities.iter().find(|one| one.quantity == quantity)?;
        found.to_none
    };
    let target_text = format!("{}: {} of none", quantity.name(), target.text());
    let (Some(agent), Some(noise)) = (ratio(Arm::Agent), ratio(Arm::NoneAgain)) else {
        return Verdict {
            target: target_text,
            measured: "nothing".into(),
            met: None,
            refused: Some("an arm is missing".into()),
        };
    };
    let foreign = samples
        .iter()
        .filter(|sample| sample.foreign_programs > 0)
        .count();
    let refused = if (noise - 1.0).abs() > NOISE_MAX {
        Some(format!(
            "the two arms without the agent differ by {:.1} %, more than {:.0} %",
            (noise - 1.0).abs() * 100.0,
            NOISE_MAX * 100.0
        ))
    } else if foreign > 0 {
        Some(format!(
            "another plumbline ran before {foreign} of {} samples",
            samples.len()
        ))
    } else {
        None
    };
    Verdict {
        target: target_text,
        measured: format!("{:.3} (A/A {:.3})", agent, noise),
        met: refused.is_none().then_some(target.is_met(agent)),
        refused,
    }
}
