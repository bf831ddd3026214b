//! Bounded things that the agent has, and what becomes of what finds no room: the words of the ledger in `status`.

/// Every place that tells what it lost, and what then happens. Places of export lanes begin with `export.`.
const PLACES: &[(&str, &str)] = &[
    ("cgroups", "left out until there is room"),
    ("containers", "left out until there is room"),
    ("cpu_windows", "the oldest windows are overwritten"),
    (
        "ebpf.cgroup_events",
        "dropped; the next walk of the tree finds them",
    ),
    ("ebpf.cgroup_walk", "nothing is taken for gone"),
    (
        "ebpf.connections",
        "not followed; their bytes are counted when they close",
    ),
    ("ebpf.containers", "no network program; told as coverage"),
    ("ebpf.cpu_windows", "not measured; told with the windows"),
    ("ebpf.events", "dropped"),
    (
        "ebpf.flows",
        "counted in the overflow entry of the container",
    ),
    ("ebpf.flows_overflow", "lost"),
    (
        "ebpf.flows_pending",
        "counted in the overflow row of the container",
    ),
    (
        "ebpf.listener_events",
        "dropped; the next scan of sockets finds them",
    ),
    ("ebpf.tcp", "left to the scans"),
    ("ebpf.udp", "left to the scans"),
    (
        "ebpf.udp_events",
        "dropped; the next scan of sockets finds them",
    ),
    (
        "ebpf.udp_flows",
        "counted in the overflow entry of the container",
    ),
    (
        "ebpf.udp_flows_pending",
        "counted in the overflow row of the container",
    ),
    ("ebpf.udp_packets", "not counted"),
    (
        "ebpf.udp_sockets",
        "the next scan of sockets finds those outside the dynamic range",
    ),
    (
        "export",
        "dropped; findings are sent again, counts are cumulative",
    ),
    ("findings", "opened when there is room"),
    (
        "findings_past",
        "the one resolved first is forgotten; it would come back as new",
    ),
    (
        "flow_series",
        "counted in the overflow series of the container",
    ),
    ("flows", "counted in the overflow series of the container"),
    ("listener_events", "left to the scans"),
    ("listener_scan", "told as coverage"),
    (
        "log_containers",
        "not judged; their counts leave all the same",
    ),
    (
        "observations",
        "dropped; counts are kept and sent again, snapshots tell the rest",
    ),
    ("recording", "left out of the recording"),
    ("restarts", "not counted"),
    (
        "socket_scan_requests",
        "the next scan of the node covers it",
    ),
];

/// What becomes of what finds no room in a place; `None` for a place of another version.
#[must_use]
pub fn when_full(place: &str) -> Option<&'static str> {
    let place = if place.starts_with("export.") {
        "export"
    } else {
        place
    };
    PLACES
        .iter()
        .find(|(name, _)| *name == place)
        .map(|(_, words)| *words)
}
