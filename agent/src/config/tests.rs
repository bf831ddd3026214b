use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory as _, Parser as _};
use expect_test::{expect, expect_file};
use plumbline_core::observation::Health;
use plumbline_core::settings::{CoreSettings, Grace};
use plumbline_core::time::UnixNanos;

use super::file::parse;
use super::keys::{EXAMPLE, KEYS, Key, Kind, reference};
use super::print::print;
use super::reload::{ConfigStats, Reloader};
use super::{DeclaredSource, File, read_file, resolve, warnings};
use crate::cli::{Cli, Command, NodeArgs};
use crate::sources::ebpf::UdpMode;

fn args(line: &str) -> NodeArgs {
    let words = ["plumbline", "run"]
        .into_iter()
        .chain(line.split_whitespace());
    match Cli::try_parse_from(words).unwrap().command {
        Command::Run(run) => run.node,
        Command::Check(_)
        | Command::Replay(_)
        | Command::Status(_)
        | Command::Explain(_)
        | Command::Config(_) => unreachable!("`run` was given"),
    }
}

fn file(yaml: &str) -> File {
    serde_saphyr::from_str(yaml).unwrap()
}

#[test]
fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
    let yaml = "grace: 7s\ncpu: {mean_window: 10s}\nenvironment: test\n";
    let config = resolve(&args("--grace 3s"), file(yaml), |_| None).unwrap();
    assert_eq!(config.core.grace, Grace::Time(Duration::from_secs(3)));
    assert_eq!(config.core.cpu_mean_window, Duration::from_secs(10));
    assert_eq!(config.core.cpu_startup_exclusion, Duration::from_secs(300));
    assert_eq!(config.node.environment.as_deref(), Some("test"));
}

#[test]
fn everything_that_is_wrong_with_a_file_is_told_with_its_line() {
    let text = "\
# a comment
grase: 4s
grace: soon
cluster_name: 12
kube: yes
cpu: {mean: 3s, mean_window: [1]}
probes:
  udp: all
  tcp: true
  tpc: false
scan_interval: 30s
scan_interval: 31s
rules:
  P001: {enable: true, severity: huge}
  C001: off
suppressions:
  - rule: P001
    untill: 2030-01-01
    reason: [because]
  - P001
annotations: {namespace: shop}
otlp:
  timeout: -1
  headers: secret
log_format: xml
";
    let problems = parse(text, "plumbline.yaml").unwrap_err();
    let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
    expect![[r#"
        plumbline.yaml: line 2: unknown key `grase`; did you mean `grace`?
        plumbline.yaml: line 3: `grace`: `soon` is no span of time (expected number at 0); write it like 500ms, 30s or 5m
        plumbline.yaml: line 4: `cluster_name` must be text; quote it if it looks like something else, not this number
        plumbline.yaml: line 6: unknown key `cpu.mean`
        plumbline.yaml: line 6: `cpu.mean_window` must be a span of time like 500ms, 30s or 5m, not a list
        plumbline.yaml: line 8: `probes.udp` must be one of peers, flows, off, not this text
        plumbline.yaml: line 10: unknown key `probes.tpc`
        plumbline.yaml: line 12: `scan_interval` is given twice
        plumbline.yaml: line 14: unknown key `rules.P001.enable`; did you mean `enabled`?
        plumbline.yaml: line 14: `rules.P001.severity` must be one of info, low, medium, high, not this text
        plumbline.yaml: line 15: rules.C001 must be a mapping of keys, not true or false
        plumbline.yaml: line 18: unknown key `suppressions[0].untill`; did you mean `until`?
        plumbline.yaml: line 19: `suppressions[0].reason` must be text; quote it if it looks like something else, not a list
        plumbline.yaml: line 20: suppressions[1] must be a mapping of keys, not this text
        plumbline.yaml: line 21: `annotations` must be a list, not a mapping
        plumbline.yaml: line 23: `otlp.timeout` must be a whole number, not this number
        plumbline.yaml: line 24: unknown key `otlp.headers`
        plumbline.yaml: line 25: `log_format` must be one of auto, text, json, not this text"#]]
    .assert_eq(&told.join("\n"));
}

const LOGS: &str = "\
log_root: /pods
log_kept: 100Mi
log_flood: 1048576
log_namespace: [shop, bank]
log_exclude_namespace: [kube-system]
log_exclude_container: [shop/proxy]
log_exclude_label: ['shop:quiet=yes']
log_redact: ['@jwt', 'card [0-9]+']
log_join: indented
log_severity: true
log_min_severity: warn
log_pod_rate: 500Ki
";

#[test]
fn what_is_done_with_container_logs_may_stand_in_the_file() {
    let collector =
        |name: &str| (name == "OTEL_EXPORTER_OTLP_ENDPOINT").then(|| "http://c:4318".to_owned());
    let config = resolve(&args(""), parse(LOGS, "f").unwrap(), collector).unwrap();
    let printed = print(&config);
    expect![[r#"
        log_root: "/pods"
        log_state: "/var/lib/plumbline"
        log_kept: "100Mi"
        log_flood: "1Mi"
        log_namespace: ["shop","bank"]
        log_exclude_namespace: ["kube-system"]
        log_exclude_container: ["shop/proxy"]
        log_exclude_label: ["shop:quiet=yes"]
        log_redact: ["@jwt","card [0-9]+"]
        log_join: "indented"
        log_severity: true
        log_min_severity: "warn"
        log_pod_rate: "500Ki"
        log_format: "auto"
    "#]]
    .assert_eq(&log_lines(&printed));
    let again = resolve(&args(""), parse(&printed, "printed").unwrap(), |_| None).unwrap();
    assert_eq!(print(&again), printed);
    let options = config.logs.unwrap().options;
    assert_eq!(options.pod_bytes_per_second, Some(500 << 10));
    assert_eq!(options.select.namespaces, ["shop", "bank"]);
    assert!(options.process.severity && options.process.redact.is_some());
    assert!(options.join.is_some() && options.labels[0].key == "quiet");
    // A flag wins, and a list of flags takes the place of the file's.
    let flags = "--log-kept 1Gi --log-namespace dev --log-pod-rate 7 --log-join start:^x";
    let flags = args(&format!("{flags} --log-severity=false"));
    let config = resolve(&flags, parse(LOGS, "f").unwrap(), collector).unwrap();
    assert_eq!(config.core.log_kept_bytes, 1 << 30);
    assert_eq!(config.core.log_flood_bytes, 1 << 20);
    let options = config.logs.unwrap().options;
    assert_eq!(options.select.namespaces, ["dev"]);
    assert_eq!(options.select.exclude_namespaces, ["kube-system"]);
    assert_eq!(options.pod_bytes_per_second, Some(7));
    assert!(!options.process.severity);
}

fn log_lines(printed: &str) -> String {
    let lines = printed.lines().filter(|line| line.starts_with("log_"));
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn what_is_wrong_about_values_is_told_with_its_line() {
    let text = "\
log_kept: 5 loaves
log_flood: [1]
log_namespace: shop
log_exclude_label: [quiet, 7]
log_min_severity: loud
log_severity: 3
host_listeners: [sshd.service, tcp/99999, 7]
";
    let told = parse(text, "f").unwrap_err();
    let told: Vec<String> = told.iter().map(ToString::to_string).collect();
    expect![[r#"
        f: line 1: `log_kept`: `5 loaves` is no number of bytes; write it like 500Ki, 50Mi or 1Gi
        f: line 2: `log_flood` must be a number of bytes like 500Ki, 50Mi or 1Gi, not a list
        f: line 3: `log_namespace` must be a list, not this text
        f: line 4: `log_exclude_label[0]`: `quiet` is no NAMESPACE:KEY=VALUE; the namespace may be *
        f: line 4: `log_exclude_label[1]` must be text like NAMESPACE:KEY=VALUE, not this number
        f: line 5: `log_min_severity` must be one of trace, debug, info, warn, error, fatal, not this text
        f: line 6: `log_severity` must be true or false, not this number
        f: line 7: `host_listeners[1]`: "tcp/99999" is no allowed listener: write a unit (`sshd.service`), ports (`tcp/22`, `udp/30000-32767`), or a unit and ports with a space between
        f: line 7: `host_listeners[2]` must be text like `sshd.service` or `tcp/22`, not this number"#]]
    .assert_eq(&told.join("\n"));
}

#[test]
fn what_is_no_yaml_or_no_mapping_is_refused() {
    for text in [
        "a: [",
        "- a\n- b\n",
        "7",
        "grace: 3s\n bad",
        "a: *nobody\n",
        "\u{0}",
    ] {
        assert!(!parse(text, "f").unwrap_err().is_empty(), "{text:?}");
    }
    for text in [
        "",
        "  \n",
        "# nothing\n",
        "---\n# nothing\n",
        "grace:\n",
        "cpu: {}\n",
        "rules: {}\n",
    ] {
        assert_eq!(parse(text, "f"), Ok(File::default()), "{text:?}");
    }
}

#[test]
fn problems_of_the_file_and_of_its_contents_are_told_together() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f.yaml");
    std::fs::write(&path, "x".repeat((1 << 20) + 1)).unwrap();
    assert!(read_file(&path).unwrap_err()[0].message.contains("larger"));
    assert!(read_file(directory.path()).is_err());
    assert!(read_file(&directory.path().join("absent")).is_err());
}

#[test]
fn keys_flags_and_variables_are_the_same_three_times() {
    let mut command = Cli::command();
    let run = command.find_subcommand_mut("run").unwrap();
    let mut flags: BTreeSet<(String, Option<String>)> = run
        .get_arguments()
        .filter_map(|argument| {
            let variable = argument
                .get_env()
                .map(|name| name.to_string_lossy().into_owned());
            Some((format!("--{}", argument.get_long()?), variable))
        })
        .collect();
    // About one run, or about the file itself.
    flags.retain(|(flag, _)| {
        !["--record", "--config", "--help", "--version"].contains(&flag.as_str())
    });
    let own = |key: &&Key| key.flag.is_some();
    let known: BTreeSet<(String, Option<String>)> = KEYS
        .iter()
        .filter(own)
        .map(|key| {
            (
                key.flag.unwrap().to_owned(),
                key.variable.map(str::to_owned),
            )
        })
        .collect();
    assert!(known.is_subset(&flags), "{known:?} {flags:?}");
    // Each key is one of the file's: a value of its kind is taken.
    for key in KEYS {
        let value = match key.kind {
            Kind::Text => "\"x\"".to_owned(),
            Kind::Number => "7".to_owned(),
            Kind::Bool => "true".to_owned(),
            Kind::Span => "7s".to_owned(),
            Kind::Word(words) => words[0].to_owned(),
            Kind::Rules => "{P001: {enabled: false, severity: low}}".to_owned(),
            Kind::List(keys) => {
                let entry = |(key, kind): &(&str, Kind)| {
                    let value = if matches!(kind, Kind::Each(_)) {
                        "[x]"
                    } else {
                        "x"
                    };
                    format!("{key}: {value}")
                };
                format!(
                    "[{{{}}}]",
                    keys.iter().map(entry).collect::<Vec<_>>().join(", ")
                )
            }
            Kind::Each(Kind::Label) => "['ns:key=value']".to_owned(),
            Kind::Each(_) => "[x]".to_owned(),
            Kind::Size => "7Mi".to_owned(),
            Kind::Label | Kind::Listener => panic!("{}: not by itself", key.path),
        };
        let text = match key.path.split_once('.') {
            Some((group, name)) => format!("{group}: {{{name}: {value}}}"),
            None => format!("{}: {value}", key.path),
        };
        let taken = parse(&text, "f").unwrap_or_else(|problems| panic!("{text}: {problems:?}"));
        assert_ne!(taken, File::default(), "{text}");
    }
}

#[test]
fn config_reference() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("CONFIG.md");
    expect_file![path].assert_eq(&reference());
}

#[test]
fn defaults_are_those_of_the_reference() {
    let config = resolve(&args("--node-name n"), File::default(), |_| None).unwrap();
    let printed = print(&config);
    for key in KEYS {
        let name = key.path.rsplit('.').next().unwrap();
        let is_value = !key.default.contains(' ') && !["none", "in-cluster"].contains(&key.default);
        let group_is_sent = key.path.starts_with("otlp.") || key.path == "log_state";
        if is_value && !group_is_sent {
            let lines: Vec<String> = printed
                .lines()
                .map(|line| line.trim().replace('"', ""))
                .collect();
            let line = format!("{name}: {}", key.default);
            assert!(lines.contains(&line), "{line} is not in\n{printed}");
        }
    }
}

#[test]
fn what_is_printed_gives_the_same_again() {
    let collector = |name: &str| match name {
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some("http://localhost:4318".to_owned()),
        "OTEL_METRIC_EXPORT_INTERVAL" => Some("1500".to_owned()),
        _ => None,
    };
    for flags in [
        "--node-name n --socket /s",
        "--node-name n --socket /s --kube --kubeconfig /k --udp off --disable canary,connections --log-root /l",
        "--node-name n --socket /s --declared /d --candidate-policies /p --grace 1500ms --cluster-name x:y --state-dir /st",
    ] {
        let config = resolve(&args(flags), file(EXAMPLE), collector).unwrap();
        let printed = print(&config);
        let again = parse(&printed, "printed").unwrap_or_else(|p| panic!("{p:?}\n{printed}"));
        let again = resolve(&args(""), again, |_| None).unwrap();
        assert_eq!(again.core, config.core, "{printed}");
        assert_eq!(print(&again), printed);
    }
}

#[test]
fn what_hides_nothing_is_warned_of() {
    let yaml = "\
suppressions:
  - {rule: P001, until: 2030-01-01, reason: fine}
  - {rule: P001, until: 2020-01-01, reason: over}
  - {rule: P001, reason: no end}
  - {rule: P001, until: 2030-01-01}
  - {rule: P001, until: soon, reason: no date}
  - {namespace: shop, until: 2030-01-01, reason: of what}
  - {rule: P999, until: 2030-01-01, reason: no such rule}
annotations:
  - {namespace: shop, rules: [p001, Z1]}
";
    let config = resolve(&args(""), parse(yaml, "f").unwrap(), |_| None).unwrap();
    assert_eq!(config.core.rulebook.annotations[0].rules, ["P001", "Z1"]);
    let now = UnixNanos::parse("2026-06-01").unwrap();
    let told = warnings(&config.core.rulebook, now);
    let told: Vec<String> = told.iter().map(ToString::to_string).collect();
    expect![[r#"
        suppressions[1]: hides nothing: it ended at 2020-01-01T00:00:00.000Z
        suppressions[2]: hides nothing: it has no end (`until`)
        suppressions[3]: hides nothing: it has no reason
        suppressions[4]: hides nothing: its end is no date
        suppressions[5]: hides nothing: it names neither a rule nor a fingerprint
        suppressions[6]: hides nothing: there is no rule P999
        annotations[0]: there is no rule Z1"#]]
    .assert_eq(&told.join("\n"));
    let problems = resolve(&args(""), file("rules: {P999: {enabled: false}}"), |_| None);
    assert_eq!(problems.unwrap_err()[0].at, "rules.P999");
}

/// Waits for what the file's follower says.
fn news(reloader: &mut Reloader, done: impl Fn(&ConfigStats) -> bool) -> Option<CoreSettings> {
    let mut settings = None;
    for _ in 0..600 {
        settings = reloader.news(UnixNanos(0)).or(settings);
        if done(&reloader.stats()) {
            return settings;
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    panic!("{:?}", reloader.stats());
}

#[test]
fn a_changed_file_is_taken_over_and_a_broken_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f.yaml");
    std::fs::write(&path, "grace: 7s\ncluster_name: a\n").unwrap();
    let args = args(&format!("--config {}", path.display()));
    let config = resolve(&args, read_file(&path).unwrap(), |_| None).unwrap();
    let mut reloader = Reloader::start(&config, &args).unwrap();
    assert_eq!(reloader.probe().unwrap().health, Health::Ok);
    assert_eq!(reloader.news(UnixNanos(0)), None);

    std::fs::write(
        &path,
        "grace: 9s\ncluster_name: a\nrules: {C001: {enabled: false}}\n",
    )
    .unwrap();
    let core = news(&mut reloader, |stats| stats.reloaded == 1).unwrap();
    assert_eq!(core.grace, Grace::Time(Duration::from_secs(9)));
    assert!(!core.rulebook.is_enabled("C001"));
    assert_eq!(core.ephemeral_ports, config.core.ephemeral_ports);
    assert_eq!(reloader.probe(), None);

    std::fs::write(&path, "grace: 1s\nrulez: {}\nkube: 3\n").unwrap();
    assert_eq!(news(&mut reloader, |stats| stats.refused == 1), None);
    let stats = reloader.stats();
    assert_eq!(stats.problems.len(), 2, "{stats:?}");
    let probe = reloader.probe().unwrap();
    assert_eq!(probe.health, Health::Broken);
    assert!(probe.reason.unwrap().contains("line 2"));

    // Whole again, and with a key that takes a restart.
    std::fs::write(&path, "grace: 9s\ncluster_name: b\n").unwrap();
    let core = news(&mut reloader, |stats| stats.reloaded == 2).unwrap();
    assert!(core.rulebook.is_enabled("C001"));
    let stats = reloader.stats();
    assert_eq!(
        (stats.problems.len(), stats.restart),
        (0, vec!["cluster_name".to_owned()])
    );
    assert_eq!(reloader.probe().unwrap().health, Health::Ok);

    // Gone is as good as broken.
    std::fs::remove_file(&path).unwrap();
    assert_eq!(news(&mut reloader, |stats| stats.refused == 2), None);
}

#[test]
fn all_problems_are_told_at_once() {
    let problems = resolve(
        &args("--cpu-mean-window 1h --scan-interval 5m --declared /x --kube"),
        File::default(),
        |_| None,
    )
    .unwrap_err();
    assert_eq!(problems.len(), 3, "{problems:?}");
}

#[test]
fn logs_are_read_where_they_were_asked_for_and_can_be_sent() {
    let collector = |name: &str| {
        (name == "OTEL_EXPORTER_OTLP_ENDPOINT").then(|| "http://localhost:4318".to_owned())
    };
    let config = resolve(&args(""), File::default(), collector).unwrap();
    assert!(config.logs.is_none());
    let config = resolve(&args("--log-root /l"), file("log_state: /s"), collector).unwrap();
    let logs = config.logs.unwrap();
    assert_eq!(
        (logs.root, logs.state),
        (PathBuf::from("/l"), PathBuf::from("/s"))
    );
    let problems = resolve(&args("--log-root /l"), File::default(), |_| None).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
}

#[test]
fn udp_is_peers_unless_told_otherwise() {
    for (flags, yaml, expected) in [
        ("", "", UdpMode::Peers),
        ("", "probes: {udp: flows}", UdpMode::Flows),
        ("--udp off", "probes: {udp: flows}", UdpMode::Off),
        ("--udp flows --disable udp", "", UdpMode::Off),
    ] {
        let config = resolve(&args(flags), file(yaml), |_| None).unwrap();
        assert_eq!(config.udp, expected, "{flags} {yaml}");
    }
    assert!(serde_saphyr::from_str::<File>("probes: {udp: all}").is_err());
}

#[test]
fn a_declared_flag_wins_over_kube_in_the_file() {
    let config = resolve(&args("--declared /x"), file("kube: true"), |_| None).unwrap();
    assert_eq!(config.declared, DeclaredSource::Files(PathBuf::from("/x")));
}
