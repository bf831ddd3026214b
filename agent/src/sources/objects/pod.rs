//! Pods, and the pod templates of workloads.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus, PodTemplateSpec, Volume, VolumeMount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use plumbline_core::declared::{DeclaredContainer, DeclaredPod, effective_request};
use plumbline_core::id::PodUid;
use plumbline_core::suppression::ANNOTATION_PREFIX;

use super::ObjectError;
use super::container::{containers, cpu};
use super::owner::owner;

/// Annotation with the UID that the kubelet uses for a static pod.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// Bytes of a rule's id in an annotation that asks to hide findings.
const RULE_BYTES_MAX: usize = 8;
/// Such annotations of one pod: there are some thirty rules.
const SUPPRESS_MAX: usize = 64;
/// Bytes of one: a date and a reason.
const SUPPRESS_BYTES_MAX: usize = 600;
/// Where the API server mounts the token of the service account, from a Secret before Kubernetes 1.21.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What a pod declares.
///
/// # Errors
/// A port out of range, a quantity that is none, an address that is none, no name: the pod is then not used at all.
pub fn pod(pod: &Pod) -> Result<DeclaredPod, ObjectError> {
    let meta = &pod.metadata;
    let node = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .filter(|node| !node.is_empty());
    let mut declared = specified(pod.spec.as_ref(), pod.status.as_ref())?;
    declared.name = name(meta)?;
    declared.namespace = namespace(meta);
    declared.uid = meta
        .uid
        .as_deref()
        .filter(|uid| !uid.is_empty())
        .map(PodUid::new);
    declared.config_hash = meta
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(CONFIG_HASH))
        .map(|hash| PodUid::new(hash.as_str()));
    declared.suppress = suppress(meta);
    declared.labels = meta.labels.clone().unwrap_or_default();
    declared.owner = owner(meta, node);
    declared.node = node.map(str::to_owned);
    if declared.owner.name.is_empty() {
        declared.owner.name.clone_from(&declared.name);
    }
    if let Some(status) = &pod.status {
        declared.ips = ips(status)?;
        declared.finished = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    }
    Ok(declared)
}

/// Annotations that ask to hide findings. They are heard only where the operator says so; bounded, since anybody writes them.
fn suppress(meta: &ObjectMeta) -> BTreeMap<String, String> {
    let annotations = meta.annotations.iter().flatten();
    let asking = annotations.filter_map(|(name, text)| {
        let rule = name
            .strip_prefix(ANNOTATION_PREFIX)
            .filter(|rule| rule.len() <= RULE_BYTES_MAX)?;
        let text = &text[..text.floor_char_boundary(SUPPRESS_BYTES_MAX)];
        Some((rule.to_owned(), text.to_owned()))
    });
    asking.take(SUPPRESS_MAX).collect()
}

/// What the pods of a workload will declare: no UID, no status; name and namespace are the workload's.
///
/// # Errors
/// As for [`pod`]; the path begins inside the template.
pub(super) fn template(template: &PodTemplateSpec) -> Result<DeclaredPod, ObjectError> {
    let labels = template
        .metadata
        .as_ref()
        .and_then(|metadata| metadata.labels.clone());
    Ok(DeclaredPod {
        labels: labels.unwrap_or_default(),
        ..specified(template.spec.as_ref(), None)?
    })
}

/// `metadata.name`, or what the API server will begin the name with.
pub(super) fn name(meta: &ObjectMeta) -> Result<String, ObjectError> {
    let name = meta
        .name
        .as_ref()
        .or(meta.generate_name.as_ref())
        .filter(|name| !name.is_empty());
    name.cloned()
        .ok_or_else(|| ObjectError::new("metadata.name", "missing"))
}

/// `metadata.namespace`; `default` when absent.
pub(super) fn namespace(meta: &ObjectMeta) -> String {
    meta.namespace
        .clone()
        .filter(|namespace| !namespace.is_empty())
        .unwrap_or_else(|| "default".to_owned())
}

fn specified(
    spec: Option<&PodSpec>,
    status: Option<&PodStatus>,
) -> Result<DeclaredPod, ObjectError> {
    let Some(spec) = spec else {
        return Ok(DeclaredPod::default());
    };
    let mut containers = containers(spec, status).map_err(|error| error.under("spec"))?;
    if status.is_some() {
        note_tokens(spec, &mut containers);
    }
    let (request, limit) = cpu(spec.resources.as_ref()).map_err(|error| error.under("spec"))?;
    Ok(DeclaredPod {
        host_network: spec.host_network == Some(true),
        runtime_class: spec.runtime_class_name.clone(),
        cpu_request_millis: request.or_else(|| default_request(spec, &containers, limit)),
        cpu_limit_millis: limit,
        containers,
        ..DeclaredPod::default()
    })
}

/// Which containers of an applied pod mount a token that the API server takes: the API server has added what is mounted by
/// default, and of a manifest that was never applied it is not known.
fn note_tokens(spec: &PodSpec, containers: &mut [DeclaredContainer]) {
    let volumes = spec.volumes.iter().flatten();
    let tokens: Vec<&str> = volumes
        .filter(|volume| holds_api_token(volume))
        .map(|volume| volume.name.as_str())
        .collect();
    let mounts = |mounts: &Option<Vec<VolumeMount>>| {
        let mut mounts = mounts.iter().flatten();
        mounts.any(|mount| mount.mount_path == TOKEN_PATH || tokens.contains(&mount.name.as_str()))
    };
    let init = spec.init_containers.iter().flatten();
    let regular = init
        .chain(&spec.containers)
        .map(|container| mounts(&container.volume_mounts));
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let all = regular.chain(ephemeral.map(|container| mounts(&container.volume_mounts)));
    for (container, mounted) in containers.iter_mut().zip(all) {
        container.api_token = Some(mounted);
    }
}

/// A projected token without an audience is for the API server. Others are for Vault, Istio, clouds and the like.
fn holds_api_token(volume: &Volume) -> bool {
    let projected = volume.projected.iter();
    let mut sources = projected.flat_map(|projected| projected.sources.iter().flatten());
    sources.any(|source| {
        let token = source.service_account_token.as_ref();
        token.is_some_and(|token| token.audience.as_ref().is_none_or(String::is_empty))
    })
}

/// A pod with resources of its own but no request of its own gets what its containers request, and if they request
/// nothing, its limit. The API server writes this into applied objects; a manifest that was never applied lacks it.
fn default_request(
    spec: &PodSpec,
    containers: &[DeclaredContainer],
    limit: Option<u64>,
) -> Option<u64> {
    spec.resources.as_ref()?;
    effective_request(containers).or(limit)
}

fn ips(status: &PodStatus) -> Result<Vec<IpAddr>, ObjectError> {
    let parse = |path: String, text: &str| {
        text.parse::<IpAddr>()
            .map_err(|error| ObjectError::new(path, format!("{text:?} is no address: {error}")))
    };
    match status.pod_ips.as_deref() {
        Some(ips @ [_, ..]) => ips
            .iter()
            .enumerate()
            .map(|(index, ip)| parse(format!("status.podIPs[{index}].ip"), &ip.ip))
            .collect(),
        _ => {
            let only = status.pod_ip.as_deref().filter(|ip| !ip.is_empty());
            only.map(|ip| parse("status.podIP".to_owned(), ip))
                .into_iter()
                .collect()
        }
    }
}
