//! Runs a dashboard's queries against a live store, as Grafana would with everything chosen.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, ToSocketAddrs as _},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::board::{Board, Target, Variable};
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
/// How long what was just sent may take to be found, and how often to look.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_secs(1);

/// What is asked of the store.
struct Question {
    /// The panel or variable, for people.
    what: String,
    /// PromQL, before variables are replaced.
    query: String,
    /// Path of the request, with the store's own prefix left out.
    path: String,
    /// Why there may be no answer.
    excuse: Option<String>,
}

/// Asks every query until each has an answer or the patience is over. Problems, and how it went.
pub(super) fn check(
    board: &Board,
    exceptions: &BTreeMap<String, String>,
    store: &str,
) -> Result<(Vec<String>, String)> {
    let server = address(store)?;
    // VictoriaMetrics shows what was just sent only after this; other stores do not know it and need it not.
    drop(http::get(server, "/internal/force_flush"));
    let give_up = shell::now() + PATIENCE;
    let mut open = questions(board, exceptions, now()?);
    let asked = open.len();
    loop {
        let mut unanswered = Vec::new();
        for question in open {
            match answered(&http::get(server, &question.path)) {
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
        let later = questions(board, exceptions, now()?);
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

fn questions(board: &Board, exceptions: &BTreeMap<String, String>, now: Duration) -> Vec<Question> {
    let variables = &board.templating.list;
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
    let of_panels = board.targets().map(|(panel, target)| Question {
        what: format!("panel {:?} {}", panel.title, target.ref_id),
        query: target.expr.clone(),
        path: path(target, &replaced(&target.expr, variables), now),
        excuse: exceptions.get(&target.expr).cloned(),
    });
    of_variables.chain(of_panels).collect()
}

/// Where to ask, as Grafana does it for this kind of query.
fn path(target: &Target, query: &str, now: Duration) -> String {
    let (query, end) = (http::query_value(query), now.as_secs());
    if target.instant {
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
fn answered(answer: &Result<String>) -> Result<bool> {
    let text = match answer {
        Ok(text) => text,
        Err(error) => anyhow::bail!("{error:#}"),
    };
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
        io::{Read as _, Write as _},
        net::TcpListener,
    };

    use super::{BTreeMap, Board, address, answered, check, thread};

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
            assert_eq!(answered(&Ok(answer.into())).unwrap(), expected, "{answer}");
        }
        assert!(answered(&Ok("oops".into())).is_err());
        assert!(answered(&Err(anyhow::anyhow!("refused"))).is_err());
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
                let mut request = [0; 4096];
                let length = stream.read(&mut request).unwrap();
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
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

    #[test]
    fn every_query_is_asked_with_its_variables_replaced() {
        let store = store(&[
            ("/label/k8s_ns/values?match[]=g&", r#"{"data":["shop"]}"#),
            (
                "/query_range?query=sum%28rate%28a%7Bn%3D~%22.%2A%22%7D%5B1m%5D%29%29&start=",
                FULL,
            ),
            ("/query?query=b&time=", FULL),
        ]);
        let board = Board::parse(BOARD).unwrap();
        let (problems, summary) = check(&board, &BTreeMap::new(), &store).unwrap();
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(summary, "3 of 3 queries returned data from the live store");
    }

    #[test]
    fn what_is_excused_may_be_empty_but_not_wrong() {
        let excused = |query: &str| BTreeMap::from([(query.to_owned(), "quiet".to_owned())]);
        let board = Board::parse(BOARD).unwrap();
        let empty = store(&[
            ("/label/", r#"{"data":["shop"]}"#),
            ("/query_range", FULL),
            ("/query", r#"{"data":{"result":[]}}"#),
        ]);
        let (problems, summary) = check(&board, &excused("b"), &empty).unwrap();
        assert_eq!(problems, Vec::<String>::new());
        assert!(summary.starts_with("2 of 3"), "{summary}");
        assert!(summary.ends_with("panel \"P\" B: quiet"), "{summary}");
    }
}
