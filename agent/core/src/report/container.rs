//! Points of one container: CPU and listening ports.

use std::sync::Arc;

use crate::declared::{ContainerKind, DeclaredPort, Transport};
use crate::exposure::exposure;
use crate::finding::Coverage;
use crate::metric::{
    CONTAINER_CPU_TIME, CONTAINER_CPU_USAGE, CPU_LIMIT_EFFECTIVE, CPU_PERIODS, CPU_PRESSURE_TIME,
    CPU_THROTTLED_TIME, CPU_USAGE_PEAK, CPU_USAGE_WINDOW, CPU_WEIGHT, Instrument,
    K8S_CPU_LIMIT_CURRENT, K8S_CPU_LIMIT_DESIRED, K8S_CPU_LIMIT_UTILIZATION,
    K8S_CPU_REQUEST_CURRENT, K8S_CPU_REQUEST_DESIRED, K8S_CPU_REQUEST_UTILIZATION,
    K8S_RESTART_COUNT, OOM_KILLS, PORT_DECLARED_UNUSED, PORT_LISTENING, RESTARTS, attribute,
};
use crate::report::{AttributeValue, Number, Point, unix};
use crate::rules::c007::{quota_cores, ratio};
use crate::rules::ports::{coverage, declared_by};
use crate::snapshot::{ContainerView, Snapshot};

/// What there is to say about a container. Of one that is gone only the final counts: the rest is no longer true.
pub(super) fn points(snapshot: &Snapshot, container: &ContainerView) -> Vec<Point> {
    let mut points = use_of(snapshot, container);
    points.extend(settings_of(snapshot, container));
    points.extend(listeners_of(snapshot, container));
    points.extend(unused_of(snapshot, container));
    points.extend(ends_of(snapshot, container));
    if container.gone {
        points.retain(|point| {
            matches!(
                point.metric.instrument,
                Instrument::Counter | Instrument::Histogram
            )
        });
    }
    points
}

/// CPU that was used.
fn use_of(snapshot: &Snapshot, container: &ContainerView) -> Vec<Point> {
    let start = unix(snapshot, container.started.unwrap_or(container.first_seen));
    let cpu = &container.cpu;
    let mut points = Vec::new();
    if let Some(usage_us) = cpu.usage_us {
        points
            .push(Point::new(&CONTAINER_CPU_TIME, Number::seconds(usage_us), vec![]).since(start));
    }
    if let Some(cores) = cpu.usage_cores {
        points.push(Point::new(
            &CONTAINER_CPU_USAGE,
            Number::Float(cores),
            vec![],
        ));
    }
    if let Some((periods, throttled)) = cpu.periods {
        for (is_throttled, count) in [
            (true, throttled),
            (false, periods.saturating_sub(throttled)),
        ] {
            let attributes = vec![(attribute::CPU_THROTTLED, AttributeValue::Bool(is_throttled))];
            points.push(Point::new(&CPU_PERIODS, Number::int(count), attributes).since(start));
        }
    }
    if let Some(throttled_us) = cpu.throttled_us {
        points.push(
            Point::new(&CPU_THROTTLED_TIME, Number::seconds(throttled_us), vec![]).since(start),
        );
    }
    if let Some(pressure) = cpu.pressure {
        for (kind, us) in [("some", Some(pressure.some_us)), ("full", pressure.full_us)] {
            let Some(us) = us else { continue };
            let attributes = vec![(attribute::PRESSURE_KIND, AttributeValue::Word(kind))];
            points
                .push(Point::new(&CPU_PRESSURE_TIME, Number::seconds(us), attributes).since(start));
        }
    }
    if let Some(all) = &cpu.all {
        let attributes = vec![(attribute::WINDOW, AttributeValue::Word("100ms"))];
        let value = Number::Distribution(Arc::clone(all));
        let since = unix(snapshot, container.first_seen);
        points.push(Point::new(&CPU_USAGE_WINDOW, value, attributes).since(since));
    }
    if let Some(peak_cores) = cpu.windows.as_ref().and_then(|windows| windows.peak_cores) {
        let attributes = vec![(attribute::WINDOW, AttributeValue::Word("100ms"))];
        points.push(Point::new(
            &CPU_USAGE_PEAK,
            Number::Float(peak_cores),
            attributes,
        ));
    }
    points
}

/// What was declared and what is in force, and the use as a share of it.
fn settings_of(snapshot: &Snapshot, container: &ContainerView) -> Vec<Point> {
    let start = unix(snapshot, container.started.unwrap_or(container.first_seen));
    let declared = container.declared();
    let (limit, request) = match declared {
        Some(declared) => (declared.cpu_limit_millis, declared.cpu_request_millis),
        None => (None, None),
    };
    let current = [
        (
            &K8S_CPU_LIMIT_CURRENT,
            declared.and_then(|declared| declared.cpu_limit_current_millis),
        ),
        (
            &K8S_CPU_REQUEST_CURRENT,
            declared.and_then(|declared| declared.cpu_request_current_millis),
        ),
    ];
    let mut points: Vec<Point> = current
        .into_iter()
        .filter_map(|(metric, millis)| {
            let cores = Number::Float(ratio(millis?, 1_000)?);
            Some(Point::new(metric, cores, vec![]).since(start))
        })
        .collect();
    for (millis, desired, utilization) in [
        (limit, &K8S_CPU_LIMIT_DESIRED, &K8S_CPU_LIMIT_UTILIZATION),
        (
            request,
            &K8S_CPU_REQUEST_DESIRED,
            &K8S_CPU_REQUEST_UTILIZATION,
        ),
    ] {
        let Some(cores) = millis.and_then(|millis| ratio(millis, 1_000)) else {
            continue;
        };
        points.push(Point::new(desired, Number::Float(cores), vec![]).since(start));
        if let Some(usage) = container.cpu.usage_cores.filter(|_| cores > 0.0) {
            points.push(Point::new(
                utilization,
                Number::Float(usage / cores),
                vec![],
            ));
        }
    }
    if let Some(cores) = container.cpu.max.as_ref().and_then(quota_cores) {
        points.push(Point::new(
            &CPU_LIMIT_EFFECTIVE,
            Number::Float(cores),
            vec![],
        ));
    }
    if let Some(weight) = container.cpu.weight {
        points.push(Point::new(&CPU_WEIGHT, Number::int(weight), vec![]));
    }
    points
}

/// What ended before its time.
fn ends_of(snapshot: &Snapshot, container: &ContainerView) -> Vec<Point> {
    let began = unix(snapshot, container.started.unwrap_or(container.first_seen));
    let agent = unix(snapshot, snapshot.origin.monotonic);
    let counted = container
        .declared()
        .and_then(|declared| declared.restart_count);
    let values = [
        (&K8S_RESTART_COUNT, counted, began),
        (&OOM_KILLS, container.oom_kills, began),
        (&RESTARTS, container.restarts, agent),
    ];
    let point = |(metric, value, start): (_, Option<u64>, _)| {
        Some(Point::new(metric, Number::int(value?), vec![]).since(start))
    };
    values.into_iter().filter_map(point).collect()
}

/// Declared ports on which nothing in the pod listens: a fact of this replica, no finding (P002). Not told of init and
/// ephemeral containers, nor where listeners are not seen in full.
fn unused_of(snapshot: &Snapshot, container: &ContainerView) -> Vec<Point> {
    let Some(declared) = container.declared().filter(|_| !container.gone) else {
        return Vec::new();
    };
    let lasting = matches!(
        declared.kind,
        ContainerKind::Regular | ContainerKind::Sidecar
    );
    let seen =
        |one: &ContainerView| matches!(coverage(one), Coverage::Full | Coverage::PreExisting);
    let of_pod = || {
        let all = snapshot.containers.iter();
        all.filter(|one| one.pod_uid == container.pod_uid && !one.gone)
    };
    if !lasting || snapshot.scans == 0 || !of_pod().all(seen) {
        return Vec::new();
    }
    let listens = |port: &&DeclaredPort| {
        of_pod()
            .flat_map(|one| &one.listeners)
            .any(|listener| (listener.transport, listener.port) == (port.transport, port.port))
    };
    let point = |transport: Transport| {
        let ports = declared
            .ports
            .iter()
            .filter(|port| port.transport == transport);
        let unused = ports.clone().filter(|port| !listens(port)).count();
        let word = AttributeValue::Word(transport.as_str());
        let attributes = vec![(attribute::NETWORK_TRANSPORT, word)];
        let value = Number::int(unused as u64);
        (ports.count() > 0).then(|| Point::new(&PORT_DECLARED_UNUSED, value, attributes))
    };
    // Sockets of SCTP are not watched.
    let transports = [Transport::Tcp, Transport::Udp];
    transports.into_iter().filter_map(point).collect()
}

fn listeners_of(snapshot: &Snapshot, container: &ContainerView) -> Vec<Point> {
    let mut points = Vec::new();
    for listener in &container.listeners {
        let exposure = exposure(snapshot, container, listener);
        let declared_by = declared_by(snapshot, container, listener.transport, listener.port);
        let attributes = vec![
            (
                attribute::NETWORK_TRANSPORT,
                AttributeValue::Word(listener.transport.as_str()),
            ),
            (
                attribute::NETWORK_LOCAL_PORT,
                AttributeValue::Int(listener.port.into()),
            ),
            (
                attribute::BIND_SCOPE,
                AttributeValue::Word(listener.scope.as_str()),
            ),
            (
                attribute::DECLARED_BY,
                AttributeValue::Word(declared_by.as_str()),
            ),
            (
                attribute::EXPOSURE,
                AttributeValue::Word(exposure.reach.as_str()),
            ),
        ];
        let point = Point::new(&PORT_LISTENING, Number::int(listener.sockets), attributes);
        points.push(point.since(unix(snapshot, listener.first_seen)));
    }
    for (transport, sockets) in &container.listeners_overflow {
        let word = AttributeValue::Word(transport.as_str());
        let attributes = vec![
            (attribute::NETWORK_TRANSPORT, word),
            (attribute::NETWORK_LOCAL_PORT, AttributeValue::Int(0)),
            (attribute::OVERFLOW, AttributeValue::Bool(true)),
        ];
        let point = Point::new(&PORT_LISTENING, Number::int(*sockets), attributes);
        points.push(point.since(unix(snapshot, container.first_seen)));
    }
    points
}
