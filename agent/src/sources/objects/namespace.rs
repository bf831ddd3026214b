//! Namespaces.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Namespace;
use plumbline_core::declared::DeclaredNamespace;

use super::ObjectError;
use super::pod::name;

/// The label that the API server gives to every namespace; a manifest that was never applied lacks it.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// What a Namespace says.
///
/// # Errors
/// No name: the Namespace is then not used at all.
pub(super) fn namespace(namespace: &Namespace) -> Result<DeclaredNamespace, ObjectError> {
    let name = name(&namespace.metadata)?;
    let mut labels = namespace.metadata.labels.clone().unwrap_or_default();
    labels.insert(NAME_LABEL.to_owned(), name.clone());
    let none = BTreeMap::new();
    let annotations = namespace.metadata.annotations.as_ref().unwrap_or(&none);
    let meshed = is_meshed(&labels, annotations);
    Ok(DeclaredNamespace {
        name,
        labels,
        meshed,
    })
}

/// Whether a mesh puts its proxy into pods of the namespace:
/// - Istio: labels `istio-injection: enabled` and `istio.io/rev`, or `istio.io/dataplane-mode: ambient`
///   (<https://istio.io/latest/docs/setup/additional-setup/sidecar-injection/>, `/docs/ambient/usage/add-workloads/`);
/// - Kuma: label `kuma.io/sidecar-injection` (<https://kuma.io/docs/latest/production/dp-config/dpp-on-kubernetes/>);
/// - Linkerd: annotation `linkerd.io/inject` (<https://linkerd.io/2/features/proxy-injection/>).
fn is_meshed(labels: &BTreeMap<String, String>, annotations: &BTreeMap<String, String>) -> bool {
    let says = |of: &BTreeMap<String, String>, key: &str, values: &[&str]| {
        of.get(key)
            .is_some_and(|value| values.contains(&value.as_str()))
    };
    says(labels, "istio-injection", &["enabled"])
        || labels.contains_key("istio.io/rev") && !says(labels, "istio-injection", &["disabled"])
        || says(labels, "istio.io/dataplane-mode", &["ambient"])
        || says(labels, "kuma.io/sidecar-injection", &["enabled", "true"])
        || says(annotations, "linkerd.io/inject", &["enabled", "ingress"])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::namespace_value;

    fn meshed(labels: &serde_json::Value, annotations: &serde_json::Value) -> bool {
        let meta = json!({"name": "shop", "labels": labels, "annotations": annotations});
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": meta});
        namespace_value(namespace).unwrap().meshed
    }

    #[test]
    fn a_namespace_says_whether_a_mesh_is_in_its_pods() {
        for (labels, annotations, expected) in [
            (json!({"istio-injection": "enabled"}), json!({}), true),
            (json!({"istio-injection": "disabled"}), json!({}), false),
            (json!({"istio.io/rev": "canary"}), json!({}), true),
            (
                json!({"istio.io/rev": "x", "istio-injection": "disabled"}),
                json!({}),
                false,
            ),
            (
                json!({"istio.io/dataplane-mode": "ambient"}),
                json!({}),
                true,
            ),
            (json!({"istio.io/dataplane-mode": "none"}), json!({}), false),
            (
                json!({"kuma.io/sidecar-injection": "true"}),
                json!({}),
                true,
            ),
            (json!({}), json!({"linkerd.io/inject": "enabled"}), true),
            (json!({}), json!({"linkerd.io/inject": "disabled"}), false),
            (json!({"linkerd.io/inject": "enabled"}), json!({}), false),
            (json!(null), json!(null), false),
        ] {
            let found = meshed(&labels, &annotations);
            assert_eq!(found, expected, "{labels} {annotations}");
        }
    }
}
