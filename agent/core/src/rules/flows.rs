//! What the rules about flows share.

use std::time::Duration;

use crate::finding::Coverage;
use crate::observation::Role;
use crate::observed::verdicts::Denied;
use crate::policy::Direction;
use crate::snapshot::{ContainerView, FlowView, Peer, Snapshot};

/// What was seen is told for this long after the last time.
pub(super) const RECENT: Duration = Duration::from_secs(600);

/// Whether something was denied lately.
pub(super) fn is_recent(snapshot: &Snapshot, denied: &Denied) -> bool {
    denied.count > 0 && snapshot.now.since(denied.last) < RECENT
}

/// The direction of policies that is asked at the container's end.
pub(super) fn direction(flow: &FlowView) -> Direction {
    match flow.role {
        Role::Client => Direction::Egress,
        Role::Server => Direction::Ingress,
    }
}

/// `workload shop/cart`, `external private`: a peer without anything that changes with its pods.
pub(super) fn named(peer: &Peer) -> String {
    let kind = peer.kind.as_str();
    match (&peer.namespace, &peer.name) {
        (Some(namespace), Some(name)) => format!("{kind} {namespace}/{name}"),
        (None, Some(name)) => format!("{kind} {name}"),
        (_, None) => kind.to_owned(),
    }
}

/// `from workload shop/cart on tcp/8080`.
pub(super) fn text(flow: &FlowView) -> String {
    let way = match flow.role {
        Role::Client => "to",
        Role::Server => "from",
    };
    let (transport, port) = (flow.transport.as_str(), flow.server_port);
    format!("{way} {} on {transport}/{port}", named(&flow.peer))
}

/// How much is seen of a container's flows.
pub(super) fn coverage(container: &ContainerView) -> Coverage {
    match (&container.coverage, &container.refused) {
        (Coverage::Full | Coverage::PreExisting, Some(refused)) if refused.flows > 0 => {
            Coverage::Partial("flow_share".into())
        }
        (coverage, _) => coverage.clone(),
    }
}

/// The flows of a container, but for those that were counted together. `index` is its place in the snapshot.
pub(super) fn of_container(snapshot: &Snapshot, index: usize) -> impl Iterator<Item = &FlowView> {
    let flows = snapshot.flows.iter();
    flows.filter(move |flow| flow.container == index && !flow.overflow)
}
