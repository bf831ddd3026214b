//! The worker's walks of the cgroup tree: they find what no event told, and tell everything again.

use std::time::Duration;

use plumbline_core::observation::{CgroupRow, Fact, Health};

use super::super::tree::is_container;
use super::Worker;
use crate::clock;
use crate::sources::cgroups::{self, Walk};

/// Between walks of the tree when there are no events of cgroups.
const RESCAN_WITHOUT_EVENTS: Duration = Duration::from_secs(2);

/// Programs that others detached are looked for at every second walk, as often as the canary acts: a container has a dozen
/// links, and to look at all costs more than the rest of a walk.
const WALKS_PER_LOOK: u64 = 2;

/// At least between two walks, whatever asks for them.
const RESCAN_PAUSE: Duration = Duration::from_secs(1);

impl Worker {
    /// Walks the tree: finds what no event told, and tells everything again.
    pub(super) fn rescan(&mut self) {
        let at = clock::monotonic();
        let walk = cgroups::walk(&self.settings.cgroup_root.directory);
        let complete = walk.is_complete();
        let changes = if complete {
            self.tree.replace(&walk.rows)
        } else {
            self.tree.add(&walk.rows)
        };
        for cgroup in changes.gone {
            self.gone(cgroup);
        }
        self.admit_all(&changes.seen);
        if self.walks.is_multiple_of(WALKS_PER_LOOK) {
            self.find_detached();
        }
        self.walks += 1;
        for (cgroup, path) in self.containers.unattached() {
            self.attach(cgroup, &path, true);
        }
        self.retry_udp();
        if complete {
            self.sink.send(at, Fact::CgroupTree { rows: walk.rows });
        } else {
            self.found_in_part(walk, &changes.seen);
        }
        // What was told of a container that the loop had not heard of was in vain.
        self.containers.forget_told();
        self.containers
            .tell(|fact| self.sink.send(clock::monotonic(), fact));
        self.judge_v1();
        self.reporter.forget();
        self.reporter
            .dropped("cgroup_walk", "incomplete", self.incomplete);
        let events = self.judged(&self.probes.cgroups).health == Health::Ok;
        let interval = self.settings.rescan_interval;
        let interval = if events {
            interval
        } else {
            interval.min(RESCAN_WITHOUT_EVENTS)
        };
        self.next.last_rescan = at;
        self.next.rescan = at.plus(interval);
    }

    /// Takes in what a walk found: its first connections may have gone unseen, as those before the agent. Containers come
    /// before what is below them, so that they have what room there is.
    fn admit_all(&mut self, seen: &[CgroupRow]) {
        let (own, below): (Vec<&CgroupRow>, Vec<&CgroupRow>) =
            seen.iter().partition(|row| is_container(&row.path));
        for row in own {
            self.admit(row, true);
        }
        if let Some(windows) = &mut self.probes.windows {
            windows.retry(
                |cgroup| self.containers.contains(cgroup),
                clock::monotonic(),
            );
        }
        for row in below {
            self.admit(row, true);
        }
    }

    /// A walk could not read everything: what it did not find may be there, so that it only adds.
    fn found_in_part(&mut self, walk: Walk, seen: &[CgroupRow]) {
        tracing::warn!(
            errors = walk.errors,
            cut = walk.cut,
            "not all cgroups could be read"
        );
        self.incomplete += 1;
        let now = clock::monotonic();
        for row in seen {
            self.sink.send(now, Fact::CgroupSeen(row.clone()));
        }
        // Told again, as by a complete walk: the loop may not have heard of them.
        for row in walk.rows {
            if is_container(&row.path) && !seen.contains(&row) {
                self.sink.send(now, Fact::CgroupSeen(row));
            }
        }
    }

    /// An event was lost, or cannot be placed.
    pub(super) fn hasten_rescan(&mut self) {
        self.next.rescan = self
            .next
            .rescan
            .min(self.next.last_rescan.plus(RESCAN_PAUSE));
    }

    /// Pods in cgroup v1 are invisible to us: no containers must not look like no findings.
    fn judge_v1(&mut self) {
        let whole = self.settings.cgroup_root.kernel_path.as_deref() == Some("");
        if !whole || !self.containers.is_empty() {
            return;
        }
        if let Some(mount) = cgroups::pods_in_v1() {
            let reason = format!(
                "pods are in cgroup v1 ({}), and only cgroup v2 can be seen",
                mount.display()
            );
            for status in [
                &mut self.probes.tcp,
                &mut self.probes.udp_status,
                &mut self.probes.cpu_windows,
            ] {
                if status.health == Health::Ok {
                    (status.health, status.reason) = (Health::Unsupported, Some(reason.clone()));
                }
            }
        }
    }
}
