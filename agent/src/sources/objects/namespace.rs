//! Namespaces.

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
    Ok(DeclaredNamespace { name, labels })
}
