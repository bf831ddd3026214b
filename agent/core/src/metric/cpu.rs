//! Metrics of CPU.

use super::{Instrument, Metric, attribute};

/// `container.cpu.time`.
pub static CONTAINER_CPU_TIME: Metric = Metric {
    name: "container.cpu.time",
    unit: "s",
    instrument: Instrument::Counter,
    description: "CPU time of the container since it began, from its cgroup's own files.",
    attributes: &[],
};

/// `container.cpu.usage`.
pub static CONTAINER_CPU_USAGE: Metric = Metric {
    name: "container.cpu.usage",
    unit: "{cpu}",
    instrument: Instrument::Gauge,
    description: "Mean number of CPUs in use between the last two readings.",
    attributes: &[],
};

/// `k8s.container.cpu.limit.current`.
pub static K8S_CPU_LIMIT_CURRENT: Metric = Metric {
    name: "k8s.container.cpu.limit.current",
    unit: "{cpu}",
    instrument: Instrument::UpDownCounter,
    description: "CPU limit that the pod's status says is in force for the container.",
    attributes: &[],
};

/// `k8s.container.cpu.limit.desired`.
pub static K8S_CPU_LIMIT_DESIRED: Metric = Metric {
    name: "k8s.container.cpu.limit.desired",
    unit: "{cpu}",
    instrument: Instrument::UpDownCounter,
    description: "CPU limit that the pod's spec declares for the container.",
    attributes: &[],
};

/// `k8s.container.cpu.limit.utilization`.
pub static K8S_CPU_LIMIT_UTILIZATION: Metric = Metric {
    name: "k8s.container.cpu.limit.utilization",
    unit: "1",
    instrument: Instrument::Gauge,
    description: "CPU use as a share of the declared limit. Absent without a limit.",
    attributes: &[],
};

/// `k8s.container.cpu.request.current`.
pub static K8S_CPU_REQUEST_CURRENT: Metric = Metric {
    name: "k8s.container.cpu.request.current",
    unit: "{cpu}",
    instrument: Instrument::UpDownCounter,
    description: "CPU request that the pod's status says is in force for the container.",
    attributes: &[],
};

/// `k8s.container.cpu.request.desired`.
pub static K8S_CPU_REQUEST_DESIRED: Metric = Metric {
    name: "k8s.container.cpu.request.desired",
    unit: "{cpu}",
    instrument: Instrument::UpDownCounter,
    description: "CPU request that the pod's spec declares for the container.",
    attributes: &[],
};

/// `k8s.container.cpu.request.utilization`.
pub static K8S_CPU_REQUEST_UTILIZATION: Metric = Metric {
    name: "k8s.container.cpu.request.utilization",
    unit: "1",
    instrument: Instrument::Gauge,
    description: "CPU use as a share of the declared request. Absent without a request.",
    attributes: &[],
};

/// `k8s.node.cpu.allocatable`.
pub static K8S_NODE_CPU_ALLOCATABLE: Metric = Metric {
    name: "k8s.node.cpu.allocatable",
    unit: "{cpu}",
    instrument: Instrument::UpDownCounter,
    description: "CPUs that pods of the node may request together. Absent unless the Node object is declared.",
    attributes: &[],
};

/// `k8s.node.cpu.time`.
pub static K8S_NODE_CPU_TIME: Metric = Metric {
    name: "k8s.node.cpu.time",
    unit: "s",
    instrument: Instrument::Counter,
    description: "CPU time of tasks and interrupts of the node since its boot, without stolen time.",
    attributes: &[],
};

/// `k8s.node.cpu.usage`.
pub static K8S_NODE_CPU_USAGE: Metric = Metric {
    name: "k8s.node.cpu.usage",
    unit: "{cpu}",
    instrument: Instrument::Gauge,
    description: "Mean number of CPUs in use on the node between the last two readings.",
    attributes: &[],
};

/// `k8s.pod.cpu.time`.
pub static K8S_POD_CPU_TIME: Metric = Metric {
    name: "k8s.pod.cpu.time",
    unit: "s",
    instrument: Instrument::Counter,
    description: "CPU time of the pod since it began, its sandbox included, from its cgroup's own files.",
    attributes: &[],
};

/// `plumbline.container.cpu.limit.effective`.
pub static CPU_LIMIT_EFFECTIVE: Metric = Metric {
    name: "plumbline.container.cpu.limit.effective",
    unit: "{cpu}",
    instrument: Instrument::Gauge,
    description: "CPU limit in force (cpu.max). Absent where there is none.",
    attributes: &[],
};

/// `plumbline.container.cpu.periods`.
pub static CPU_PERIODS: Metric = Metric {
    name: "plumbline.container.cpu.periods",
    unit: "{period}",
    instrument: Instrument::Counter,
    description: "Bandwidth periods in which the container ran, throttled or not.",
    attributes: &[attribute::CPU_THROTTLED],
};

/// `plumbline.container.cpu.pressure.time`.
pub static CPU_PRESSURE_TIME: Metric = Metric {
    name: "plumbline.container.cpu.pressure.time",
    unit: "s",
    instrument: Instrument::Counter,
    description: "Time in which tasks of the container were ready and did not run: at least one (some), or all (full). Throttling is in both.",
    attributes: &[attribute::PRESSURE_KIND],
};

/// `plumbline.container.cpu.throttled.time`.
pub static CPU_THROTTLED_TIME: Metric = Metric {
    name: "plumbline.container.cpu.throttled.time",
    unit: "s",
    instrument: Instrument::Counter,
    description: "Time for which the container was throttled, summed over CPUs.",
    attributes: &[],
};

/// `plumbline.container.cpu.usage.peak`.
pub static CPU_USAGE_PEAK: Metric = Metric {
    name: "plumbline.container.cpu.usage.peak",
    unit: "{cpu}",
    instrument: Instrument::Gauge,
    description: "Highest number of CPUs in use in one window since the last export.",
    attributes: &[attribute::WINDOW],
};

/// `plumbline.container.cpu.usage.window`.
pub static CPU_USAGE_WINDOW: Metric = Metric {
    name: "plumbline.container.cpu.usage.window",
    unit: "{cpu}",
    instrument: Instrument::Histogram,
    description: "Number of CPUs in use in each window, since the agent first saw the container.",
    attributes: &[attribute::WINDOW],
};

/// `plumbline.container.cpu.weight`.
pub static CPU_WEIGHT: Metric = Metric {
    name: "plumbline.container.cpu.weight",
    unit: "{weight}",
    instrument: Instrument::Gauge,
    description: "Share under contention that is in force (cpu.weight), 1 to 10,000; 0 for an idle group.",
    attributes: &[],
};

/// `plumbline.node.cpu.count`.
pub static NODE_CPU_COUNT: Metric = Metric {
    name: "plumbline.node.cpu.count",
    unit: "{cpu}",
    instrument: Instrument::Gauge,
    description: "CPUs online.",
    attributes: &[],
};

/// `plumbline.node.cpu.pressure`.
pub static NODE_CPU_PRESSURE: Metric = Metric {
    name: "plumbline.node.cpu.pressure",
    unit: "1",
    instrument: Instrument::Gauge,
    description: "Share of the mean window in which at least one task of the node waited for a CPU.",
    attributes: &[],
};

/// `plumbline.node.cpu.requests`.
pub static NODE_CPU_REQUESTS: Metric = Metric {
    name: "plumbline.node.cpu.requests",
    unit: "{cpu}",
    instrument: Instrument::Gauge,
    description: "Sum of the CPU requests of declared pods that run here. Absent without a declared side.",
    attributes: &[],
};

/// `plumbline.node.cpu.steal.time`.
pub static NODE_CPU_STEAL_TIME: Metric = Metric {
    name: "plumbline.node.cpu.steal.time",
    unit: "s",
    instrument: Instrument::Counter,
    description: "Time that the hypervisor gave to others while the node wanted to run.",
    attributes: &[],
};
