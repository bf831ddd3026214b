//! Prints results for people.

use std::fmt::Write as _;

use super::{
    paired::Compared,
    results::{Footprint, PhaseCost, Quantity, Results},
    rounds::Arm,
    statistics::{Spread, per},
    verdicts::{self, Verdict},
};

/// Connections a second that the agent's own cost is told for.
const BUSY: u32 = 2_000;

/// All of it.
pub(super) fn text(results: &Results) -> String {
    let mut text = String::new();
    let put = |text: &mut String, part: String| {
        text.push_str(&part);
        text.push('\n');
    };
    put(&mut text, head(results));
    put(&mut text, ratios(results));
    put(&mut text, kernel(&results.kernel));
    put(&mut text, footprint(&results.footprint));
    put(&mut text, judgements(&results.verdicts));
    text
}

fn head(results: &Results) -> String {
    let (machine, plan) = (&results.machine, &results.plan);
    let mut text = format!(
        "{}\n{}, {} CPUs, {} MiB, {}, {}\n",
        results.command,
        machine.cpu,
        machine.cpus,
        machine.memory_mib,
        machine.kernel,
        machine.system
    );
    let average = results
        .load_average
        .map_or_else(String::new, |spread| range(spread, 1));
    line(
        &mut text,
        format_args!(
            "{} repetitions of {} arms in shuffled order (seed {}), {} s a phase; load average {:.1} at the start, then {average} \
             (the load itself makes about 2); {:.1} CPU s stolen",
            plan.repetitions,
            plan.arms.len(),
            plan.seed,
            plan.seconds,
            results.load_average_at_start,
            results.steal_seconds,
        ),
    );
    text
}

fn ratios(results: &Results) -> String {
    let mut text = String::from(
        "nginx and wrk (16 connections) in two pods, each on a CPU of its own, second by second: median [quartiles] (min..max), ratio of the better quartile to that of `none`\n",
    );
    let measured = |quantity: &Quantity| {
        let mut all = results.arms.iter().flat_map(|arm| &arm.quantities);
        all.any(|one| one.quantity == *quantity)
    };
    for quantity in Quantity::ALL.into_iter().filter(measured) {
        line(&mut text, format_args!("  {}", quantity.name()));
        for arm in results.arms.iter().filter(|arm| arm.arm != Arm::Counted) {
            let Some(found) = arm.quantities.iter().find(|one| one.quantity == quantity) else {
                continue;
            };
            let digits = if found.value.median < 1_000.0 { 2 } else { 0 };
            let ratio = found
                .to_none
                .map_or_else(String::new, |ratio| format!("{ratio:.3}"));
            let compared = |compared: Option<Compared>, to: &str| {
                compared.map_or_else(String::new, |compared| {
                    let (ratio, noise) = (range(compared.ratio, 3), range(compared.noise, 3));
                    format!("; {to} {ratio} (A/A {noise})")
                })
            };
            let beside = compared(found.beside, "to sockets that nobody watches");
            let hooked = compared(found.hooked, "beside hooks elsewhere");
            let value = found.value;
            line(
                &mut text,
                format_args!(
                    "    {:<16} {:<32} ({:.digits$}..{:.digits$}) {ratio}{beside}{hooked}",
                    arm.arm.name(),
                    range(value, digits),
                    value.min,
                    value.max,
                ),
            );
        }
    }
    if let Some(spent) = results.agent_us_per_connection {
        line(
            &mut text,
            format_args!(
                "  CPU of `agent` itself: {} us a short connection; at {BUSY} connections a second {:.1} % of a core, {:.0} CPU s \
                 an hour",
                range(spent, 2),
                spent.median * f64::from(BUSY) / 10_000.0,
                spent.median * f64::from(BUSY) * 3_600.0 / 1e6,
            ),
        );
    }
    for arm in &results.arms {
        if let Some(cpu) = arm.agent_cpu_percent {
            line(
                &mut text,
                format_args!(
                    "  CPU of `{}` itself during short connections: {} % of a core",
                    arm.arm.name(),
                    range(cpu, 2)
                ),
            );
        }
    }
    text
}

fn kernel(phases: &[PhaseCost]) -> String {
    if phases.is_empty() {
        return "The kernel counted nothing, as was asked for\n".to_owned();
    }
    let mut text = String::from(
        "Kernel run-time statistics of our programs (arm `agent, counted`); empty_*: a program that does nothing on the same hook, so mostly the clock readings\n",
    );
    for phase in phases {
        line(
            &mut text,
            format_args!("  {}, counted: {}", phase.phase, phase.units),
        );
        for program in &phase.programs {
            line(
                &mut text,
                format_args!(
                    "    {:<14} {:>10} runs  {:>22} ns/run  {:>7.3} runs and {:>7.1} ns a {}",
                    program.program,
                    program.runs,
                    range(program.ns_per_run, 0),
                    program.runs_per_unit,
                    program.ns_per_unit,
                    phase.unit
                ),
            );
        }
    }
    text
}

/// Agents that had nothing to do, with their targets.
pub(super) fn idle(all: &[Footprint]) -> String {
    let mut text = String::new();
    for one in all {
        text.push_str(&footprint(one));
        text.push_str(&judgements(&verdicts::idle_verdicts(one)));
        text.push('\n');
    }
    text
}

fn footprint(footprint: &Footprint) -> String {
    let (binary, idle) = (&footprint.binary, &footprint.idle);
    let mib = |kib: u64| per(kib, 1024);
    let mut text = format!(
        "Release binary: {:.2} MiB, {}\n",
        per(binary.bytes, 1 << 20),
        if binary.stripped {
            "stripped"
        } else {
            "NOT stripped"
        }
    );
    line(
        &mut text,
        format_args!(
            "Agent after {} s idle with {} pods, exporting: {:.1} MiB resident ({:.1} anonymous), peak {:.1} MiB; {:.2} % of a core, \
             {:.1} CPU s an hour",
            footprint.idle_seconds,
            footprint.pods,
            mib(idle.rss_kib),
            mib(idle.anonymous_kib),
            mib(idle.peak_kib),
            footprint.idle_cpu_percent,
            footprint.idle_cpu_percent * 36.0
        ),
    );
    if let Some(peak) = footprint.peak_under_load_kib {
        line(
            &mut text,
            format_args!("Peak under the load above: {:.1} MiB resident", mib(peak)),
        );
    }
    let maps: Vec<String> = idle
        .maps_kib
        .iter()
        .map(|(name, kib)| format!("{name} {kib}"))
        .collect();
    line(
        &mut text,
        format_args!(
            "Kernel memory besides: maps {:.1} MiB (KiB: {}), programs {} KiB",
            mib(idle.all_maps_kib()),
            maps.join(", "),
            idle.programs_kib
        ),
    );
    text
}

fn judgements(verdicts: &[Verdict]) -> String {
    let mut text = String::new();
    for verdict in verdicts {
        let word = match (verdict.met, &verdict.refused) {
            (_, Some(why)) => format!("NO VERDICT: {why}"),
            (Some(true), None) => "met".into(),
            (Some(false), None) => "MISSED".into(),
            (None, None) => "NO VERDICT".into(),
        };
        line(
            &mut text,
            format_args!("{:<52} {:<24} {word}", verdict.target, verdict.measured),
        );
    }
    text
}

/// Median and quartiles.
fn range(spread: Spread, digits: usize) -> String {
    format!(
        "{:.digits$} [{:.digits$}..{:.digits$}]",
        spread.median, spread.lower, spread.upper
    )
}

fn line(text: &mut String, part: std::fmt::Arguments<'_>) {
    writeln!(text, "{part}").expect("writing to a string does not fail");
}
