//! F23, T5 and T12 of RELIABILITY: objects that no API server would take, and names that are chosen to harm.

use plumbline_core::observation::Health;
use serde_json::{Value, json};

use crate::double::Api;
use crate::pod;
use crate::watching::Watching;

/// A pod with this CPU limit.
fn limited(name: &str, cpu: &Value) -> Value {
    let mut pod = pod(name, 80);
    pod["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": cpu}});
    pod
}

/// Names of pods with their limits: what is not known is `-`.
fn limits(watch: &Watching) -> Vec<String> {
    let pods = watch.declared.iter().flat_map(|declared| &declared.pods);
    pods.map(|pod| {
        let limit = pod.containers[0].cpu_limit_millis;
        format!(
            "{} {}",
            pod.name,
            limit.map_or("-".to_owned(), |limit| limit.to_string())
        )
    })
    .collect()
}

/// F23, in lists: each of these costs only itself, whatever is wrong with it.
#[test]
fn malformed_items_of_a_list_cost_only_themselves() {
    for minor in [30, 34] {
        let api = Api::start();
        api.set_minor(minor);
        api.put("pods", limited("good", &json!("500m")));
        for (name, cpu) in [
            ("negative", json!("-1")),
            ("huge", json!("1e999")),
            ("hex", json!("0x1")),
            ("list", json!([1])),
        ] {
            api.put("pods", limited(name, &cpu));
        }
        let mut wrong = pod("wrong", 80);
        wrong["spec"]["containers"] = json!("none");
        api.put("pods", wrong);
        let mut unknown = pod("unknown-fields", 80);
        (unknown["spec"]["future"], unknown["future"]) = (json!({"a": [1, 2]}), json!(7));
        api.put("pods", unknown);
        let mut without = pod("without-uid", 80);
        without["metadata"].as_object_mut().unwrap().remove("uid");
        api.put("pods", without);
        let mut large = pod("large", 80);
        large["metadata"]["annotations"] = json!({"a": "x".repeat(2_200_000)});
        api.put("pods", large);
        if minor == 30 {
            for item in [
                "7",
                "null",
                "{}",
                r#"{"metadata":7}"#,
                r#"{"metadata":{"name":["x"]}}"#,
                r#"{"metadata":{"name":"raw","namespace":"shop"},"spec":{"containers":[{"name":"c","resources":{"limits":{"cpu":1e999}}}]}}"#,
            ] {
                api.raw_item("pods", item.to_owned());
            }
            // The same name twice: the later stands.
            api.raw_item("pods", limited("good", &json!("250m")).to_string());
        }
        let mut watch = Watching::start(&api);
        watch.until_health(Health::Ok);
        let good = if minor == 30 { "good 250" } else { "good 500" };
        assert_eq!(
            limits(&watch),
            [good, "unknown-fields -", "without-uid -"],
            "{minor}"
        );
        let declared = watch.declared.clone().unwrap();
        let at: Vec<&str> = declared
            .problems
            .iter()
            .map(|problem| problem.at.as_str())
            .collect();
        for name in ["negative", "huge", "hex", "list"] {
            let at = at.iter().find(|at| {
                at.starts_with(&format!(
                    "pods shop/{name}: spec.containers[0].resources.limits"
                ))
            });
            assert!(at.is_some(), "{name}: {:#?}", declared.problems);
        }
        assert!(declared.problems_total >= 6, "{}", declared.problems_total);
        if minor == 30 {
            assert!(
                at.contains(&"pods shop/raw") && declared.problems_total >= 11,
                "{:#?}",
                declared.problems
            );
        }
    }
}

/// F23, in watches: likewise; and what was good becomes unknown, never zero.
#[test]
fn malformed_events_cost_only_themselves() {
    let api = Api::start();
    api.put("pods", limited("a", &json!(1)));
    api.put("pods", limited("b", &json!(2)));
    let mut watch = Watching::start(&api);
    watch.until("the watch", |_| api.open("pods") == 1);
    watch.until_names(&["a", "b"]);
    for line in [
        "not json",
        "{}",
        "[]",
        "7",
        "",
        r#"{"type":"ADDED"}"#,
        r#"{"type":"ADDED","object":[]}"#,
        r#"{"type":"NOVEL","object":{"metadata":{"name":"b","namespace":"shop"}}}"#,
        r#"{"type":"MODIFIED","object":{"spec":{"x":1e999},"metadata":{"name":"a","namespace":"shop","resourceVersion":"12"}}}"#,
    ] {
        api.raw("pods", line.to_owned());
    }
    api.raw(
        "pods",
        format!(
            r#"{{"type":"ADDED","object":{{"metadata":{{"name":"x","a":"{}"}}}}}}"#,
            "x".repeat(2_300_000)
        ),
    );
    api.raw(
        "pods",
        format!(
            r#"{{"type":"ADDED","object":{{"metadata":{{"name":"deep"}},"x":{}}}}}"#,
            "[".repeat(100_000)
        ),
    );
    api.put("pods", limited("c", &json!("3")));
    watch.until("the last", |watch| limits(watch) == ["b 2000", "c 3000"]);
    watch.until_health(Health::Ok);
    assert_eq!(
        api.count("list", "/pods?"),
        1,
        "none of it ended the watch for good"
    );
    assert_eq!(api.count("watch", "/pods?"), 1);
    let declared = watch.declared.as_ref().unwrap();
    assert!(
        declared
            .problems
            .iter()
            .any(|problem| problem.at == "pods shop/a"),
        "{:#?}",
        declared.problems
    );
    assert!(declared.problems_total >= 8, "{}", declared.problems_total);
}

/// T12: what is no answer of an API server at all leaves the last state in force.
#[test]
fn an_answer_that_is_no_list_changes_nothing() {
    let api = Api::start();
    api.put("pods", pod("a", 80));
    let mut watch = Watching::start(&api);
    watch.until_names(&["a"]);
    watch.until("the watch", |_| api.open("pods") == 1);
    api.raw_item("pods", "]}, <html>".to_owned());
    api.compact();
    api.end_watches();
    watch.until_reason("declared", "cannot list pods: the answer is no list");
    assert_eq!(watch.names(), ["a"]);
}

/// T5: names and labels are data, whatever is in them.
#[test]
fn names_that_are_chosen_to_harm_are_only_names() {
    let api = Api::start();
    let names = [
        "../../etc/passwd",
        "a\u{1b}[31mred",
        "a\nb",
        "\u{0430}pp",
        "x,metadata.name=y",
        "%2e%2e",
        &"n".repeat(253),
    ];
    for name in names {
        let mut pod = pod(name, 80);
        pod["metadata"]["labels"] = json!({"\u{7f}": name, "app": "\u{0}"});
        pod["metadata"]["annotations"] =
            json!({"kubernetes.io/config.hash": name, "big": "x".repeat(1 << 20)});
        api.put("pods", pod);
    }
    let mut watch = Watching::start(&api);
    watch.until("all of them", |watch| watch.names().len() == names.len());
    let mut told = watch.names();
    let mut sorted = names.to_vec();
    told.sort_unstable();
    sorted.sort_unstable();
    assert_eq!(told, sorted);
    let asked = api.asked();
    let strange = |c: char| !(c.is_ascii_alphanumeric() || "/?&=.-%".contains(c));
    assert!(
        asked.iter().all(|asked| !asked.target.contains(strange)),
        "{asked:#?}"
    );
}
