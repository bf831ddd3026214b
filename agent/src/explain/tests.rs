use expect_test::expect;
use serde_json::json;

use super::{explain, finding};
use crate::cli::ExplainArgs;

fn args(what: Option<&str>) -> ExplainArgs {
    ExplainArgs {
        what: what.map(str::to_owned),
        socket: "/nonexistent".into(),
        patch: false,
    }
}

#[test]
fn a_finding_is_told_from_the_declaration_to_the_patch() {
    let one = json!({
        "rule_id": "P001", "title": "Undeclared listening port", "severity": "high", "state": "suppressed",
        "fingerprint": "3f9a0c1d22e4b5a697887f6e5d4c3b2a",
        "first_seen": "2026-11-22T09:34:18.120Z", "last_seen": "2026-11-22T10:34:18.120Z", "occurrences": 7,
        "reopened": 2,
        "resource": {
            "namespace": "shop", "owner": { "kind": "Deployment", "name": "web" }, "pod": "web-1",
            "container": "app\u{1b}[2J",
        },
        "declared": "the pod declares tcp/8080", "observed": "tcp/6060 listens on any address",
        "evidence": {
            "port": 6060, "addresses": ["0.0.0.0"],
            "exposure_chain": ["tcp/6060 on any address", "no NetworkPolicy isolates the pod", "Service web"],
        },
        "coverage": { "state": "partial", "reason": "passed_socket" },
        "suppression": { "by": "suppressions[0]", "until": "2026-12-31T00:00:00.000Z", "reason": "INC-42" },
        "suppression_ignored": ["plumbline/suppress.P001: it has no reason"],
        "remediation": "Declare containerPort 6060.",
        "patch": "spec:\n  template: {}\n",
    });
    expect![[r"
        P001: Undeclared listening port (high, suppressed)

        Whom
          namespace shop, workload Deployment/web, pod web-1, container app�[2J

        Declared
          the pod declares tcp/8080

        Observed
          tcp/6060 listens on any address

        Evidence
          addresses: 0.0.0.0
          exposure_chain:
            - tcp/6060 on any address
            - no NetworkPolicy isolates the pod
            - Service web
          port: 6060

        Seen
          first 2026-11-22T09:34:18.120Z, last 2026-11-22T10:34:18.120Z, in 7 evaluations
          coverage: partial (passed_socket)
          fingerprint 3f9a0c1d22e4b5a697887f6e5d4c3b2a
          came back 2 times after it was resolved

        Hidden
          until 2026-12-31T00:00:00.000Z by suppressions[0]: INC-42

        Asked to be hidden, and is not
          plumbline/suppress.P001: it has no reason

        Why it matters
          A port that is not in the manifest is in no review, no Service, no NetworkPolicy and no inventory: debug endpoints, metrics and admin consoles get into production this way.

        What to do
          Declare containerPort 6060.

        Patch
        spec:
          template: {}
    "]]
    .assert_eq(&finding(&one));
}

#[test]
fn rules_need_no_agent_and_findings_do() {
    for id in ["P001", "c007"] {
        let text = explain(&args(Some(id))).unwrap().unwrap();
        assert!(
            text.to_ascii_lowercase()
                .starts_with(&id.to_ascii_lowercase()),
            "{text}"
        );
    }
    let list = explain(&args(None)).unwrap().unwrap();
    assert_eq!(list.lines().count(), plumbline_core::rules::ALL.len());
    for neither in ["P999x", "abc", "../../etc", ""] {
        assert!(
            explain(&args(Some(neither))).unwrap().is_none(),
            "{neither}"
        );
    }
    let error = explain(&args(Some("3f9a0c"))).unwrap_err().to_string();
    assert!(error.contains("no agent answers"), "{error}");
}
