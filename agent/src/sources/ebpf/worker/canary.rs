//! The worker's side of the canary, and its look after programs that others detached.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use plumbline_core::id::CgroupId;
use plumbline_core::observation::{Fact, Health, ProbeStatus};
use plumbline_core::time::Timestamp;

use super::super::canary::{Canary, PROBES, Step};
use super::super::happening::Happening;
use super::super::keeper::{Keeper, Kind, idle_links, other_programs};
use super::super::plan::{CANARY, TCP, UDP};
use super::Worker;
use crate::clock;

/// Programs that were found detached, and attached again, are told of for this long.
const DETACHED_TOLD: Duration = Duration::from_secs(60);

impl Worker {
    /// Makes the canary's cgroup; without one, says why.
    pub(super) fn make_canary(&mut self, now: Timestamp) {
        let canary = self
            .settings
            .canary
            .map(|interval| Canary::new(interval, &self.settings.cgroup_root, now));
        let off = |reason: String| ProbeStatus {
            probe: CANARY.to_owned(),
            health: Health::Off,
            reason: Some(reason),
        };
        match canary {
            Some(Ok(canary)) => self.canary = Some(canary),
            Some(Err(reason)) => self.no_canary = Some(off(reason)),
            None => self.no_canary = Some(off("turned off by a setting".to_owned())),
        }
    }

    /// Does what is due.
    pub(super) fn tend_canary(&mut self, now: Timestamp) {
        let Some(canary) = &mut self.canary else {
            return;
        };
        match canary.step(now) {
            Step::Wait => {}
            Step::Begin => self.begin_canary(now),
            Step::Judge => self.judge_canary(now),
        }
    }

    /// Gives the canary's cgroup what a container's gets, and lets it act.
    fn begin_canary(&mut self, now: Timestamp) {
        let Some(canary) = &mut self.canary else {
            return;
        };
        let before = canary.renew().unwrap_or_else(|error| {
            tracing::debug!(error = %error, "the canary's cgroup cannot be made anew");
            None
        });
        let (cgroup, directory) = (canary.cgroup(), canary.directory().clone());
        if let Some(before) = before {
            if let Some(keeper) = &mut self.probes.keeper {
                keeper.detach(before);
            }
            self.retire_flows(before);
            if let Some(udp) = &mut self.probes.udp {
                udp.datagrams.detach(before);
            }
            self.retire_udp(before);
        }
        let hears = self.begin_udp_canary(cgroup, &directory);
        if let (Some(keeper), Some(flows)) = (&mut self.probes.keeper, &mut self.probes.flows) {
            flows.set_canary(cgroup);
            // What it did before is no proof.
            flows.take_canary();
            let attached = flows.admit(cgroup).map_err(|error| error.to_string());
            let attached = attached.and_then(|()| {
                let attached = keeper.attach(cgroup, &directory);
                attached.map_err(|error| error.to_string())
            });
            if let Err(error) = attached {
                tracing::warn!(error, "the canary has no network program");
            }
        }
        if let Some(windows) = &mut self.probes.windows {
            windows.admit(cgroup);
        }
        if let Some(canary) = &mut self.canary {
            canary.begin(now, hears);
        }
    }

    fn judge_canary(&mut self, now: Timestamp) {
        let well: Vec<&'static str> = PROBES
            .into_iter()
            .filter(|name| {
                let mut probes = self.probes.statuses().into_iter();
                probes.any(|status| status.probe == *name && status.health == Health::Ok)
            })
            .collect();
        let Some(canary) = &mut self.canary else {
            return;
        };
        for probe in canary.judge(&well, now) {
            // If someone detached it, that mends it.
            if probe == UDP
                && let Some(udp) = &mut self.probes.udp
            {
                udp.datagrams.detach(canary.cgroup());
            }
            if probe == TCP
                && let Some(keeper) = &mut self.probes.keeper
            {
                keeper.detach(canary.cgroup());
                let others = other_programs(Kind::SockOps, &keeper.ids());
                if !others.is_empty() {
                    let others = others.join(", ");
                    canary.explain(
                        TCP,
                        &format!("perhaps another sock_ops program replaces callback flags: one of {others}"),
                    );
                }
            }
            tracing::warn!(probe, "a probe does not see the canary");
        }
    }

    /// Whether the canary did it; then it is noted, and nobody is told.
    pub(super) fn is_of_canary(&mut self, happening: &Happening) -> bool {
        let Some(canary) = &mut self.canary else {
            return false;
        };
        let id = canary.cgroup();
        match happening {
            Happening::Listener(_, Fact::ListenerOpened(event)) if event.owner == id => {
                canary
                    .seen()
                    .into_iter()
                    .for_each(|seen| *seen.opened(event.transport) = true);
            }
            Happening::Listener(_, Fact::ListenerClosed(event)) if event.owner == id => {
                canary
                    .seen()
                    .into_iter()
                    .for_each(|seen| *seen.closed(event.transport) = true);
            }
            Happening::Made(path) if canary.is_own(path) => {
                canary.seen().into_iter().for_each(|seen| seen.made = true);
            }
            Happening::Removed(path) if canary.is_own(path) => {
                canary
                    .seen()
                    .into_iter()
                    .for_each(|seen| seen.removed = true);
            }
            Happening::UnclearRoles(cgroup) if *cgroup == id => {}
            Happening::Listener(..)
            | Happening::UnclearRoles(_)
            | Happening::Made(_)
            | Happening::Removed(_)
            | Happening::Unclear
            | Happening::Elsewhere => return false,
        }
        true
    }

    /// Finds programs that someone else detached from containers that are there, so that they are attached again.
    pub(super) fn find_detached(&mut self) {
        // One pass over thousands of descriptors, for both.
        let idle = idle_links();
        let keeper = self.probes.keeper.as_ref();
        let detached = keeper.map(|keeper| keeper.detached(&idle));
        let mut found = 0;
        for cgroup in detached.into_iter().flatten() {
            let Some(path) = self.path_if_there(cgroup) else {
                continue;
            };
            tracing::warn!(path, "another tool detached the network program");
            self.containers.detached(cgroup);
            if let Some(keeper) = &mut self.probes.keeper {
                keeper.detach(cgroup);
            }
            found += 1;
        }
        self.note_detached(TCP, found);
        let udp = self.probes.udp.as_ref();
        let detached = udp.map(|udp| udp.datagrams.detached(&idle));
        let mut found = 0;
        for cgroup in detached.into_iter().flatten() {
            let Some(path) = self.path_if_there(cgroup) else {
                continue;
            };
            tracing::warn!(path, "another tool detached a program for UDP");
            if let Some(udp) = &mut self.probes.udp {
                udp.datagrams.detach(cgroup);
            }
            found += 1;
        }
        self.note_detached(UDP, found);
    }

    fn note_detached(&mut self, probe: &'static str, containers: usize) {
        if containers > 0 {
            self.detached
                .insert(probe, (clock::monotonic(), containers));
        }
    }

    /// Where a container is. A cgroup that was just removed has lost its programs too: its event may still be in the ring.
    fn path_if_there(&self, cgroup: CgroupId) -> Option<String> {
        let path = self.containers.path(cgroup)?;
        let directory = self.settings.cgroup_root.directory_of(path);
        let there = fs::metadata(directory).is_ok_and(|metadata| metadata.ino() == cgroup.0);
        there.then(|| path.to_owned())
    }

    /// The state of a probe, with what the canary and the look after detached programs have to say.
    pub(super) fn judged(&self, status: &ProbeStatus) -> ProbeStatus {
        let lately = self
            .detached
            .get(status.probe.as_str())
            .filter(|(at, _)| clock::monotonic().since(*at) < DETACHED_TOLD);
        if let Some((_, containers)) = lately
            && status.health == Health::Ok
        {
            let (kinds, ours) = if status.probe == TCP {
                let keeper = self.probes.keeper.as_ref();
                let ours = keeper.map(Keeper::ids).unwrap_or_default();
                (Kind::SockOps, ours)
            } else {
                let udp = self.probes.udp.as_ref();
                let ours = udp.map(|udp| udp.datagrams.ids()).unwrap_or_default();
                (Kind::Cgroup, ours)
            };
            let reason = format!(
                "another tool detached the {} program of {containers} containers; it was attached again, and what they did \
                 meanwhile was not seen; {}",
                if status.probe == TCP {
                    "network"
                } else {
                    "UDP"
                },
                others(kinds, &ours)
            );
            return ProbeStatus {
                probe: status.probe.clone(),
                health: Health::Broken,
                reason: Some(reason),
            };
        }
        self.canary
            .as_ref()
            .map_or_else(|| status.clone(), |canary| canary.judged(status))
    }
}

/// Which programs of a kind others have.
fn others(kind: Kind, ours: &BTreeSet<u32>) -> String {
    let others = other_programs(kind, ours);
    if others.is_empty() {
        format!("no other {} program is loaded", kind.name())
    } else {
        format!("other {} programs: {}", kind.name(), others.join(", "))
    }
}
