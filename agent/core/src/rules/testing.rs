//! A small node to test rules and the report on: an hour after boot, ten scans done, everything seen in full.

pub(crate) mod raised;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::declared::{
    ContainerKind, Declared, DeclaredContainer, DeclaredPod, DeclaredPort, DeclaredService,
    ServicePort, TargetPort, Transport, WorkloadRef,
};
use crate::finding::{Condition, Coverage, Subject};
use crate::id::{CgroupId, ContainerId, PodUid};
use crate::observation::{CpuMax, FlowCounts, Health, Holder, ProbeStatus, Role};
use crate::observed::verdicts::{Denied, Verdicts};
use crate::policy::Policies;
use crate::rules::evaluate;
use crate::settings::{CoreSettings, NodeIdentity};
use crate::sketch::Sketch;
use crate::snapshot::{
    BindScope, ContainerView, CpuRates, CpuView, Distribution, FlowView, ListenerView, LogView,
    NodeCpuView, Peer, PeerKind, Snapshot, WindowView,
};
use crate::time::{ClockAnchor, Timestamp, UnixNanos};

/// The moment of every snapshot made here: an hour after boot.
pub(crate) const NOW: Timestamp = Timestamp(3_600_000_000_000);

/// The digest of every image.
pub(crate) const DIGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A container of the given kind with TCP container ports and a CPU request.
pub(crate) fn container(name: &str, kind: ContainerKind, ports: &[u16]) -> DeclaredContainer {
    DeclaredContainer {
        name: name.into(),
        kind,
        image: format!("registry.example/{name}:1@sha256:{DIGEST}"),
        ports: ports
            .iter()
            .map(|port| port_entry(*port, Transport::Tcp))
            .collect(),
        cpu_request_millis: Some(100),
        ..DeclaredContainer::default()
    }
}

/// A container port without a name.
pub(crate) fn port_entry(port: u16, transport: Transport) -> DeclaredPort {
    DeclaredPort {
        name: None,
        port,
        host_port: None,
        transport,
    }
}

/// Pod `shop/web-1` of the Deployment `web`, labelled `app=web`.
pub(crate) fn pod(containers: Vec<DeclaredContainer>) -> DeclaredPod {
    DeclaredPod {
        namespace: "shop".into(),
        name: "web-1".into(),
        uid: Some(PodUid::new("0f2b6b6e-9a3c-4d0c-8c5e-1f2d3c4b5a69")),
        labels: [("app".to_owned(), "web".to_owned())].into(),
        owner: WorkloadRef {
            kind: "Deployment".into(),
            name: "web".into(),
        },
        containers,
        ..DeclaredPod::default()
    }
}

/// A Service of `shop` that selects `app=web`.
pub(crate) fn service(
    target: TargetPort,
    transport: Transport,
    node_port: Option<u16>,
) -> DeclaredService {
    DeclaredService {
        namespace: "shop".into(),
        name: "web".into(),
        selector: [("app".to_owned(), "web".to_owned())].into(),
        service_type: "ClusterIP".into(),
        ports: vec![ServicePort {
            port: 80,
            target,
            node_port,
            transport,
        }],
        ..DeclaredService::default()
    }
}

/// The declared side with one pod and these Services.
pub(crate) fn declared(pod: &DeclaredPod, services: Vec<DeclaredService>) -> Declared {
    Declared {
        source: "test".into(),
        pods: vec![Arc::new(pod.clone())],
        services,
        policies_known: true,
        ..Declared::default()
    }
}

/// The same in a cluster whose API server is known.
pub(crate) fn cluster(mut declared: Declared) -> Declared {
    declared.services.push(DeclaredService {
        namespace: "default".into(),
        name: "kubernetes".into(),
        cluster_ips: vec!["10.96.0.1".parse().unwrap()],
        ..DeclaredService::default()
    });
    declared.api_servers = vec!["192.0.2.30:6443".parse().unwrap()];
    declared
}

/// The running container `index` of the pod; one that the pod does not list, with `None`.
pub(crate) fn view(
    pod: &DeclaredPod,
    index: Option<usize>,
    listeners: Vec<ListenerView>,
) -> ContainerView {
    let number = index.map_or(99, |index| index as u64);
    let declared = index.map(|index| &pod.containers[index]);
    let container_id = ContainerId::new(format!("{number:064x}"));
    ContainerView {
        cgroup: CgroupId(1_000 + number),
        pod_uid: pod.uid.clone().unwrap(),
        subject: Subject {
            namespace: Some(pod.namespace.clone()),
            owner: Some(pod.owner.clone()),
            pod: Some(pod.name.clone()),
            pod_uid: pod.uid.as_ref().map(ToString::to_string),
            container: declared.map(|container| container.name.clone()),
            container_id: Some(container_id.to_string()),
            image: declared.map(|container| container.image.clone()),
        },
        container_id,
        pod: Some(Arc::new(pod.clone())),
        container_index: index,
        first_seen: NOW.minus(Duration::from_secs(1_800)),
        started: Some(NOW.minus(Duration::from_secs(1_800))),
        declared_cpu_since: Some(NOW.minus(Duration::from_secs(1_800))),
        gone: false,
        is_self: false,
        coverage: Coverage::Full,
        dynamic_ports: CoreSettings::default().ephemeral_ports,
        listeners,
        listeners_overflow: BTreeMap::new(),
        refused: None,
        oom_kills: None,
        restarts: None,
        cpu: CpuView::default(),
    }
}

/// A port that has listened on these addresses for ten minutes, one socket each, held by one process.
pub(crate) fn listener(port: u16, addresses: &[&str]) -> ListenerView {
    let addresses: Vec<std::net::IpAddr> = addresses
        .iter()
        .map(|address| address.parse().unwrap())
        .collect();
    let scope = |address: &std::net::IpAddr| match address {
        address if address.is_loopback() => BindScope::Loopback,
        address if address.is_unspecified() => BindScope::Any,
        _ => BindScope::Pod,
    };
    ListenerView {
        transport: Transport::Tcp,
        port,
        scope: addresses.iter().map(scope).max().unwrap(),
        sockets: addresses.len() as u64,
        addresses,
        first_seen: NOW.minus(Duration::from_secs(600)),
        scans: 9,
        pre_existing: false,
        holders: vec![Holder {
            pid: 42,
            executable: Some("/usr/bin/server".into()),
            cgroup: CgroupId(1_000),
        }],
        held_by_owner: Some(true),
        host_netns: Some(false),
        dual_stack: None,
        connections: 3,
    }
}

/// Windows of 100 ms without gaps.
pub(crate) fn windows(busy_us: Vec<u32>) -> WindowView {
    let peak = busy_us.iter().copied().max().unwrap_or(0);
    WindowView {
        span: Duration::from_millis(100 * busy_us.len() as u64),
        peak_cores: Some(f64::from(peak) / 100_000.0),
        busy_us,
    }
}

/// How these windows of 100 ms, without gaps until now, are distributed.
pub(crate) fn distribution(busy_us: Vec<u32>) -> Distribution {
    let span = Duration::from_millis(100 * busy_us.len() as u64);
    let mut sketch = Sketch::default();
    busy_us.into_iter().for_each(|busy_us| sketch.add(busy_us));
    Distribution {
        sketch: Arc::new(sketch),
        since: NOW.minus(span),
        until: NOW,
    }
}

/// Rates of a minute in which the container used this many CPUs and waited for this share of the time.
pub(crate) fn rates(usage_cores: f64, some: f64) -> CpuRates {
    CpuRates {
        span: Duration::from_secs(60),
        usage_cores,
        some: Some(some),
        ..CpuRates::default()
    }
}

/// A node of two CPUs whose tasks waited for this share of the last minute.
pub(crate) fn node_cpu(some: f64) -> NodeCpuView {
    NodeCpuView {
        cpus: 2,
        usage_cores: Some(1.9),
        some: Some(some),
        span: Duration::from_secs(60),
        ..NodeCpuView::default()
    }
}

/// A quota in each 100 ms, in microseconds; `None` is no limit.
pub(crate) fn cpu_max(quota_us: Option<u64>) -> CpuMax {
    CpuMax {
        quota_us,
        period_us: 100_000,
        burst_us: 0,
    }
}

/// The node with this declared side and these containers, and every probe well.
pub(crate) fn snapshot(declared: Option<Declared>, containers: Vec<ContainerView>) -> Snapshot {
    let probes = [
        "cgroups",
        "cpu_stat",
        "cpu_windows",
        "declared",
        "listeners",
        "logs",
        "tcp",
    ];
    Snapshot {
        now: NOW,
        wall: UnixNanos(1_795_340_058_120_000_000),
        origin: ClockAnchor {
            monotonic: NOW,
            unix_ns: 1_795_340_058_120_000_000,
        },
        node: NodeIdentity {
            node: Some("node-1".into()),
            ..NodeIdentity::default()
        },
        settings: CoreSettings::default(),
        sources: Vec::new(),
        api_clients: Some(BTreeMap::new()),
        containers,
        node_cpu: None,
        pods_cpu: Vec::new(),
        flows: Vec::new(),
        policies: Arc::new(declared.as_ref().map(Policies::new).unwrap_or_default()),
        rule_hits: Vec::new(),
        declared: declared.map(Arc::new),
        host_listeners: Vec::new(),
        host_unknown: 0,
        scans: 10,
        probes: probes
            .iter()
            .map(|probe| status(probe, Health::Ok, None))
            .collect(),
        dropped: Vec::new(),
        delivered: Vec::new(),
        losses: Vec::new(),
        occupancy: Vec::new(),
        transitions: Vec::new(),
        logs: Vec::new(),
    }
}

/// The logs of a container that is well: `shop/web-1/app` of the Deployment `web`.
pub(crate) fn logs() -> LogView {
    LogView {
        subject: Subject {
            namespace: Some("shop".into()),
            owner: Some(WorkloadRef {
                kind: "Deployment".into(),
                name: "web".into(),
            }),
            pod: Some("web-1".into()),
            container: Some("app".into()),
            ..Subject::default()
        },
        kept_bytes: 50 << 20,
        ..LogView::default()
    }
}

/// How a probe is.
pub(crate) fn status(probe: &str, health: Health, reason: Option<&str>) -> ProbeStatus {
    ProbeStatus {
        probe: probe.into(),
        health,
        reason: reason.map(Into::into),
    }
}

/// What the rules say about a snapshot, a line each: rule, severity, workload and container, key.
pub(crate) fn said(snapshot: &Snapshot) -> String {
    let line = |condition: &Condition| {
        let name = condition
            .subject
            .owner
            .as_ref()
            .map_or("", |owner| &owner.name);
        let container = condition.subject.container.as_deref().unwrap_or("-");
        let subject = if condition.subject.namespace.is_none() {
            "node".into()
        } else {
            format!("{name}/{container}")
        };
        format!(
            "{} {} {subject} {}",
            condition.rule.id, condition.severity, condition.key
        )
    };
    evaluate(snapshot)
        .iter()
        .map(line)
        .collect::<Vec<_>>()
        .join("\n")
}

/// The only condition of a snapshot, in full.
pub(crate) fn in_full(snapshot: &Snapshot) -> String {
    let conditions = evaluate(snapshot);
    assert_eq!(conditions.len(), 1, "{}", said(snapshot));
    let Condition {
        declared,
        observed,
        evidence,
        coverage,
        remediation,
        patch,
        ..
    } = &conditions[0];
    let evidence = serde_json::to_string(evidence).unwrap();
    format!(
        "{}\ndeclared: {declared}\nobserved: {observed}\nevidence: {evidence}\ncoverage: {coverage:?}\n\
         remediation: {remediation}\n{}",
        said(snapshot),
        patch.as_deref().unwrap_or("no patch")
    )
}

/// A flow of the first container: ten connections with a workload `shop/cart` on TCP 8080.
pub(crate) fn flow(role: Role) -> FlowView {
    FlowView {
        container: 0,
        transport: Transport::Tcp,
        role,
        peer: peer(PeerKind::Workload, Some("shop"), Some("cart")),
        server_port: 8080,
        counts: FlowCounts {
            connections: 10,
            ..FlowCounts::default()
        },
        verdicts: Verdicts::default(),
        since: NOW.minus(Duration::from_secs(600)),
        overflow: false,
    }
}

/// A peer.
pub(crate) fn peer(kind: PeerKind, namespace: Option<&str>, name: Option<&str>) -> Peer {
    Peer {
        kind,
        namespace: namespace.map(Into::into),
        name: name.map(Into::into),
    }
}

/// This often, this many seconds ago.
pub(crate) fn denied(count: u64, ago: u64) -> Denied {
    Denied {
        count,
        last: NOW.minus(Duration::from_secs(ago)),
        why: Some("selected by shop/p, and no rule of them matches".into()),
    }
}

/// What the rules with this id say about a snapshot.
pub(crate) fn of_rule(rule: &str, snapshot: &Snapshot) -> String {
    let said = said(snapshot);
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with(rule)).collect();
    lines.join("\n")
}
