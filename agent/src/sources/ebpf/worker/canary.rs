//! The worker's side of the canary, and its look after programs that others detached.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use plumbline_core::observation::{Fact, Health, ProbeStatus};
use plumbline_core::time::Timestamp;

use super::super::canary::{Canary, Step};
use super::super::happening::Happening;
use super::super::keeper::Keeper;
use super::super::plan::{CANARY, CGROUPS, CPU_WINDOWS, TCP};
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
        }
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
            canary.begin(now);
        }
    }

    fn judge_canary(&mut self, now: Timestamp) {
        let well: Vec<&'static str> = [TCP, CPU_WINDOWS, CGROUPS]
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
            if probe == TCP {
                let keeper = self.probes.keeper.as_mut();
                let others = keeper.map(|keeper| {
                    // If someone detached it, that mends it.
                    keeper.detach(canary.cgroup());
                    keeper.other_sock_ops()
                });
                let others = others.unwrap_or_default();
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
                    .for_each(|seen| seen.opened = true);
            }
            Happening::Listener(_, Fact::ListenerClosed(event)) if event.owner == id => {
                canary
                    .seen()
                    .into_iter()
                    .for_each(|seen| seen.closed = true);
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
            Happening::Listener(..)
            | Happening::Made(_)
            | Happening::Removed(_)
            | Happening::Unclear
            | Happening::Elsewhere => return false,
        }
        true
    }

    /// Finds programs that someone else detached from containers that are there, so that they are attached again.
    pub(super) fn find_detached(&mut self) {
        let Some(keeper) = &mut self.probes.keeper else {
            return;
        };
        let mut found = 0;
        for cgroup in keeper.detached() {
            let Some(path) = self.containers.detached(cgroup) else {
                continue;
            };
            // A cgroup that was just removed has lost its programs too: its event may still be in the ring.
            let directory = self.settings.cgroup_root.directory_of(&path);
            if fs::metadata(directory).is_ok_and(|metadata| metadata.ino() == cgroup.0) {
                tracing::warn!(path, "another tool detached the network program");
                keeper.detach(cgroup);
                found += 1;
            }
        }
        if found > 0 {
            self.detached = Some((clock::monotonic(), found));
        }
    }

    /// The state of a probe, with what the canary and the look after detached programs have to say.
    pub(super) fn judged(&self, status: &ProbeStatus) -> ProbeStatus {
        let lately = self
            .detached
            .filter(|(at, _)| clock::monotonic().since(*at) < DETACHED_TOLD);
        if let Some((_, containers)) = lately
            && status.probe == TCP
            && status.health == Health::Ok
        {
            let reason = format!(
                "another tool detached the network program of {containers} containers; it was attached again, and what \
                 they did meanwhile was not seen; {}",
                other_programs(self.probes.keeper.as_ref())
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

/// Which sock_ops programs of others there are.
fn other_programs(keeper: Option<&Keeper>) -> String {
    let others = keeper.map(Keeper::other_sock_ops).unwrap_or_default();
    if others.is_empty() {
        "no other sock_ops program is loaded".to_owned()
    } else {
        format!("other sock_ops programs: {}", others.join(", "))
    }
}
