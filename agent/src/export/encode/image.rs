//! An image reference in its parts: `registry:5000/shop/web:1.2@sha256:...`.

/// The parts of an image reference. Empty strings for what it does not have.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Image<'a> {
    /// Repository, with the registry if it is named.
    pub(super) name: &'a str,
    pub(super) tag: &'a str,
    /// `sha256:...`
    pub(super) digest: &'a str,
}

/// Total: what cannot be taken apart is all name.
pub(super) fn parse(reference: &str) -> Image<'_> {
    let (rest, digest) = reference.split_once('@').unwrap_or((reference, ""));
    // A colon before the last slash belongs to the registry's port.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (rest, ""),
    };
    Image { name, tag, digest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_come_apart() {
        let cases = [
            ("nginx", ("nginx", "", "")),
            ("nginx:1.27", ("nginx", "1.27", "")),
            ("registry:5000/shop/web", ("registry:5000/shop/web", "", "")),
            (
                "registry:5000/shop/web:1.2",
                ("registry:5000/shop/web", "1.2", ""),
            ),
            ("ghcr.io/a/b@sha256:ab", ("ghcr.io/a/b", "", "sha256:ab")),
            (
                "ghcr.io/a/b:v1@sha256:ab",
                ("ghcr.io/a/b", "v1", "sha256:ab"),
            ),
            ("", ("", "", "")),
        ];
        for (reference, (name, tag, digest)) in cases {
            assert_eq!(parse(reference), Image { name, tag, digest }, "{reference}");
        }
    }
}
