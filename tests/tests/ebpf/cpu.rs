//! The scheduler probe against the kernel's own account of the same cgroups.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::thread;
use std::time::Duration;

use plumbline::clock;
use plumbline::sources::ebpf::CpuTotals;
use plumbline_core::id::CgroupId;
use plumbline_core::observation::{CPU_WINDOW_NS, Fact};
use plumbline_core::time::Timestamp;
use plumbline_tests::cgroup::usage_us;
use plumbline_tests::pods::Container;
use plumbline_tests::scale::{Tier, scale};
use plumbline_tests::traffic::burn::{Burn, Burnt, Shape};
use plumbline_tests::traffic::{Plan, Worker};
use plumbline_tests::wait::{PATIENCE, poll};

use super::observer::{Observer, Seen, sandbox};

/// What a running task may have used since it was last looked at: it is accounted at a switch or at the end of a window.
const PER_TASK_US: u64 = 100_000;

fn burn(threads: u16, shape: Shape, real_time: bool) -> Plan {
    Plan::Burn(Burn {
        threads,
        wall_ms: scale().cpu_load_ms,
        shape,
        real_time,
    })
}

/// Time stolen from this machine by its host, all CPUs, in microseconds.
fn stolen_us() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let ticks: u64 = stat
        .lines()
        .next()
        .unwrap()
        .split_whitespace()
        .nth(8)
        .unwrap()
        .parse()
        .unwrap();
    // USER_HZ is 100 on every Linux.
    ticks * 10_000
}

/// Tasks whose last look is allowed for once all have ended. An emulated machine takes some microseconds longer between the
/// kernel's own account of a switch and the probe's, which on its small loads is more than 1 %.
fn after_the_end() -> u64 {
    u64::from(scale().tier == Tier::Guest)
}

/// Totals read after `after`.
fn totals(observer: &Observer, after: Timestamp) -> CpuTotals {
    let read = poll(PATIENCE, || {
        observer.kernel.stats().cpu.filter(|cpu| cpu.at > after)
    });
    read.expect("the CPU probe is read every second")
}

fn probed_us(totals: &CpuTotals, container: &Container) -> u64 {
    totals
        .cgroups
        .get(&CgroupId(container.cgroup_id()))
        .copied()
        .unwrap_or_default()
        / 1_000
}

/// `|told - used| <= max(1 %, 100 ms a running task) + steal`, in microseconds.
fn assert_close(what: &str, told: u64, used: (u64, u64), running: u64, steal: u64) {
    let bound = (used.1 / 100).max(PER_TASK_US * running) + steal;
    let error = used.0.saturating_sub(told).max(told.saturating_sub(used.1));
    println!(
        "{what}: cpu.stat {}..{} us, probe {told} us, error {error} us, bound {bound} us",
        used.0, used.1
    );
    assert!(
        error <= bound,
        "{what}: error {error} us is over {bound} us"
    );
}

#[test]
fn usage_of_a_mixed_load_is_that_of_the_kernel() {
    let Some(sandbox) = sandbox() else { return };
    let begun = clock::monotonic();
    let Some(observer) = Observer::start(&sandbox) else {
        return;
    };
    let loads = [
        ("bursts", 2, Shape::Bursts { seed: 1 }),
        ("steady", 1, Shape::Steady),
        ("threads", 24, Shape::Bursts { seed: 2 }),
    ];
    let containers = loads.map(|(name, ..)| sandbox.solo(name).unwrap().1);
    containers
        .iter()
        .for_each(|container| observer.attached(container));
    let stolen = stolen_us();
    let workers: Vec<Worker> = containers
        .iter()
        .zip(loads)
        .map(|(container, (_, threads, shape))| {
            Worker::ready(container.place(), &burn(threads, shape, false)).unwrap()
        })
        .collect();

    thread::sleep(Duration::from_millis(scale().cpu_load_ms / 2));
    let all = || -> BTreeMap<u64, u64> {
        containers
            .iter()
            .map(|container| {
                (
                    container.cgroup_id(),
                    usage_us(container.cgroup_path()).unwrap(),
                )
            })
            .collect()
    };
    let (before, half) = (all(), totals(&observer, clock::monotonic()));
    let (after, steal) = (all(), stolen_us() - stolen);
    for (container, (name, threads, _)) in containers.iter().zip(loads) {
        let used = (
            before[&container.cgroup_id()],
            after[&container.cgroup_id()],
        );
        assert_close(
            &format!("{name}, running"),
            probed_us(&half, container),
            used,
            threads.into(),
            steal,
        );
    }

    let burnt: Vec<Burnt> = workers
        .into_iter()
        .map(|worker| worker.finish().unwrap())
        .collect();
    let end = totals(&observer, clock::monotonic());
    let steal = stolen_us() - stolen;
    println!("steal of the run: {steal} us; threads counted themselves: {burnt:?}");
    for (container, (name, ..)) in containers.iter().zip(loads) {
        let used = usage_us(container.cgroup_path()).unwrap();
        assert_close(
            &format!("{name}, ended"),
            probed_us(&end, container),
            (used, used),
            after_the_end(),
            steal,
        );
    }
    let sum: u64 = end.cgroups.values().sum();
    let cpus = u64::try_from(thread::available_parallelism().unwrap().get()).unwrap();
    let wall = u64::try_from(end.at.since(begun).as_nanos()).unwrap();
    println!(
        "all cgroups {sum} ns, busy {} ns, watched {} ns, wall x CPUs {} ns",
        end.busy_ns,
        end.watched_ns,
        wall * cpus
    );
    assert!(sum <= end.busy_ns && end.busy_ns <= end.watched_ns && end.watched_ns <= wall * cpus);
}

/// Microseconds in each 100 ms window of a container by the window's number, and the numbers of those that were lost.
fn windows(seen: &Seen, container: &Container) -> (BTreeMap<u64, u64>, BTreeSet<u64>) {
    let (mut busy, mut lost) = (BTreeMap::new(), BTreeSet::new());
    for observation in &seen.facts {
        let Fact::CpuWindows {
            start,
            windows,
            lost: missing,
            rows,
            ..
        } = &observation.fact
        else {
            continue;
        };
        let first = start.0 / CPU_WINDOW_NS;
        lost.extend(first - u64::from(*missing)..first);
        let row = rows
            .iter()
            .find(|row| row.cgroup == CgroupId(container.cgroup_id()));
        for n in 0..u64::from(*windows) {
            let us = row.map_or(0, |row| row.busy_us[usize::try_from(n).unwrap()]);
            assert_eq!(
                busy.insert(first + n, us.into()),
                None,
                "window {} told twice",
                first + n
            );
        }
    }
    (busy, lost)
}

#[test]
fn bursts_that_an_average_hides_are_in_the_windows() {
    let Some(sandbox) = sandbox() else { return };
    let Some(observer) = Observer::start(&sandbox) else {
        return;
    };
    let (_, container) = sandbox.solo("pulse").unwrap();
    observer.attached(&container);
    let stolen = stolen_us();
    let first = clock::monotonic().0 / CPU_WINDOW_NS + 1;
    let shape = Shape::Duty {
        busy_ms: 50,
        period_ms: 500,
        phase_ms: 20,
    };
    let burnt: Burnt = Worker::ready(container.place(), &burn(1, shape, true))
        .unwrap()
        .finish()
        .unwrap();
    let last = clock::monotonic().0 / CPU_WINDOW_NS;
    let (busy, lost) = observer.expect("all windows of the run", |seen| {
        let (busy, lost) = windows(seen, &container);
        (busy.last_key_value()?.0 >= &last).then_some((busy, lost))
    });
    for window in first..=last {
        assert!(
            busy.contains_key(&window) != lost.contains(&window),
            "window {window} is either told or counted as lost"
        );
    }
    // On a crowded machine the reader may come after the 1.6 s that the kernel keeps: that must be said, and is.
    let lost = lost.range(first..=last).count();
    let busy: Vec<u64> = busy.range(first..=last).map(|(_, us)| *us).collect();
    let (used, steal) = (
        usage_us(container.cgroup_path()).unwrap(),
        stolen_us() - stolen,
    );
    let sum: u64 = busy.iter().sum();
    println!("{burnt:?}, cpu.stat {used} us, windows {busy:?}, lost {lost}, steal {steal} us");
    // The first window began before the run and is left out; it holds the start of the process.
    let unknown = u64::try_from(lost + 1).unwrap() * PER_TASK_US;
    assert_close(
        "sum of the windows",
        sum,
        (used.saturating_sub(unknown), used),
        after_the_end(),
        steal,
    );
    // Pulses of 50 ms twice a second: a mean of a tenth of a CPU. The windows show what the mean hides.
    let mean = sum / u64::try_from(busy.len()).unwrap();
    let pulses = busy.iter().filter(|us| **us > 2 * mean).count();
    let quiet = busy.iter().filter(|us| **us < mean / 2).count();
    assert!(
        pulses + lost >= 10,
        "{pulses} windows over twice the mean of {mean} us: {busy:?}"
    );
    assert!(
        quiet > busy.len() / 2,
        "{quiet} of {} windows are quiet: {busy:?}",
        busy.len()
    );
    assert!(
        busy.iter().all(|us| *us <= 100_000 + steal),
        "one thread in one window: {busy:?}"
    );
    assert_distribution(&observer.seen(), &container);
}

/// The state's sketch is that of the windows that were told since the container was seen.
fn assert_distribution(seen: &Seen, container: &Container) {
    let view = seen.container(container).unwrap();
    let first = view.first_seen.0.div_ceil(CPU_WINDOW_NS);
    let (busy, _) = windows(seen, container);
    let mut told: Vec<u64> = busy.range(first..).map(|(_, us)| *us).collect();
    told.sort_unstable();
    let sketch = view.cpu.all.unwrap();
    println!("{sketch:?}");
    assert_eq!(sketch.count(), told.len() as u64);
    assert_eq!(sketch.sum_us(), told.iter().sum::<u64>());
    for per_mille in [500, 900, 950, 990, 1_000] {
        let rank = (told.len() as u64 * per_mille).div_ceil(1_000);
        let value = told[usize::try_from(rank).unwrap() - 1];
        let found = sketch.quantile_us(per_mille).unwrap();
        assert!(
            found.low <= value && value <= found.high,
            "{per_mille}: {value} us, {found:?}"
        );
    }
    let over = told.iter().filter(|us| **us > 25_000).count() as u64;
    let found = sketch.exceeding(25_000);
    assert_eq!(
        (found.low, found.high),
        (over, over),
        "a quarter of a CPU is a bound"
    );
}
