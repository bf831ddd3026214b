//! Load on the CPU in known shapes.

use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use serde::{Deserialize, Serialize};

use super::worker;
use crate::pods::text::mixed;
use crate::wait::{monotonic_ns, process_cpu_ns, thread_cpu_ns};

/// How much, and in which shape.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Burn {
    /// Threads that do the same.
    pub threads: u16,
    /// How long, in milliseconds of wall time.
    pub wall_ms: u64,
    /// The shape.
    pub shape: Shape,
    /// Before all ordinary tasks (SCHED_FIFO): keeps the shape on a busy machine. Not for loads that never sleep.
    #[serde(default)]
    pub real_time: bool,
}

/// The shape of the load of one thread.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Never sleeps.
    Steady,
    /// Uses `busy_ms` of CPU time from `phase_ms` after each multiple of `period_ms` of the monotonic clock, and sleeps.
    Duty {
        /// CPU time in each period.
        busy_ms: u64,
        /// Length of the period.
        period_ms: u64,
        /// Where in the period it begins.
        phase_ms: u64,
    },
    /// Bursts of up to 2 ms, then sleeps as long on average.
    Bursts {
        /// Seed of their lengths.
        seed: u64,
    },
}

/// What was used, counted by the process itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Burnt {
    /// CPU time of the process in microseconds.
    pub cpu_us: u64,
    /// Wall time in microseconds.
    pub wall_us: u64,
}

/// The longest burst in nanoseconds.
const BURST_MAX_NS: u64 = 2_000_000;

/// Burns, and tells what it took.
pub(super) fn burn(plan: &Burn) -> Result<Burnt> {
    if plan.real_time {
        become_real_time()?;
    }
    let begun = monotonic_ns();
    let end = begun + plan.wall_ms * 1_000_000;
    worker::say("ready");
    let threads: Vec<_> = (0..plan.threads)
        .map(|n| (n, plan.shape))
        .map(|(n, shape)| thread::spawn(move || one(shape, n, end)))
        .collect();
    for running in threads {
        running
            .join()
            .map_err(|_panic| anyhow!("a burning thread panicked"))?;
    }
    Ok(Burnt {
        cpu_us: process_cpu_ns() / 1_000,
        wall_us: (monotonic_ns() - begun) / 1_000,
    })
}

/// Threads started afterwards inherit it.
fn become_real_time() -> Result<()> {
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: the structure lives during the call; 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const lowest) };
    ensure!(
        result == 0,
        "set SCHED_FIFO: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

fn one(shape: Shape, thread: u16, end: u64) {
    match shape {
        Shape::Steady => spin_until(|| monotonic_ns() >= end),
        Shape::Duty {
            busy_ms,
            period_ms,
            phase_ms,
        } => {
            let period = period_ms * 1_000_000;
            loop {
                let next = (monotonic_ns() / period + 1) * period + phase_ms * 1_000_000;
                if next + period > end {
                    break;
                }
                thread::sleep(Duration::from_nanos(next.saturating_sub(monotonic_ns())));
                use_cpu(busy_ms * 1_000_000);
            }
        }
        Shape::Bursts { seed } => {
            let mut state = mixed(seed ^ u64::from(thread));
            while monotonic_ns() < end {
                state = mixed(state);
                use_cpu(state % BURST_MAX_NS);
                state = mixed(state);
                thread::sleep(Duration::from_nanos(state % BURST_MAX_NS));
            }
        }
    }
}

fn use_cpu(nanoseconds: u64) {
    let until = thread_cpu_ns() + nanoseconds;
    spin_until(|| thread_cpu_ns() >= until);
}

fn spin_until(done: impl Fn() -> bool) {
    while !done() {
        (0..200).for_each(|_| std::hint::spin_loop());
    }
}
