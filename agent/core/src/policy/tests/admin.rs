//! Tiers of admin policies.

use super::{block, declared, equal, of_pods, peers, policy, tcp};
use crate::declared::AdminAction::{Allow, Deny, Pass};
use crate::declared::{
    AdminAction, AdminPeer, AdminPods, AdminRule, Declared, DeclaredAdminPolicy, LabelSelector,
};

fn to_all(action: AdminAction) -> AdminRule {
    rule(action, AdminPeer::Pods(AdminPods::default()))
}

fn rule(action: AdminAction, peer: AdminPeer) -> AdminRule {
    AdminRule {
        name: None,
        action,
        peers: vec![peer],
        ports: Vec::new(),
    }
}

/// About ingress of every pod.
fn admin(priority: Option<i32>, ingress: Vec<AdminRule>) -> DeclaredAdminPolicy {
    DeclaredAdminPolicy {
        name: format!("p{priority:?}"),
        priority,
        subject: AdminPods::default(),
        ingress,
        egress: Vec::new(),
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn tiers_go_in_their_order() {
    let deny_np = || vec![policy("np", Some(vec![]), None)];
    let allow_np = || {
        let all = peers(vec![of_pods(Some(LabelSelector::default()), None)]);
        vec![policy("np", Some(vec![all]), None)]
    };
    for (case, policies, admins, expected) in [
        (
            "admin first",
            deny_np(),
            vec![admin(Some(5), vec![to_all(Allow)])],
            "allow",
        ),
        (
            "admin first",
            allow_np(),
            vec![admin(Some(5), vec![to_all(Deny)])],
            "deny",
        ),
        (
            "pass",
            deny_np(),
            vec![admin(Some(5), vec![to_all(Pass), to_all(Allow)])],
            "deny",
        ),
        (
            "pass",
            allow_np(),
            vec![
                admin(Some(5), vec![to_all(Pass)]),
                admin(Some(9), vec![to_all(Deny)]),
            ],
            "allow",
        ),
        (
            "first rule",
            vec![],
            vec![admin(Some(5), vec![to_all(Deny), to_all(Allow)])],
            "deny",
        ),
        (
            "lowest priority",
            vec![],
            vec![
                admin(Some(9), vec![to_all(Allow)]),
                admin(Some(5), vec![to_all(Deny)]),
            ],
            "deny",
        ),
        (
            "baseline last",
            allow_np(),
            vec![admin(None, vec![to_all(Deny)])],
            "allow",
        ),
        (
            "baseline last",
            deny_np(),
            vec![admin(None, vec![to_all(Allow)])],
            "deny",
        ),
        (
            "baseline",
            vec![],
            vec![admin(None, vec![to_all(Deny)])],
            "deny",
        ),
        (
            "baseline",
            vec![],
            vec![
                admin(Some(1), vec![to_all(Pass)]),
                admin(None, vec![to_all(Deny)]),
            ],
            "deny",
        ),
        (
            "none",
            vec![],
            vec![admin(Some(1), vec![to_all(Pass)])],
            "none",
        ),
        (
            "equal priority",
            vec![],
            vec![
                admin(Some(1), vec![to_all(Allow)]),
                admin(Some(1), vec![to_all(Deny)]),
            ],
            "unknown",
        ),
        (
            "equal priority",
            vec![],
            vec![
                admin(Some(1), vec![to_all(Deny)]),
                admin(Some(1), vec![to_all(Deny)]),
            ],
            "deny",
        ),
    ] {
        let all = Declared {
            admin_policies: admins,
            ..declared(policies)
        };
        assert_eq!(tcp(&all, "cart", "web"), expected, "{case}");
    }
}

#[test]
fn peers_that_are_not_evaluated_leave_it_open_unless_it_makes_no_difference() {
    let other = || AdminPeer::Other("domainNames".into());
    for (rules, expected) in [
        (vec![rule(Deny, other())], "unknown"),
        (vec![rule(Deny, other()), to_all(Deny)], "deny"),
        (vec![rule(Deny, other()), to_all(Allow)], "unknown"),
        (vec![rule(Pass, other())], "none"),
        (vec![to_all(Allow), rule(Deny, other())], "allow"),
    ] {
        let all = Declared {
            admin_policies: vec![admin(Some(1), rules)],
            ..declared(vec![])
        };
        assert_eq!(tcp(&all, "cart", "web"), expected);
    }
}

#[test]
fn networks_and_subjects() {
    let to_net = DeclaredAdminPolicy {
        egress: vec![rule(
            Deny,
            AdminPeer::Networks(vec!["1.2.0.0/16".parse().unwrap()]),
        )],
        subject: AdminPods {
            namespaces: equal("team=shop"),
            pods: equal("app=web"),
        },
        ..admin(Some(1), vec![])
    };
    let all = Declared {
        admin_policies: vec![to_net],
        ..declared(vec![])
    };
    for (from, to, expected) in [
        ("web", "1.2.3.4", "deny"),
        ("web", "1.3.3.4", "none"),
        ("cart", "1.2.3.4", "none"),
        ("probe", "1.2.3.4", "none"),
        ("web", "cart", "none"),
    ] {
        assert_eq!(tcp(&all, from, to), expected, "{from} {to}");
    }
    // A NetworkPolicy that would let it through comes after.
    let open = policy("np", None, Some(vec![peers(vec![block("0.0.0.0/0", &[])])]));
    let all = Declared {
        policies: vec![open],
        ..all
    };
    assert_eq!(tcp(&all, "web", "1.2.3.4"), "deny");
    assert_eq!(tcp(&all, "web", "1.3.3.4"), "allow");
}
