//! Rules by name, and candidates.

use super::{block, cart, declared, peers, policy, web};
use crate::declared::{PolicyRule, Transport};
use crate::policy::{Direction, End, Flow, Policies, SideVerdict, Verdict};

#[test]
fn a_verdict_names_the_rules_that_decided() {
    let rules = vec![
        PolicyRule::default(),
        peers(vec![block("9.9.9.9/32", &[])]),
        PolicyRule::default(),
    ];
    let both = declared(vec![
        policy("b", Some(vec![]), None),
        policy("c", Some(rules), None),
    ]);
    let policies = Policies::new(&both);
    let (web, cart) = (policies.endpoint(&web()), policies.endpoint(&cart()));
    let judgement = policies.judge(&Flow {
        from: End::Pod(&cart),
        to: End::Pod(&web),
        transport: Transport::Tcp,
        port: 1,
    });
    let names: Vec<_> = judgement
        .ingress
        .rules
        .iter()
        .map(|rule| policies.name(*rule))
        .collect();
    assert_eq!(names, ["shop/c ingress[0]", "shop/c ingress[2]"]);
    assert_eq!(judgement.egress.why, SideVerdict::NotSelected);
    assert_eq!(
        policies.selecting_endpoint(&web, Direction::Ingress),
        ["shop/b", "shop/c"]
    );
    assert_eq!(
        Verdict::of_both(Verdict::None, Verdict::Unknown),
        Verdict::Unknown
    );
}

#[test]
fn candidates_take_the_place_of_what_has_their_name() {
    let standing = declared(vec![policy("p", Some(vec![]), None)]);
    let open = policy("p", Some(vec![PolicyRule::default()]), None);
    let shadow = Policies::with(&standing, &[open]);
    let (web, cart) = (shadow.endpoint(&web()), shadow.endpoint(&cart()));
    let flow = Flow {
        from: End::Pod(&cart),
        to: End::Pod(&web),
        transport: Transport::Tcp,
        port: 1,
    };
    assert_eq!(shadow.judge(&flow).verdict, Verdict::Allow);
}
