//! What a record of the ring means below the cgroup root (pure).

use plumbline_core::declared::Transport;
use plumbline_core::id::CgroupId;
use plumbline_core::observation::{Fact, ListenerEvent};
use plumbline_core::time::Timestamp;
use plumbline_ebpf::event::Event;

use crate::sources::cgroups::CgroupRoot;

/// A record, placed.
#[derive(Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "lives for one call; the large one is the usual one"
)]
pub(super) enum Happening {
    /// To be told as it is.
    Listener(Timestamp, Fact),
    /// The roles of a container's UDP sockets are not clear.
    UnclearRoles(CgroupId),
    /// A directory below the root was announced, in one of the hierarchies.
    Made(String),
    /// A directory below the root was removed, in one of the hierarchies.
    Removed(String),
    /// A directory somewhere came or went.
    Unclear,
    /// A directory elsewhere came or went.
    Elsewhere,
}

impl Happening {
    pub(super) fn from(event: Event<'_>, root: &CgroupRoot) -> Self {
        match event {
            Event::Listener {
                opened,
                udp,
                owner,
                address,
                port,
                cookie,
                at_ns,
            } => {
                let owner = CgroupId(owner);
                let event = ListenerEvent {
                    owner,
                    transport: if udp { Transport::Udp } else { Transport::Tcp },
                    address,
                    port,
                    cookie,
                };
                let fact = if opened {
                    Fact::ListenerOpened(event)
                } else {
                    Fact::ListenerClosed(event)
                };
                Self::Listener(Timestamp(at_ns), fact)
            }
            Event::Unclear { owner } => Self::UnclearRoles(CgroupId(owner)),
            Event::Cgroup { path: None, .. } => Self::Unclear,
            Event::Cgroup { .. } if root.kernel_path.is_none() => Self::Unclear,
            Event::Cgroup {
                made,
                path: Some(path),
                ..
            } => match root.below(path) {
                Some(path) if made => Self::Made(path.to_owned()),
                Some(path) => Self::Removed(path.to_owned()),
                None => Self::Elsewhere,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use plumbline_ebpf::event::Event;

    use super::Happening;
    use crate::sources::cgroups::CgroupRoot;

    #[test]
    fn directories_are_placed_below_the_root_elsewhere_or_nowhere() {
        let root = |kernel_path: Option<&str>| CgroupRoot {
            directory: PathBuf::from("/cg"),
            kernel_path: kernel_path.map(str::to_owned),
        };
        let event = |made, path| Event::Cgroup {
            made,
            path,
            at_ns: 1,
        };
        for (root, event, happening) in [
            (
                root(Some("")),
                event(true, Some("/a/b")),
                Happening::Made("/a/b".into()),
            ),
            (
                root(Some("/a")),
                event(false, Some("/a/b")),
                Happening::Removed("/b".into()),
            ),
            (
                root(Some("/a")),
                event(true, Some("/b")),
                Happening::Elsewhere,
            ),
            (root(None), event(true, Some("/a")), Happening::Unclear),
            (root(Some("")), event(true, None), Happening::Unclear),
        ] {
            assert_eq!(Happening::from(event, &root), happening);
        }
    }
}
