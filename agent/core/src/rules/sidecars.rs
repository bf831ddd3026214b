//! Ports that a mesh's proxy or Dapr opens in the container that was put beside the application's (trap 4). Injected containers
//! declare some of them at most: Istio's lists 15090 alone. They are known by the name of the container, which is declared as a
//! `containerPort` is, and only for that container: the same port of another one is as undeclared as any.

/// Name of the container, and what it listens on of TCP.
const PORTS: [(&str, &[u16]); 4] = [
    // <https://istio.io/latest/docs/ops/deployment/application-requirements/>: outbound, inbound, HBONE, telemetry, health, Envoy.
    (
        "istio-proxy",
        &[15_001, 15_006, 15_008, 15_020, 15_021, 15_090],
    ),
    // Outbound, inbound, admin.
    ("linkerd-proxy", &[4_140, 4_143, 4_191]),
    // HTTP and gRPC for the application, gRPC between sidecars, metrics.
    ("daprd", &[3_500, 50_001, 50_002, 9_090]),
    // Outbound, inbound.
    ("kuma-sidecar", &[15_001, 15_006]),
];

/// Whether a sidecar of this name opens that port of TCP.
pub(super) fn opens(container: &str, port: u16) -> bool {
    let mut all = PORTS.iter();
    all.any(|(name, ports)| *name == container && ports.contains(&port))
}
