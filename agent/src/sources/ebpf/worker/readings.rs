//! The worker's readings of the kernel's tables and counters.

use aya::maps::MapError;
use plumbline_core::observation::{Fact, Health};
use plumbline_ebpf::drops::{
    CGROUPS_FULL, FLAGS_MISSING, FLOWS_BUDGET, FLOWS_FULL, LISTENERS_BUDGET, LISTENERS_FULL,
    REASONS, Reason, UDP_FLOWS_BUDGET, UDP_SOCKETS_BUDGET,
};
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
                    let (start, lost, mut rows) = (reading.start, reading.lost, reading.rows);
                    if let Some(canary) = &mut self.canary {
                        let id = canary.cgroup();
                        let own = rows.iter().filter(|row| row.cgroup == id);
                        let own = own.flat_map(|row| &row.busy_us);
                        let own: u64 = own.map(|us| u64::from(*us)).sum();
                        canary
                            .seen()
                            .into_iter()
                            .for_each(|seen| seen.cpu_us += own);
                        rows.retain(|row| row.cgroup != id);
                    }
                    let unmeasured = reading.unmeasured;
                    let fact = Fact::CpuWindows {
                        start,
                        windows: count,
                        lost,
                        rows,
                        unmeasured,
                    };
                    let handed_on = self.sink.send(clock::monotonic(), fact);
                    windows.sent(count, handed_on);
                    self.delivered.windows += if handed_on { u64::from(count) } else { 0 };
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
        if let Some(seen) = self.canary.as_mut().and_then(|canary| canary.seen()) {
            let [client, server] = flows.take_canary();
            seen.client.add(&client);
            seen.server.add(&server);
        }
        let rows = flows.rows();
        let since = Some(flows.since());
        if !rows.is_empty()
            && self
                .sink
                .send(clock::monotonic(), Fact::Flows { rows, since })
        {
            flows.sent();
        }
        let (undecodable, folded) = flows.dropped();
        self.reporter.dropped("flows", "decode", undecodable);
        self.reporter.dropped("flows_pending", "full", folded);
        self.reporter.delivered("flows", flows.delivered());
        self.reporter.occupancy("flows", flows.occupancy());
        self.reporter.occupancy("containers", flows.containers());
    }

    /// Reads what programs could not record. Returns whether flows went to overflow entries.
    fn read_counters(&mut self) -> bool {
        // Each object has its own; either may have failed to load.
        let of_udp = self.probes.udp.as_ref().map(|udp| &udp.drops);
        let objects = [self.probes.drops.as_ref(), of_udp];
        if objects.iter().all(Option::is_none) {
            return false;
        }
        let before = self.counters;
        for (reason, counter) in REASONS.iter().zip(&mut self.counters) {
            let sums = objects
                .into_iter()
                .flatten()
                .map(|drops| -> Result<u64, MapError> {
                    Ok(drops.get(&reason.index, 0)?.iter().sum())
                });
            match sums.sum::<Result<u64, MapError>>() {
                Ok(sum) => *counter = sum,
                Err(error) => tracing::debug!(error = %error, "a counter cannot be read"),
            }
            self.reporter.dropped(reason.place, reason.reason, *counter);
        }
        self.reporter.dropped("events", "decode", self.undecodable);
        self.tell_delivered();
        let after = self.counters;
        let moved = |reason: Reason| {
            REASONS
                .iter()
                .position(|r| *r == reason)
                .is_some_and(|i| before[i] != after[i])
        };
        if moved(CGROUPS_FULL) || moved(LISTENERS_FULL) {
            self.hasten_rescan();
        }
        if moved(FLOWS_BUDGET) || moved(LISTENERS_BUDGET) {
            let keeper = self.probes.keeper.as_ref();
            for (cgroup, flows, listeners) in keeper.map(Keeper::refusals).unwrap_or_default() {
                self.reporter.refused(cgroup, flows, listeners);
            }
        }
        if (moved(UDP_FLOWS_BUDGET) || moved(UDP_SOCKETS_BUDGET))
            && let Some(udp) = &self.probes.udp
        {
            for (cgroup, flows, sockets) in udp.datagrams.refusals() {
                self.reporter.refused_udp(cgroup, flows, sockets);
            }
        }
        let replaced = self.flags.read(moved(FLAGS_MISSING), clock::monotonic());
        flags::judge(&mut self.probes.tcp, replaced, || {
            let keeper = self.probes.keeper.as_ref();
            keeper.map(Keeper::other_sock_ops).unwrap_or_default()
        });
        moved(FLOWS_FULL) || moved(FLOWS_BUDGET)
    }

    /// Tells how much arrived of what comes through the ring and of windows.
    fn tell_delivered(&mut self) {
        let delivered = &self.delivered;
        self.reporter
            .delivered("listener_events", delivered.listeners);
        self.reporter.delivered("cgroup_events", delivered.cgroups);
        self.reporter.delivered("cpu_windows", delivered.windows);
    }

    /// The last readings. What is written after them is nobody's any more.
    pub(super) fn finish(mut self) {
        self.drain();
        // Reads a last time. What closes after it keeps its last bytes to itself.
        self.connections = None;
        self.drain_udp();
        self.read_flows();
        self.read_datagrams();
        // Waits until programs that began before the epoch was advanced have ended. CPUs without a tick refuse it; then
        // the time that the second reading takes has to do.
        if let Err(error) = membarrier(MembarrierCommand::Global) {
            tracing::debug!(error = %error, "no memory barrier");
        }
        self.read_flows();
        self.read_datagrams();
        self.read_windows();
    }
}
