//! What a dashboard must be like: found again after an import, explained, and asking for what there is.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    alerts::Alert,
    board::{Board, Datasource, GridPos, Panel, Variable},
    catalogue::Catalogue,
    promql::{Names, Selector, names},
};

/// The variable for the data source, as every query names it.
const DATASOURCE: &str = "${datasource}";
/// The only range of a rate: Grafana makes it four scrapes at least, whatever the zoom.
const RATE_RANGE: &str = "$__rate_interval";
/// Tells the two ends of a connection apart; both are in the store.
const ROLE: &str = "plumbline_flow_role";

/// Everything wrong with a dashboard.
pub(super) fn board(board: &Board, catalogue: &Catalogue) -> Vec<String> {
    let mut problems = Vec::new();
    let mut expect = |is: bool, what: &str| {
        if !is {
            problems.push(format!("dashboard: {what}"));
        }
    };
    expect(board.uid == "plumbline", "uid is not plumbline");
    expect(board.id.is_null(), "id is not null");
    expect(
        board.schema_version == 39,
        "schemaVersion is not 39, which every supported Grafana reads",
    );
    expect(!board.editable, "editable is not false");
    expect(
        board.tags.iter().any(|tag| tag == "plumbline"),
        "no tag plumbline",
    );
    expect(
        board.inputs.is_none(),
        "has __inputs, which provisioning ignores",
    );
    let has_source =
        |variable: &Variable| variable.kind == "datasource" && variable.name == "datasource";
    expect(
        board.templating.list.iter().any(has_source),
        "no variable datasource",
    );
    for variable in board
        .templating
        .list
        .iter()
        .filter(|variable| variable.kind == "query")
    {
        problems.extend(variable_problems(variable, catalogue));
    }
    for panel in board.panels.iter().filter(|panel| panel.kind != "row") {
        problems.extend(panel_problems(panel, catalogue));
    }
    problems.extend(layout_problems(&board.panels));
    problems
}

/// Exceptions that no query and no alert needs, or without a reason.
pub(super) fn exceptions(
    exceptions: &BTreeMap<String, String>,
    board: &Board,
    alerts: &[Alert],
) -> Vec<String> {
    let queries = board.targets().map(|(_, target)| target.expr.as_str());
    let asked: BTreeSet<&str> = queries.chain(alerts.iter().map(Alert::name)).collect();
    exceptions
        .iter()
        .filter(|(query, reason)| !asked.contains(query.as_str()) || reason.is_empty())
        .map(|(query, _)| format!("live-exceptions.json: no such query, or no reason: {query}"))
        .collect()
}

/// Metrics and labels of an expression that the agent does not send. `shown` are labels that its user shows.
pub(super) fn unknown_names(
    names: &Names,
    shown: &BTreeSet<String>,
    catalogue: &Catalogue,
) -> Vec<String> {
    let mut problems = Vec::new();
    for selector in &names.selectors {
        let metric = &selector.metric;
        if catalogue.is_counter(metric).is_none() {
            problems.push(format!("{metric} is not in METRICS.md"));
            continue;
        }
        for (label, _, _) in &selector.matchers {
            if !catalogue.has_label(metric, label) {
                problems.push(format!("{metric} has no label {label} in METRICS.md"));
            }
        }
    }
    let has = |label: &String| {
        let of = |selector: &Selector| catalogue.has_label(&selector.metric, label);
        names.made.contains(label) || names.selectors.iter().any(of)
    };
    let unknown = names.grouping.union(shown).filter(|label| !has(label));
    problems.extend(unknown.map(|label| format!("no metric of the query has the label {label}")));
    problems
}

/// Counters anywhere but in a rate, and rates of anything else.
pub(super) fn rate_problems(
    names: &Names,
    range: Option<&str>,
    catalogue: &Catalogue,
) -> Vec<String> {
    let mut problems = Vec::new();
    for selector in &names.selectors {
        let metric = &selector.metric;
        let in_rate = ["rate", "increase"].contains(&selector.function.as_str());
        match catalogue.is_counter(metric) {
            Some(true) if !in_rate => problems.push(format!(
                "the counter {metric} is not inside rate or increase"
            )),
            Some(false) if in_rate => problems.push(format!("{metric} is no counter")),
            Some(_) | None => {}
        }
        if let Some(range) = range.filter(|_| in_rate)
            && selector.range.as_deref() != Some(range)
        {
            problems.push(format!("the rate of {metric} is not over [{range}]"));
        }
    }
    problems
}

fn is_source(datasource: Option<&Datasource>) -> bool {
    datasource.is_some_and(|datasource| datasource.uid == DATASOURCE)
}

fn variable_problems(variable: &Variable, catalogue: &Catalogue) -> Vec<String> {
    let mut problems = Vec::new();
    if !is_source(variable.datasource.as_ref()) {
        problems.push(format!("does not ask {DATASOURCE}"));
    }
    if variable.refresh != Some(2) {
        problems.push("does not reload when the time changes (refresh 2)".into());
    }
    match variable.label_values() {
        Some((selector, label)) => {
            let shown = BTreeSet::from([label.to_owned()]);
            problems.extend(unknown_names(&names(selector), &shown, catalogue));
        }
        None => problems.push("is not label_values(selector, label)".into()),
    }
    about(&format!("variable {}", variable.name), problems)
}

fn panel_problems(panel: &Panel, catalogue: &Catalogue) -> Vec<String> {
    let mut problems = Vec::new();
    let unit = panel
        .field_config
        .pointer("/defaults/unit")
        .and_then(|unit| unit.as_str());
    for (is, what) in [
        (!panel.title.is_empty(), "no title"),
        (!panel.description.is_empty(), "no description"),
        (unit.is_some_and(|unit| !unit.is_empty()), "no unit"),
        (!panel.targets.is_empty(), "no query"),
        (
            is_source(panel.datasource.as_ref()),
            "does not ask the variable datasource",
        ),
    ] {
        if !is {
            problems.push(what.to_owned());
        }
    }
    let mut roles: BTreeSet<Option<String>> = BTreeSet::new();
    for target in &panel.targets {
        let named = names(&target.expr);
        let mut of_target = unknown_names(&named, &shown_labels(&target.legend_format), catalogue);
        of_target.extend(rate_problems(&named, Some(RATE_RANGE), catalogue));
        if !is_source(target.datasource.as_ref()) {
            of_target.push("does not ask the variable datasource".into());
        }
        problems.extend(about(&target.ref_id, of_target));
        let with_role = |selector: &&Selector| catalogue.has_label(&selector.metric, ROLE);
        roles.extend(named.selectors.iter().filter(with_role).map(role));
    }
    if roles.len() > 1 || roles.contains(&None) {
        problems.push(format!("its flows are not of one {ROLE}"));
    }
    about(&format!("panel {:?}", panel.title), problems)
}

/// The one role that a selector picks.
fn role(selector: &Selector) -> Option<String> {
    let picks = |(label, sign, _): &&(String, String, String)| label == ROLE && sign == "=";
    selector
        .matchers
        .iter()
        .find(picks)
        .map(|(_, _, role)| role.clone())
}

/// The labels in `{{label}} of {{other}}`.
fn shown_labels(legend: &str) -> BTreeSet<String> {
    let parts = legend
        .split("{{")
        .skip(1)
        .filter_map(|part| part.split_once("}}"));
    parts.map(|(label, _)| label.trim().to_owned()).collect()
}

/// Panels that lie outside of the grid or on each other, or share an id or a title.
fn layout_problems(panels: &[Panel]) -> Vec<String> {
    let mut problems = Vec::new();
    for (index, panel) in panels.iter().enumerate() {
        let at = panel.grid_pos;
        if at.x + at.w > 24 || at.w == 0 || at.h == 0 {
            problems.push(format!("panel {:?} does not fit the grid", panel.title));
        }
        for other in panels.iter().take(index) {
            if overlap(at, other.grid_pos) || panel.id == other.id || panel.title == other.title {
                problems.push(format!(
                    "panels {:?} and {:?} share a place, an id or a title",
                    other.title, panel.title
                ));
            }
        }
    }
    problems
}

fn overlap(a: GridPos, b: GridPos) -> bool {
    a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h
}

/// Problems with what they are about.
fn about(what: &str, problems: Vec<String>) -> Vec<String> {
    problems
        .into_iter()
        .map(|problem| format!("{what}: {problem}"))
        .collect()
}

#[cfg(test)]
#[path = "lint_tests.rs"]
mod tests;
