//! How long something must have been so before a rule speaks of it: listeners of init containers end, and a server may
//! bind a port for a moment only.

use crate::settings::Grace;
use crate::snapshot::{ContainerView, ListenerView, Snapshot};

/// Whether a listening port has been there for the grace.
pub(super) fn listener_is_over(snapshot: &Snapshot, listener: &ListenerView) -> bool {
    match snapshot.settings.grace {
        Grace::Time(grace) => snapshot.now.since(listener.first_seen) >= grace,
        Grace::Scans(scans) => listener.scans >= scans,
    }
}

/// Whether a container has been known for the grace. With [`Grace::Scans`] the node's scans count: a container that
/// was there for one of several is judged early, which only `plumbline check` does.
pub(crate) fn container_is_over(snapshot: &Snapshot, container: &ContainerView) -> bool {
    match snapshot.settings.grace {
        Grace::Time(grace) => snapshot.now.since(container.first_seen) >= grace,
        Grace::Scans(scans) => snapshot.scans >= scans,
    }
}
