//! What one line of a watch, or one item of a list, says: which object, and what of it is needed. Pure and lenient: what is
//! wrong with one object is that object's problem, whatever it is.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::objects::ObjectError;
use super::table::{Entry, Key};

/// Marks the end of the objects that were there when the watch began.
const INITIAL_END: &str = "k8s.io/initial-events-end";

/// One event of a watch.
#[derive(Debug, PartialEq)]
pub(super) enum Event<T> {
    /// An object is new, or changed.
    Applied(Key, Entry<T>),
    /// An object is gone.
    Deleted(Key),
    /// Nothing but the version; `true`: the initial objects are complete.
    Bookmark(bool),
    /// The server says that it cannot go on.
    Error { code: u16, message: String },
    /// Something that names no object.
    Nonsense,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// Of an object that is no JSON of ours: a number beyond all bounds somewhere, or too deep.
#[derive(Deserialize)]
struct Named {
    metadata: Option<Value>,
}

/// Reads a line; with it comes the version to resume after.
pub(super) fn read<T>(
    line: &[u8],
    convert: impl Fn(Value) -> Result<T, ObjectError>,
) -> (Event<T>, Option<String>) {
    let Ok(Line { r#type, object }) = serde_json::from_slice::<Line<'_>>(line) else {
        return (Event::Nonsense, None);
    };
    let bytes = object.get().as_bytes();
    let (metadata, value) = parse(bytes);
    let version = metadata.get("resourceVersion").and_then(Value::as_str);
    let version = version
        .filter(|version| !version.is_empty())
        .map(str::to_owned);
    let event = match &*r#type {
        "ADDED" | "MODIFIED" => Event::Applied(key(&metadata), entry(value, convert)),
        "DELETED" => Event::Deleted(key(&metadata)),
        "BOOKMARK" => {
            let end = metadata
                .get("annotations")
                .and_then(|all| all.get(INITIAL_END));
            Event::Bookmark(end.and_then(Value::as_str) == Some("true"))
        }
        "ERROR" => error(&value.unwrap_or_default()),
        _ => Event::Nonsense,
    };
    (event, version)
}

/// Reads an item of a list.
pub(super) fn item<T>(
    bytes: &[u8],
    convert: impl Fn(Value) -> Result<T, ObjectError>,
) -> (Key, Entry<T>) {
    let (metadata, value) = parse(bytes);
    (key(&metadata), entry(value, convert))
}

/// The code and text of a `Status`.
pub(super) fn status(value: &Value) -> (u16, String) {
    let code = value.get("code").and_then(Value::as_u64).unwrap_or(0);
    let message = value
        .get("message")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let message: String = message
        .chars()
        .filter(|c| !c.is_control())
        .take(256)
        .collect();
    (u16::try_from(code).unwrap_or(0), message)
}

fn error<T>(value: &Value) -> Event<T> {
    let (code, message) = status(value);
    Event::Error { code, message }
}

fn parse(bytes: &[u8]) -> (Value, Result<Value, ObjectError>) {
    match serde_json::from_slice::<Value>(bytes) {
        Ok(value) => (
            value.get("metadata").cloned().unwrap_or_default(),
            Ok(value),
        ),
        Err(error) => {
            let named = serde_json::from_slice::<Named>(bytes).ok();
            let metadata = named.and_then(|named| named.metadata).unwrap_or_default();
            (
                metadata,
                Err(ObjectError::new("", format!("cannot be read: {error}"))),
            )
        }
    }
}

fn entry<T>(
    value: Result<Value, ObjectError>,
    convert: impl Fn(Value) -> Result<T, ObjectError>,
) -> Entry<T> {
    value.and_then(convert).map(Arc::new)
}

fn key(metadata: &Value) -> Key {
    let text = |field: &str| {
        metadata
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    (text("namespace"), text("name"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Event, read};
    use crate::sources::objects::ObjectError;

    fn name(value: Value) -> Result<String, ObjectError> {
        let name = value.pointer("/metadata/name").and_then(Value::as_str);
        name.map(str::to_owned)
            .ok_or_else(|| ObjectError::new("metadata.name", "missing"))
    }

    fn said(line: &str) -> String {
        let (event, version) = read(line.as_bytes(), name);
        let version = version.unwrap_or_else(|| "-".to_owned());
        let event = match event {
            Event::Applied((namespace, key), Ok(name)) => format!("{namespace}/{key} is {name}"),
            Event::Applied((namespace, key), Err(error)) => format!("{namespace}/{key}: {error}"),
            Event::Deleted((namespace, key)) => format!("{namespace}/{key} is gone"),
            Event::Bookmark(end) => format!("bookmark {end}"),
            Event::Error { code, message } => format!("error {code} {message}"),
            Event::Nonsense => "nonsense".to_owned(),
        };
        format!("{version} {event}")
    }

    #[test]
    fn each_line_is_one_event() {
        let object = json!({"metadata": {"name": "a", "namespace": "n", "resourceVersion": "7"}});
        for (kind, expected) in [
            ("ADDED", "7 n/a is a"),
            ("MODIFIED", "7 n/a is a"),
            ("DELETED", "7 n/a is gone"),
            ("BOOKMARK", "7 bookmark false"),
            ("SOMETHING", "7 nonsense"),
        ] {
            assert_eq!(
                said(&json!({"type": kind, "object": object}).to_string()),
                expected
            );
        }
        let end = json!({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9", "annotations": {"k8s.io/initial-events-end": "true"}}}});
        assert_eq!(said(&end.to_string()), "9 bookmark true");
        let gone = json!({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too\u{1b}old"}});
        assert_eq!(said(&gone.to_string()), "- error 410 tooold");
    }

    #[test]
    fn what_is_wrong_with_an_object_is_its_own_problem() {
        for (line, expected) in [
            ("", "- nonsense"),
            ("[]", "- nonsense"),
            (r#"{"type":7,"object":{}}"#, "- nonsense"),
            (r#"{"type":"ADDED"}"#, "- nonsense"),
            (
                r#"{"type":"ADDED","object":7}"#,
                "- /: metadata.name: missing",
            ),
            (
                r#"{"type":"ADDED","object":{"metadata":{"name":7,"resourceVersion":8}}}"#,
                "- /: metadata.name: missing",
            ),
            (
                r#"{"type":"ADDED","object":{"spec":{"cpu":1e999},"metadata":{"name":"a","namespace":"n","resourceVersion":"3"}}}"#,
                "3 n/a: cannot be read: number out of range at line 1 column 20",
            ),
            (r#"{"type":"ERROR","object":null}"#, "- error 0 "),
        ] {
            assert_eq!(said(line), expected);
        }
        let deep = format!(
            r#"{{"type":"ADDED","object":{{"metadata":{{"name":"a"}},"x":{}{}}}}}"#,
            "[".repeat(5_000),
            "]".repeat(5_000)
        );
        assert!(!said(&deep).contains("is a"));
    }
}
