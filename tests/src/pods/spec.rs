//! What a pod is made from, and the cgroup paths that the kubelet and the runtimes give it.

use std::collections::BTreeMap;

/// A pod to play. Fields left out by `..PodSpec::default()` are those of the commonest pod.
#[derive(Clone, Debug, Default)]
pub struct PodSpec {
    /// `metadata.namespace`; `default` when empty.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// Kind and name of the workload that owns it. For a `Deployment` the ReplicaSet in between is made up as the API
    /// server would, for a `CronJob` the Job.
    pub owner: Option<(String, String)>,
    /// Class of service: a part of the cgroup path.
    pub qos: Qos,
    /// Who lays out the cgroups.
    pub driver: Driver,
    /// Who names the containers.
    pub runtime: Runtime,
    /// Uses the host's network namespace.
    pub host_network: bool,
    /// A pod from a file on the node: its cgroups bear the hash of its configuration, not the UID of the API.
    pub static_pod: bool,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
}

/// Class of service of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Qos {
    /// Limits equal requests.
    Guaranteed,
    /// Some requests.
    #[default]
    Burstable,
    /// Neither requests nor limits.
    BestEffort,
}

/// The kubelet's cgroup driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// Slices and scopes.
    #[default]
    Systemd,
    /// Plain directories.
    Cgroupfs,
}

/// The container runtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Runtime {
    /// containerd.
    #[default]
    Containerd,
    /// CRI-O.
    Crio,
    /// Docker by cri-dockerd.
    Docker,
}

/// A container to play.
#[derive(Clone, Debug, Default)]
pub struct ContainerSpec {
    /// Its name.
    pub name: String,
    /// Image reference; made up from the name when empty.
    pub image: String,
    /// Which list of the spec it stands in.
    pub kind: Kind,
    /// Declared ports.
    pub ports: Vec<PortSpec>,
    /// Declared probes.
    pub probes: Vec<ProbeSpec>,
    /// `resources.requests.cpu` such as `100m`. Absent with a limit: the limit, as the API server defaults it.
    pub cpu_request: Option<String>,
    /// `resources.limits.cpu` such as `0.5`. Written to `cpu.max` where the host gives the cpu controller to v2.
    pub cpu_limit: Option<String>,
}

/// Which list of the spec a container stands in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// `containers`.
    #[default]
    Regular,
    /// `initContainers`.
    Init,
    /// `initContainers` with `restartPolicy: Always`.
    Sidecar,
    /// `ephemeralContainers`.
    Ephemeral,
}

/// A declared port.
#[derive(Clone, Debug, Default)]
pub struct PortSpec {
    /// `name`.
    pub name: Option<String>,
    /// `containerPort`.
    pub port: u16,
    /// `hostPort`; for host network pods the API server copies the port.
    pub host_port: Option<u16>,
    /// `protocol` is UDP.
    pub udp: bool,
}

impl PortSpec {
    /// An unnamed TCP port.
    #[must_use]
    pub fn tcp(port: u16) -> Self {
        Self {
            port,
            ..Self::default()
        }
    }

    /// A named TCP port.
    #[must_use]
    pub fn named(name: &str, port: u16) -> Self {
        Self {
            name: Some(name.to_owned()),
            port,
            ..Self::default()
        }
    }
}

/// A declared probe.
#[derive(Clone, Debug)]
pub struct ProbeSpec {
    /// Which of the three.
    pub kind: ProbeKind,
    /// How it asks.
    pub handler: Handler,
}

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// `livenessProbe`.
    Liveness,
    /// `readinessProbe`.
    Readiness,
    /// `startupProbe`.
    Startup,
}

/// How a probe asks.
#[derive(Clone, Debug)]
pub enum Handler {
    /// `httpGet`, with a number or a name of a port.
    Http(PortRef),
    /// `tcpSocket`, with a number or a name of a port.
    Tcp(PortRef),
    /// `grpc`, which takes numbers only.
    Grpc(u16),
}

/// A number, or the name of a container port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortRef {
    /// A number.
    Number(u16),
    /// A name.
    Name(String),
}

/// A Service to declare.
#[derive(Clone, Debug, Default)]
pub struct ServiceSpec {
    /// `metadata.namespace`; `default` when empty.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `spec.selector`.
    pub selector: BTreeMap<String, String>,
    /// `spec.type`; `ClusterIP` when empty.
    pub service_type: String,
    /// `spec.ports`: port and target.
    pub ports: Vec<(u16, PortRef)>,
}

/// Path of a pod's cgroup below the root that the kubelet uses.
#[must_use]
pub fn pod_path(spec: &PodSpec, uid: &str) -> String {
    match (spec.driver, spec.qos) {
        (Driver::Systemd, Qos::Guaranteed) => {
            format!("kubepods.slice/kubepods-pod{}.slice", uid.replace('-', "_"))
        }
        (Driver::Systemd, qos) => {
            let (class, uid) = (class(qos), uid.replace('-', "_"));
            format!("kubepods.slice/kubepods-{class}.slice/kubepods-{class}-pod{uid}.slice")
        }
        (Driver::Cgroupfs, Qos::Guaranteed) => format!("kubepods/pod{uid}"),
        (Driver::Cgroupfs, qos) => format!("kubepods/{}/pod{uid}", class(qos)),
    }
}

fn class(qos: Qos) -> &'static str {
    match qos {
        Qos::Guaranteed => "guaranteed",
        Qos::Burstable => "burstable",
        Qos::BestEffort => "besteffort",
    }
}

/// Name of a container's cgroup below its pod's.
#[must_use]
pub fn container_dir(driver: Driver, runtime: Runtime, id: &str) -> String {
    match (driver, runtime) {
        (Driver::Systemd, Runtime::Containerd) => format!("cri-containerd-{id}.scope"),
        (Driver::Systemd, Runtime::Crio) => format!("crio-{id}.scope"),
        (Driver::Systemd, Runtime::Docker) => format!("docker-{id}.scope"),
        (Driver::Cgroupfs, Runtime::Crio) => format!("crio-{id}"),
        (Driver::Cgroupfs, Runtime::Containerd | Runtime::Docker) => id.to_owned(),
    }
}

/// Scheme of `containerID` in the API.
#[must_use]
pub fn scheme(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Containerd => "containerd",
        Runtime::Crio => "cri-o",
        Runtime::Docker => "docker",
    }
}

#[cfg(test)]
mod tests {
    use super::{Driver, PodSpec, Qos, Runtime, container_dir, pod_path};

    #[test]
    fn paths_are_those_of_the_kubelet() {
        let uid = "6f0d1a3e-0c37-4c5e-9d0a-0e6f7ad1b2c3";
        let path = |qos, driver| {
            pod_path(
                &PodSpec {
                    qos,
                    driver,
                    ..PodSpec::default()
                },
                uid,
            )
        };
        assert_eq!(
            path(Qos::Burstable, Driver::Systemd),
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod6f0d1a3e_0c37_4c5e_9d0a_0e6f7ad1b2c3.slice"
        );
        assert_eq!(
            path(Qos::Guaranteed, Driver::Systemd),
            "kubepods.slice/kubepods-pod6f0d1a3e_0c37_4c5e_9d0a_0e6f7ad1b2c3.slice"
        );
        assert_eq!(
            path(Qos::BestEffort, Driver::Cgroupfs),
            format!("kubepods/besteffort/pod{uid}")
        );
        assert_eq!(
            path(Qos::Guaranteed, Driver::Cgroupfs),
            format!("kubepods/pod{uid}")
        );
        assert_eq!(
            container_dir(Driver::Systemd, Runtime::Crio, "ab"),
            "crio-ab.scope"
        );
        assert_eq!(
            container_dir(Driver::Cgroupfs, Runtime::Containerd, "ab"),
            "ab"
        );
    }
}
