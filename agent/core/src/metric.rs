//! The catalogue: each metric's name, unit, kind and meaning, once.

pub mod attribute;
mod cpu;

use serde::{Serialize, Serializer};

pub use cpu::{
    CONTAINER_CPU_TIME, CONTAINER_CPU_USAGE, CPU_LIMIT_EFFECTIVE, CPU_PERIODS, CPU_PRESSURE_TIME,
    CPU_THROTTLED_TIME, CPU_USAGE_PEAK, CPU_USAGE_WINDOW, CPU_WEIGHT, K8S_CPU_LIMIT_CURRENT,
    K8S_CPU_LIMIT_DESIRED, K8S_CPU_LIMIT_UTILIZATION, K8S_CPU_REQUEST_CURRENT,
    K8S_CPU_REQUEST_DESIRED, K8S_CPU_REQUEST_UTILIZATION, K8S_NODE_CPU_ALLOCATABLE,
    K8S_NODE_CPU_TIME, K8S_NODE_CPU_USAGE, K8S_POD_CPU_TIME, NODE_CPU_COUNT, NODE_CPU_PRESSURE,
    NODE_CPU_REQUESTS, NODE_CPU_STEAL_TIME,
};

/// How a metric's points behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instrument {
    /// Monotonic sum, cumulative.
    Counter,
    /// Sum that may fall, cumulative.
    UpDownCounter,
    /// Value of the moment.
    Gauge,
    /// Distribution of values, cumulative: an exponential histogram.
    Histogram,
}

/// A metric.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// OpenTelemetry name.
    pub name: &'static str,
    /// UCUM unit.
    pub unit: &'static str,
    /// How points behave.
    pub instrument: Instrument,
    /// One sentence.
    pub description: &'static str,
    /// Keys of the attributes that its points may have, sorted. Any point may have fewer.
    pub attributes: &'static [&'static str],
}

impl Serialize for Metric {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

/// `k8s.container.restart.count`.
pub static K8S_RESTART_COUNT: Metric = Metric {
    name: "k8s.container.restart.count",
    unit: "{restart}",
    instrument: Instrument::UpDownCounter,
    description: "Restarts of the container, as the kubelet counts them. It may forget some.",
    attributes: &[],
};

/// `plumbline.container.oom.kills`.
pub static OOM_KILLS: Metric = Metric {
    name: "plumbline.container.oom.kills",
    unit: "{process}",
    instrument: Instrument::Counter,
    description: "Processes of the container that the kernel killed because memory ran out.",
    attributes: &[],
};

/// `plumbline.container.restarts`.
pub static RESTARTS: Metric = Metric {
    name: "plumbline.container.restarts",
    unit: "{restart}",
    instrument: Instrument::Counter,
    description: "Containers that took the place of one of the same pod and name while the agent ran.",
    attributes: &[],
};

/// `plumbline.coverage.containers`.
pub static COVERAGE_CONTAINERS: Metric = Metric {
    name: "plumbline.coverage.containers",
    unit: "{container}",
    instrument: Instrument::Gauge,
    description: "Running containers by how much of their network activity is seen.",
    attributes: &[attribute::COVERAGE_STATE, attribute::REASON],
};

/// `plumbline.declared.age`.
pub static DECLARED_AGE: Metric = Metric {
    name: "plumbline.declared.age",
    unit: "s",
    instrument: Instrument::Gauge,
    description: "Time since what the agent holds of the source was known to be current; some seconds while all is well.",
    attributes: &[attribute::SOURCE],
};

/// `plumbline.ebpf.events`.
pub static EBPF_EVENTS: Metric = Metric {
    name: "plumbline.ebpf.events",
    unit: "{event}",
    instrument: Instrument::Counter,
    description: "What came through a bounded map, ring, queue or table.",
    attributes: &[attribute::MAP],
};

/// `plumbline.ebpf.events.lost`.
pub static EBPF_EVENTS_LOST: Metric = Metric {
    name: "plumbline.ebpf.events.lost",
    unit: "{event}",
    instrument: Instrument::Counter,
    description: "What a bounded map, ring, queue or table lost.",
    attributes: &[attribute::MAP, attribute::REASON],
};

/// `plumbline.ebpf.map.capacity`.
pub static EBPF_MAP_CAPACITY: Metric = Metric {
    name: "plumbline.ebpf.map.capacity",
    unit: "{entry}",
    instrument: Instrument::Gauge,
    description: "Entries that a bounded map or table can hold.",
    attributes: &[attribute::MAP],
};

/// `plumbline.ebpf.map.entries`.
pub static EBPF_MAP_ENTRIES: Metric = Metric {
    name: "plumbline.ebpf.map.entries",
    unit: "{entry}",
    instrument: Instrument::Gauge,
    description: "Entries that a bounded map or table holds.",
    attributes: &[attribute::MAP],
};

/// `plumbline.findings.open`.
pub static FINDINGS_OPEN: Metric = Metric {
    name: "plumbline.findings.open",
    unit: "{finding}",
    instrument: Instrument::Gauge,
    description: "Open findings of this node.",
    attributes: &[
        attribute::K8S_NAMESPACE_NAME,
        attribute::OVERFLOW,
        attribute::SEVERITY,
        attribute::SECURITY_RULE_NAME,
    ],
};

/// `plumbline.findings.suppressed`.
pub static FINDINGS_SUPPRESSED: Metric = Metric {
    name: "plumbline.findings.suppressed",
    unit: "{finding}",
    instrument: Instrument::Gauge,
    description: "Findings of this node whose condition holds and that are hidden for a time.",
    attributes: &[
        attribute::K8S_NAMESPACE_NAME,
        attribute::OVERFLOW,
        attribute::SEVERITY,
        attribute::SECURITY_RULE_NAME,
    ],
};

/// `plumbline.findings.transitions`.
pub static FINDINGS_TRANSITIONS: Metric = Metric {
    name: "plumbline.findings.transitions",
    unit: "{transition}",
    instrument: Instrument::Counter,
    description: "Findings that came into a state, or changed in it, since the agent began.",
    attributes: &[attribute::FINDING_STATE, attribute::SECURITY_RULE_NAME],
};

/// `plumbline.network.connect.failures`.
pub static NETWORK_CONNECT_FAILURES: Metric = Metric {
    name: "plumbline.network.connect.failures",
    unit: "{connection}",
    instrument: Instrument::Counter,
    description: "TCP connection attempts of the container that failed.",
    attributes: &[
        attribute::ERROR_TYPE,
        attribute::NETWORK_TRANSPORT,
        attribute::OVERFLOW,
        attribute::PEER_KIND,
        attribute::PEER_NAME,
        attribute::PEER_NAMESPACE,
        attribute::SERVER_PORT,
    ],
};

/// `plumbline.network.connections`.
pub static NETWORK_CONNECTIONS: Metric = Metric {
    name: "plumbline.network.connections",
    unit: "{connection}",
    instrument: Instrument::Counter,
    description: "TCP connections established, and UDP associations begun (a connect, or the first datagram between a \
                  socket and a peer, as far as 16,384 pairs are remembered), by role, server port and peer, and by what \
                  the policies of both ends say.",
    attributes: &[
        attribute::NETWORK_TRANSPORT,
        attribute::OVERFLOW,
        attribute::FLOW_ROLE,
        attribute::PEER_KIND,
        attribute::PEER_NAME,
        attribute::PEER_NAMESPACE,
        attribute::POLICY_VERDICT,
        attribute::SERVER_PORT,
    ],
};

/// `plumbline.network.io`.
pub static NETWORK_IO: Metric = Metric {
    name: "plumbline.network.io",
    unit: "By",
    instrument: Instrument::Counter,
    description: "Payload bytes of TCP connections, by role, server port and peer (without the probe connections, an open one counts when it closes); of UDP datagrams with --udp flows.",
    attributes: &[
        attribute::NETWORK_TRANSPORT,
        attribute::OVERFLOW,
        attribute::FLOW_IO,
        attribute::FLOW_ROLE,
        attribute::PEER_KIND,
        attribute::PEER_NAME,
        attribute::PEER_NAMESPACE,
        attribute::SERVER_PORT,
    ],
};

/// `plumbline.network.packets`.
pub static NETWORK_PACKETS: Metric = Metric {
    name: "plumbline.network.packets",
    unit: "{packet}",
    instrument: Instrument::Counter,
    description: "UDP datagrams with --udp flows, by role, server port and peer.",
    attributes: NETWORK_IO.attributes,
};

/// `plumbline.policy.rule.hits`.
pub static POLICY_RULE_HITS: Metric = Metric {
    name: "plumbline.policy.rule.hits",
    unit: "{connection}",
    instrument: Instrument::Counter,
    description: "Connections of pods of this node that a rule of a NetworkPolicy matched. Whether a rule is unused only all nodes \
                  together can tell.",
    attributes: &[
        attribute::OVERFLOW,
        attribute::POLICY_DIRECTION,
        attribute::POLICY_NAME,
        attribute::POLICY_RULE,
    ],
};

/// `plumbline.port.declared.unused`.
pub static PORT_DECLARED_UNUSED: Metric = Metric {
    name: "plumbline.port.declared.unused",
    unit: "{port}",
    instrument: Instrument::Gauge,
    description: "Ports that the container declares and nothing in its pod listens on. Whether they are needed only all replicas \
                  together can tell.",
    attributes: &[attribute::NETWORK_TRANSPORT],
};

/// `plumbline.port.listening`.
pub static PORT_LISTENING: Metric = Metric {
    name: "plumbline.port.listening",
    unit: "{socket}",
    instrument: Instrument::UpDownCounter,
    description: "Listening TCP sockets and UDP servers, by port, reach and what declares the port.",
    attributes: &[
        attribute::NETWORK_LOCAL_PORT,
        attribute::NETWORK_TRANSPORT,
        attribute::OVERFLOW,
        attribute::BIND_SCOPE,
        attribute::DECLARED_BY,
        attribute::EXPOSURE,
    ],
};

/// `plumbline.probe.health`.
pub static PROBE_HEALTH: Metric = Metric {
    name: "plumbline.probe.health",
    unit: "1",
    instrument: Instrument::Gauge,
    description: "1 for the state that the probe is in, 0 for the others.",
    attributes: &[attribute::PROBE, attribute::PROBE_STATE],
};

/// `plumbline.report.points.cut`.
pub static REPORT_POINTS_CUT: Metric = Metric {
    name: "plumbline.report.points.cut",
    unit: "{point}",
    instrument: Instrument::Gauge,
    description: "Points left out of this report because it is full.",
    attributes: &[],
};

/// `plumbline.log.io`.
pub static LOG_IO: Metric = Metric {
    name: "plumbline.log.io",
    unit: "By",
    instrument: Instrument::Counter,
    description: "Bytes of the container's log files that were read, by the stream that they came from.",
    attributes: &[attribute::LOG_IOSTREAM],
};

/// `plumbline.log.lag`.
pub static LOG_LAG: Metric = Metric {
    name: "plumbline.log.lag",
    unit: "By",
    instrument: Instrument::Gauge,
    description: "Bytes of the container's log files that the collector has not acknowledged; absent when there are none.",
    attributes: &[],
};

/// `plumbline.log.lost`.
pub static LOG_LOST: Metric = Metric {
    name: "plumbline.log.lost",
    unit: "By",
    instrument: Instrument::Counter,
    description: "Bytes of container logs that will never arrive, as far as known, by reason.",
    attributes: &[attribute::REASON],
};

/// `plumbline.log.lost.records`.
pub static LOG_LOST_RECORDS: Metric = Metric {
    name: "plumbline.log.lost.records",
    unit: "{record}",
    instrument: Instrument::Counter,
    description: "Log records that will never arrive, as far as they were seen as such, by reason.",
    attributes: &[attribute::REASON],
};

/// `plumbline.log.outage.budget`.
pub static LOG_OUTAGE_BUDGET: Metric = Metric {
    name: "plumbline.log.outage.budget",
    unit: "s",
    instrument: Instrument::Gauge,
    description: "How long the collector may be away before the kubelet deletes what was not delivered, at the rate of the last \
                  five minutes; absent while the container writes nothing.",
    attributes: &[],
};

/// `plumbline.log.pods.missed`.
pub static LOG_PODS_MISSED: Metric = Metric {
    name: "plumbline.log.pods.missed",
    unit: "{pod}",
    instrument: Instrument::Counter,
    description: "Pods that were gone before a log file of theirs was found, as the kernel's cgroups tell; where namespaces are \
                  filtered only those whose namespace is known. Absent while there are none.",
    attributes: &[],
};

/// `plumbline.log.records`.
pub static LOG_RECORDS: Metric = Metric {
    name: "plumbline.log.records",
    unit: "{record}",
    instrument: Instrument::Counter,
    description: "Log records read from the container's files, by stream.",
    attributes: &[attribute::LOG_IOSTREAM],
};

/// Every metric that leaves, by name.
pub const CATALOGUE: &[&Metric] = &[
    &CONTAINER_CPU_TIME,
    &CONTAINER_CPU_USAGE,
    &K8S_CPU_LIMIT_CURRENT,
    &K8S_CPU_LIMIT_DESIRED,
    &K8S_CPU_LIMIT_UTILIZATION,
    &K8S_CPU_REQUEST_CURRENT,
    &K8S_CPU_REQUEST_DESIRED,
    &K8S_CPU_REQUEST_UTILIZATION,
    &K8S_RESTART_COUNT,
    &K8S_NODE_CPU_ALLOCATABLE,
    &K8S_NODE_CPU_TIME,
    &K8S_NODE_CPU_USAGE,
    &K8S_POD_CPU_TIME,
    &CPU_LIMIT_EFFECTIVE,
    &CPU_PERIODS,
    &CPU_PRESSURE_TIME,
    &CPU_THROTTLED_TIME,
    &CPU_USAGE_PEAK,
    &CPU_USAGE_WINDOW,
    &CPU_WEIGHT,
    &OOM_KILLS,
    &RESTARTS,
    &COVERAGE_CONTAINERS,
    &DECLARED_AGE,
    &EBPF_EVENTS,
    &EBPF_EVENTS_LOST,
    &EBPF_MAP_CAPACITY,
    &EBPF_MAP_ENTRIES,
    &FINDINGS_OPEN,
    &FINDINGS_SUPPRESSED,
    &FINDINGS_TRANSITIONS,
    &LOG_IO,
    &LOG_LAG,
    &LOG_LOST,
    &LOG_LOST_RECORDS,
    &LOG_OUTAGE_BUDGET,
    &LOG_PODS_MISSED,
    &LOG_RECORDS,
    &NETWORK_CONNECT_FAILURES,
    &NETWORK_CONNECTIONS,
    &NETWORK_IO,
    &NETWORK_PACKETS,
    &NODE_CPU_COUNT,
    &NODE_CPU_PRESSURE,
    &NODE_CPU_REQUESTS,
    &NODE_CPU_STEAL_TIME,
    &POLICY_RULE_HITS,
    &PORT_DECLARED_UNUSED,
    &PORT_LISTENING,
    &PROBE_HEALTH,
    &REPORT_POINTS_CUT,
];

#[cfg(test)]
mod tests {
    use super::CATALOGUE;

    #[test]
    fn metrics_are_sorted_and_named_once() {
        let names: Vec<&str> = CATALOGUE.iter().map(|metric| metric.name).collect();
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
    }

    #[test]
    fn attributes_are_sorted_and_named_once() {
        for metric in CATALOGUE {
            assert!(metric.attributes.is_sorted_by(|a, b| a < b), "{metric:?}");
        }
    }
}
