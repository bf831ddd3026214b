//! F20 to F22, F25 and F26 of RELIABILITY: the server is away, forgets, hangs, breaks off, and refuses.

use std::fs;
use std::time::Duration;

use plumbline::clock;
use plumbline::sources::kube::{Pacing, Peers};
use plumbline_core::findings::Findings;
use plumbline_core::observation::{Fact, Health, Observation};
use plumbline_core::report::{Number, build};
use plumbline_core::rules::evaluate;

use crate::double::Api;
use crate::pod;
use crate::watching::{QUICK, Watching};

/// F20: down at the start.
#[test]
fn a_server_that_is_down_at_the_start_is_waited_for() {
    let api = Api::over_tls();
    api.put("pods", pod("a", 80));
    api.faults(|faults| faults.down = true);
    let mut watch = Watching::start(&api);
    watch.until_reason("declared", "pods");
    assert_eq!(
        (watch.probes["declared"].health, &watch.declared),
        (Health::Broken, &None)
    );
    assert!(watch.ages.is_empty(), "what was never known has no age");
    api.faults(|faults| faults.down = false);
    watch.until_health(Health::Ok);
    assert_eq!(watch.names(), ["a"]);
}

/// F20: down for a while. What is known stays, grows old at the right pace, and is current again without a new list.
#[test]
fn while_the_server_is_down_the_last_state_stays_and_its_age_is_right() {
    let api = Api::start();
    api.put("pods", pod("a", 80));
    let mut watch = Watching::start(&api);
    watch.until_health(Health::Ok);
    watch.until("all watches", |_| {
        api.open("pods") == 1 && api.open("services") == 1
    });
    watch.until("fresh", |watch| watch.as_of("pods") == Some(watch.at));
    let before = clock::monotonic();
    api.faults(|faults| faults.down = true);
    watch.until_reason("declared", "the last state stays in force");
    let after = clock::monotonic();
    assert_eq!(watch.names(), ["a"]);
    watch.until("the age", |watch| watch.at > after);
    for source in ["pods", "services"] {
        let as_of = watch.as_of(source).unwrap();
        let wrong = if as_of < before {
            before.since(as_of)
        } else {
            as_of.since(before)
        };
        assert!(wrong <= Duration::from_secs(5), "{source}: {wrong:?}");
    }
    assert!(watch.ages.iter().any(|row| {
        row.error
            .as_ref()
            .is_some_and(|error| error.contains("cannot watch pods"))
    }));

    // Two minutes on, comparison is suspended, and the finding says why.
    let late = after.plus(Duration::from_secs(130));
    let said = evaluate(&watch.node.snapshot(late));
    let stale = said
        .iter()
        .find(|condition| condition.rule.id == "M003")
        .unwrap();
    assert!(
        stale.observed.contains("cannot watch"),
        "{}",
        stale.observed
    );

    api.faults(|faults| faults.down = false);
    watch.until_health(Health::Ok);
    watch.until("fresh again", |watch| watch.as_of("pods") == Some(watch.at));
    api.put("pods", pod("b", 80));
    watch.until_names(&["a", "b"]);
    assert_eq!(api.count("list", "/pods?"), 1, "resumed, not listed");
}

/// F21: the watch is told that its version is too old. What went meanwhile is gone.
#[test]
fn after_410_one_new_list_replaces_everything() {
    for minor in [30, 34] {
        let api = Api::start();
        api.set_minor(minor);
        for name in ["stale", "b"] {
            api.put("pods", pod(name, 80));
        }
        let mut watch = Watching::start(&api);
        watch.until_names(&["b", "stale"]);
        watch.until("the watch", |_| api.open("pods") == 1);
        api.faults(|faults| faults.down = true);
        watch.until("cut off", |_| api.open("pods") == 0);
        api.delete("pods", "shop", "stale");
        api.put("pods", pod("new", 80));
        api.compact();
        api.faults(|faults| faults.down = false);
        watch.until_names(&["b", "new"]);
        watch.until_health(Health::Ok);
        let lists = api.count("list", "/pods?") + api.count("watch", "pods?fieldSelector=spec.nodeName%3Dnode-a&watch=true&allowWatchBookmarks=true&timeoutSeconds=") ;
        assert!(lists >= 2, "{lists}");
        assert_eq!(api.count("list", "/pods?"), if minor == 30 { 2 } else { 0 });
    }
}

/// F21: the second page of a list has expired.
#[test]
fn after_410_on_a_page_the_list_begins_anew() {
    let api = Api::start();
    for name in ["a", "b", "c", "d", "e"] {
        api.put("pods", pod(name, 80));
    }
    api.faults(|faults| (faults.page, faults.page_gone) = (Some(2), true));
    let mut watch = Watching::start(&api);
    watch.until("two tries", |_| {
        api.count(
            "list",
            "/pods?fieldSelector=spec.nodeName%3Dnode-a&limit=500&continue=",
        ) >= 2
    });
    assert_eq!(watch.declared, None, "half a list is no list");
    api.faults(|faults| faults.page_gone = false);
    watch.until_names(&["a", "b", "c", "d", "e"]);
    assert_eq!(api.count("list", "continue=4"), 1);
}

/// F21: a hundred 410s in a row. The pace of 30 s itself is tested where it is made; here, that it is kept to.
#[test]
fn a_server_that_forgets_at_once_is_not_flooded_with_lists() {
    let api = Api::start();
    api.put("pods", pod("a", 80));
    api.faults(|faults| faults.gone = true);
    let pacing = Pacing {
        relist: Duration::from_millis(50),
        ..QUICK
    };
    let mut watch = Watching::with(&api, Peers::Off, pacing, None);
    watch.until("a hundred", |_| api.count("watch", "/pods?") >= 100);
    let asked = api.asked();
    let mut lists = asked
        .iter()
        .filter(|asked| asked.verb == "list" && asked.target.contains("/pods?"));
    let first = lists.next().unwrap().at;
    let (count, last) = lists.fold((1_u32, first), |(count, _), asked| (count + 1, asked.at));
    let allowed = last.duration_since(first).as_millis() / 50 + 2;
    assert!(
        u128::from(count) <= allowed,
        "{count} lists in {:?}",
        last.duration_since(first)
    );
    assert_eq!(watch.names(), ["a"]);
    api.faults(|faults| faults.gone = false);
    watch.until_health(Health::Ok);
}

/// F22: a list that comes a byte a second.
#[test]
fn a_list_that_does_not_end_is_given_up() {
    let api = Api::start();
    api.put("pods", pod("a", 80));
    api.faults(|faults| faults.slow = true);
    let pacing = Pacing {
        list: Duration::from_secs(2),
        ..QUICK
    };
    let mut watch = Watching::with(&api, Peers::Off, pacing, None);
    watch.until_reason("declared", "cannot list pods: not complete after 2 s");
    api.faults(|faults| faults.slow = false);
    watch.until_health(Health::Ok);
    assert_eq!(watch.names(), ["a"]);
}

/// F22: a watch on which nothing comes.
#[test]
fn a_watch_that_is_silent_is_resumed_where_it_was() {
    let api = Api::start();
    api.put("pods", pod("a", 80));
    let pacing = Pacing {
        idle: Duration::from_secs(2),
        ..QUICK
    };
    let mut watch = Watching::with(&api, Peers::Off, pacing, None);
    watch.until_names(&["a"]);
    watch.until("the watch", |_| api.open("pods") == 1);
    api.put("pods", pod("b", 80));
    watch.until_names(&["a", "b"]);
    let from = api.count("watch", "/pods?");
    api.faults(|faults| faults.silent = true);
    api.put("pods", pod("c", 80));
    watch.until("another", |_| api.count("watch", "/pods?") > from);
    api.faults(|faults| faults.silent = false);
    api.end_watches();
    watch.until_names(&["a", "b", "c"]);
    assert_eq!(api.count("list", "/pods?"), 1, "resumed, not listed");
    // What was told on the silent watch is told again: it is asked for from the last version that arrived.
    assert!(api.count("watch", "/pods?fieldSelector=spec.nodeName%3Dnode-a&watch=true&allowWatchBookmarks=true&timeoutSeconds=") > 1);
    assert!(
        api.asked()
            .iter()
            .filter(|asked| asked.verb == "watch" && asked.target.ends_with("resourceVersion=12"))
            .count()
            >= 1
    );
}

/// F22: a list that breaks off in the middle of the JSON.
#[test]
fn a_list_that_breaks_off_is_asked_for_again() {
    for cut in [true, false] {
        let api = Api::start();
        api.put("pods", pod("a", 80));
        api.faults(|faults| faults.cut_lists = cut);
        let mut watch = Watching::start(&api);
        if cut {
            watch.until("again", |_| api.count("list", "/pods?") > 3);
            assert_eq!(watch.declared, None);
            api.faults(|faults| faults.cut_lists = false);
        }
        watch.until_names(&["a"]);
    }
}

/// F22: an event that breaks off in the middle of the JSON.
#[test]
fn an_event_that_breaks_off_is_told_again() {
    let api = Api::start();
    api.put("pods", pod("a", 80));
    let mut watch = Watching::start(&api);
    watch.until("the watch", |_| api.open("pods") == 1);
    watch.until_names(&["a"]);
    api.cut_within(
        "pods",
        r#"{"type":"ADDED","object":{"metadata":{"name":"half","name"#,
    );
    api.put("pods", pod("b", 80));
    watch.until_names(&["a", "b"]);
    assert_eq!(watch.declared.as_ref().unwrap().problems, []);
    assert_eq!(api.count("list", "/pods?"), 1);
}

/// Bookmarks move the place from which a watch is resumed, so that a server that forgot the rest is no matter.
#[test]
fn a_bookmark_is_where_a_watch_is_resumed() {
    let api = Api::start();
    api.put("pods", pod("a", 80));
    let mut watch = Watching::start(&api);
    watch.until_names(&["a"]);
    watch.until("the watch", |_| api.open("pods") == 1);
    watch.until_health(Health::Ok);
    api.bookmark("pods");
    api.end_watches();
    watch.until("resumed", |_| api.count("watch", "/pods?") == 2);
    assert!(
        api.asked().last().is_some() && api.count("watch", "resourceVersion=12") >= 1,
        "{:#?}",
        api.asked()
    );
    api.compact();
    api.end_watches();
    watch.until("forgotten", |_| api.count("list", "/pods?") == 2);
    watch.until_health(Health::Ok);
}

/// F25: the token expires, and the file has another.
#[test]
fn a_token_that_was_replaced_is_read_anew() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("token");
    fs::write(&file, "first").unwrap();
    let api = Api::over_tls();
    api.set_token("first");
    api.put("pods", pod("a", 80));
    let mut watch = Watching::with(&api, Peers::Node, QUICK, Some(&file));
    watch.until_names(&["a"]);
    watch.until_health(Health::Ok);
    api.set_token("second");
    api.end_watches();
    watch.until_reason("declared", "credentials refused (401 not you)");
    assert_eq!(watch.names(), ["a"]);
    fs::write(&file, "second").unwrap();
    watch.until_health(Health::Ok);
    api.put("pods", pod("b", 80));
    watch.until_names(&["a", "b"]);
}

/// F25: a right is missing, and the finding names it.
#[test]
fn a_missing_right_is_a_finding_that_names_verb_and_resource() {
    let api = Api::start();
    api.put("pods", pod("a", 80));
    let mut watch = Watching::start(&api);
    watch.until_health(Health::Ok);
    watch.until("all watches", |_| api.open("endpointslices") == 1);
    api.refuse(&["watch pods", "watch endpointslices"], 403);
    api.end_watches();
    watch.until_reason("declared", "may not watch pods");
    watch.until_reason("peers.endpointslices", "may not watch endpointslices");
    let said = evaluate(&watch.node.snapshot(clock::monotonic()));
    let mut observed = said
        .iter()
        .filter(|condition| condition.rule.id == "M001")
        .map(|condition| &condition.observed);
    assert!(
        observed.any(|text| text.contains("may not watch pods: bind the ClusterRole")),
        "{said:#?}"
    );
}

/// F26: the wall clock jumps. Ages, graces and heartbeats go by the monotonic clock.
#[test]
fn the_wall_clock_does_not_age_what_is_declared() {
    let api = Api::start();
    api.put("pods", pod("a", 80));
    let mut watch = Watching::start(&api);
    watch.until_health(Health::Ok);
    watch.until("fresh", |watch| watch.as_of("pods") == Some(watch.at));
    let day = 86_400_000_000_000;
    let now = 1_795_340_058_000_000_000_u64;
    let mut findings = Findings::default();
    for unix_ns in [
        now,
        now + day,
        now - 2 * day,
        now + day - 3_600_000_000_000,
        0,
        u64::MAX,
    ] {
        let at = watch.at;
        watch.node.apply(Observation {
            at,
            fact: Fact::Clock { unix_ns },
        });
        let snapshot = watch.node.snapshot(at);
        assert!(
            snapshot
                .sources
                .iter()
                .all(|row| at.since(row.as_of).is_zero()),
            "{:?}",
            snapshot.sources
        );
        let said = evaluate(&snapshot);
        assert!(said.iter().all(|condition| condition.rule.id != "M003"));
        findings.update(said, &snapshot);
        let report = build(&snapshot, &findings.open());
        let points = report
            .resources
            .iter()
            .flat_map(|resource| &resource.points);
        let ages: Vec<_> = points
            .filter(|point| point.metric.name == "plumbline.declared.age")
            .collect();
        assert!(
            ages.len() >= 2 && ages.iter().all(|age| age.value == Number::Float(0.0)),
            "{ages:?}"
        );
    }
}
