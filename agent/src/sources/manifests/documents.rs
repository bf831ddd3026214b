//! The text of one file to objects: JSON dumps and multi-document YAML. A mistake costs the object it stands in, or the
//! document where the text itself is broken; the other documents of the file stand.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use serde_saphyr::options::NonFiniteFloatPolicy;

use super::super::objects::{ItemKind, ObjectError, Objects};

/// Nodes of one YAML document, aliases expanded: room for a dump of 100,000 objects, and an end to an alias bomb.
const YAML_NODES_MAX: usize = 10_000_000;
/// Of these, nodes that come from aliases. Manifests that people write have a few hundred at most.
const YAML_ALIAS_EVENTS_MAX: usize = 100_000;

/// Adds the objects of a file, and what is wrong with it, to `objects`; `name` is the file in messages. `false` when
/// nothing at all could be read of it.
pub(super) fn read(bytes: &[u8], name: &str, objects: &mut Objects) -> bool {
    let mut whole = |message: String| {
        objects.problem(name, &ObjectError::new("", message));
        false
    };
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => return whole(format!("not UTF-8: {error}")),
    };
    if text.trim().is_empty() {
        return whole("the file is empty".to_owned());
    }
    // YAML may also begin with a brace, so what is no JSON gets a second chance.
    if text.trim_start().starts_with('{') {
        match json_documents(text) {
            Ok(documents) => {
                json(&documents, name, objects);
                return true;
            }
            Err(message) if name.ends_with(".json") => return whole(message),
            Err(_) => {}
        }
    }
    yaml(text, name, objects)
}

/// Most files hold one document, and their messages need not count it.
fn document_name(file: &str, index: usize, count: usize) -> String {
    if count == 1 {
        file.to_owned()
    } else {
        format!("{file}: document {}", index + 1)
    }
}

fn json_documents(text: &str) -> Result<Vec<&RawValue>, String> {
    let documents = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    documents
        .collect::<Result<_, _>>()
        .map_err(|error| format!("not JSON: {error}"))
}

/// A list is taken apart before its items are looked at, so that what cannot be read in one costs only that one.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, rename = "apiVersion", default)]
    version: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

fn json(documents: &[&RawValue], file: &str, objects: &mut Objects) {
    for (index, document) in documents.iter().enumerate() {
        let at = document_name(file, index, documents.len());
        let envelope = serde_json::from_str::<Envelope<'_>>(document.get()).ok();
        let list = envelope.and_then(|envelope| {
            Some((
                ItemKind::of(envelope.kind.as_deref()?, envelope.version.as_deref())?,
                envelope.items?,
            ))
        });
        match list {
            Some((item_kind, items)) => {
                for (index, item) in items.into_iter().enumerate() {
                    json_value(
                        item,
                        &at,
                        &format!("items[{index}]"),
                        Some(&item_kind),
                        objects,
                    );
                }
            }
            None => json_value(document, &at, "", None, objects),
        }
    }
}

fn json_value(
    raw: &RawValue,
    at: &str,
    path: &str,
    item_kind: Option<&ItemKind>,
    objects: &mut Objects,
) {
    match serde_path_to_error::deserialize::<_, Value>(&mut serde_json::Deserializer::from_str(
        raw.get(),
    )) {
        Ok(mut value) => {
            if let Some(item_kind) = item_kind {
                item_kind.name(&mut value);
            }
            objects.add(at, path, value);
        }
        Err(error) => {
            let inside = error.path().to_string();
            let message = error.into_inner().to_string();
            objects.problem(
                at,
                &ObjectError::new(if inside == "." { "" } else { &inside }, message).under(path),
            );
        }
    }
}

/// `false` when there are documents and none could be read.
fn yaml(text: &str, file: &str, objects: &mut Objects) -> bool {
    let documents = split(text);
    let mut unread = 0;
    for (index, (first_line, document)) in documents.iter().enumerate() {
        let at = document_name(file, index, documents.len());
        match yaml_value(document, *first_line) {
            Ok(value) => objects.add(&at, "", value),
            Err(message) => {
                unread += 1;
                objects.problem(&at, &ObjectError::new("", message));
            }
        }
    }
    unread == 0 || unread < documents.len()
}

fn yaml_value(document: &str, first_line: usize) -> Result<Value, String> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: YAML_NODES_MAX,
            max_events: 2 * YAML_NODES_MAX,
            max_recorded_anchor_events: YAML_ALIAS_EVENTS_MAX,
            max_documents: 1,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: YAML_ALIAS_EVENTS_MAX },
        // `cpu: 1e999` must reach the quantity parser, which tells where it stands, and not end the document.
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options::<Value>(document, options).map_err(|error| {
        let text = error.without_snippet().to_string();
        // The parser counts lines from the document's own start, which helps nobody in a file of many.
        let text = [" at line ", " (defined at", "\n"]
            .iter()
            .fold(text.as_str(), |text, end| {
                text.split_once(end).map_or(text, |(before, _)| before)
            });
        let line = error
            .location()
            .and_then(|location| usize::try_from(location.line()).ok());
        line.map_or_else(
            || format!("not YAML: {text}"),
            |line| format!("not YAML, line {}: {text}", first_line + line - 1),
        )
    })
}

/// Documents with the number of their first line, from 1. `---` at the start of a line begins a document wherever it
/// stands (YAML 1.2, 9.1.2: not even a scalar may hold one), so this needs no parser, and a document that the parser
/// cannot end does not swallow the next.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut start_line) = (0, 1);
    let (mut offset, mut content) = (0, false);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let marker = line.trim_end();
        let begins = is_marker(marker, "---");
        if begins && content {
            documents.push((start_line, &text[start..offset]));
            (start, start_line, content) = (offset, index + 1, false);
        } else if begins {
            // Nothing but comments and directives so far, or an empty document: they mean nothing alone.
            let directives = text[start..offset]
                .lines()
                .any(|line| line.starts_with('%'));
            if !directives {
                (start, start_line) = (offset, index + 1);
            }
        }
        offset += line.len();
        if is_marker(marker, "...") {
            if content {
                documents.push((start_line, &text[start..offset]));
            }
            (start, start_line, content) = (offset, index + 2, false);
        } else {
            let rest = if begins {
                marker[3..].trim()
            } else {
                marker.trim()
            };
            let directive = !begins && !content && marker.starts_with('%');
            content |= !(rest.is_empty() || rest.starts_with('#') || directive);
        }
    }
    if content {
        documents.push((start_line, &text[start..]));
    }
    documents
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t']))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::super::super::objects::Objects;
    use super::{read, split};

    fn check_split(text: &str, expected: &[(usize, &str)]) {
        assert_eq!(split(text), expected, "{text:?}");
    }

    #[test]
    fn documents_are_split_at_markers_only() {
        check_split("a: 1\n", &[(1, "a: 1\n")]);
        check_split("a: 1\n---\nb: 2", &[(1, "a: 1\n"), (2, "---\nb: 2")]);
        check_split(
            "---\r\na: 1\r\n---\r\nb: 2\r\n",
            &[(1, "---\r\na: 1\r\n"), (3, "---\r\nb: 2\r\n")],
        );
        check_split("# only\n---\n---\n# nothing\n--- # here\n", &[]);
        check_split("---\n---\na: 1\n", &[(2, "---\na: 1\n")]);
        check_split(
            "--- {a: 1}\n--- {b: 2}\n",
            &[(1, "--- {a: 1}\n"), (2, "--- {b: 2}\n")],
        );
        check_split(
            "%YAML 1.2\n---\na: 1\n...\n%YAML 1.2\n---\nb: 2\n",
            &[
                (1, "%YAML 1.2\n---\na: 1\n...\n"),
                (5, "%YAML 1.2\n---\nb: 2\n"),
            ],
        );
        check_split(
            "a: |\n  ---\n  b\n----\n",
            &[(1, "a: |\n  ---\n  b\n----\n")],
        );
        check_split("", &[]);
    }

    fn check(name: &str, text: &str, expected: Expect) {
        let mut objects = Objects::new(100);
        let read = read(text.as_bytes(), name, &mut objects);
        let mut lines: Vec<String> = Vec::new();
        lines.extend(
            objects
                .pods
                .iter()
                .map(|pod| format!("pod {}/{}", pod.namespace, pod.name)),
        );
        lines.extend(
            objects
                .problems
                .iter()
                .map(|problem| format!("{} -- {}", problem.at, problem.message)),
        );
        lines.extend((!read).then(|| "nothing of the file".to_owned()));
        expected.assert_eq(&lines.join("\n"));
    }

    #[test]
    fn a_broken_document_costs_only_itself() {
        check(
            "pods.yaml",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: b\n---\n{{ template }}\n---\nkind: Pod\napiVersion: v1\nmetadata: {name: c}\n",
            expect![[r#"
                pod default/a
                pod default/c
                pods.yaml: document 2 -- not YAML, line 7: unclosed bracket '{'
                pods.yaml: document 3 -- not YAML, line 9: expected string scalar"#]],
        );
    }

    #[test]
    fn a_number_that_json_cannot_hold_costs_only_its_item() {
        check(
            "pods.json",
            r#"{"kind":"List","apiVersion":"v1","items":[
                {"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}},
                {"apiVersion":"v1","kind":"Pod","metadata":{"name":"b"},"spec":{"containers":[{"resources":{"limits":{"cpu":1e999}}}]}},
                {"apiVersion":"v1","kind":"Pod","metadata":{"name":"c"}}]}"#,
            expect![[r#"
                pod default/a
                pod default/c
                pods.json: items[1].spec.containers[0].resources.limits.cpu -- number out of range at line 1 column 113"#]],
        );
    }

    #[test]
    fn a_file_of_nothing_is_told() {
        check(
            "a.yaml",
            "",
            expect![[r#"
            a.yaml -- the file is empty
            nothing of the file"#]],
        );
        check(
            "a.json",
            "{\"kind\": \"List\", \"items\": [{",
            expect![[r#"
            a.json -- not JSON: EOF while parsing an object at line 1 column 28
            nothing of the file"#]],
        );
        check(
            "a.yaml",
            "a: [1\n",
            expect![[r#"
                a.yaml -- not YAML, line 1: unclosed bracket '['
                nothing of the file"#]],
        );
        check("a.yaml", "# comments only\n---\n", expect![""]);
    }

    #[test]
    fn json_by_any_name_and_several_in_a_row() {
        check(
            "dump",
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}} {"apiVersion":"v1","kind":"Pod","metadata":{"name":7}}"#,
            expect![[r#"
                pod default/a
                dump: document 2: metadata.name -- invalid type: integer `7`, expected a string"#]],
        );
        check(
            "flow.yaml",
            "{apiVersion: v1, kind: Pod, metadata: {name: a}}\n",
            expect!["pod default/a"],
        );
    }

    #[test]
    fn an_alias_bomb_ends_early() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let previous = format!("*a{}, ", level - 1).repeat(10);
            bomb.push_str(&format!(
                "a{level}: &a{level} [{}]\n",
                previous.trim_end_matches(", ")
            ));
        }
        bomb.push_str("---\napiVersion: v1\nkind: Pod\nmetadata: {name: after}\n");
        check(
            "bomb.yaml",
            &bomb,
            expect![[r#"
                pod default/after
                bomb.yaml: document 1 -- not YAML, line 5: budget breached: RecordedAnchorEvents { recorded_anchor_events: 100001 }"#]],
        );
        let long = "x".repeat(1 << 20);
        let bomb = format!("a: &a {long}\nb: [{}]\n", "*a, ".repeat(90));
        check(
            "long.yaml",
            &bomb,
            expect![[r#"
                long.yaml -- not YAML, line 2: budget breached: ScalarBytes { total_scalar_bytes: 67108866 } (defined
                nothing of the file"#]],
        );
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_told(text in "[-\\[\\]{}:,&*a0\"'|>%#. \n\r\t]{0,64}") {
            let mut objects = Objects::new(100);
            read(text.as_bytes(), "x.yaml", &mut objects);
            let joined: String = split(&text).iter().map(|(_, document)| *document).collect();
            prop_assert!(joined.len() <= text.len());
        }

        #[test]
        fn any_bytes_are_taken_or_told(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            read(&bytes, "x.json", &mut Objects::new(100));
        }
    }
}
