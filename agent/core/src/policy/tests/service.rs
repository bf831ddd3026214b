//! Flows to a Service.

use super::{cart, declared, equal, of_pods, peers, policy, probe, web};
use crate::declared::{PeerPod, PolicyRule, TargetPort, Transport};
use crate::policy::{Backend, End, Policies, Verdict};

/// Verdict of a flow from `probe` to a Service with these endpoints; `web` takes nothing but from `app=cart`.
fn verdict(target: &TargetPort, pods: &[PeerPod], stranger: bool, complete: bool) -> Verdict {
    let only_cart = peers(vec![of_pods(None, Some(equal("app=cart")))]);
    let open = crate::declared::DeclaredPolicy {
        selector: equal("app=cart"),
        ..policy("open", Some(vec![PolicyRule::default()]), None)
    };
    let policies = Policies::new(&declared(vec![
        policy("p", Some(vec![only_cart]), None),
        open,
    ]));
    let from = policies.endpoint(&probe());
    let endpoints: Vec<_> = pods.iter().map(|pod| policies.endpoint(pod)).collect();
    let mut backends: Vec<_> = endpoints.iter().map(Backend::Pod).collect();
    if stranger {
        backends.push(Backend::Other(End::Unknown));
    }
    let judgement =
        policies.judge_service(End::Pod(&from), Transport::Tcp, target, &backends, complete);
    judgement.verdict
}

#[test]
fn all_endpoints_are_asked() {
    let number = TargetPort::Number(8080);
    let second = || PeerPod {
        name: "web-2".into(),
        ..web()
    };
    for (pods, stranger, complete, expected) in [
        (vec![web()], false, true, Verdict::Deny),
        (vec![web(), second()], false, true, Verdict::Deny),
        (vec![cart()], false, true, Verdict::Allow),
        (vec![cart(), web()], false, true, Verdict::Unknown),
        (vec![web()], true, true, Verdict::Unknown),
        (vec![web()], false, false, Verdict::Unknown),
        (vec![], false, true, Verdict::Unknown),
    ] {
        assert_eq!(verdict(&number, &pods, stranger, complete), expected);
    }
}

#[test]
fn trap_15_each_pod_resolves_the_name_of_the_port_for_itself() {
    let http = TargetPort::Name("http".into());
    assert_eq!(verdict(&http, &[web()], false, true), Verdict::Deny);
    let none = TargetPort::Name("none".into());
    assert_eq!(verdict(&none, &[web()], false, true), Verdict::Unknown);
}
