//! AdminNetworkPolicies and the BaselineAdminNetworkPolicy of `policy.networking.k8s.io/v1alpha1`, and kinds of policies that
//! are not understood.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector as ApiSelector, ObjectMeta};
use plumbline_core::declared::{
    AdminAction, AdminPeer, AdminPods, AdminRule, Cidr, DeclaredAdminPolicy, ForeignPolicies,
    PolicyPort, PolicyPorts,
};
use serde::Deserialize;
use serde_json::Value;

use super::ObjectError;
use super::container::{port_number, transport};
use super::networkpolicy::{named, range, selector};
use super::pod::name;
use super::value::text;

/// Groups whose policies decide about the traffic of pods and are not evaluated, and what of each kind's name says so.
const FOREIGN: [(&str, &str); 8] = [
    ("cilium.io", "NetworkPolicy"),
    ("crd.projectcalico.org", "NetworkPolicy"),
    ("projectcalico.org", "NetworkPolicy"),
    ("crd.antrea.io", "NetworkPolicy"),
    ("policy.networking.k8s.io", "NetworkPolicy"),
    ("k8s.ovn.org", "EgressFirewall"),
    ("networking.k8s.aws", "Policy"),
    ("kubeovn.io", "SecurityGroup"),
];

/// An object of a kind that decides about traffic and is not understood; `None` for other kinds.
pub(super) fn foreign(group: &str, kind: &str, object: &Value) -> Option<ForeignPolicies> {
    let decides = |(of, part): &(&str, &str)| *of == group && kind.contains(part);
    FOREIGN.iter().any(decides).then(|| ForeignPolicies {
        kind: format!("{kind}.{group}"),
        namespace: object
            .pointer("/metadata/namespace")
            .and_then(Value::as_str)
            .filter(|namespace| !namespace.is_empty())
            .map(str::to_owned),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    metadata: ObjectMeta,
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    priority: Option<i32>,
    subject: Pods,
    #[serde(default)]
    ingress: Vec<Rule>,
    #[serde(default)]
    egress: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pods {
    namespaces: Option<ApiSelector>,
    pods: Option<NamespacedPods>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NamespacedPods {
    namespace_selector: ApiSelector,
    pod_selector: ApiSelector,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    name: Option<String>,
    action: String,
    #[serde(default)]
    from: Vec<Value>,
    #[serde(default)]
    to: Vec<Value>,
    #[serde(default)]
    ports: Option<Vec<Port>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    port_number: Option<PortNumber>,
    named_port: Option<String>,
    port_range: Option<PortRange>,
}

#[derive(Deserialize)]
struct PortNumber {
    protocol: Option<String>,
    port: i32,
}

#[derive(Deserialize)]
struct PortRange {
    protocol: Option<String>,
    start: i32,
    end: i32,
}

/// An AdminNetworkPolicy, or the baseline one.
///
/// # Errors
/// What the API server would refuse: nothing of the object is used.
pub(super) fn policy(value: Value) -> Result<DeclaredAdminPolicy, ObjectError> {
    let baseline = value.as_object().and_then(|object| text(object, "kind"))
        == Some("BaselineAdminNetworkPolicy");
    let Policy { metadata, spec } = super::value::typed(value)?;
    let name = name(&metadata)?;
    if spec.priority.is_none() != baseline {
        let message = "an AdminNetworkPolicy has one, the baseline has none";
        return Err(ObjectError::new("spec.priority", message));
    }
    Ok(DeclaredAdminPolicy {
        name,
        priority: spec.priority,
        subject: pods(&spec.subject).map_err(|error| error.under("spec.subject"))?,
        ingress: rules("spec.ingress", &spec.ingress, baseline)?,
        egress: rules("spec.egress", &spec.egress, baseline)?,
    })
}

fn pods(given: &Pods) -> Result<AdminPods, ObjectError> {
    match (&given.namespaces, &given.pods) {
        (Some(namespaces), None) => Ok(AdminPods {
            namespaces: selector(Some(namespaces)).map_err(|error| error.under("namespaces"))?,
            ..AdminPods::default()
        }),
        (None, Some(pods)) => Ok(AdminPods {
            namespaces: selector(Some(&pods.namespace_selector))
                .map_err(|error| error.under("pods.namespaceSelector"))?,
            pods: selector(Some(&pods.pod_selector))
                .map_err(|error| error.under("pods.podSelector"))?,
        }),
        (Some(_), Some(_)) | (None, None) => Err(ObjectError::new(
            "",
            "exactly one of namespaces and pods must be given",
        )),
    }
}

fn rules(field: &str, given: &[Rule], baseline: bool) -> Result<Vec<AdminRule>, ObjectError> {
    let mut rules = Vec::new();
    for (index, given) in given.iter().enumerate() {
        let at = |error: ObjectError| error.under(&format!("{field}[{index}]"));
        rules.push(rule(given, baseline).map_err(at)?);
    }
    Ok(rules)
}

fn rule(given: &Rule, baseline: bool) -> Result<AdminRule, ObjectError> {
    let action = match given.action.as_str() {
        "Allow" => AdminAction::Allow,
        "Deny" => AdminAction::Deny,
        "Pass" if !baseline => AdminAction::Pass,
        other => {
            let message =
                format!("{other:?} is none of Allow, Deny and, but for the baseline, Pass");
            return Err(ObjectError::new("action", message));
        }
    };
    let mut peers = Vec::new();
    for (field, given) in [("from", &given.from), ("to", &given.to)] {
        for (index, given) in given.iter().enumerate() {
            let at = |error: ObjectError| error.under(&format!("{field}[{index}]"));
            peers.push(peer(given).map_err(at)?);
        }
    }
    if peers.is_empty() {
        return Err(ObjectError::new("", "a rule needs a peer"));
    }
    let mut ports = Vec::new();
    for (index, given) in given.ports.iter().flatten().enumerate() {
        let at = |error: ObjectError| error.under(&format!("ports[{index}]"));
        ports.extend(port(given).map_err(at)?);
    }
    Ok(AdminRule {
        name: given.name.clone(),
        action,
        peers,
        ports,
    })
}

fn peer(given: &Value) -> Result<AdminPeer, ObjectError> {
    let Some(fields) = given.as_object() else {
        return Err(ObjectError::new("", "expected a mapping"));
    };
    if let Some(networks) = fields.get("networks") {
        let texts: Vec<String> =
            super::value::typed(networks.clone()).map_err(|error| error.under("networks"))?;
        let parse = |(index, text): (usize, &String)| {
            text.parse::<Cidr>()
                .map_err(|error| ObjectError::new(format!("networks[{index}]"), error.to_string()))
        };
        let blocks: Result<_, _> = texts.iter().enumerate().map(parse).collect();
        return Ok(AdminPeer::Networks(blocks?));
    }
    if fields.contains_key("namespaces") || fields.contains_key("pods") {
        let given: Pods = super::value::typed(given.clone())?;
        return pods(&given).map(AdminPeer::Pods);
    }
    // Of a later version, perhaps: such a peer is one of which nothing is known.
    let kinds: Vec<&str> = fields.keys().map(String::as_str).collect();
    Ok(AdminPeer::Other(kinds.join(", ")))
}

/// A named port is that name with any protocol.
fn port(given: &Port) -> Result<Vec<PolicyPort>, ObjectError> {
    use plumbline_core::declared::Transport::{Sctp, Tcp, Udp};
    let number = |number, field: &str| {
        port_number(number).map_err(|message| ObjectError::new(field, message))
    };
    match (&given.port_number, &given.named_port, &given.port_range) {
        (Some(one), None, None) => {
            let transport =
                transport(one.protocol.as_deref()).map_err(|error| error.under("portNumber"))?;
            let port = number(one.port, "portNumber.port")?;
            let ports = PolicyPorts::Range(port, port);
            Ok(vec![PolicyPort { transport, ports }])
        }
        (None, Some(name), None) => {
            let ports = named(name)?;
            let of = |transport| PolicyPort {
                transport,
                ports: ports.clone(),
            };
            Ok([Tcp, Udp, Sctp].map(of).into())
        }
        (None, None, Some(span)) => {
            let transport =
                transport(span.protocol.as_deref()).map_err(|error| error.under("portRange"))?;
            let start = number(span.start, "portRange.start")?;
            let ports = range(start, number(span.end, "portRange.end")?)?;
            Ok(vec![PolicyPort { transport, ports }])
        }
        _ => Err(ObjectError::new(
            "",
            "exactly one of portNumber, namedPort and portRange must be given",
        )),
    }
}
