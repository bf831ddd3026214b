//! `plumbline explain`: what a finding rests on, from what was declared to what to do, and what a rule looks for. A finding
//! comes from the running agent, a rule from the code.

use anyhow::{Context as _, bail};
use http::StatusCode;
use plumbline_core::rules::{self, reference};
use serde_json::Value;

use crate::cli::ExplainArgs;
use crate::present::{columns, plain};
use crate::status;

/// Digits of a fingerprint that are enough to ask for it.
const DIGITS_MIN: usize = 4;

/// The text for a rule or a finding; `None` where there is neither.
///
/// # Errors
///
/// No agent answers, or several findings begin with what was given.
pub fn explain(args: &ExplainArgs) -> anyhow::Result<Option<String>> {
    let Some(what) = args.what.as_deref() else {
        return Ok(Some(list()));
    };
    if let Some(rule) = rules::find(what) {
        return Ok(Some(reference::plain(rule)));
    }
    let what = what.to_ascii_lowercase();
    let is_fingerprint = what.len() >= DIGITS_MIN && what.bytes().all(|b| b.is_ascii_hexdigit());
    if !is_fingerprint {
        return Ok(None);
    }
    let mut found = Vec::new();
    for path in ["/findings", "/suppressed"] {
        let (code, body) = status::ask(&args.socket, path)?;
        if code != StatusCode::OK {
            bail!("{}", plain(String::from_utf8_lossy(&body).trim()));
        }
        let findings: Vec<Value> =
            serde_json::from_slice(&body).context("the agent's answer is not of this version")?;
        found.extend(
            findings
                .into_iter()
                .filter(|one| word(one, "fingerprint").starts_with(&what)),
        );
    }
    match found.as_slice() {
        [] => Ok(None),
        [one] if args.patch => match one["patch"].as_str() {
            Some(patch) => Ok(Some(printable(patch))),
            None => bail!(
                "this finding has no patch: {}",
                plain(word(one, "remediation"))
            ),
        },
        [one] => Ok(Some(finding(one))),
        several => bail!(
            "{} findings begin with {what}: give more digits",
            several.len()
        ),
    }
}

fn list() -> String {
    let row = |rule: &&plumbline_core::finding::Rule| {
        [rule.id, rule.category, rule.title]
            .map(str::to_owned)
            .to_vec()
    };
    columns(&rules::ALL.iter().map(row).collect::<Vec<_>>())
}

/// The chain of one finding, as the agent gives it.
fn finding(finding: &Value) -> String {
    let mut text = format!(
        "{}: {} ({}, {})\n",
        plain(word(finding, "rule_id")),
        plain(word(finding, "title")),
        plain(word(finding, "severity")),
        plain(word(finding, "state"))
    );
    section(&mut text, "Whom", &[whom(&finding["resource"])]);
    section(
        &mut text,
        "Declared",
        &[word(finding, "declared").to_owned()],
    );
    section(
        &mut text,
        "Observed",
        &[word(finding, "observed").to_owned()],
    );
    let evidence = finding["evidence"].as_object();
    let evidence: Vec<String> = evidence
        .into_iter()
        .flatten()
        .flat_map(evidence_lines)
        .collect();
    section(&mut text, "Evidence", &evidence);
    section(&mut text, "Seen", &history(finding));
    let hidden = &finding["suppression"];
    if hidden.is_object() {
        let line = format!(
            "until {} by {}: {}",
            word(hidden, "until"),
            word(hidden, "by"),
            word(hidden, "reason")
        );
        section(&mut text, "Hidden", &[line]);
    }
    let ignored = strings(&finding["suppression_ignored"]);
    section(&mut text, "Asked to be hidden, and is not", &ignored);
    if let Some(rule) = rules::find(word(finding, "rule_id")) {
        section(&mut text, "Why it matters", &[rule.why.to_owned()]);
    }
    section(
        &mut text,
        "What to do",
        &[word(finding, "remediation").to_owned()],
    );
    if let Some(patch) = finding["patch"].as_str() {
        text.push_str("\nPatch\n");
        text.push_str(&printable(patch));
    }
    text
}

fn section(text: &mut String, title: &str, lines: &[String]) {
    let lines: Vec<&String> = lines.iter().filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        return;
    }
    text.push_str(&format!("\n{title}\n"));
    for line in lines {
        text.push_str(&format!("  {}\n", plain(line)));
    }
}

fn whom(resource: &Value) -> String {
    let owner = &resource["owner"];
    let workload = owner
        .is_object()
        .then(|| format!("{}/{}", word(owner, "kind"), word(owner, "name")));
    let parts = [
        ("namespace", Some(word(resource, "namespace").to_owned())),
        ("workload", workload),
        ("pod", Some(word(resource, "pod").to_owned())),
        ("container", Some(word(resource, "container").to_owned())),
        ("image", Some(word(resource, "image").to_owned())),
    ];
    let parts = parts.into_iter().filter_map(|(name, value)| {
        let value = value.filter(|value| !value.is_empty())?;
        Some(format!("{name} {value}"))
    });
    let parts: Vec<String> = parts.collect();
    if parts.is_empty() {
        return "the node".to_owned();
    }
    parts.join(", ")
}

/// A chain (a list) takes a line for each link.
fn evidence_lines((name, value): (&String, &Value)) -> Vec<String> {
    match value {
        Value::Array(values) if values.len() > 1 => {
            let links = values.iter().map(|link| format!("  - {}", shown(link)));
            std::iter::once(format!("{name}:")).chain(links).collect()
        }
        Value::Array(values) => vec![format!(
            "{name}: {}",
            values.first().map(shown).unwrap_or_default()
        )],
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            vec![format!("{name}: {}", shown(value))]
        }
    }
}

fn shown(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn history(finding: &Value) -> Vec<String> {
    let coverage = &finding["coverage"];
    let reason = coverage["reason"]
        .as_str()
        .map_or_else(String::new, |why| format!(" ({why})"));
    let mut lines = vec![
        format!(
            "first {}, last {}, in {} evaluations",
            word(finding, "first_seen"),
            word(finding, "last_seen"),
            finding["occurrences"]
        ),
        format!("coverage: {}{reason}", word(coverage, "state")),
        format!("fingerprint {}", word(finding, "fingerprint")),
    ];
    if finding["reopened"].as_u64().is_some_and(|count| count > 0) {
        lines.push(format!(
            "came back {} times after it was resolved",
            finding["reopened"]
        ));
    }
    lines
}

/// A patch keeps its lines; what else controls a terminal goes.
fn printable(patch: &str) -> String {
    patch.lines().map(|line| plain(line) + "\n").collect()
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn strings(value: &Value) -> Vec<String> {
    let values = value.as_array().into_iter().flatten();
    values
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests;
