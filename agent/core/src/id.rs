//! Newtypes: no bare `u64` or `String` names a thing of the node.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A cgroup v2 id: the inode number of its directory. Not reused by the kernel while the node is up.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct CgroupId(pub u64);

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Box<str>);

        impl $name {
            /// Wraps the text as it is.
            #[must_use]
            pub fn new(text: impl Into<Box<str>>) -> Self {
                Self(text.into())
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id! {
    /// The UID of a pod as the kubelet writes it in cgroup paths and the API in `metadata.uid`, with dashes and in lower
    /// case. For a static pod the kubelet's UID is the hash of its configuration (32 hex digits, no dashes).
    PodUid
}
text_id! {
    /// The runtime's id of a container: 64 hex digits, without the `containerd://` of the API.
    ContainerId
}
