//! The node as it is, and what the agent is told of it.

mod containers;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use plumbline_core::declared::{Declared, DeclaredContainer, DeclaredPod, WorkloadRef};
use plumbline_core::id::{CgroupId, ContainerId, PodUid};
use plumbline_core::node::NodeState;
use plumbline_core::observation::{CgroupRow, Fact, FlowCounts, FlowRow, Observation};
use plumbline_core::settings::{CoreSettings, NodeIdentity};
use plumbline_core::time::Timestamp;

use crate::random::Random;

const MS: u64 = 1_000_000;
/// One step of the world.
const STEP: u64 = 50 * MS;
/// Pods at once. Few addresses and few names: each is used again at once.
const PODS: usize = 12;
/// Owners. As many as a row of a flow has counters besides that of connections, less one for "no pod".
pub(crate) const OWNERS: [&str; 6] = ["web", "db", "cache", "queue", "cron", "auth"];
/// The counter of rows whose peer was no pod.
pub(crate) const NOBODY: usize = OWNERS.len();

/// What is true of a container, for ever.
pub(crate) struct Truth {
    pub(crate) pod: String,
    pub(crate) uid: String,
    pub(crate) owner: usize,
    pub(crate) container: String,
    /// Its cgroup, and its mark in CPU windows.
    pub(crate) cgroup: u64,
    /// Connections of it that the agent was told of.
    pub(crate) connections: u64,
    /// When its cgroup's end was told.
    pub(crate) gone: bool,
}

struct Container {
    name: &'static str,
    id: String,
    cgroup: u64,
    nested: Option<u64>,
    pid: u32,
    ports: Vec<u16>,
}

struct Pod {
    uid: String,
    name: String,
    owner: usize,
    address: IpAddr,
    containers: Vec<Container>,
}

/// The object of a pod as the API server has it at some time.
type Object = (String, Option<DeclaredPod>);

pub(crate) struct World {
    pub(crate) node: NodeState,
    /// By container id.
    pub(crate) truth: BTreeMap<String, Truth>,
    pub(crate) events: u64,
    pub(crate) steps: u64,
    pub(crate) now: u64,
    random: Random,
    serial: u64,
    pods: Vec<Pod>,
    /// Addresses that are free; the last one freed is used next.
    free: Vec<IpAddr>,
    /// Rows of flows that the kernel has and the agent has not read yet.
    rows: Vec<FlowRow>,
    /// Changes of objects, and when the watch tells them.
    api: VecDeque<(u64, Object)>,
    watched: BTreeMap<String, DeclaredPod>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let settings = CoreSettings {
            cpu_startup_exclusion: Duration::ZERO,
            ..CoreSettings::default()
        };
        let mut world = Self {
            node: NodeState::new(NodeIdentity::default(), settings),
            truth: BTreeMap::new(),
            events: 0,
            steps: 0,
            now: 1_000 * MS,
            random: Random(seed),
            serial: 0,
            pods: Vec::new(),
            free: (0..14)
                .map(|n| IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)))
                .collect(),
            rows: Vec::new(),
            api: VecDeque::new(),
            watched: BTreeMap::new(),
        };
        world.clock();
        world.declare();
        world
    }

    pub(crate) fn step(&mut self) {
        self.steps += 1;
        self.now += STEP;
        match self.random.below(100) {
            0..3 => self.start_pod(),
            3..5 => self.end_pod(),
            5..7 => self.restart_container(),
            7 => self.renew_sandbox(),
            _ => {}
        }
        for _ in 0..self.random.below(12) {
            self.connect();
        }
        if self.random.percent(20) {
            self.listen();
        }
        self.watch();
        if self.steps.is_multiple_of(20) {
            self.read();
        }
        if self.steps.is_multiple_of(100) {
            self.scan();
        }
    }

    pub(crate) fn export(&mut self) {
        self.node.exported(Timestamp(self.now));
        let now = Timestamp(self.now);
        let known: Vec<String> = self
            .node
            .snapshot(now)
            .containers
            .iter()
            .map(|view| view.container_id.to_string())
            .collect();
        self.truth
            .retain(|id, truth| !truth.gone || known.contains(id));
    }

    /// Nothing happens until everything has been told.
    pub(crate) fn quiet(&mut self) {
        for _ in 0..400 {
            self.steps += 1;
            self.now += STEP;
            self.watch();
            if self.steps.is_multiple_of(20) {
                self.read();
            }
        }
        self.scan();
    }

    fn tell(&mut self, fact: Fact) {
        self.tell_of(self.now, fact);
    }

    fn tell_of(&mut self, at: u64, fact: Fact) {
        let at = Timestamp(at);
        self.node.apply(Observation { at, fact });
    }

    fn clock(&mut self) {
        self.tell(Fact::Clock { unix_ns: self.now });
    }
}

/// Pods that come, change and go.
impl World {
    fn start_pod(&mut self) {
        if self.pods.len() >= PODS {
            return;
        }
        let Some(address) = self.free.pop() else {
            return;
        };
        self.serial += 1;
        let owner = usize::try_from(self.random.below(OWNERS.len() as u64)).unwrap();
        let uid = format!("{:08x}-0000-4000-8000-{:012x}", self.serial, self.serial);
        // As of a StatefulSet: the next pod has the name of the last.
        let name = format!("{}-{}", OWNERS[owner], self.random.below(2));
        if self.pods.iter().any(|pod| pod.name == name) {
            return self.free.push(address);
        }
        let pod = Pod {
            uid,
            name,
            owner,
            address,
            containers: Vec::new(),
        };
        self.publish(object(&pod, &pod.containers, false));
        self.pods.push(pod);
        let last = self.pods.len() - 1;
        self.fill(last);
    }

    /// The sandbox and one or two containers, and their addresses in the API a little later.
    fn fill(&mut self, pod: usize) {
        self.start_container(pod, "pause");
        self.start_container(pod, "main");
        if self.random.percent(40) {
            self.start_container(pod, "side");
        }
        let pod = &self.pods[pod];
        self.publish(object(pod, &pod.containers, true));
    }

    fn start_container(&mut self, pod: usize, name: &'static str) {
        self.serial += 1;
        let cgroup = self.serial;
        let id = format!("{:064x}", cgroup.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let nested = self.random.percent(20).then(|| {
            self.serial += 1;
            self.serial
        });
        // Few pids: each is used again.
        let pid = 100 + u32::try_from(self.random.below(40)).unwrap();
        let of = &mut self.pods[pod];
        let path = format!("/kubepods/burstable/pod{}/{id}", of.uid);
        let truth = Truth {
            pod: of.name.clone(),
            uid: of.uid.clone(),
            owner: of.owner,
            container: name.to_owned(),
            cgroup,
            connections: 0,
            gone: false,
        };
        self.truth.insert(id.clone(), truth);
        of.containers.push(Container {
            name,
            id,
            cgroup,
            nested,
            pid,
            ports: Vec::new(),
        });
        for (cgroup, path) in [
            (Some(cgroup), path.clone()),
            (nested, format!("{path}/init")),
        ] {
            // Some events are lost: the next walk finds the directory.
            if let Some(cgroup) = cgroup.filter(|_| !self.random.percent(2)) {
                self.events += 1;
                let cgroup = CgroupId(cgroup);
                self.tell(Fact::CgroupSeen(CgroupRow { cgroup, path }));
            }
        }
    }

    fn end_container(&mut self, container: &Container) {
        for cgroup in container.nested.into_iter().chain([container.cgroup]) {
            self.events += 1;
            let cgroup = CgroupId(cgroup);
            self.tell(Fact::CgroupGone { cgroup });
        }
        self.truth.get_mut(&container.id).unwrap().gone = true;
    }

    fn end_pod(&mut self) {
        if self.pods.is_empty() {
            return;
        }
        let index = usize::try_from(self.random.below(self.pods.len() as u64)).unwrap();
        let pod = self.pods.swap_remove(index);
        // By force: the object goes first.
        let forced = self.random.percent(20);
        if forced {
            self.publish((pod.uid.clone(), None));
        }
        pod.containers
            .iter()
            .for_each(|container| self.end_container(container));
        self.free.push(pod.address);
        if !forced {
            self.publish((pod.uid, None));
        }
    }

    fn restart_container(&mut self) {
        let Some(index) = self.random_pod() else {
            return;
        };
        if self.pods[index].containers.len() < 2 {
            return;
        }
        let former = self.pods[index].containers.remove(1);
        self.end_container(&former);
        self.start_container(index, former.name);
        let pod = &self.pods[index];
        self.publish(object(pod, &pod.containers, true));
    }

    /// All containers end and the pod comes back, with another address.
    fn renew_sandbox(&mut self) {
        let Some(index) = self.random_pod() else {
            return;
        };
        let former = std::mem::take(&mut self.pods[index].containers);
        former
            .iter()
            .for_each(|container| self.end_container(container));
        let at = usize::try_from(self.random.below(self.free.len() as u64)).unwrap();
        let address = self.free.remove(at);
        let freed = std::mem::replace(&mut self.pods[index].address, address);
        self.free.push(freed);
        self.fill(index);
    }

    fn random_pod(&mut self) -> Option<usize> {
        let count = self.pods.len() as u64;
        (count > 0).then(|| usize::try_from(self.random.below(count)).unwrap())
    }

    /// An object changes; the watch tells it up to 4 s later, in order.
    fn publish(&mut self, object: Object) {
        let last = self.api.back().map_or(0, |(at, _)| *at);
        let at = self.now + (200 + self.random.below(3_800)) * MS;
        self.api.push_back((at.max(last), object));
    }

    fn watch(&mut self) {
        let mut changed = false;
        while self.api.front().is_some_and(|(at, _)| *at <= self.now) {
            let (_, (uid, object)) = self.api.pop_front().unwrap();
            match object {
                Some(pod) => self.watched.insert(uid, pod),
                None => self.watched.remove(&uid),
            };
            changed = true;
        }
        if changed {
            self.declare();
        }
    }

    fn declare(&mut self) {
        self.events += 1;
        let pods = self.watched.values().cloned().map(Arc::new).collect();
        self.tell(Fact::Declared(Declared {
            pods,
            ..Declared::default()
        }));
    }
}

/// One connection; which counter beside it moves says who the peer was.
pub(crate) fn mark(owner: usize) -> FlowCounts {
    let mut counts = FlowCounts {
        connections: 1,
        ..FlowCounts::default()
    };
    *[
        &mut counts.failures,
        &mut counts.timeouts,
        &mut counts.closed,
        &mut counts.sent_bytes,
        &mut counts.received_bytes,
        &mut counts.retransmits,
        &mut counts.srtt_us_sum,
    ][owner] = 1;
    counts
}

/// The object of a pod. Its status comes once it runs.
fn object(pod: &Pod, containers: &[Container], running: bool) -> Object {
    // The sandbox is no container of the object.
    let containers = containers
        .iter()
        .filter(|container| container.name != "pause");
    let containers = containers.map(|container| DeclaredContainer {
        name: container.name.to_owned(),
        container_id: Some(ContainerId::new(container.id.as_str())),
        ..DeclaredContainer::default()
    });
    let declared = DeclaredPod {
        namespace: "shop".into(),
        name: pod.name.clone(),
        uid: Some(PodUid::new(pod.uid.as_str())),
        owner: WorkloadRef {
            kind: "StatefulSet".into(),
            name: OWNERS[pod.owner].into(),
        },
        ips: running.then_some(pod.address).into_iter().collect(),
        containers: containers.collect(),
        ..DeclaredPod::default()
    };
    (pod.uid.clone(), Some(declared))
}
