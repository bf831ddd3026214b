//! What the core says, held against what is true.

use std::collections::BTreeSet;

use plumbline_core::observation::FlowCounts;
use plumbline_core::snapshot::{ContainerView, FlowView, PeerKind};
use plumbline_core::time::Timestamp;

use crate::world::{NOBODY, OWNERS, Truth, World};

/// What was checked, and what was wrong.
#[derive(Default)]
pub(crate) struct Verdict {
    pub(crate) wrong: Vec<String>,
    pub(crate) containers: BTreeSet<String>,
    pub(crate) listeners: u64,
    pub(crate) windows: u64,
    /// Rows whose peer was a pod, told as that pod's and told as nobody's.
    pub(crate) named: u64,
    pub(crate) unnamed: u64,
}

impl Verdict {
    pub(crate) fn check(&mut self, world: &World) {
        let snapshot = world.node.snapshot(Timestamp(world.now));
        for view in &snapshot.containers {
            let id = view.container_id.to_string();
            match world.truth.get(&id) {
                Some(truth) => self.container(view, &id, truth),
                None => self.wrong.push(format!("container {id} is none")),
            }
            self.containers.insert(id);
        }
        (self.named, self.unnamed) = (0, 0);
        for flow in &snapshot.flows {
            self.peer(flow);
        }
    }

    /// Names, listeners and CPU of one container.
    fn container(&mut self, view: &ContainerView, id: &str, truth: &Truth) {
        let subject = &view.subject;
        let told = [&subject.pod, &subject.pod_uid, &subject.container];
        let owner = subject.owner.as_ref().map(|owner| owner.name.clone());
        for (told, truth) in told.into_iter().chain([&owner]).zip([
            truth.pod.as_str(),
            truth.uid.as_str(),
            truth.container.as_str(),
            OWNERS[truth.owner],
        ]) {
            if told.as_ref().is_some_and(|told| told != truth) {
                self.wrong.push(format!("{id} is of {truth}, not {told:?}"));
            }
        }
        for listener in &view.listeners {
            self.listeners += 1;
            let mut holders = listener.holders.iter();
            if holders.any(|holder| holder.executable.as_deref() != Some(id)) {
                self.wrong.push(format!("{id} has {listener:?}"));
            }
        }
        for busy in view.cpu.windows.iter().flat_map(|windows| &windows.busy_us) {
            self.windows += 1;
            if *busy != 0 && u64::from(*busy) != truth.cgroup {
                self.wrong.push(format!("{id} ran for {busy}"));
            }
        }
    }

    /// The counters of a series say who its peers were.
    fn peer(&mut self, flow: &FlowView) {
        let counts = counters(&flow.counts);
        let pods: u64 = counts[..OWNERS.len()].iter().sum();
        match flow.peer.kind {
            PeerKind::Workload => {
                let name = flow.peer.name.as_deref().unwrap();
                let owner = OWNERS.iter().position(|owner| *owner == name).unwrap();
                // Nobody is at an address that a pod has just left or is about to take; only a connection that failed
                // can be among them.
                if counts[owner] + counts[NOBODY] != flow.counts.connections {
                    self.wrong.push(format!("told as {name}: {counts:?}"));
                }
                self.named += counts[owner];
            }
            PeerKind::Unresolved => self.unnamed += pods,
            PeerKind::Service
            | PeerKind::Node
            | PeerKind::ApiServer
            | PeerKind::Loopback
            | PeerKind::External => self.wrong.push(format!("{flow:?}")),
        }
    }

    /// Every connection of a container that is there is in one of its series, once.
    pub(crate) fn totals(&mut self, world: &World) {
        let snapshot = world.node.snapshot(Timestamp(world.now));
        for (index, view) in snapshot
            .containers
            .iter()
            .enumerate()
            .filter(|(_, view)| !view.gone)
        {
            let truth = &world.truth[view.container_id.as_str()];
            let flows = snapshot.flows.iter().filter(|flow| flow.container == index);
            let told: u64 = flows.map(|flow| flow.counts.connections).sum();
            // Those before the agent knew of the container are counted elsewhere.
            if told > truth.connections {
                let true_count = truth.connections;
                self.wrong
                    .push(format!("{told} connections of {true_count}"));
            }
        }
    }
}

fn counters(counts: &FlowCounts) -> [u64; 7] {
    [
        counts.failures,
        counts.timeouts,
        counts.closed,
        counts.sent_bytes,
        counts.received_bytes,
        counts.retransmits,
        counts.srtt_us_sum,
    ]
}
