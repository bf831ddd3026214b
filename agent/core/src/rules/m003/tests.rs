use std::time::Duration;

use expect_test::expect;

use crate::declared::ContainerKind;
use crate::findings::Findings;
use crate::observation::SourceRow;
use crate::rules::testing::{
    NOW, container, cpu_max, declared, in_full, listener, pod, said, snapshot, view, windows,
};
use crate::rules::unknown_rules;
use crate::snapshot::Snapshot;

/// A node with a port that nothing declares, a container without a request, and a limit that is not in force.
fn node() -> Snapshot {
    let mut app = container("app", ContainerKind::Regular, &[8080]);
    app.cpu_request_millis = None;
    app.cpu_limit_millis = Some(1_000);
    let pod = pod(vec![app]);
    let mut view = view(&pod, Some(0), vec![listener(9999, &["0.0.0.0"])]);
    view.cpu.max = Some(cpu_max(Some(50_000)));
    view.cpu.settings_since = view.declared_cpu_since;
    let mut busy = vec![10_000; 90];
    busy.extend([110_000; 10]);
    view.cpu.windows = Some(windows(busy));
    snapshot(Some(declared(&pod, vec![])), vec![view])
}

fn row(source: &str, age: Duration) -> SourceRow {
    SourceRow {
        source: source.into(),
        as_of: NOW.minus(age),
        error: None,
    }
}

#[test]
fn comparison_is_suspended_while_the_declared_side_is_stale() {
    let mut node = node();
    let before = said(&node);
    assert!(
        before.contains("P001") && before.contains("C006"),
        "{before}"
    );
    let fresh = [
        row("pods", Duration::from_secs(120)),
        row("services", Duration::ZERO),
    ];
    node.sources = fresh.to_vec();
    assert_eq!(
        said(&node),
        before,
        "two minutes are not more than two minutes"
    );

    node.sources[0].as_of = NOW.minus(Duration::from_secs(121));
    node.sources[0].error = Some("cannot watch pods: refused".into());
    expect!["M003 medium node declared"].assert_eq(&said(&node));
    let unknown = unknown_rules(&node);
    let p001 = unknown.iter().find(|(rule, _)| *rule == "P001").unwrap();
    assert_eq!(p001.1, "the declared side is stale: pods older than 120 s");
}

#[test]
fn only_rules_that_need_the_stale_source_are_silent() {
    let mut node = node();
    node.sources = vec![
        row("pods", Duration::ZERO),
        row("services", Duration::from_secs(600)),
    ];
    let said = said(&node);
    assert!(said.contains("C006") && !said.contains("P001"), "{said}");
    node.sources = vec![row("networkpolicies", Duration::from_secs(600))];
    let said = crate::rules::testing::said(&node);
    assert!(
        said.contains("C006") && said.contains("P001") && said.contains("M003"),
        "{said}"
    );
}

#[test]
fn it_names_the_oldest_source_and_its_error() {
    let mut node = snapshot(Some(crate::declared::Declared::default()), vec![]);
    node.sources = vec![
        row("pods", Duration::from_secs(130)),
        row("services", Duration::from_secs(300)),
    ];
    node.sources[1].error = Some("cannot watch services: refused".into());
    expect![[r#"
        M003 medium node declared
        declared: the declared side is at most 120 s old
        observed: pods, services as of 300 s ago, so C001, C002, C003, C005, C006, F001, F002, F006, F007, I001, I003, I004, P001, P004, P005, P007, P009, S001 say nothing: cannot watch services: refused
        evidence: {"age":300,"error":"cannot watch services: refused","rules":["C001","C002","C003","C005","C006","F001","F002","F006","F007","I001","I003","I004","P001","P004","P005","P007","P009","S001"],"sources":["pods","services"]}
        coverage: Blind("declared state is stale")
        remediation: Check that the API server answers and that the agent's role lets it list and watch what the error names; for files, that they can be read.
        no patch"#]].assert_eq(&in_full(&node));
}

#[test]
fn findings_stay_open_and_the_condition_ends_with_the_cause() {
    let mut findings = Findings::default();
    let node = node();
    findings.update(crate::rules::evaluate(&node), &node);
    let open = findings.open().len();
    let mut stale = node.clone();
    stale.sources = vec![row("pods", Duration::from_secs(3_600))];
    for second in 0..100 {
        stale.now = NOW.plus(Duration::from_secs(second));
        findings.update(crate::rules::evaluate(&stale), &stale);
    }
    assert_eq!(findings.open().len(), open + 1, "{:#?}", findings.open());
    let mut healed = node;
    for second in 100..200 {
        healed.now = NOW.plus(Duration::from_secs(second));
        healed.sources = vec![SourceRow {
            as_of: healed.now,
            ..row("pods", Duration::ZERO)
        }];
        findings.update(crate::rules::evaluate(&healed), &healed);
    }
    assert_eq!(findings.open().len(), open);
}
