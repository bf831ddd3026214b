//! Secrets in records, replaced before anything leaves: opt-in, by expressions that are matched in linear time. Pure.

use std::borrow::Cow;

use regex::bytes::{Regex, RegexBuilder};

/// Expressions that may be given.
pub const EXPRESSIONS_MAX: usize = 64;
/// Bytes of one.
const EXPRESSION_BYTES_MAX: usize = 1_024;
/// Bytes of the automaton, and of what is remembered of it while matching.
const AUTOMATON_BYTES_MAX: usize = 2 << 20;
/// What stands for a secret.
const HIDDEN: &[u8] = b"***";

/// Expressions by name: `@jwt` and the like.
pub const NAMED: [(&str, &str); 7] = [
    ("aws-key", r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    ("bearer", r"(?i)\bbearer\s+[a-z0-9._~+/=-]{8,}"),
    (
        "email",
        r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}",
    ),
    (
        "jwt",
        r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",
    ),
    (
        "password",
        r#"(?i)\b(?:password|passwd|pwd|secret|api[_-]?key|access[_-]?token)\\?"?\s{0,8}[:=]\s{0,8}\\?"?[^\s",;&\\]{1,256}"#,
    ),
    (
        "private-key",
        r"-----BEGIN [A-Z ]{0,32}PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]{0,32}PRIVATE KEY-----|\z)",
    ),
    (
        "url-password",
        r"\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@]{1,128}:[^\s/@]{1,256}@",
    ),
];

/// All expressions, as one.
#[derive(Clone, Debug)]
pub struct Redactor(Regex);

impl Redactor {
    /// From expressions, or names of [`NAMED`] after an `@`. Classes such as `\w` are those of ASCII.
    ///
    /// # Errors
    ///
    /// What is wrong, and with which.
    pub fn new(expressions: &[String]) -> Result<Self, String> {
        if expressions.len() > EXPRESSIONS_MAX {
            return Err(format!(
                "at most {EXPRESSIONS_MAX} expressions can be given"
            ));
        }
        let mut parts = Vec::new();
        for expression in expressions {
            let expression = resolve(expression)?;
            // Each by itself first: an open bracket of one must not swallow the next, and errors must name theirs.
            let alone = compile(expression).map_err(|error| format!("`{expression}`: {error}"))?;
            if alone.is_match(b"") {
                return Err(format!(
                    "`{expression}` matches nothing at all, which is everywhere"
                ));
            }
            parts.push(format!("(?:{expression})"));
        }
        compile(&parts.join("|"))
            .map(Self)
            .map_err(|error| format!("all expressions together: {error}"))
    }

    /// Without what matches.
    #[must_use]
    pub fn apply<'a>(&self, content: &'a [u8]) -> Cow<'a, [u8]> {
        self.0.replace_all(content, regex::bytes::NoExpand(HIDDEN))
    }
}

fn resolve(expression: &str) -> Result<&str, String> {
    let Some(name) = expression.strip_prefix('@') else {
        if expression.len() > EXPRESSION_BYTES_MAX {
            return Err(format!(
                "an expression has at most {EXPRESSION_BYTES_MAX} bytes"
            ));
        }
        return Ok(expression);
    };
    let known = NAMED.iter().find(|(known, _)| *known == name);
    known.map(|(_, expression)| *expression).ok_or_else(|| {
        let names: Vec<&str> = NAMED.iter().map(|(name, _)| *name).collect();
        format!(
            "no expression is named `@{name}`; there are @{}",
            names.join(", @")
        )
    })
}

fn compile(expression: &str) -> Result<Regex, String> {
    let mut builder = RegexBuilder::new(expression);
    // Bytes, not characters: a record may be anything, and matching stays quick.
    builder
        .unicode(false)
        .size_limit(AUTOMATON_BYTES_MAX)
        .dfa_size_limit(AUTOMATON_BYTES_MAX);
    builder.build().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Redactor {
        let names: Vec<String> = NAMED.iter().map(|(name, _)| format!("@{name}")).collect();
        Redactor::new(&names).unwrap()
    }

    #[test]
    fn seeded_secrets_of_each_format() {
        for (text, secret) in [
            ("key AKIAIOSFODNN7EXAMPLE used", "AKIAIOSFODNN7EXAMPLE"),
            ("Authorization: Bearer abcdef0123456789", "abcdef0123456789"),
            ("mail to jane.doe+x@mail.example.org now", "jane.doe"),
            (
                "t=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.SflKxwRJSMeKKF2QT4 ok",
                "eyJzdWIi",
            ),
            ("password=hunter2 user=x", "hunter2"),
            (r#"{"user":"x","Password" : "hunter2"}"#, "hunter2"),
            (r#"{"msg":"{\"api_key\":\"hunter2\"}"}"#, "hunter2"),
            ("postgres://app:hunter2@db/x", "hunter2"),
            (
                "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY----- end",
                "MIIEow",
            ),
            ("-----BEGIN PRIVATE KEY-----\nMIIEow (cut", "MIIEow"),
        ] {
            let clean = all().apply(text.as_bytes()).into_owned();
            let clean = String::from_utf8(clean).unwrap();
            assert!(!clean.contains(secret) && clean.contains("***"), "{clean}");
        }
    }

    #[test]
    fn what_is_no_secret_stays_and_is_not_copied() {
        let text = b"GET /users/42 200 12ms \xff";
        assert!(matches!(all().apply(text), Cow::Borrowed(same) if same == text));
    }

    #[test]
    fn own_expressions_and_what_is_wrong_with_them() {
        let redactor = Redactor::new(&["card [0-9]{4}".into(), "x+y".into()]).unwrap();
        assert_eq!(&*redactor.apply(b"card 1234, xxy, z"), b"***, ***, z");
        for (wrong, part) in [
            ("(", "`(`"),
            ("a*", "everywhere"),
            ("@jwtt", "@jwt, @password"),
            ("(?:x{1000}){1000}", "size limit"),
        ] {
            let error = Redactor::new(&[wrong.into()]).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        let long = "x".repeat(EXPRESSION_BYTES_MAX + 1);
        assert!(Redactor::new(&[long]).is_err());
        assert!(Redactor::new(&vec!["x".to_owned(); EXPRESSIONS_MAX + 1]).is_err());
    }

    /// What takes a backtracking matcher for ever ends: the test would not.
    #[test]
    fn hostile_input_takes_linear_time() {
        let redactor = Redactor::new(&["(a+)+b".into(), "(x|x)*y".into()]).unwrap();
        let hostile = [vec![b'a'; 100_000], vec![b'x'; 100_000]].concat();
        assert_eq!(redactor.apply(&hostile).len(), hostile.len());
    }
}
