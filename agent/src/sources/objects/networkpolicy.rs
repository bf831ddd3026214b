//! NetworkPolicies.
//!
//! What the API server would refuse is refused here too: a policy that was misread would let through, or not, what its author
//! did not mean.

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as ApiSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use plumbline_core::declared::{
    Cidr, DeclaredPolicy, LabelExpression, LabelOperator, LabelSelector, PolicyPeer, PolicyPort,
    PolicyPorts, PolicyRule,
};

use super::ObjectError;
use super::container::{port_number, transport};
use super::pod::{name, namespace};

/// What a NetworkPolicy says.
///
/// # Errors
/// A selector, block, port or type that the API server would refuse, no name: the policy is then not used at all.
pub(super) fn policy(policy: &NetworkPolicy) -> Result<DeclaredPolicy, ObjectError> {
    let spec = policy.spec.clone().unwrap_or_default();
    let at_spec = |error: ObjectError| error.under("spec");
    let (mut ingress, mut egress) = (Vec::new(), Vec::new());
    for (index, given) in spec.ingress.iter().flatten().enumerate() {
        let at = |error: ObjectError| error.under(&format!("spec.ingress[{index}]"));
        ingress.push(rule("from", given.from.as_ref(), given.ports.as_ref()).map_err(at)?);
    }
    for (index, given) in spec.egress.iter().flatten().enumerate() {
        let at = |error: ObjectError| error.under(&format!("spec.egress[{index}]"));
        egress.push(rule("to", given.to.as_ref(), given.ports.as_ref()).map_err(at)?);
    }
    let types = spec.policy_types.unwrap_or_default();
    let (of_ingress, of_egress) = directions(&types, !egress.is_empty()).map_err(at_spec)?;
    Ok(DeclaredPolicy {
        namespace: namespace(&policy.metadata),
        name: name(&policy.metadata)?,
        selector: selector(spec.pod_selector.as_ref())
            .map_err(|error| error.under("spec.podSelector"))?,
        ingress: of_ingress.then_some(ingress),
        egress: of_egress.then_some(egress),
    })
}

/// Which directions the policy is about. Without types: ingress, and egress if there is a rule for it.
fn directions(types: &[String], has_egress: bool) -> Result<(bool, bool), ObjectError> {
    if types.is_empty() {
        return Ok((true, has_egress));
    }
    let (mut ingress, mut egress) = (false, false);
    for (index, word) in types.iter().enumerate() {
        match word.as_str() {
            "Ingress" => ingress = true,
            "Egress" => egress = true,
            other => {
                let message = format!("{other:?} is neither Ingress nor Egress");
                return Err(ObjectError::new(format!("policyTypes[{index}]"), message));
            }
        }
    }
    Ok((ingress, egress))
}

fn rule(
    field: &str,
    peers: Option<&Vec<NetworkPolicyPeer>>,
    ports: Option<&Vec<NetworkPolicyPort>>,
) -> Result<PolicyRule, ObjectError> {
    let mut rule = PolicyRule::default();
    for (index, given) in peers.into_iter().flatten().enumerate() {
        let at = |error: ObjectError| error.under(&format!("{field}[{index}]"));
        rule.peers.push(peer(given).map_err(at)?);
    }
    for (index, given) in ports.into_iter().flatten().enumerate() {
        let at = |error: ObjectError| error.under(&format!("ports[{index}]"));
        rule.ports.push(port(given).map_err(at)?);
    }
    Ok(rule)
}

fn peer(peer: &NetworkPolicyPeer) -> Result<PolicyPeer, ObjectError> {
    let selectors = peer.namespace_selector.is_some() || peer.pod_selector.is_some();
    match &peer.ip_block {
        Some(_) if selectors => Err(ObjectError::new(
            "ipBlock",
            "may not stand beside podSelector or namespaceSelector",
        )),
        Some(given) => block(given).map_err(|error| error.under("ipBlock")),
        None if !selectors => Err(ObjectError::new(
            "",
            "one of podSelector, namespaceSelector and ipBlock must be given",
        )),
        None => Ok(PolicyPeer::Pods {
            namespaces: optional(peer.namespace_selector.as_ref())
                .map_err(|error| error.under("namespaceSelector"))?,
            pods: optional(peer.pod_selector.as_ref())
                .map_err(|error| error.under("podSelector"))?,
        }),
    }
}

fn block(block: &IPBlock) -> Result<PolicyPeer, ObjectError> {
    let parse = |path: String, text: &str| {
        text.parse::<Cidr>()
            .map_err(|error| ObjectError::new(path, error.to_string()))
    };
    let cidr = parse("cidr".to_owned(), &block.cidr)?;
    let mut except = Vec::new();
    for (index, text) in block.except.iter().flatten().enumerate() {
        let path = format!("except[{index}]");
        let exception = parse(path.clone(), text)?;
        if !cidr.covers(&exception) || exception.prefix() == cidr.prefix() {
            let message = format!("{exception} is no part of {cidr}");
            return Err(ObjectError::new(path, message));
        }
        except.push(exception);
    }
    Ok(PolicyPeer::Block { cidr, except })
}

fn port(port: &NetworkPolicyPort) -> Result<PolicyPort, ObjectError> {
    let ports = match (&port.port, port.end_port) {
        (None, None) => PolicyPorts::All,
        (Some(IntOrString::String(name)), None) => named(name)?,
        (Some(IntOrString::Int(first)), last) => {
            let number = |number, field: &str| {
                port_number(number).map_err(|message| ObjectError::new(field, message))
            };
            let last = number(last.unwrap_or(*first), "endPort");
            range(number(*first, "port")?, last?)?
        }
        (None | Some(IntOrString::String(_)), Some(_)) => {
            return Err(ObjectError::new("endPort", "needs a port that is a number"));
        }
    };
    Ok(PolicyPort {
        transport: transport(port.protocol.as_deref())?,
        ports,
    })
}

/// From the first port to the last.
pub(super) fn range(first: u16, last: u16) -> Result<PolicyPorts, ObjectError> {
    if last < first {
        let message = format!("{last} is before {first}");
        return Err(ObjectError::new("endPort", message));
    }
    Ok(PolicyPorts::Range(first, last))
}

/// A number as text is no name: the API server takes it for a mistake.
pub(super) fn named(name: &str) -> Result<PolicyPorts, ObjectError> {
    let sound = name.bytes().any(|byte| byte.is_ascii_lowercase());
    let message = || format!("{name:?} is no name of a port");
    sound
        .then(|| PolicyPorts::Name(name.to_owned()))
        .ok_or_else(|| ObjectError::new("port", message()))
}

fn optional(given: Option<&ApiSelector>) -> Result<Option<LabelSelector>, ObjectError> {
    given.map(|given| selector(Some(given))).transpose()
}

/// A label selector; absent is empty.
pub(super) fn selector(given: Option<&ApiSelector>) -> Result<LabelSelector, ObjectError> {
    let Some(given) = given else {
        return Ok(LabelSelector::default());
    };
    let mut expressions = Vec::new();
    for (index, given) in given.match_expressions.iter().flatten().enumerate() {
        let at = |field: &str| format!("matchExpressions[{index}].{field}");
        let values = given.values.clone().unwrap_or_default();
        let (operator, takes_values) = match given.operator.as_str() {
            "In" => (LabelOperator::In, true),
            "NotIn" => (LabelOperator::NotIn, true),
            "Exists" => (LabelOperator::Exists, false),
            "DoesNotExist" => (LabelOperator::DoesNotExist, false),
            other => {
                let message = format!("{other:?} is none of In, NotIn, Exists, DoesNotExist");
                return Err(ObjectError::new(at("operator"), message));
            }
        };
        if values.is_empty() == takes_values {
            let needs = if takes_values {
                "needs some"
            } else {
                "takes none"
            };
            let message = format!("{} {needs}", given.operator);
            return Err(ObjectError::new(at("values"), message));
        }
        expressions.push(LabelExpression {
            key: given.key.clone(),
            operator,
            values,
        });
    }
    Ok(LabelSelector {
        labels: given.match_labels.clone().unwrap_or_default(),
        expressions,
    })
}
