//! A subject as an OTLP resource.

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::resource::v1::Resource;
use plumbline_core::finding::Subject;
use plumbline_core::settings::NodeIdentity;

use super::{image, list, pair, text};
use crate::export::semconv as key;

/// Attributes in a fixed order; what is not known is left out.
pub(crate) fn resource(subject: &Subject, node: &NodeIdentity) -> Resource {
    let mut attributes = Vec::with_capacity(16);
    let mut put = |key: &str, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            attributes.push(pair(key, text(value)));
        }
    };
    put(key::K8S_CLUSTER_NAME, node.cluster.as_deref());
    put(key::K8S_NODE_NAME, node.node.as_deref());
    put(
        key::DEPLOYMENT_ENVIRONMENT_NAME,
        node.environment.as_deref(),
    );
    put(key::K8S_NAMESPACE_NAME, subject.namespace.as_deref());
    if let Some(owner) = &subject.owner
        && let Some(owner_key) = key::owner_key(&owner.kind)
    {
        put(owner_key, Some(&owner.name));
    }
    put(key::K8S_POD_NAME, subject.pod.as_deref());
    put(key::K8S_POD_UID, subject.pod_uid.as_deref());
    put(key::K8S_CONTAINER_NAME, subject.container.as_deref());
    put(key::CONTAINER_ID, subject.container_id.as_deref());
    put(key::SERVICE_NAME, Some(service_name(subject)));
    put(key::SERVICE_NAMESPACE, subject.namespace.as_deref());
    put(key::SERVICE_INSTANCE_ID, Some(&instance_id(subject, node)));
    put_image(&mut attributes, subject.image.as_deref());
    Resource {
        attributes,
        ..Resource::default()
    }
}

fn put_image(attributes: &mut Vec<KeyValue>, reference: Option<&str>) {
    let Some(reference) = reference.filter(|reference| !reference.is_empty()) else {
        return;
    };
    let image = image::parse(reference);
    attributes.push(pair(key::CONTAINER_IMAGE_NAME, text(image.name)));
    if !image.tag.is_empty() {
        attributes.push(pair(key::CONTAINER_IMAGE_TAGS, list([image.tag])));
    }
    if !image.digest.is_empty() {
        let repo_digest = format!("{}@{}", image.name, image.digest);
        attributes.push(pair(
            key::CONTAINER_IMAGE_REPO_DIGESTS,
            list([repo_digest.as_str()]),
        ));
    }
}

/// The subject is the node: nothing of it lies in a pod.
fn is_node(subject: &Subject) -> bool {
    subject.namespace.is_none() && subject.pod_uid.is_none() && subject.container_id.is_none()
}

/// The order of the conventions for Kubernetes, without the parts that need opt-in labels or annotations.
fn service_name(subject: &Subject) -> &str {
    if is_node(subject) {
        return "plumbline";
    }
    let owner = subject.owner.as_ref().map(|owner| owner.name.as_str());
    let candidates = [owner, subject.pod.as_deref(), subject.container.as_deref()];
    candidates
        .into_iter()
        .flatten()
        .find(|name| !name.is_empty())
        .unwrap_or("unknown_service")
}

/// `<namespace>.<pod>.<container>`; ids stand in for names that are not known, so that two containers stay two.
fn instance_id(subject: &Subject, node: &NodeIdentity) -> String {
    if is_node(subject) {
        return node.node.clone().unwrap_or_default();
    }
    let parts = [
        subject.namespace.as_deref(),
        subject.pod.as_deref().or(subject.pod_uid.as_deref()),
        subject
            .container
            .as_deref()
            .or(subject.container_id.as_deref()),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use plumbline_core::declared::WorkloadRef;

    use super::*;

    fn shown(subject: &Subject, node: &NodeIdentity) -> Vec<String> {
        let show =
            |pair: &KeyValue| match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
                Some(Value::StringValue(value)) => format!("{}={value}", pair.key),
                other => format!("{}={other:?}", pair.key),
            };
        resource(subject, node)
            .attributes
            .iter()
            .map(show)
            .filter(|line| !line.contains("image"))
            .collect()
    }

    #[test]
    fn a_container_of_a_deployment() {
        let subject = Subject {
            namespace: Some("shop".into()),
            owner: Some(WorkloadRef {
                kind: "Deployment".into(),
                name: "web".into(),
            }),
            pod: Some("web-7d9f-x".into()),
            pod_uid: Some("uid-1".into()),
            container: Some("app".into()),
            container_id: Some("c1".into()),
            image: Some("nginx:1.27".into()),
        };
        let node = NodeIdentity {
            cluster: Some("prod".into()),
            node: Some("n1".into()),
            environment: Some("production".into()),
            agent_version: "0.1.0".into(),
        };
        let want = [
            "k8s.cluster.name=prod",
            "k8s.node.name=n1",
            "deployment.environment.name=production",
            "k8s.namespace.name=shop",
            "k8s.deployment.name=web",
            "k8s.pod.name=web-7d9f-x",
            "k8s.pod.uid=uid-1",
            "k8s.container.name=app",
            "container.id=c1",
            "service.name=web",
            "service.namespace=shop",
            "service.instance.id=shop.web-7d9f-x.app",
        ];
        assert_eq!(shown(&subject, &node), want);
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let node = NodeIdentity {
            node: Some("n1".into()),
            ..NodeIdentity::default()
        };
        let bare = Subject {
            namespace: Some("shop".into()),
            owner: Some(WorkloadRef {
                kind: "Pod".into(),
                name: "one".into(),
            }),
            pod: Some("one".into()),
            ..Subject::default()
        };
        let want = [
            "k8s.node.name=n1",
            "k8s.namespace.name=shop",
            "k8s.pod.name=one",
            "service.name=one",
            "service.namespace=shop",
            "service.instance.id=shop.one",
        ];
        assert_eq!(shown(&bare, &node), want);
        let undeclared = Subject {
            pod_uid: Some("u".into()),
            container_id: Some("c".into()),
            ..Subject::default()
        };
        let want = [
            "k8s.node.name=n1",
            "k8s.pod.uid=u",
            "container.id=c",
            "service.name=unknown_service",
            "service.instance.id=u.c",
        ];
        assert_eq!(shown(&undeclared, &node), want);
        let want = [
            "k8s.node.name=n1",
            "service.name=plumbline",
            "service.instance.id=n1",
        ];
        assert_eq!(shown(&Subject::default(), &node), want);
    }
}
