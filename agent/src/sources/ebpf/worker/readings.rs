//! The worker's readings of the kernel's tables and counters.

use plumbline_core::observation::{Fact, Health};
use plumbline_ebpf::drops::{EVENTS_FULL, FLAGS_MISSING, FLOWS_FULL, REASONS, Reason};
use rustix::thread::{MembarrierCommand, membarrier};

use super::super::flags;
use super::super::keeper::Keeper;
use super::super::plan::{self, CPU_WINDOWS, TCP};
use super::super::probes::online_cpus;
use super::Worker;
use crate::clock;

impl Worker {
    pub(super) fn read_windows(&mut self) {
        let (Some(windows), Some(keeper)) = (&mut self.probes.windows, &mut self.probes.keeper)
        else {
            return;
        };
        let reading = online_cpus().and_then(|online| {
            keeper.tick(&online)?;
            let reading = windows.read(&online, clock::monotonic)?;
            Ok((reading, windows.silent(&online, clock::monotonic())?))
        });
        let status = &mut self.probes.cpu_windows;
        match reading {
            Ok((reading, silent)) => {
                if let Some(reading) = reading {
                    let count = reading.windows;
                    let (start, lost, rows) = (reading.start, reading.lost, reading.rows);
                    let unmeasured = reading.unmeasured;
                    let fact = Fact::CpuWindows {
                        start,
                        windows: count,
                        lost,
                        rows,
                        unmeasured,
                    };
                    windows.sent(count, self.sink.send(clock::monotonic(), fact));
                }
                if !silent.is_empty() {
                    silent.iter().for_each(|cpu| keeper.stop_tick(*cpu));
                    *status = plan::broken(
                        CPU_WINDOWS,
                        &format!("nothing was heard of CPUs {silent:?} for 5 s"),
                    );
                } else if status.health == Health::Broken {
                    (status.health, status.reason) = (Health::Ok, None);
                }
            }
            Err(error) => *status = plan::broken(CPU_WINDOWS, &format!("{error:#}")),
        }
        self.reporter.occupancy("cpu_windows", windows.occupancy());
        self.reporter
            .dropped("cpu_windows", "full", windows.refused());
    }

    pub(super) fn read_flows(&mut self) {
        let full = self.read_counters();
        let Some(flows) = &mut self.probes.flows else {
            return;
        };
        let read = flows
            .read()
            .and_then(|()| if full { flows.read_overflow() } else { Ok(()) });
        if let Err(error) = read {
            self.probes.tcp = plan::broken(TCP, &format!("read the flow tables: {error}"));
        }
        let rows = flows.rows();
        if !rows.is_empty() && self.sink.send(clock::monotonic(), Fact::Flows { rows }) {
            flows.sent();
        }
        let (undecodable, folded) = flows.dropped();
        self.reporter.dropped("flows", "decode", undecodable);
        self.reporter.dropped("flows_pending", "full", folded);
        self.reporter.occupancy("flows", flows.occupancy());
        self.reporter.occupancy("containers", flows.containers());
    }

    /// Reads what programs could not record. Returns whether flows went to overflow entries.
    fn read_counters(&mut self) -> bool {
        let Some(drops) = &self.probes.drops else {
            return false;
        };
        let before = self.counters;
        for (reason, counter) in REASONS.iter().zip(&mut self.counters) {
            match drops.get(&reason.index, 0) {
                Ok(cpus) => *counter = cpus.iter().sum(),
                Err(error) => tracing::debug!(error = %error, "a counter cannot be read"),
            }
            self.reporter.dropped(reason.place, reason.reason, *counter);
        }
        self.reporter.dropped("events", "decode", self.undecodable);
        let after = self.counters;
        let moved = |reason: Reason| {
            REASONS
                .iter()
                .position(|r| *r == reason)
                .is_some_and(|i| before[i] != after[i])
        };
        if moved(EVENTS_FULL) {
            self.hasten_rescan();
        }
        let replaced = self.flags.read(moved(FLAGS_MISSING), clock::monotonic());
        flags::judge(&mut self.probes.tcp, replaced, || {
            let keeper = self.probes.keeper.as_ref();
            keeper.map(Keeper::other_sock_ops).unwrap_or_default()
        });
        moved(FLOWS_FULL)
    }

    /// The last readings. What is written after them is nobody's any more.
    pub(super) fn finish(mut self) {
        self.drain();
        // Reads a last time. What closes after it keeps its last bytes to itself.
        self.connections = None;
        self.read_flows();
        // Waits until programs that began before the epoch was advanced have ended. CPUs without a tick refuse it; then
        // the time that the second reading takes has to do.
        if let Err(error) = membarrier(MembarrierCommand::Global) {
            tracing::debug!(error = %error, "no memory barrier");
        }
        self.read_flows();
        self.read_windows();
    }
}
