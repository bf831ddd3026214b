//! The worker's part of UDP.

use std::path::Path;

use plumbline_core::id::CgroupId;
use plumbline_core::observation::{Fact, Health};
use plumbline_ebpf::drops::{REASONS, UDP_FLOWS_BUDGET, UDP_FLOWS_FULL};
use plumbline_ebpf::event::Event;
use plumbline_ebpf::udp::SOCKETS_MAX;

use super::super::Ports;
use super::super::canary::Canary;
use super::super::happening::Happening;
use super::super::keeper::AttachError;
use super::super::plan::{self, UDP};
use super::{BATCH, Worker};
use crate::clock;

impl Worker {
    /// Takes what is in the ring of UDP.
    pub(super) fn drain_udp(&mut self) {
        for _ in 0..BATCH {
            let Some(record) = self.probes.udp.as_mut().and_then(|udp| udp.events.next()) else {
                return;
            };
            let happening = Event::decode(&record)
                .map(|event| Happening::from(event, &self.settings.cgroup_root));
            drop(record);
            match happening {
                Some(happening) if self.is_of_canary(&happening) => {}
                Some(Happening::Listener(at, fact)) => {
                    self.delivered.datagrams += u64::from(self.sink.send(at, fact));
                }
                Some(_) => self.undecodable += 1,
                None => self.undecodable += 1,
            }
        }
    }

    /// Gives a container its programs. One that has none is tried again with the next walk.
    pub(super) fn attach_udp(&mut self, cgroup: CgroupId, path: &str) {
        let Some(udp) = &mut self.probes.udp else {
            return;
        };
        let directory = self.settings.cgroup_root.directory_of(path);
        let attached = match udp.flows.admit(cgroup) {
            Ok(()) => udp.datagrams.attach(cgroup, &directory),
            Err(error) => Err(AttachError::Refused(error.to_string())),
        };
        if let Err(error) = attached {
            if let AttachError::Refused(reason) = error {
                udp.refused += 1;
                tracing::warn!(path, reason = %reason, "a container has no programs for UDP");
                self.probes.udp_status = plan::broken(UDP, &format!("attach to {path}: {reason}"));
            }
            self.retire_udp(cgroup);
        }
    }

    /// Tries again what was refused, and says how it went.
    pub(super) fn retry_udp(&mut self) {
        let Some(udp) = &mut self.probes.udp else {
            return;
        };
        let attached = udp.datagrams.attached();
        udp.refused = 0;
        for (cgroup, path) in self.containers.all() {
            if !attached.contains(&cgroup) {
                self.attach_udp(cgroup, &path);
            }
        }
        let Some(udp) = &mut self.probes.udp else {
            return;
        };
        if udp.refused == 0 && self.probes.udp_status.health == Health::Broken {
            (self.probes.udp_status.health, self.probes.udp_status.reason) = (Health::Ok, None);
        }
        match udp.datagrams.sweep() {
            Ok(sockets) => {
                let occupancy = (sockets, u64::from(SOCKETS_MAX));
                self.reporter.occupancy("udp_sockets", occupancy);
            }
            Err(error) => tracing::debug!(error = %error, "the sockets of UDP cannot be read"),
        }
    }

    /// Takes the programs off containers that are gone for good.
    pub(super) fn release_udp(&mut self) {
        let Some(udp) = &mut self.probes.udp else {
            return;
        };
        let canary = self.canary.as_ref().map(Canary::cgroup);
        for cgroup in udp.datagrams.attached() {
            if !self.containers.keeps(cgroup) && canary != Some(cgroup) {
                if let Some(udp) = &mut self.probes.udp {
                    udp.datagrams.detach(cgroup);
                }
                self.retire_udp(cgroup);
            }
        }
    }

    /// Gives the canary's cgroup what a container's gets.
    pub(super) fn begin_udp_canary(&mut self, cgroup: CgroupId, directory: &Path) {
        let Some(udp) = &mut self.probes.udp else {
            return;
        };
        udp.flows.set_canary(cgroup);
        // What it did before is no proof.
        udp.flows.take_canary();
        let attached = udp.flows.admit(cgroup).map_err(|error| error.to_string());
        let attached = attached.and_then(|()| {
            let attached = udp.datagrams.attach(cgroup, directory);
            attached.map_err(|error| error.to_string())
        });
        if let Err(error) = attached {
            tracing::warn!(error, "the canary has no programs for UDP");
        }
    }

    /// In which containers the kernel gives out other ports by itself.
    pub(super) fn set_dynamic_ports(&mut self, ports: Ports) {
        if let Some(udp) = &mut self.probes.udp
            && let Err(error) = udp.datagrams.set_ranges(ports)
        {
            tracing::warn!(error = %error, "ranges of dynamic ports cannot be told to the programs of UDP");
        }
    }

    pub(super) fn retire_udp(&mut self, cgroup: CgroupId) {
        if let Some(udp) = &mut self.probes.udp
            && let Err(error) = udp.flows.retire(cgroup)
        {
            tracing::warn!(cgroup = cgroup.0, error = %error, "an overflow entry of UDP cannot be removed");
        }
    }

    /// Reads the flow tables of UDP. The counters have been read.
    pub(super) fn read_datagrams(&mut self) {
        let folded: u64 = REASONS
            .iter()
            .zip(&self.counters)
            .filter(|(reason, _)| [UDP_FLOWS_FULL, UDP_FLOWS_BUDGET].contains(reason))
            .map(|(_, count)| count)
            .sum();
        let Some(udp) = &mut self.probes.udp else {
            return;
        };
        let flows = &mut udp.flows;
        // Once anything went there it is read each time: counts go on to be added there, at most once a second.
        let read = flows.read().and_then(|()| {
            if folded > 0 {
                flows.read_overflow()
            } else {
                Ok(())
            }
        });
        if let Err(error) = read {
            self.probes.udp_status = plan::broken(UDP, &format!("read the flow tables: {error}"));
        }
        if let Some(seen) = self.canary.as_mut().and_then(Canary::seen) {
            let [client, server] = flows.take_canary();
            seen.udp_client += client.connections;
            seen.udp_server += server.connections;
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
        self.reporter.dropped("udp_flows", "decode", undecodable);
        self.reporter.dropped("udp_flows_pending", "full", folded);
        self.reporter.delivered("udp_flows", flows.delivered());
        self.reporter
            .delivered("udp_events", self.delivered.datagrams);
        self.reporter.occupancy("udp_flows", flows.occupancy());
    }
}
