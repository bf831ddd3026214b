//! Every attribute key that leaves, once. Those of OpenTelemetry are held against its own crate by the test below.

pub(crate) const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.42.0";

pub(crate) const K8S_CLUSTER_NAME: &str = "k8s.cluster.name";
pub(crate) const K8S_NODE_NAME: &str = "k8s.node.name";
pub(crate) const K8S_NAMESPACE_NAME: &str = "k8s.namespace.name";
pub(crate) const K8S_POD_NAME: &str = "k8s.pod.name";
pub(crate) const K8S_POD_UID: &str = "k8s.pod.uid";
pub(crate) const K8S_CONTAINER_NAME: &str = "k8s.container.name";
pub(crate) const CONTAINER_ID: &str = "container.id";
pub(crate) const CONTAINER_IMAGE_NAME: &str = "container.image.name";
pub(crate) const CONTAINER_IMAGE_TAGS: &str = "container.image.tags";
pub(crate) const CONTAINER_IMAGE_REPO_DIGESTS: &str = "container.image.repo_digests";
pub(crate) const DEPLOYMENT_ENVIRONMENT_NAME: &str = "deployment.environment.name";
pub(crate) const SERVICE_NAME: &str = "service.name";
pub(crate) const SERVICE_NAMESPACE: &str = "service.namespace";
pub(crate) const SERVICE_VERSION: &str = "service.version";
pub(crate) const SERVICE_INSTANCE_ID: &str = "service.instance.id";

pub(crate) const SECURITY_RULE_NAME: &str = "security_rule.name";
pub(crate) const SECURITY_RULE_CATEGORY: &str = "security_rule.category";
pub(crate) const SECURITY_RULE_DESCRIPTION: &str = "security_rule.description";
pub(crate) const SECURITY_RULE_RULESET_NAME: &str = "security_rule.ruleset.name";
pub(crate) const SECURITY_RULE_VERSION: &str = "security_rule.version";
pub(crate) const NETWORK_TRANSPORT: &str = "network.transport";
pub(crate) const NETWORK_LOCAL_PORT: &str = "network.local.port";
pub(crate) const PROCESS_EXECUTABLE_PATH: &str = "process.executable.path";
pub(crate) const PROCESS_PID: &str = "process.pid";

pub(crate) const CPU_MODE: &str = "cpu.mode";
pub(crate) const ERROR_TYPE: &str = "error.type";
pub(crate) const OTEL_COMPONENT_NAME: &str = "otel.component.name";
pub(crate) const OTEL_COMPONENT_TYPE: &str = "otel.component.type";

/// The event name of every finding. Constant: what differs is in attributes.
pub(crate) const FINDING_EVENT: &str = "plumbline.finding";
/// Not in the conventions any more (the event name is a field now), but the only way into stores that drop the field.
pub(crate) const EVENT_NAME: &str = "event.name";
pub(crate) const FINDING_FINGERPRINT: &str = "plumbline.finding.fingerprint";
pub(crate) const FINDING_TRANSITION: &str = "plumbline.finding.transition";
pub(crate) const FINDING_REOPENED: &str = "plumbline.finding.reopened";
pub(crate) const FINDING_RESOLUTION: &str = "plumbline.finding.resolution";
pub(crate) const FINDING_SUPPRESSED_BY: &str = "plumbline.finding.suppressed.by";
pub(crate) const FINDING_SUPPRESSED_UNTIL: &str = "plumbline.finding.suppressed.until";
pub(crate) const FINDING_SUPPRESSED_REASON: &str = "plumbline.finding.suppressed.reason";
/// What was to hide the finding and does not, with the reasons.
pub(crate) const FINDING_SUPPRESSION_IGNORED: &str = "plumbline.finding.suppression.ignored";
pub(crate) const FINDING_STATE: &str = "plumbline.finding.state";
pub(crate) const FINDING_SEVERITY: &str = "plumbline.finding.severity";
pub(crate) const FINDING_FIRST_SEEN: &str = "plumbline.finding.first_seen";
pub(crate) const FINDING_LAST_SEEN: &str = "plumbline.finding.last_seen";
pub(crate) const FINDING_OCCURRENCES: &str = "plumbline.finding.occurrences";
pub(crate) const FINDING_DECLARED: &str = "plumbline.finding.declared";
pub(crate) const FINDING_OBSERVED: &str = "plumbline.finding.observed";
pub(crate) const FINDING_REMEDIATION: &str = "plumbline.finding.remediation";
pub(crate) const FINDING_PATCH: &str = "plumbline.finding.patch";
pub(crate) const FINDING_COVERAGE: &str = "plumbline.finding.coverage";
pub(crate) const FINDING_COVERAGE_REASON: &str = "plumbline.finding.coverage.reason";
/// Evidence that has no key of its own: this, and the name it has in CATALOGUE.
pub(crate) const FINDING_EVIDENCE_PREFIX: &str = "plumbline.finding.evidence.";

pub(crate) const PLACE: &str = "plumbline.place";
pub(crate) const REASON: &str = "plumbline.reason";
pub(crate) const LANE: &str = "plumbline.lane";
pub(crate) const OUTCOME: &str = "plumbline.outcome";

/// The key under which an owner of this kind is named; `None` for a pod that nothing owns and for kinds without a key.
pub(crate) fn owner_key(kind: &str) -> Option<&'static str> {
    match kind {
        "Deployment" => Some("k8s.deployment.name"),
        "StatefulSet" => Some("k8s.statefulset.name"),
        "DaemonSet" => Some("k8s.daemonset.name"),
        "Job" => Some("k8s.job.name"),
        "CronJob" => Some("k8s.cronjob.name"),
        "ReplicaSet" => Some("k8s.replicaset.name"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_semantic_conventions as official;

    use super::*;

    #[test]
    fn names_are_those_of_the_conventions() {
        use official::attribute as a;
        let pairs = [
            (K8S_CLUSTER_NAME, a::K8S_CLUSTER_NAME),
            (K8S_NODE_NAME, a::K8S_NODE_NAME),
            (K8S_NAMESPACE_NAME, a::K8S_NAMESPACE_NAME),
            (K8S_POD_NAME, a::K8S_POD_NAME),
            (K8S_POD_UID, a::K8S_POD_UID),
            (K8S_CONTAINER_NAME, a::K8S_CONTAINER_NAME),
            (CONTAINER_ID, a::CONTAINER_ID),
            (CONTAINER_IMAGE_NAME, a::CONTAINER_IMAGE_NAME),
            (CONTAINER_IMAGE_TAGS, a::CONTAINER_IMAGE_TAGS),
            (
                CONTAINER_IMAGE_REPO_DIGESTS,
                a::CONTAINER_IMAGE_REPO_DIGESTS,
            ),
            (DEPLOYMENT_ENVIRONMENT_NAME, a::DEPLOYMENT_ENVIRONMENT_NAME),
            (SERVICE_NAME, a::SERVICE_NAME),
            (SERVICE_NAMESPACE, a::SERVICE_NAMESPACE),
            (SERVICE_VERSION, a::SERVICE_VERSION),
            (SERVICE_INSTANCE_ID, a::SERVICE_INSTANCE_ID),
            (SECURITY_RULE_NAME, a::SECURITY_RULE_NAME),
            (SECURITY_RULE_CATEGORY, a::SECURITY_RULE_CATEGORY),
            (SECURITY_RULE_DESCRIPTION, a::SECURITY_RULE_DESCRIPTION),
            (SECURITY_RULE_RULESET_NAME, a::SECURITY_RULE_RULESET_NAME),
            (SECURITY_RULE_VERSION, a::SECURITY_RULE_VERSION),
            (NETWORK_TRANSPORT, a::NETWORK_TRANSPORT),
            (NETWORK_LOCAL_PORT, a::NETWORK_LOCAL_PORT),
            (PROCESS_EXECUTABLE_PATH, a::PROCESS_EXECUTABLE_PATH),
            (PROCESS_PID, a::PROCESS_PID),
            (CPU_MODE, a::CPU_MODE),
            (ERROR_TYPE, a::ERROR_TYPE),
            (OTEL_COMPONENT_NAME, a::OTEL_COMPONENT_NAME),
            (OTEL_COMPONENT_TYPE, a::OTEL_COMPONENT_TYPE),
        ];
        for (ours, theirs) in pairs {
            assert_eq!(ours, theirs);
        }
        let owners = [
            ("Deployment", a::K8S_DEPLOYMENT_NAME),
            ("StatefulSet", a::K8S_STATEFULSET_NAME),
            ("DaemonSet", a::K8S_DAEMONSET_NAME),
            ("Job", a::K8S_JOB_NAME),
            ("CronJob", a::K8S_CRONJOB_NAME),
            ("ReplicaSet", a::K8S_REPLICASET_NAME),
        ];
        for (kind, theirs) in owners {
            assert_eq!(owner_key(kind), Some(theirs));
        }
        assert_eq!(owner_key("Pod"), None);
        assert_eq!(SCHEMA_URL, official::SCHEMA_URL);
    }
}
