//! Cgroup path -> container -> pod. Total: any text gives an answer, and what is not a container's is the host's.
//!
//! The kubelet lays pods out as `kubepods[/burstable|/besteffort]/pod<uid>/<container>`, in one of two spellings:
//!
//! | driver   | pod                                                           | container                                |
//! |----------|---------------------------------------------------------------|------------------------------------------|
//! | systemd  | `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice` | `<runtime>-<id>.scope`     |
//! | cgroupfs | `kubepods/burstable/pod<uid>`                                 | `<id>`, for CRI-O `crio-<id>`            |
//!
//! Anything may stand above (kind, k3s, `--cgroup-root` of the kubelet) and below (systemd, dockerd or whole kubelets
//! inside a container). The outermost container wins: what a container makes below its own cgroup, it owns, whatever it
//! calls it. Not supported: static pods whose manifest carries a UID that is neither a UUID nor 32 hex digits.

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

/// Where a walk down a path stands.
enum Place {
    /// Outside of what the kubelet manages.
    Host,
    /// In `kubepods` itself or a QoS class below it.
    Kubepods,
    /// In a pod.
    Pod(PodUid),
}

/// Whether a path is within what the kubelet manages.
#[must_use]
pub fn is_of_kubelet(path: &str) -> bool {
    path.split('/').any(is_kubepods)
}

/// Finds the container that owns a cgroup. `None` is the host (also the pod's own cgroup, which holds no process).
#[must_use]
pub fn container_of(path: &str) -> Option<ContainerPath<'_>> {
    let mut place = Place::Host;
    let mut end = 0;
    for component in path.split_inclusive('/') {
        let start = end;
        end += component.len();
        let name = component.strip_suffix('/').unwrap_or(component);
        if name.is_empty() {
            continue;
        }
        let path = &path[..start + name.len()];
        if let Some((pod_uid, container_id)) = misnamed_container(name) {
            return Some(ContainerPath {
                pod_uid,
                container_id,
                path,
            });
        }
        place = match place {
            Place::Host if is_kubepods(name) => Place::Kubepods,
            Place::Host => Place::Host,
            Place::Kubepods => match pod_of(name) {
                Some(pod_uid) => Place::Pod(pod_uid),
                None if is_kubepods(name) || is_qos(name) => Place::Kubepods,
                None => Place::Host,
            },
            // Whatever else lies in a pod (conmon, a runtime that is not known) does not become another pod's by the
            // names of its children.
            Place::Pod(pod_uid) => {
                let container_id = container_id(name)?;
                return Some(ContainerPath {
                    pod_uid,
                    container_id,
                    path,
                });
            }
        };
    }
    None
}

/// `kubepods`, or as a slice below others: `kubelet-kubepods.slice`.
fn is_kubepods(name: &str) -> bool {
    match name.strip_suffix(".slice") {
        Some(slice) => slice == "kubepods" || slice.ends_with("-kubepods"),
        None => name == "kubepods",
    }
}

fn is_qos(name: &str) -> bool {
    match name.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once('-').is_some_and(|(parent, class)| {
            is_qos_class(class) && (parent == "kubepods" || parent.ends_with("-kubepods"))
        }),
        None => is_qos_class(name),
    }
}

fn is_qos_class(name: &str) -> bool {
    matches!(name, "burstable" | "besteffort")
}

/// The UID in the name of a pod's cgroup.
fn pod_of(name: &str) -> Option<PodUid> {
    match name.strip_suffix(".slice") {
        Some(slice) => {
            let (_, uid) = slice.rsplit_once("-pod")?;
            // systemd reads a dash in a slice's name as a level, so the kubelet writes underscores.
            (!uid.contains('-')).then(|| pod_uid(&uid.replace('_', "-")))?
        }
        None => pod_uid(name.strip_prefix("pod")?),
    }
}

/// A UUID, or the 32 hex digits that the kubelet gives to static pods.
fn pod_uid(text: &str) -> Option<PodUid> {
    const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];
    let mut groups = text.split('-');
    let uuid = GROUPS
        .iter()
        .all(|length| groups.next().is_some_and(|group| is_hex(group, *length)))
        && groups.next().is_none();
    (uuid || is_hex(text, 32)).then(|| PodUid::new(text))
}

/// The id in the name of a container's cgroup. `crio-conmon-<id>.scope` is CRI-O's monitor, not the container.
fn container_id(name: &str) -> Option<ContainerId> {
    let id = match name.strip_suffix(".scope") {
        Some(scope) => RUNTIMES
            .iter()
            .find_map(|runtime| scope.strip_prefix(runtime)?.strip_prefix('-'))?,
        None => name.strip_prefix("crio-").unwrap_or(name),
    };
    is_hex(id, 64).then(|| ContainerId::new(id))
}

/// What runtimes put before the id.
const RUNTIMES: [&str; 3] = ["cri-containerd", "crio", "docker"];

/// The kubelet uses the systemd driver and the runtime does not: runc takes `<slice>:<runtime>:<id>`, meant for
/// systemd, as the name of a directory. A misconfiguration, but pods run.
fn misnamed_container(name: &str) -> Option<(PodUid, ContainerId)> {
    let mut parts = name.split(':');
    let (slice, runtime, id) = (parts.next()?, parts.next()?, parts.next()?);
    let whole = parts.next().is_none() && RUNTIMES.contains(&runtime) && is_hex(id, 64);
    let (parent, _) = slice.rsplit_once("-pod")?;
    let in_kubepods = is_kubepods(&format!("{parent}.slice")) || is_qos(&format!("{parent}.slice"));
    (whole && in_kubepods).then(|| Some((pod_of(slice)?, ContainerId::new(id))))?
}

/// Exactly `length` lower-case hex digits.
fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

    use super::container_of;

    const POD: &str = "0f2b6b6e-9a3c-4d0c-8c5e-1f2d3c4b5a69";
    const SLICE: &str = "0f2b6b6e_9a3c_4d0c_8c5e_1f2d3c4b5a69";
    const STATIC: &str = "8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d";
    const ID: &str = "4b1c7f2a0d9e8c7b6a5f4e3d2c1b0a9f8e7d6c5b4a3f2e1d0c9b8a7f6e5d4c3b";
    const OTHER: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

    /// The path with `{POD}` and the like filled in.
    fn path(template: &str) -> String {
        [
            ("{POD}", POD),
            ("{SLICE}", SLICE),
            ("{STATIC}", STATIC),
            ("{ID}", ID),
            ("{OTHER}", OTHER),
        ]
        .iter()
        .fold(template.to_owned(), |path, (name, value)| {
            path.replace(name, value)
        })
    }

    /// The template's path belongs to pod and container, whose own cgroup is `own` components long.
    fn check(template: &str, uid: &str, own: usize) {
        let path = path(template);
        let found = container_of(&path).unwrap_or_else(|| panic!("{template} is a container's"));
        assert_eq!(found.pod_uid.as_str(), uid, "{template}");
        assert_eq!(found.container_id.as_str(), ID, "{template}");
        let prefix: Vec<&str> = path.split('/').take(own + 1).collect();
        assert_eq!(found.path, prefix.join("/"), "{template}");
    }

    #[test]
    fn layouts_of_kubelets_and_runtimes() {
        for (template, uid, own) in [
            // systemd driver: containerd, CRI-O, cri-dockerd; burstable, besteffort, guaranteed.
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICE}.slice/cri-containerd-{ID}.scope",
                POD,
                4,
            ),
            (
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{SLICE}.slice/crio-{ID}.scope",
                POD,
                4,
            ),
            (
                "/kubepods.slice/kubepods-pod{SLICE}.slice/docker-{ID}.scope",
                POD,
                3,
            ),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{STATIC}.slice/crio-{ID}.scope",
                STATIC,
                4,
            ),
            // cgroupfs driver.
            ("/kubepods/burstable/pod{POD}/{ID}", POD, 4),
            ("/kubepods/besteffort/pod{POD}/crio-{ID}", POD, 4),
            ("/kubepods/pod{POD}/{ID}", POD, 3),
            ("/kubepods/pod{STATIC}/{ID}", STATIC, 3),
            // Below something: kind (both drivers, two ages), rootless kind, a kubelet with --cgroup-root, the demo.
            (
                "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{SLICE}.slice/cri-containerd-{ID}.scope",
                POD,
                5,
            ),
            (
                "/system.slice/docker-{OTHER}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{SLICE}.slice/cri-containerd-{ID}.scope",
                POD,
                6,
            ),
            (
                "/system.slice/docker-{OTHER}.scope/kubelet/kubepods/besteffort/pod{POD}/{ID}",
                POD,
                7,
            ),
            ("/docker/{OTHER}/kubelet/kubepods/pod{POD}/{ID}", POD, 6),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{OTHER}.scope/kubelet/kubepods/pod{POD}/{ID}",
                POD,
                9,
            ),
            ("/kubepods/kubepods/pod{POD}/{ID}", POD, 4),
            (
                "/plumbline-demo-123/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICE}.slice/cri-containerd-{ID}.scope",
                POD,
                5,
            ),
            (
                "/../../kubepods.slice/kubepods-pod{SLICE}.slice/cri-containerd-{ID}.scope",
                POD,
                5,
            ),
            ("/k3s/kubepods/burstable/pod{POD}/{ID}", POD, 5),
            // The drivers disagree.
            (
                "/system.slice/containerd.service/kubepods-burstable-pod{SLICE}.slice:cri-containerd:{ID}",
                POD,
                3,
            ),
            ("/kubepods-pod{SLICE}.slice:cri-containerd:{ID}", POD, 1),
        ] {
            check(template, uid, own);
        }
    }

    #[test]
    fn what_lies_below_a_container_is_the_containers() {
        for below in [
            "/container",
            "/init.scope",
            "/system.slice/docker-{OTHER}.scope",
            "/kubepods/burstable/podffffffff-ffff-ffff-ffff-ffffffffffff/{OTHER}",
            "/kubepods-podffffffff_ffff_ffff_ffff_ffffffffffff.slice:cri-containerd:{OTHER}",
            "/",
            "//x",
        ] {
            check(
                &format!("/kubepods/burstable/pod{{POD}}/{{ID}}{below}"),
                POD,
                4,
            );
            check(
                &format!("/kubepods.slice/kubepods-pod{{SLICE}}.slice/crio-{{ID}}.scope{below}"),
                POD,
                3,
            );
        }
    }

    #[test]
    fn everything_else_is_the_hosts() {
        for template in [
            "",
            "/",
            "/init.scope",
            "/system.slice/sshd.service",
            "/system.slice/docker-{ID}.scope",
            "/docker/{ID}",
            // A pod's and a QoS class's own cgroup.
            "/kubepods.slice",
            "/kubepods.slice/kubepods-burstable.slice",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICE}.slice",
            "/kubepods/pod{POD}",
            // No kubepods above the pod.
            "/pod{POD}/{ID}",
            "/burstable/pod{POD}/{ID}",
            "/system.slice/kubepods-pod{SLICE}.slice/crio-{ID}.scope",
            "/mykubepods/pod{POD}/{ID}",
            "/kubepodsx.slice/kubepods-pod{SLICE}.slice/crio-{ID}.scope",
            "/kubepods/system.slice/pod{POD}/{ID}",
            // CRI-O's monitor, and a runtime that is not known; nothing below them becomes a pod's.
            "/kubepods.slice/kubepods-pod{SLICE}.slice/crio-conmon-{ID}.scope",
            "/kubepods/pod{POD}/crio-conmon-{ID}",
            "/kubepods/pod{POD}/crio-conmon-{ID}/{ID}",
            "/kubepods/pod{POD}/other-{ID}",
            "/kubepods/pod{POD}/other-{ID}/kubepods/pod{POD}/{ID}",
            "/kubepods.slice/kubepods-pod{SLICE}.slice/cri-containerd-{ID}.service",
            "/kubepods.slice/kubepods-pod{SLICE}.slice/cri-containerd{ID}.scope",
            "/kubepods.slice/kubepods-pod{SLICE}.slice/{ID}.scope",
            // Ids that are none.
            "/kubepods/pod{POD}/4B1C7F2A0D9E8C7B6A5F4E3D2C1B0A9F8E7D6C5B4A3F2E1D0C9B8A7F6E5D4C3B",
            "/kubepods/pod{POD}/{ID}0",
            "/kubepods/pod{POD}/4b1c7f2a",
            "/kubepods/pod0F2B6B6E-9A3C-4D0C-8C5E-1F2D3C4B5A69/{ID}",
            "/kubepods/pod0f2b6b6e9a3c-4d0c-8c5e-1f2d3c4b5a69/{ID}",
            "/kubepods/pod0f2b6b6e-9a3c-4d0c-8c5e-1f2d3c4b5a69-0000/{ID}",
            "/kubepods/pod/{ID}",
            "/kubepods/pod{SLICE}/{ID}",
            "/kubepods.slice/kubepods-pod{POD}.slice/crio-{ID}.scope",
            // The drivers disagree, but not about a pod.
            "/system.slice:docker:{ID}",
            "/x-pod{SLICE}.slice:cri-containerd:{ID}",
            "/kubepods-pod{SLICE}.slice:cri-containerd:{ID}:x",
            "/kubepods-pod{SLICE}.slice:runc:{ID}",
        ] {
            assert_eq!(container_of(&path(template)), None, "{template}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_text_has_an_answer(text in ".*") {
            let found = container_of(&text);
            prop_assert!(found.is_none_or(|found| text.starts_with(found.path)));
        }

        /// Text made of the pieces that matter meets far more branches than arbitrary text does.
        #[test]
        fn any_path_has_an_answer_that_its_own_cgroup_gives_too(
            parts in proptest::collection::vec(proptest::sample::select(&PIECES[..]), 0..9),
        ) {
            let text = path(&parts.concat());
            if let Some(found) = container_of(&text) {
                prop_assert!(text.starts_with(found.path));
                prop_assert_eq!(container_of(found.path), Some(found.clone()));
                let below = format!("{}/kubepods/pod{POD}/{OTHER}", found.path);
                prop_assert_eq!(container_of(&below), Some(found));
            }
        }
    }

    const PIECES: [&str; 20] = [
        "/",
        "/kubepods",
        "/kubepods.slice",
        "/burstable",
        "/kubepods-burstable.slice",
        "/pod{POD}",
        "/pod{STATIC}",
        "/kubepods-pod{SLICE}.slice",
        "/kubepods-burstable-pod{SLICE}.slice",
        "/{ID}",
        "/crio-{ID}",
        "/crio-{ID}.scope",
        "/crio-conmon-{ID}.scope",
        "/cri-containerd-{ID}.scope",
        "/docker-{OTHER}.scope",
        ":cri-containerd:{ID}",
        "/kubelet.slice",
        "/kubelet-kubepods.slice",
        "é",
        "/..",
    ];
}
