//! The file against the keys: everything that is wrong with it at once, each with its line. What serde would say comes one
//! at a time.

use std::fmt;

use plumbline_core::host_listener::AllowedListener;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use serde_saphyr::options::DuplicateKeyPolicy;

use super::keys::{KEYS, Kind, RULE};
use super::{Problem, Span, file};
use crate::logs::options::{LabelRule, Size};

/// A value of the file, with where it stands.
type Node = Spanned<Raw>;

/// YAML as it is.
#[derive(Debug)]
enum Raw {
    Null,
    Bool,
    Number(bool),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Spanned<String>, Node)>),
}

/// All problems of a text; `name` is the file in messages.
pub(super) fn problems(text: &str, name: &str) -> Vec<Problem> {
    if file::is_empty(text) {
        return Vec::new();
    }
    let mut check = Check {
        name,
        problems: Vec::new(),
    };
    let options = serde_saphyr::options! {
        // A key that is given twice is told of with all the rest.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        with_snippet: false,
    };
    match serde_saphyr::from_str_with_options::<Node>(text, options) {
        Ok(root) => check.group("", &root),
        Err(error) => {
            let problem = Problem {
                at: name.to_owned(),
                message: error.to_string(),
            };
            check.problems.push((0, problem));
        }
    }
    check.problems.sort_by_key(|(line, _)| *line);
    check
        .problems
        .into_iter()
        .map(|(_, problem)| problem)
        .collect()
}

struct Check<'a> {
    name: &'a str,
    /// Each with its line.
    problems: Vec<(u64, Problem)>,
}

impl Check<'_> {
    fn say(&mut self, line: u64, message: String) {
        let problem = Problem {
            at: format!("{}: line {line}", self.name),
            message,
        };
        self.problems.push((line, problem));
    }

    /// A mapping of keys below `path`; the whole file is the one below nothing.
    fn group(&mut self, path: &str, node: &Node) {
        let Some(entries) = self.map(path, node) else {
            return;
        };
        for (name, value) in entries {
            let full = if path.is_empty() {
                name.value.clone()
            } else {
                format!("{path}.{}", name.value)
            };
            if let Some(key) = KEYS.iter().find(|key| key.path == full) {
                self.value(&full, key.kind, value);
            } else if KEYS.iter().any(|key| below(&full, key.path).is_some()) {
                self.group(&full, value);
            } else {
                let known = KEYS.iter().filter_map(|key| below(path, key.path));
                let known = known.map(|rest| rest.split('.').next().unwrap_or(rest));
                self.unknown(name, &full, known);
            }
        }
    }

    /// The entries of a mapping, each key once.
    fn map<'n>(&mut self, path: &str, node: &'n Node) -> Option<&'n [(Spanned<String>, Node)]> {
        let Raw::Map(entries) = &node.value else {
            let what = if path.is_empty() { "the file" } else { path };
            let found = node.value.kind();
            self.say(
                node.referenced.line(),
                format!("{what} must be a mapping of keys, not {found}"),
            );
            return None;
        };
        for (index, (name, _)) in entries.iter().enumerate() {
            if entries[..index]
                .iter()
                .any(|(other, _)| other.value == name.value)
            {
                self.say(
                    name.referenced.line(),
                    format!("`{}` is given twice", name.value),
                );
            }
        }
        Some(entries)
    }

    fn unknown<'k>(
        &mut self,
        name: &Spanned<String>,
        full: &str,
        known: impl Iterator<Item = &'k str>,
    ) {
        let known: Vec<&str> = known.collect();
        let near = known
            .iter()
            .map(|other| (distance(&name.value, other), *other))
            .min()
            .filter(|(distance, other)| *distance * 3 <= other.len().max(3));
        let hint = near.map_or_else(String::new, |(_, other)| {
            format!("; did you mean `{other}`?")
        });
        self.say(
            name.referenced.line(),
            format!("unknown key `{full}`{hint}"),
        );
    }

    fn value(&mut self, path: &str, kind: Kind, node: &Node) {
        let line = node.referenced.line();
        let wrong = match (kind, &node.value) {
            // A key without a value is as good as absent.
            (_, Raw::Null)
            | (Kind::Text, Raw::Text(_))
            | (Kind::Bool, Raw::Bool)
            | (Kind::Number | Kind::Size, Raw::Number(true)) => None,
            (Kind::Text, _) => Some("text; quote it if it looks like something else".to_owned()),
            (Kind::Bool, _) => Some("true or false".to_owned()),
            (Kind::Number, _) => Some("a whole number".to_owned()),
            (Kind::Span, Raw::Text(text)) => self.parsed(line, path, text.parse::<Span>()),
            (Kind::Span, _) => Some("a span of time like 500ms, 30s or 5m".to_owned()),
            (Kind::Size, Raw::Text(text)) => self.parsed(line, path, text.parse::<Size>()),
            (Kind::Size, _) => Some("a number of bytes like 500Ki, 50Mi or 1Gi".to_owned()),
            (Kind::Label, Raw::Text(text)) => self.parsed(line, path, text.parse::<LabelRule>()),
            (Kind::Label, _) => Some("text like NAMESPACE:KEY=VALUE".to_owned()),
            (Kind::Listener, Raw::Text(text)) => {
                let parsed = text.parse::<AllowedListener>();
                self.parsed(line, path, parsed.map_err(|error| error.to_string()))
            }
            (Kind::Listener, _) => Some("text like `sshd.service` or `tcp/22`".to_owned()),
            (Kind::Word(words), Raw::Text(text)) if words.contains(&text.as_str()) => None,
            (Kind::Word(words), _) => Some(format!("one of {}", words.join(", "))),
            (Kind::Rules, _) => {
                self.rules(path, node);
                None
            }
            (Kind::List(keys), Raw::List(items)) => {
                for (index, item) in items.iter().enumerate() {
                    self.object(&format!("{path}[{index}]"), keys, item);
                }
                None
            }
            (Kind::Each(kind), Raw::List(items)) => {
                for (index, item) in items.iter().enumerate() {
                    self.value(&format!("{path}[{index}]"), *kind, item);
                }
                None
            }
            (Kind::List(_) | Kind::Each(_), _) => Some("a list".to_owned()),
        };
        if let Some(wrong) = wrong {
            let found = node.value.kind();
            self.say(line, format!("`{path}` must be {wrong}, not {found}"));
        }
    }

    /// Says what is wrong with a text in its own words.
    fn parsed<T>(&mut self, line: u64, path: &str, parsed: Result<T, String>) -> Option<String> {
        if let Err(error) = parsed {
            self.say(line, format!("`{path}`: {error}"));
        }
        None
    }

    fn rules(&mut self, path: &str, node: &Node) {
        for (id, rule) in self.map(path, node).unwrap_or_default() {
            self.object(&format!("{path}.{}", id.value), RULE, rule);
        }
    }

    fn object(&mut self, path: &str, keys: &[(&'static str, Kind)], node: &Node) {
        for (name, value) in self.map(path, node).unwrap_or_default() {
            let full = format!("{path}.{}", name.value);
            match keys.iter().find(|(key, _)| *key == name.value) {
                Some((_, kind)) => self.value(&full, *kind, value),
                None => self.unknown(name, &full, keys.iter().map(|(key, _)| *key)),
            }
        }
    }
}

/// What follows of a key below a group; all of it below nothing.
fn below<'k>(group: &str, key: &'k str) -> Option<&'k str> {
    if group.is_empty() {
        return Some(key);
    }
    key.strip_prefix(group)?.strip_prefix('.')
}

/// How many characters must be changed, added or left out to make one word the other (Levenshtein). Words that are much
/// longer than any key are far from all.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > 64 {
        return usize::MAX / 3;
    }
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

impl Raw {
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool => "true or false",
            Self::Number(_) => "this number",
            Self::Text(_) => "this text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Raw, E> {
        Ok(Raw::Bool)
    }

    fn visit_i64<E>(self, number: i64) -> Result<Raw, E> {
        Ok(Raw::Number(number >= 0))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Raw, E> {
        Ok(Raw::Number(true))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Raw, E> {
        Ok(Raw::Number(false))
    }

    fn visit_str<E>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}
