use std::collections::BTreeMap;

use super::{
    super::{alerts::parse, catalogue::Catalogue},
    Board, board, exceptions,
};

fn catalogue() -> Catalogue {
    Catalogue::parse(
        "| `f` | `f_total` | counter | `{x}` | `plumbline_flow_role` | F. |\n| `g` | `g` | gauge | `1` |  | G. |\n| `k8s.ns` | `k8s_ns` |\n",
    )
    .unwrap()
}

/// A dashboard without a fault.
const GOOD: &str = r#"{
  "uid": "plumbline", "id": null, "schemaVersion": 39, "editable": false, "tags": ["plumbline"],
  "templating": {"list": [
    {"name": "datasource", "type": "datasource", "query": "prometheus"},
    {"name": "ns", "type": "query", "datasource": {"uid": "${datasource}"}, "refresh": 2, "allValue": ".*",
     "query": {"query": "label_values(g{k8s_ns=~\"a\"}, k8s_ns)"}}]},
  "panels": [
    {"id": 1, "type": "row", "title": "Row", "gridPos": {"x": 0, "y": 0, "w": 24, "h": 1}},
    {"id": 2, "type": "timeseries", "title": "F", "description": "What.", "datasource": {"uid": "${datasource}"},
     "gridPos": {"x": 0, "y": 1, "w": 12, "h": 8}, "fieldConfig": {"defaults": {"unit": "cps"}}, "targets": [
      {"refId": "A", "datasource": {"uid": "${datasource}"}, "legendFormat": "{{k8s_ns}} in",
       "expr": "sum by (k8s_ns) (rate(f_total{plumbline_flow_role=\"server\"}[$__rate_interval]))"},
      {"refId": "B", "datasource": {"uid": "${datasource}"}, "expr": "sum(g) * 0"}]},
    {"id": 3, "type": "stat", "title": "G", "description": "What.", "datasource": {"uid": "${datasource}"},
     "gridPos": {"x": 12, "y": 1, "w": 12, "h": 8}, "fieldConfig": {"defaults": {"unit": "short"}}, "targets": [
      {"refId": "A", "datasource": {"uid": "${datasource}"}, "expr": "g"}]}]}"#;

#[test]
fn a_good_dashboard_has_no_problem() {
    assert_eq!(
        board(&Board::parse(GOOD).unwrap(), &catalogue()),
        Vec::<String>::new()
    );
}

/// What is replaced in it, by what, and the problem that names it.
const FAULTS: &[(&str, &str, &str)] = &[
    (r#""uid": "plumbline""#, r#""uid": "x""#, "uid is not"),
    (r#""id": null"#, r#""id": 7"#, "id is not null"),
    ("39", "40", "schemaVersion"),
    (r#""editable": false"#, r#""editable": true"#, "editable"),
    (r#"["plumbline"]"#, "[]", "no tag"),
    (r#""id": null"#, r#""id": null, "__inputs": []"#, "__inputs"),
    (
        r#""name": "datasource""#,
        r#""name": "other""#,
        "no variable datasource",
    ),
    (
        r#""refresh": 2"#,
        r#""refresh": 1"#,
        "variable ns: does not reload",
    ),
    (
        "label_values(g{",
        "label_values(h{",
        "h is not in METRICS.md",
    ),
    ("label_values(g{", "query_result(g{", "is not label_values"),
    (
        r#", k8s_ns)"}"#,
        r#", pod)"}"#,
        "variable ns: no metric of the query has the label pod",
    ),
    (r#""title": "F""#, r#""title": """#, "no title"),
    (r#""description": "What.", "#, "", "no description"),
    (r#""unit": "cps""#, r#""unit": """#, "no unit"),
    (
        r#""legendFormat": "{{k8s_ns}} in""#,
        r#""legendFormat": "{{pod}} in""#,
        "the label pod",
    ),
    (
        r#""title": "F", "description": "What.", "datasource": {"uid": "${datasource}"}"#,
        r#""title": "F", "description": "What.", "datasource": {"uid": "prom"}"#,
        "does not ask the variable",
    ),
    (
        r#"{"refId": "A", "datasource": {"uid": "${datasource}"}, "expr": "g"}"#,
        "",
        "panel \"G\": no query",
    ),
    (
        r#""datasource": {"uid": "${datasource}"}, "expr": "g"}"#,
        r#""expr": "g"}"#,
        "A: does not ask",
    ),
    (
        r#""expr": "g""#,
        r#""expr": "up""#,
        "up is not in METRICS.md",
    ),
    (
        r#""expr": "g""#,
        r#""expr": "rate(g[$__rate_interval])""#,
        "g is no counter",
    ),
    (
        r#""expr": "g""#,
        r#""expr": "sum(f_total{plumbline_flow_role='client'})""#,
        "not inside rate",
    ),
    ("$__rate_interval", "5m", "not over [$__rate_interval]"),
    (r#"sum by (k8s_ns) ("#, r#"sum by (pod) ("#, "the label pod"),
    (
        r#"{plumbline_flow_role=\"server\"}"#,
        "",
        "not of one plumbline_flow_role",
    ),
    (
        r#"{plumbline_flow_role=\"server\"}"#,
        r#"{plumbline_flow_role=~\"server\"}"#,
        "not of one plumbline_flow_role",
    ),
    (
        r#""expr": "sum(g) * 0""#,
        r#""expr": "rate(f_total{plumbline_flow_role='client'}[$__rate_interval])""#,
        "not of one plumbline_flow_role",
    ),
    (r#""x": 12"#, r#""x": 11"#, "share a place"),
    (r#""x": 12"#, r#""x": 13"#, "does not fit"),
    (r#""id": 3"#, r#""id": 2"#, "share a place, an id"),
];

#[test]
fn each_fault_is_named() {
    for (from, to, expected) in FAULTS {
        let text = GOOD.replacen(from, to, 1);
        assert_ne!(text, GOOD, "{from} is not there");
        let found = board(&Board::parse(&text).unwrap(), &catalogue());
        assert!(
            found.iter().any(|problem| problem.contains(expected)),
            "{to}: {found:?}"
        );
    }
}

#[test]
fn exceptions_are_for_queries_that_exist() {
    let good = Board::parse(GOOD).unwrap();
    let alerts = parse("- alert: G\n");
    let found = |query: &str, reason: &str| {
        exceptions(
            &BTreeMap::from([(query.to_owned(), reason.to_owned())]),
            &good,
            &alerts,
        )
        .len()
    };
    assert_eq!(found("g", "quiet"), 0);
    assert_eq!(found("G", "quiet"), 0);
    assert_eq!(found("g", ""), 1);
    assert_eq!(found("h", "quiet"), 1);
}
