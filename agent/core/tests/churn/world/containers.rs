//! What containers do, and how the agent's readings tell of it.

use std::net::{IpAddr, Ipv4Addr};

use plumbline_core::declared::Transport;
use plumbline_core::id::CgroupId;
use plumbline_core::observation::{
    CPU_WINDOW_NS, CgroupRow, CpuWindowRow, Fact, FlowRow, Holder, ListenerEvent, ListenerRow,
    Role, ScanScope,
};
use plumbline_core::time::Timestamp;

use super::{NOBODY, STEP, World, mark};

impl World {
    /// A connection between a container and some address, and who has that address right now.
    pub(super) fn connect(&mut self) {
        let Some(index) = self.random_pod() else {
            return;
        };
        let containers: Vec<(String, u64)> = self.pods[index]
            .containers
            .iter()
            .map(|c| (c.id.clone(), c.cgroup))
            .collect();
        let (id, cgroup) = self.random.pick(&containers).unwrap().clone();
        let peer = IpAddr::V4(Ipv4Addr::new(
            10,
            0,
            0,
            u8::try_from(self.random.below(14)).unwrap(),
        ));
        let holder = self.pods.iter().find(|pod| pod.address == peer);
        let role = if self.random.percent(50) {
            Role::Client
        } else {
            Role::Server
        };
        let counts = mark(holder.map_or(NOBODY, |pod| pod.owner));
        self.rows.push(FlowRow {
            owner: CgroupId(cgroup),
            transport: Transport::Tcp,
            role,
            peer: Some(peer),
            server_port: 80,
            counts,
        });
        self.truth.get_mut(&id).unwrap().connections += 1;
    }

    pub(super) fn listen(&mut self) {
        let Some(index) = self.random_pod() else {
            return;
        };
        let random = u16::try_from(self.random.below(5)).unwrap();
        let Some(container) = self.pods[index].containers.last_mut() else {
            return;
        };
        // One network namespace: no port is open twice in a pod.
        let port = if container.name == "main" {
            8_000
        } else {
            9_000
        } + random;
        let opened = !container.ports.contains(&port);
        if opened {
            container.ports.push(port);
        } else {
            container.ports.retain(|open| *open != port);
        }
        let event = ListenerEvent {
            owner: CgroupId(container.cgroup),
            transport: Transport::Tcp,
            address: IpAddr::from([0, 0, 0, 0]),
            port,
            cookie: self.steps,
        };
        self.events += 1;
        self.tell(if opened {
            Fact::ListenerOpened(event)
        } else {
            Fact::ListenerClosed(event)
        });
    }

    /// Once a second: flows and CPU windows. What the kernel counted of containers that have ended is among it.
    pub(super) fn read(&mut self) {
        let rows = std::mem::take(&mut self.rows);
        self.events += rows.len() as u64;
        let since = Some(Timestamp(self.now - 20 * STEP));
        self.tell(Fact::Flows { rows, since });
        let start = Timestamp((self.now / CPU_WINDOW_NS - 10) * CPU_WINDOW_NS);
        let leaves = self
            .pods
            .iter()
            .flat_map(|pod| &pod.containers)
            .map(|container| CpuWindowRow {
                cgroup: CgroupId(container.nested.unwrap_or(container.cgroup)),
                busy_us: vec![u32::try_from(container.cgroup).unwrap(); 10],
            });
        let rows: Vec<CpuWindowRow> = leaves.collect();
        self.events += rows.len() as u64;
        self.tell(Fact::CpuWindows {
            start,
            windows: 10,
            lost: 0,
            rows,
            unmeasured: Vec::new(),
        });
        self.clock();
    }

    /// All cgroups and all sockets. A holder's executable tells whose socket it is.
    pub(super) fn scan(&mut self) {
        let (mut directories, mut sockets) = (Vec::new(), Vec::new());
        for pod in &self.pods {
            for container in &pod.containers {
                let path = format!("/kubepods/burstable/pod{}/{}", pod.uid, container.id);
                directories.push(CgroupRow {
                    cgroup: CgroupId(container.cgroup),
                    path: path.clone(),
                });
                directories.extend(container.nested.map(|nested| CgroupRow {
                    cgroup: CgroupId(nested),
                    path: format!("{path}/init"),
                }));
                let leaf = CgroupId(container.nested.unwrap_or(container.cgroup));
                sockets.extend(container.ports.iter().map(|port| ListenerRow {
                    owner: leaf,
                    creator: None,
                    transport: Transport::Tcp,
                    address: IpAddr::from([0, 0, 0, 0]),
                    port: *port,
                    v6only: None,
                    cookie: None,
                    inode: container.cgroup * 10_000 + u64::from(*port),
                    netns: 1,
                    host_netns: false,
                    foreign_netns: false,
                    holders: vec![Holder {
                        pid: container.pid,
                        executable: Some(container.id.clone()),
                        cgroup: leaf,
                    }],
                }));
            }
        }
        self.events += (directories.len() + sockets.len()) as u64;
        self.tell(Fact::CgroupTree { rows: directories });
        self.tell(Fact::Listeners {
            scope: ScanScope::Node,
            rows: sockets,
            errors: 0,
            unreadable: Vec::new(),
        });
    }
}
