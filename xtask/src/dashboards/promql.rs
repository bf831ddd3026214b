//! Which metrics and labels a PromQL expression names, and inside which functions. Not a parser: promtool and the store
//! judge the grammar, this only finds the names in expressions that follow it.

use std::collections::BTreeSet;

/// Words that are not metrics although no parenthesis follows them.
const WORDS: [&str; 20] = [
    "and", "atan2", "avg", "bool", "bottomk", "by", "count", "group", "inf", "max", "min", "nan",
    "offset", "on", "or", "quantile", "stddev", "sum", "topk", "unless",
];
/// Words before a list of labels.
const LISTS: [&str; 6] = [
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
];

/// A metric as an expression uses it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selector {
    /// Its name.
    pub(super) metric: String,
    /// Label, operator and value of each matcher.
    pub(super) matchers: Vec<(String, String, String)>,
    /// What stands in brackets after it.
    pub(super) range: Option<String>,
    /// The function that it is an argument of; empty if none. Also empty for an aggregation whose labels come first.
    pub(super) function: String,
}

/// What an expression names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    /// Each use of a metric, in order.
    pub(super) selectors: Vec<Selector>,
    /// Labels of `by (...)` and the like.
    pub(super) grouping: BTreeSet<String>,
    /// Labels that `label_replace` makes.
    pub(super) made: BTreeSet<String>,
}

/// Names of an expression.
pub(super) fn names(expression: &str) -> Names {
    let tokens = tokens(expression);
    let mut reader = Reader {
        tokens: &tokens,
        at: 0,
        calls: Vec::new(),
        names: Names::default(),
    };
    reader.read();
    reader.names
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    /// A number, a duration or a Grafana variable.
    Value(String),
    Sign(char),
}

fn tokens(expression: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut chars = expression.chars().peekable();
    let of_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    while let Some(first) = chars.next() {
        if first == '"' || first == '\'' {
            let mut text = String::new();
            while let Some(c) = chars.next().filter(|c| *c != first) {
                text.push(c);
                if c == '\\' {
                    text.extend(chars.next());
                }
            }
            tokens.push(Token::Text(text));
        } else if of_word(first) || first == '$' {
            let mut word = String::from(first);
            while let Some(c) = chars.next_if(|c| of_word(*c) || *c == '.') {
                word.push(c);
            }
            let value = first == '$' || first.is_ascii_digit();
            tokens.push(if value {
                Token::Value(word)
            } else {
                Token::Word(word)
            });
        } else if !first.is_whitespace() {
            tokens.push(Token::Sign(first));
        }
    }
    tokens
}

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
    /// The function before each open parenthesis; empty for a plain one.
    calls: Vec<String>,
    names: Names,
}

impl Reader<'_> {
    fn read(&mut self) {
        while let Some(token) = self.next() {
            match token {
                Token::Sign('(') => self.calls.push(String::new()),
                Token::Sign(')') => drop(self.calls.pop()),
                Token::Word(word) if LISTS.contains(&word.as_str()) => self.list(),
                Token::Word(word) if self.take('(') => {
                    if word == "label_replace" || word == "label_join" {
                        self.made();
                    }
                    self.calls.push(word);
                }
                Token::Word(word) if !WORDS.contains(&word.as_str()) => self.selector(word),
                Token::Word(_) | Token::Text(_) | Token::Value(_) | Token::Sign(_) => {}
            }
        }
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn take(&mut self, sign: char) -> bool {
        let is = self.tokens.get(self.at) == Some(&Token::Sign(sign));
        self.at += usize::from(is);
        is
    }

    /// `(a, b)` after `by`; `group_left` may stand alone.
    fn list(&mut self) {
        if self.take('(') {
            while let Some(token) = self.next().filter(|token| *token != Token::Sign(')')) {
                if let Token::Word(label) = token {
                    self.names.grouping.insert(label);
                }
            }
        }
    }

    /// The first text among the arguments of the call that begins here.
    fn made(&mut self) {
        let mut depth = 0;
        for token in self.tokens.iter().skip(self.at) {
            match token {
                Token::Sign('(' | '{') => depth += 1,
                Token::Sign(')' | '}') => depth -= 1,
                Token::Text(text) if depth == 0 => {
                    self.names.made.insert(text.clone());
                    return;
                }
                Token::Word(_) | Token::Text(_) | Token::Value(_) | Token::Sign(_) => {}
            }
        }
    }

    /// What follows a metric's name.
    fn selector(&mut self, metric: String) {
        let mut selector = Selector {
            metric,
            function: self.calls.last().cloned().unwrap_or_default(),
            ..Selector::default()
        };
        if self.take('{') {
            let mut matcher = (String::new(), String::new(), String::new());
            while let Some(token) = self.next().filter(|token| *token != Token::Sign('}')) {
                match token {
                    Token::Word(label) => matcher.0 = label,
                    Token::Text(value) => {
                        matcher.2 = value;
                        selector.matchers.push(std::mem::take(&mut matcher));
                    }
                    Token::Sign(',') | Token::Value(_) => {}
                    Token::Sign(sign) => matcher.1.push(sign),
                }
            }
        }
        if self.take('[') {
            let mut range = String::new();
            while let Some(token) = self.next().filter(|token| *token != Token::Sign(']')) {
                match token {
                    Token::Word(text) | Token::Value(text) | Token::Text(text) => {
                        range.push_str(&text);
                    }
                    Token::Sign(sign) => range.push(sign),
                }
            }
            selector.range = Some(range);
        }
        self.names.selectors.push(selector);
    }
}

#[cfg(test)]
mod tests {
    use super::names;

    /// `function(metric{matchers}[range])` of each selector, then the labels of lists.
    fn shown(expression: &str) -> String {
        let names = names(expression);
        let mut lines: Vec<String> = names
            .selectors
            .iter()
            .map(|s| {
                let matchers: Vec<String> = s
                    .matchers
                    .iter()
                    .map(|(l, o, v)| format!("{l}{o}{v}"))
                    .collect();
                format!(
                    "{}({}{{{}}}[{}])",
                    s.function,
                    s.metric,
                    matchers.join(","),
                    s.range.as_deref().unwrap_or("")
                )
            })
            .collect();
        lines.push(names.grouping.into_iter().collect::<Vec<_>>().join(" "));
        lines.push(names.made.into_iter().collect::<Vec<_>>().join(" "));
        lines.join("; ")
    }

    #[test]
    fn names_of_expressions() {
        for (expression, expected) in [
            ("up", "(up{}[]); ; "),
            ("sum by (a, b) (up) > 0", "(up{}[]); a b; "),
            ("sum(up) by (a) or 0 * m:r", "sum(up{}[]); (m:r{}[]); a; "),
            (
                r#"topk(20, sum by (a) (rate(x_total{r="s, }", n=~"$n"}[$__rate_interval])))"#,
                "rate(x_total{r=s, },n=~$n}[$__rate_interval]); a; ",
            ),
            (
                r#"(a{x!="1"} and on (n) b offset 1h) unless ignoring(q) c"#,
                "(a{x!=1}[]); (b{}[]); (c{}[]); n q; ",
            ),
            (
                r#"sum by (port) (label_replace(label_replace(m{a="b"}, "port", "$1", "p", "(.+)"), "q", "d", "p", "3(2|1)"))"#,
                "label_replace(m{a=b}[]); port; port q",
            ),
            (
                "max_over_time(m[15m] offset 1h) / 1e3",
                "max_over_time(m{}[15m]); ; ",
            ),
        ] {
            assert_eq!(shown(expression), expected, "{expression}");
        }
    }
}
