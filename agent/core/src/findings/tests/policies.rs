//! Findings that are judged by policies, and policies that come and go.

use std::sync::Arc;
use std::time::Duration;

use crate::declared::{Declared, ForeignPolicies};
use crate::finding::Transition;
use crate::findings::Findings;
use crate::policy::Policies;
use crate::rules::evaluate;
use crate::rules::testing::raised;
use crate::time::Timestamp;

/// A file with policies was taken away, or policies came that are not understood: nobody says that there is one now.
#[test]
fn what_was_judged_by_policies_is_not_over_when_they_are_not_known() {
    let of = |rule| {
        let raised = raised::all();
        raised.into_iter().find(|row| row.rule == rule).unwrap()
    };
    for rule in ["F001", "F002", "F006", "P009"] {
        let row = of(rule);
        let quiet = |change: fn(&mut Declared)| {
            let mut node = row.node(|_| {});
            (node.flows, node.containers[0].listeners) = (vec![], vec![]);
            let mut all = (**node.declared.as_ref().unwrap()).clone();
            change(&mut all);
            node.policies = Arc::new(Policies::new(&all));
            node.declared = Some(Arc::new(all));
            // Watched for long enough to say that it is over.
            node.containers[0].first_seen = Timestamp(0);
            node
        };
        let resolved = |change: fn(&mut Declared)| {
            let mut findings = Findings::default();
            let node = row.node(|_| {});
            let opened = findings.update(evaluate(&node), &node);
            assert!(opened.iter().any(|found| found.rule_id == rule));
            let mut told = Vec::new();
            for second in [5_000, 5_100] {
                let mut later = quiet(change);
                later.now = node.now.plus(Duration::from_secs(second));
                told.extend(findings.update(evaluate(&later), &later));
            }
            let mut ended = told.iter().filter(|found| found.rule_id == rule);
            ended.any(|found| found.transition == Some(Transition::Resolved))
        };
        assert!(resolved(|_| {}), "{rule}: the policies are known");
        assert!(!resolved(|all| all.policies_known = false), "{rule}");
        let foreign = |all: &mut Declared| {
            all.foreign_policies.push(ForeignPolicies {
                kind: "CiliumNetworkPolicy.cilium.io".into(),
                namespace: Some("shop".into()),
            });
        };
        assert!(!resolved(foreign), "{rule}");
    }
}
