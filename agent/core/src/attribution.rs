//! Cgroup path -> container -> pod. Total: any text gives an answer, and what is not a container's is the host's.

use crate::id::{ContainerId, PodUid};

/// The container whose cgroup, or a cgroup below whose, a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPath<'a> {
    /// The pod, as the path has it.
    pub pod_uid: PodUid,
    /// The container.
    pub container_id: ContainerId,
    /// The path of the container's own cgroup: a prefix of the path given, and equal to it unless the path is nested.
    pub path: &'a str,
}

/// Finds the container that owns a cgroup. `None` is the host (also the pod's own cgroup, which holds no process).
#[must_use]
pub fn container_of(path: &str) -> Option<ContainerPath<'_>> {
    let mut pod_uid = None;
    let mut end = 0;
    for component in path.split_inclusive('/') {
        end += component.len();
        let component = component.trim_end_matches('/');
        match &pod_uid {
            None => pod_uid = pod_of(component),
            Some(uid) => {
                return container_id(component).map(|container_id| ContainerPath {
                    pod_uid: PodUid::clone(uid),
                    container_id,
                    path: path[..end].trim_end_matches('/'),
                });
            }
        }
    }
    None
}

fn pod_of(component: &str) -> Option<PodUid> {
    let name = component.strip_suffix(".slice").unwrap_or(component);
    let start = if name.starts_with("pod") { 3 } else { name.rfind("-pod")? + 4 };
    let uid = &name[start..];
    let plain: String = uid.chars().map(|c| if c == '_' { '-' } else { c }).collect();
    let hex = plain.chars().filter(|c| c.is_ascii_hexdigit()).count();
    (hex == 32 && plain.chars().all(|c| c.is_ascii_hexdigit() || c == '-')).then(|| PodUid::new(plain))
}

fn container_id(component: &str) -> Option<ContainerId> {
    let name = component.strip_suffix(".scope").unwrap_or(component);
    let id = name.rsplit('-').next()?;
    let prefix = &name[..name.len() - id.len()];
    let known = matches!(prefix, "" | "cri-containerd-" | "crio-" | "docker-");
    (known && id.len() == 64 && id.chars().all(|c| c.is_ascii_hexdigit())).then(|| ContainerId::new(id))
}
