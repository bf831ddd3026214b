//! What the server knows, and what it says of it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Logged, State};

impl State {
    /// The body of a list; `None` inside when the page has expired.
    pub(super) fn list(&self, resource: &str, query: &str) -> Option<Option<String>> {
        let objects = self.objects.get(resource);
        let selected = objects
            .into_iter()
            .flat_map(BTreeMap::values)
            .filter(|object| selects(query, object));
        let raw = self.raw_items.get(resource).into_iter().flatten().cloned();
        let mut items: Vec<String> = selected.map(Value::to_string).chain(raw).collect();
        let from: usize = parameter(query, "continue")
            .and_then(|from| from.parse().ok())
            .unwrap_or(0);
        if from > 0 && self.faults.page_gone {
            return Some(None);
        }
        let mut meta = json!({"resourceVersion": self.version.to_string()});
        items.drain(..from.min(items.len()));
        if let Some(page) = self.faults.page
            && items.len() > page
        {
            items.truncate(page);
            meta["continue"] = json!((from + page).to_string());
        }
        Some(Some(format!(
            r#"{{"kind":"List","apiVersion":"v1","metadata":{meta},"items":[{}]}}"#,
            items.join(",")
        )))
    }

    /// What a watch is told first.
    pub(super) fn first_lines(
        &self,
        resource: &str,
        query: &str,
        next: &mut usize,
    ) -> Vec<(String, bool)> {
        let version: u64 = parameter(query, "resourceVersion")
            .and_then(|version| version.parse().ok())
            .unwrap_or(0);
        if query.contains("sendInitialEvents=true") {
            *next = self.log.len();
            let objects = self.objects.get(resource);
            let objects = objects
                .into_iter()
                .flat_map(BTreeMap::values)
                .filter(|object| selects(query, object));
            let mut lines: Vec<_> = objects
                .map(|object| (line("ADDED", object), false))
                .collect();
            let end = json!({"metadata": {"resourceVersion": self.version.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}}});
            lines.push((line("BOOKMARK", &end), false));
            return lines;
        }
        if self.faults.gone || version < self.compacted {
            let status = json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"});
            return vec![(line("ERROR", &status), true)];
        }
        *next = self.log.partition_point(|(at, ..)| *at <= version);
        self.lines(resource, query, next)
    }

    /// What a watch is told next; with each line, whether the watch ends after it.
    pub(super) fn lines(
        &self,
        resource: &str,
        query: &str,
        next: &mut usize,
    ) -> Vec<(String, bool)> {
        let new = &self.log[*next..];
        *next = self.log.len();
        let of = new.iter().filter(|(_, of, _)| of == resource);
        of.filter_map(|(_, _, logged)| match logged {
            Logged::Event("BOOKMARK", object) => Some((line("BOOKMARK", object), false)),
            Logged::Event(kind, object) => {
                selects(query, object).then(|| (line(kind, object), false))
            }
            Logged::Raw(text) => Some((format!("{text}\n"), false)),
            Logged::Cut(text) => Some((text.clone(), true)),
        })
        .collect()
    }
}

fn line(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}

pub(super) fn key(object: &Value) -> (String, String) {
    let text = |field: &str| {
        object["metadata"][field]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    (text("namespace"), text("name"))
}

/// As the API server reads `fieldSelector`.
fn selects(query: &str, object: &Value) -> bool {
    let Some(selector) = parameter(query, "fieldSelector") else {
        return true;
    };
    let selector = selector.replace("%3D", "=").replace("%21", "!");
    let (field, wanted, equal) = match selector.split_once("!=") {
        Some((field, wanted)) => (field, wanted, false),
        None => {
            let (field, wanted) = selector.split_once('=').unwrap();
            (field, wanted, true)
        }
    };
    let value = object
        .pointer(&format!("/{}", field.replace('.', "/")))
        .and_then(Value::as_str);
    (value.unwrap_or_default() == wanted) == equal
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}
