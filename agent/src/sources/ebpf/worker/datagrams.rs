//! The worker's part of UDP.

use std::path::Path;

use plumbline_core::id::CgroupId;
use plumbline_core::observation::{Fact, Health};
use plumbline_ebpf::drops::{REASONS, UDP_FLOWS_BUDGET, UDP_FLOWS_FULL};
use plumbline_ebpf::event::Event;
use plumbline_ebpf::udp::SOCKETS_MAX;

use super::super::canary::Canary;
use super::super::happening::Happening;
use super::super::keeper::AttachError;
use super::super::plan::{self, UDP};
use super::super::{Found, Ports};
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
                    if let Fact::ListenerOpened(event) = &fact {
                        self.serve_udp(event.owner);
                    }
                    self.delivered.datagrams += u64::from(self.sink.send(at, fact));
                }
                Some(Happening::UnclearRoles(cgroup)) => self.serve_udp(cgroup),
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
            self.refused_udp(path, error);
            self.retire_udp(cgroup);
        } else if udp.serving.contains(&cgroup) {
            self.hear(cgroup, path);
        }
    }

    /// A program of a container chose a port, or it is not clear who serves: from now on it is seen what the container receives.
    pub(super) fn serve_udp(&mut self, cgroup: CgroupId) {
        let Some(udp) = &mut self.probes.udp else {
            return;
        };
        // Resolvers choose a port for each question: no second look at what is known.
        if udp.datagrams.is_attached(cgroup)
            && udp.serving.insert(cgroup)
            && let Some(path) = self.containers.path(cgroup).map(str::to_owned)
        {
            self.hear(cgroup, &path);
        }
    }

    fn hear(&mut self, cgroup: CgroupId, path: &str) {
        let Some(udp) = &mut self.probes.udp else {
            return;
        };
        let directory = self.settings.cgroup_root.directory_of(path);
        if let Err(error) = udp.datagrams.hear(cgroup, &directory) {
            self.refused_udp(path, error);
        }
    }

    /// A container that is gone meanwhile is no trouble.
    fn refused_udp(&mut self, path: &str, error: AttachError) {
        if let AttachError::Refused(reason) = error
            && let Some(udp) = &mut self.probes.udp
        {
            udp.refused += 1;
            tracing::warn!(path, reason = %reason, "a container lacks programs for UDP");
            self.probes.udp_status = plan::broken(UDP, &format!("attach to {path}: {reason}"));
        }
    }

    /// Tries again what was refused, and says how it went.
    pub(super) fn retry_udp(&mut self) {
        let Some(udp) = &mut self.probes.udp else {
            return;
        };
        udp.refused = 0;
        for (cgroup, path) in self.containers.all() {
            let Some(udp) = &self.probes.udp else {
                return;
            };
            if !udp.datagrams.is_attached(cgroup) {
                self.attach_udp(cgroup, &path);
            } else if udp.serving.contains(&cgroup) {
                self.hear(cgroup, &path);
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
        // Also of those whose programs another tool had detached when they went.
        udp.serving.retain(|cgroup| self.containers.keeps(*cgroup));
        for cgroup in udp.datagrams.attached() {
            if !self.containers.keeps(cgroup) && canary != Some(cgroup) {
                if let Some(udp) = &mut self.probes.udp {
                    udp.datagrams.detach(cgroup);
                }
                self.retire_udp(cgroup);
            }
        }
    }

    /// Gives the canary's cgroup what a container's gets. Returns whether that sees what is received: it does where some
    /// container is heard, since the canary alone would have the kernel lock every socket of the node for it.
    pub(super) fn begin_udp_canary(&mut self, cgroup: CgroupId, directory: &Path) -> bool {
        let Some(udp) = &mut self.probes.udp else {
            return false;
        };
        udp.flows.set_canary(cgroup);
        // What it did before is no proof.
        udp.flows.take_canary();
        let attached = udp.flows.admit(cgroup).map_err(|error| error.to_string());
        let attached = attached.and_then(|()| {
            let attached = udp.datagrams.attach(cgroup, directory);
            attached.map_err(|error| error.to_string())
        });
        let hears = udp.datagrams.heard().any(|heard| heard != cgroup);
        let attached = attached.and_then(|()| {
            if !hears {
                udp.datagrams.hear_no_more(cgroup);
                return Ok(());
            }
            let heard = udp.datagrams.hear(cgroup, directory);
            heard.map_err(|error| error.to_string())
        });
        if let Err(error) = attached {
            tracing::warn!(error, "the canary has no programs for UDP");
        }
        hears
    }

    /// What scans found out.
    pub(super) fn take_found(&mut self, found: Found) {
        if let Some(ports) = found.ports {
            self.set_dynamic_ports(ports);
        }
        for cgroup in found.serving {
            self.serve_udp(cgroup);
        }
    }

    /// In which containers the kernel gives out other ports by itself.
    fn set_dynamic_ports(&mut self, ports: Ports) {
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
