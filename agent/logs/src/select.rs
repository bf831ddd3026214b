//! Which containers are read at all: the operator's word, by namespace and container. Pure.

use crate::source::Source;

/// What is not read. Empty lists leave nothing out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Select {
    /// Only these namespaces are read.
    pub namespaces: Vec<String>,
    /// These are not.
    pub exclude_namespaces: Vec<String>,
    /// Nor are containers of these names, or `NAMESPACE/CONTAINER`.
    pub exclude_containers: Vec<String>,
}

impl Select {
    /// Whether pods of this namespace are read.
    #[must_use]
    pub fn namespace(&self, namespace: &str) -> bool {
        let has = |list: &[String]| list.iter().any(|name| name == namespace);
        (self.namespaces.is_empty() || has(&self.namespaces)) && !has(&self.exclude_namespaces)
    }

    /// Whether pods of every namespace are read.
    #[must_use]
    pub fn takes_all_namespaces(&self) -> bool {
        self.namespaces.is_empty() && self.exclude_namespaces.is_empty()
    }

    /// Whether this container is, if its namespace is.
    #[must_use]
    pub fn container(&self, source: &Source) -> bool {
        let excluded = |excluded: &String| match excluded.split_once('/') {
            Some((namespace, container)) => {
                namespace == source.pod.namespace && container == source.container
            }
            None => *excluded == source.container,
        };
        !self.exclude_containers.iter().any(excluded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_namespace_and_by_container() {
        let list = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        let source = |pod: &str, container: &str| {
            Source::parse(format!("{pod}_web_uid").as_bytes(), container.as_bytes()).unwrap()
        };
        let all = Select::default();
        assert!(all.namespace("shop") && all.container(&source("shop", "app")));
        let some = Select {
            namespaces: list(&["shop", "bank"]),
            exclude_namespaces: list(&["bank"]),
            exclude_containers: list(&["istio-proxy", "shop/debug"]),
        };
        let read = ["shop", "bank", "other"].map(|namespace| some.namespace(namespace));
        assert_eq!(read, [true, false, false]);
        assert!(!some.container(&source("any", "istio-proxy")));
        assert!(!some.container(&source("shop", "debug")));
        assert!(some.container(&source("other", "debug")));
    }
}
