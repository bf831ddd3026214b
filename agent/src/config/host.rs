//! What the host says of itself.

/// The node's name for itself, for want of a better one.
pub(super) fn name() -> Option<String> {
    let name = rustix::system::uname().nodename().to_str().ok()?.to_owned();
    (!name.is_empty()).then_some(name)
}
