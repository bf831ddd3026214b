//! Points of one flow series.

use crate::declared::Transport;
use crate::metric::{
    NETWORK_CONNECT_FAILURES, NETWORK_CONNECTIONS, NETWORK_IO, NETWORK_PACKETS, attribute,
};
use crate::observation::Role;
use crate::policy::Verdict;
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
    let mut points = connections(flow, &of_role);
    points
        .iter_mut()
        .for_each(|point| point.start = Some(start));
    // Of UDP only peers are known, unless datagrams are counted: then there is at least one.
    let packets = counts.sent_packets > 0 || counts.received_packets > 0;
    for (direction, bytes, count) in [
        ("sent", counts.sent_bytes, counts.sent_packets),
        ("received", counts.received_bytes, counts.received_packets),
    ] {
        let attributes = with(&of_role, attribute::FLOW_IO, direction);
        if packets {
            let point = Point::new(&NETWORK_PACKETS, Number::int(count), attributes.clone());
            points.push(point.since(start));
        }
        if packets || flow.transport != Transport::Udp {
            points.push(Point::new(&NETWORK_IO, Number::int(bytes), attributes).since(start));
        }
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

/// Connections by what policies say of them. What was counted in another series as well (bytes, failures) is not split.
fn connections(flow: &FlowView, of_role: &[Attribute]) -> Vec<Point> {
    let point =
        |count, attributes| Point::new(&NETWORK_CONNECTIONS, Number::int(count), attributes);
    if flow.overflow {
        return vec![point(flow.counts.connections, of_role.to_vec())];
    }
    let counts = Verdict::ALL.into_iter().zip(flow.verdicts.connections);
    let seen = counts.filter(|(verdict, count)| *count > 0 || *verdict == flow.verdicts.last);
    seen.map(|(verdict, count)| {
        let attributes = with(of_role, attribute::POLICY_VERDICT, verdict.as_str());
        point(count, attributes)
    })
    .collect()
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

#[cfg(test)]
mod tests {
    use super::points;
    use crate::declared::Transport;
    use crate::observation::{FlowCounts, Role};
    use crate::observed::verdicts::Verdicts;
    use crate::policy::Verdict;
    use crate::rules::testing::{NOW, snapshot};
    use crate::snapshot::{FlowView, Peer, PeerKind};

    /// Names and values of what leaves of a flow.
    fn leaves(transport: Transport, counts: FlowCounts) -> String {
        let flow = FlowView {
            container: 0,
            transport,
            role: Role::Server,
            peer: Peer {
                kind: PeerKind::External,
                namespace: None,
                name: Some("private".into()),
            },
            server_port: 53,
            counts,
            verdicts: Verdicts {
                connections: [0, 0, counts.connections, 0],
                last: Verdict::None,
                ..Verdicts::default()
            },
            since: NOW,
            overflow: false,
        };
        let points = points(&snapshot(None, vec![]), &flow);
        let line = |point: &crate::report::Point| {
            let value = serde_json::to_string(&point.value).unwrap();
            format!(
                "{}={value}",
                point.metric.name.trim_start_matches("plumbline.network.")
            )
        };
        points.iter().map(line).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn bytes_of_udp_are_unknown_unless_datagrams_are_counted() {
        let peers = FlowCounts {
            connections: 2,
            ..FlowCounts::default()
        };
        assert_eq!(leaves(Transport::Udp, peers), "connections=2");
        assert_eq!(leaves(Transport::Tcp, peers), "connections=2 io=0 io=0");
        // Of no byte.
        let counted = FlowCounts {
            received_packets: 3,
            ..peers
        };
        assert_eq!(
            leaves(Transport::Udp, counted),
            "connections=2 packets=0 io=0 packets=3 io=0"
        );
    }
}
