//! Points of one flow series.

use crate::metric::{NETWORK_CONNECT_FAILURES, NETWORK_CONNECTIONS, NETWORK_IO, attribute};
use crate::observation::Role;
use crate::report::{Attribute, AttributeValue, Number, Point, unix};
use crate::snapshot::{FlowView, Snapshot};

/// What there is to say about a flow series. Failures only once there are any: most series never have one.
pub(super) fn points(snapshot: &Snapshot, flow: &FlowView) -> Vec<Point> {
    let start = unix(snapshot, flow.since);
    let counts = &flow.counts;
    let mut of_role = peer_attributes(flow);
    of_role.push((
        attribute::FLOW_ROLE,
        AttributeValue::Word(role_word(flow.role)),
    ));
    let mut points = vec![
        Point::new(
            &NETWORK_CONNECTIONS,
            Number::int(counts.connections),
            of_role.clone(),
        )
        .since(start),
    ];
    for (direction, bytes) in [
        ("sent", counts.sent_bytes),
        ("received", counts.received_bytes),
    ] {
        let attributes = with(&of_role, attribute::FLOW_IO, direction);
        points.push(Point::new(&NETWORK_IO, Number::int(bytes), attributes).since(start));
    }
    let others = counts.failures.saturating_sub(counts.timeouts);
    for (error, failures) in [("timeout", counts.timeouts), ("_OTHER", others)] {
        if failures > 0 {
            // Only a client fails to connect, so its role says nothing.
            let attributes = with(&peer_attributes(flow), attribute::ERROR_TYPE, error);
            points.push(
                Point::new(&NETWORK_CONNECT_FAILURES, Number::int(failures), attributes)
                    .since(start),
            );
        }
    }
    points
}

fn peer_attributes(flow: &FlowView) -> Vec<Attribute> {
    let transport = AttributeValue::Word(flow.transport.as_str());
    let mut attributes = vec![(attribute::NETWORK_TRANSPORT, transport)];
    if flow.overflow {
        attributes.push((attribute::OVERFLOW, AttributeValue::Bool(true)));
        return attributes;
    }
    attributes.push((
        attribute::SERVER_PORT,
        AttributeValue::Int(flow.server_port.into()),
    ));
    attributes.push((
        attribute::PEER_KIND,
        AttributeValue::Word(flow.peer.kind.as_str()),
    ));
    for (key, value) in [
        (attribute::PEER_NAMESPACE, &flow.peer.namespace),
        (attribute::PEER_NAME, &flow.peer.name),
    ] {
        if let Some(value) = value {
            attributes.push((key, AttributeValue::Text(value.clone())));
        }
    }
    attributes
}

fn with(attributes: &[Attribute], key: &'static str, word: &'static str) -> Vec<Attribute> {
    let mut attributes = attributes.to_vec();
    attributes.push((key, AttributeValue::Word(word)));
    attributes
}

fn role_word(role: Role) -> &'static str {
    match role {
        Role::Client => "client",
        Role::Server => "server",
    }
}
