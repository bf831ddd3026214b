//! Runs a dashboard's queries against a live store, as Grafana would with everything chosen, and those of alert rules.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, ToSocketAddrs as _},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{
    alerts::Alert,
    board::{Board, Variable},
};
use crate::{http, shell};

/// What Grafana puts in place of its own variables.
const BUILT_IN: [(&str, &str); 3] = [
    ("$__rate_interval", "1m"),
    ("$__interval", "15s"),
    ("$__range", "5m"),
];
/// The time range that is looked at, and its step.
const RANGE: Duration = Duration::from_secs(300);
const STEP: Duration = Duration::from_secs(15);
/// How long what was just sent may take to be found.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// How often to look.
const PAUSE: Duration = Duration::from_secs(1);

/// What to ask.
pub(super) struct Asked {
    /// Its variables and panels.
    pub(super) board: Board,
    /// Their expressions.
    pub(super) alerts: Vec<Alert>,
    /// Queries and names of alerts that may return nothing, with the reason.
    pub(super) exceptions: BTreeMap<String, String>,
}

/// One question to the store.
struct Question {
    /// The panel, variable or alert, for people.
    what: String,
    /// PromQL, before variables are replaced.
    query: String,
    /// Path of the request, with the store's own prefix left out.
    path: String,
    /// Why there may be no answer.
    excuse: Option<String>,
}

/// Asks every query until each has an answer or the patience is over. Returns the problems, and how it went.
pub(super) fn check(all: &Asked, store: &str, patience: Duration) -> Result<(Vec<String>, String)> {
    let server = address(store)?;
    // VictoriaMetrics shows what was just sent only after this; other stores do not know it and need it not.
    drop(http::get(server, "/internal/force_flush"));
    let give_up = shell::now() + patience;
    let mut open = questions(all, now()?);
    let asked = open.len();
    loop {
        let mut unanswered = Vec::new();
        for question in open {
            match http::get(server, &question.path).and_then(|text| answered(&text)) {
                Ok(true) => {}
                Ok(false) => unanswered.push((question, "returns nothing".to_owned())),
                Err(error) => unanswered.push((question, format!("fails: {error:#}"))),
            }
        }
        let required = |(question, said): &(Question, String)| {
            question.excuse.is_none() || said != "returns nothing"
        };
        let waits = unanswered.iter().any(required);
        if !waits || shell::now() >= give_up {
            return Ok(verdict(asked, unanswered));
        }
        thread::sleep(PAUSE);
        let later = questions(all, now()?);
        let still = |question: &Question| {
            unanswered
                .iter()
                .any(|(open, _)| open.what == question.what && open.query == question.query)
        };
        open = later.into_iter().filter(still).collect();
    }
}

/// The problems among what has no answer, and the count of all.
fn verdict(asked: usize, unanswered: Vec<(Question, String)>) -> (Vec<String>, String) {
    let mut problems = Vec::new();
    let mut excused = Vec::new();
    for (question, said) in unanswered {
        match question.excuse {
            Some(reason) if said == "returns nothing" => {
                excused.push(format!("{}: {reason}", question.what));
            }
            Some(_) | None => {
                problems.push(format!("{} {said}: {}", question.what, question.query))
            }
        }
    }
    let answered = asked - problems.len() - excused.len();
    let mut summary = format!("{answered} of {asked} queries returned data from the live store");
    for excuse in excused {
        summary.push_str("\n  nothing, as it may be: ");
        summary.push_str(&excuse);
    }
    (problems, summary)
}

fn questions(all: &Asked, now: Duration) -> Vec<Question> {
    let variables = &all.board.templating.list;
    let of_variables = variables.iter().filter_map(|variable| {
        let (selector, label) = variable.label_values()?;
        let selector = replaced(selector, variables);
        let (start, end) = (now.saturating_sub(RANGE).as_secs(), now.as_secs());
        let matching = http::query_value(&selector);
        Some(Question {
            what: format!("variable {}", variable.name),
            path: format!(
                "/api/v1/label/{label}/values?match[]={matching}&start={start}&end={end}"
            ),
            query: selector,
            excuse: None,
        })
    });
    let of_panels = all.board.targets().map(|(panel, target)| Question {
        what: format!("panel {:?} {}", panel.title, target.ref_id),
        query: target.expr.clone(),
        path: path(&replaced(&target.expr, variables), target.instant, now),
        excuse: all.exceptions.get(&target.expr).cloned(),
    });
    let of_alerts = all.alerts.iter().map(|alert| Question {
        what: format!("alert {}", alert.name()),
        query: alert.expression().to_owned(),
        path: path(alert.expression(), true, now),
        excuse: all.exceptions.get(alert.name()).cloned(),
    });
    of_variables.chain(of_panels).chain(of_alerts).collect()
}

/// Where to ask, as Grafana does it for this kind of query.
fn path(query: &str, instant: bool, now: Duration) -> String {
    let (query, end) = (http::query_value(query), now.as_secs());
    if instant {
        return format!("/api/v1/query?query={query}&time={end}");
    }
    let (start, step) = (now.saturating_sub(RANGE).as_secs(), STEP.as_secs());
    format!("/api/v1/query_range?query={query}&start={start}&end={end}&step={step}")
}

/// A query with the variables replaced. One that is not known stays, and the store refuses it or finds nothing.
fn replaced(query: &str, variables: &[Variable]) -> String {
    let built_in = BUILT_IN
        .iter()
        .map(|(name, value)| ((*name).to_owned(), *value));
    let own = variables.iter().filter_map(|variable| {
        let all = variable.all_value.as_deref()?;
        Some((format!("${}", variable.name), all))
    });
    let mut query = query.to_owned();
    for (name, value) in built_in.chain(own) {
        query = query.replace(&name, value);
    }
    query
}

/// Whether the store's answer holds a value: a number, or the value of a label.
fn answered(text: &str) -> Result<bool> {
    let answer: Value = serde_json::from_str(text).with_context(|| format!("no JSON: {text}"))?;
    let data = &answer["data"];
    let series = data["result"].as_array().map_or(&[][..], Vec::as_slice);
    let values = series.iter().flat_map(|one| {
        let range = one["values"].as_array().map_or(&[][..], Vec::as_slice);
        range.iter().chain(one.get("value"))
    });
    let number = |value: &Value| {
        value[1]
            .as_str()
            .is_some_and(|text| text.parse::<f64>().is_ok_and(|number| !number.is_nan()))
    };
    let labels = data.as_array().map_or(&[][..], Vec::as_slice);
    let label = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    Ok(values.into_iter().any(number) || labels.iter().any(label))
}

/// `http://host:port` to where it listens.
fn address(store: &str) -> Result<SocketAddr> {
    let authority = store.strip_prefix("http://").unwrap_or(store);
    let mut addresses = authority
        .trim_end_matches('/')
        .to_socket_addrs()
        .with_context(|| format!("{store} is not of the form http://host:port"))?;
    addresses
        .next()
        .with_context(|| format!("{store} has no address"))
}

/// Time since 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "xtask is no part of the agent: nothing here is replayed"
)]
fn now() -> Result<Duration> {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is set before 1970")
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        net::TcpListener,
    };

    use super::{super::alerts::parse, Asked, Board, Duration, address, answered, check, thread};

    #[test]
    fn what_counts_as_an_answer() {
        for (answer, expected) in [
            (r#"{"data":{"result":[]}}"#, false),
            (
                r#"{"data":{"result":[{"metric":{},"value":[1,"0"]}]}}"#,
                true,
            ),
            (
                r#"{"data":{"result":[{"metric":{},"value":[1,"NaN"]}]}}"#,
                false,
            ),
            (
                r#"{"data":{"result":[{"metric":{},"values":[[1,"NaN"],[2,"3"]]}]}}"#,
                true,
            ),
            (r#"{"data":[]}"#, false),
            (r#"{"data":["shop"]}"#, true),
        ] {
            assert_eq!(answered(answer).unwrap(), expected, "{answer}");
        }
        assert!(answered("oops").is_err());
    }

    #[test]
    fn addresses_of_stores() {
        assert_eq!(
            address("http://127.0.0.1:8428/").unwrap().to_string(),
            "127.0.0.1:8428"
        );
        assert_eq!(address("127.0.0.1:1").unwrap().port(), 1);
        assert!(address("http://127.0.0.1/").is_err());
    }

    /// Answers as long as it is asked; for each path the first text that it contains decides.
    fn store(answers: &'static [(&'static str, &'static str)]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = String::new();
                let mut lines = BufReader::new(&stream);
                while !request.ends_with("\r\n\r\n") {
                    assert_ne!(lines.read_line(&mut request).unwrap(), 0, "half a request");
                }
                let answer = answers.iter().find(|(part, _)| request.contains(part));
                let (status, body) =
                    answer.map_or(("400 Bad", "no such thing"), |(_, body)| ("200 OK", *body));
                write!(stream, "HTTP/1.0 {status}\r\n\r\n{body}").unwrap();
            }
        });
        format!("http://{address}")
    }

    const BOARD: &str = r#"{"uid":"u","id":null,"schemaVersion":39,"editable":false,"tags":[],
        "templating":{"list":[{"name":"ns","type":"query","query":{"query":"label_values(g, k8s_ns)"},"allValue":".*"}]},
        "panels":[{"id":1,"type":"stat","gridPos":{"x":0,"y":0,"w":1,"h":1},"title":"P","targets":[
            {"refId":"A","expr":"sum(rate(a{n=~\"$ns\"}[$__rate_interval]))"},
            {"refId":"B","expr":"b","instant":true}]}]}"#;
    const FULL: &str = r#"{"data":{"result":[{"value":[1,"2"]}]}}"#;

    /// The answers that `store` gives to a dashboard of a variable and two queries, and to one alert.
    fn ask(store: &str, excused: &[&str]) -> (Vec<String>, String) {
        let all = Asked {
            board: Board::parse(BOARD).unwrap(),
            alerts: parse("- alert: Al\n  expr: c > 0\n"),
            exceptions: excused
                .iter()
                .map(|query| ((*query).to_owned(), "quiet".to_owned()))
                .collect(),
        };
        check(&all, store, Duration::ZERO).unwrap()
    }

    #[test]
    fn every_query_is_asked_with_its_variables_replaced() {
        let store = store(&[
            ("/label/k8s_ns/values?match[]=g&", r#"{"data":["shop"]}"#),
            (
                "/query_range?query=sum%28rate%28a%7Bn%3D~%22.%2A%22%7D%5B1m%5D%29%29&start=",
                FULL,
            ),
            ("/query?query=b&time=", FULL),
            ("/query?query=c%20%3E%200&time=", FULL),
        ]);
        let (problems, summary) = ask(&store, &[]);
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(summary, "4 of 4 queries returned data from the live store");
    }

    #[test]
    fn what_is_excused_may_be_empty() {
        let store = store(&[
            ("/label/", r#"{"data":["shop"]}"#),
            ("/query_range", FULL),
            ("/query", r#"{"data":{"result":[]}}"#),
        ]);
        let (problems, summary) = ask(&store, &["b", "Al"]);
        assert_eq!(problems, Vec::<String>::new());
        assert!(summary.starts_with("2 of 4"), "{summary}");
        assert!(summary.contains("panel \"P\" B: quiet"), "{summary}");
        assert!(summary.ends_with("alert Al: quiet"), "{summary}");
    }

    #[test]
    fn what_is_empty_or_fails_is_named() {
        let store = store(&[
            ("/label/", r#"{"data":[]}"#),
            ("/query_range", FULL),
            ("/query?query=c", r#"{"data":{"result":[]}}"#),
        ]);
        let (problems, _) = ask(&store, &["b"]);
        let begins: Vec<&str> = problems
            .iter()
            .map(|problem| problem.split(": ").next().unwrap())
            .collect();
        assert_eq!(
            begins,
            [
                "variable ns returns nothing",
                "panel \"P\" B fails",
                "alert Al returns nothing"
            ],
            "an excuse is for what is empty, not for what the store refuses"
        );
    }
}
