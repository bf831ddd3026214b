//! Image references, taken apart as container runtimes do.

/// The registry of references that name none.
const DEFAULT_REGISTRY: &str = "docker.io";

/// `registry/path:tag@digest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Image<'a> {
    /// Registry and path, as written.
    pub(super) name: &'a str,
    pub(super) tag: Option<&'a str>,
    /// `sha256:...`.
    pub(super) digest: Option<&'a str>,
}

impl<'a> Image<'a> {
    /// `None` for nothing.
    pub(super) fn of(reference: &'a str) -> Option<Self> {
        let (rest, digest) = match reference.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest).filter(|digest| digest.contains(':'))),
            None => (reference, None),
        };
        // A colon before the last slash is a port of the registry.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        (!name.is_empty()).then_some(Self { name, tag, digest })
    }

    /// Registry and path in full: `nginx` is `docker.io/library/nginx`.
    pub(super) fn full_name(&self) -> String {
        let host = |part: &str| part.contains(['.', ':']) || part == "localhost";
        match self.name.split_once('/') {
            Some((first, path)) if host(first) => match (first, path.contains('/')) {
                (DEFAULT_REGISTRY, false) => format!("{first}/library/{path}"),
                _ => self.name.to_owned(),
            },
            Some(_) => format!("{DEFAULT_REGISTRY}/{}", self.name),
            None => format!("{DEFAULT_REGISTRY}/library/{}", self.name),
        }
    }

    /// Whether it lies below one of these registries or paths.
    pub(super) fn is_below(&self, prefix: &str) -> bool {
        let (name, prefix) = (self.full_name(), prefix.trim_end_matches('/'));
        let rest = name.strip_prefix(prefix);
        !prefix.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::Image;

    #[test]
    fn references_are_taken_apart() {
        for (reference, name, tag, digest) in [
            ("nginx", "docker.io/library/nginx", None, None),
            ("nginx:1", "docker.io/library/nginx", Some("1"), None),
            (
                "docker.io/nginx:1",
                "docker.io/library/nginx",
                Some("1"),
                None,
            ),
            ("team/app", "docker.io/team/app", None, None),
            ("host:5000/app", "host:5000/app", None, None),
            ("localhost/app:x", "localhost/app", Some("x"), None),
            (
                "r.io/a/b:1@sha256:ab",
                "r.io/a/b",
                Some("1"),
                Some("sha256:ab"),
            ),
            ("r.io/a@sha256:ab", "r.io/a", None, Some("sha256:ab")),
            ("r.io/a@", "r.io/a", None, None),
        ] {
            let image = Image::of(reference).unwrap();
            let found = (image.full_name(), image.tag, image.digest);
            assert_eq!(found, (name.to_owned(), tag, digest), "{reference}");
        }
        assert_eq!(Image::of(""), None);
        assert_eq!(Image::of(":1"), None);
    }

    #[test]
    fn registries_end_at_a_slash() {
        let image = Image::of("r.io/team/app:1").unwrap();
        for (prefix, below) in [
            ("r.io", true),
            ("r.io/", true),
            ("r.io/team", true),
            ("r.io/team/app", true),
            ("r.io/tea", false),
            ("r.i", false),
            ("", false),
            ("/", false),
        ] {
            assert_eq!(image.is_below(prefix), below, "{prefix}");
        }
    }
}
