use std::collections::BTreeMap;

use super::*;

fn read(variables: &[(&str, &str)]) -> Result<ExportSettings, Vec<String>> {
    let map: BTreeMap<&str, &str> = variables.iter().copied().collect();
    let get = |name: &str| map.get(name).map(|value| (*value).to_owned());
    ExportSettings::from_env(get)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn urls(variables: &[(&str, &str)]) -> (Option<String>, Option<String>) {
    let settings = read(variables).unwrap();
    (
        settings.metrics.map(|one| one.url.to_string()),
        settings.findings.map(|one| one.url.to_string()),
    )
}

fn both(metrics: &str, logs: &str) -> (Option<String>, Option<String>) {
    (Some(metrics.to_owned()), Some(logs.to_owned()))
}

#[test]
fn without_an_endpoint_nothing_is_sent() {
    assert!(read(&[]).unwrap().is_off());
    assert_eq!(read(&[]).unwrap(), ExportSettings::off());
    assert!(
        read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")])
            .unwrap()
            .is_off()
    );
    assert!(
        read(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")])
            .unwrap()
            .is_off()
    );
    let disabled = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"),
        ("OTEL_SDK_DISABLED", "true"),
    ];
    assert!(read(&disabled).unwrap().is_off());
    let no_logs = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"),
        ("OTEL_LOGS_EXPORTER", "none"),
    ];
    assert_eq!(
        urls(&no_logs),
        (Some("http://c:4318/v1/metrics".to_owned()), None)
    );
}

#[test]
fn the_signals_path_is_appended_to_the_shared_endpoint_only() {
    let base = "OTEL_EXPORTER_OTLP_ENDPOINT";
    assert_eq!(
        urls(&[(base, "http://c:4318")]),
        both("http://c:4318/v1/metrics", "http://c:4318/v1/logs")
    );
    assert_eq!(
        urls(&[(base, "https://c/otlp/")]),
        both("https://c/otlp/v1/metrics", "https://c/otlp/v1/logs")
    );
    let own = [
        (base, "http://c:4318"),
        (
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
            "http://vm:8428/opentelemetry/x",
        ),
    ];
    assert_eq!(
        urls(&own),
        both("http://vm:8428/opentelemetry/x", "http://c:4318/v1/logs")
    );
    let only = [(
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
        "http://vl:9428/insert?x=1",
    )];
    assert_eq!(
        urls(&only),
        (None, Some("http://vl:9428/insert?x=1".to_owned()))
    );
}

#[test]
fn grpc_takes_host_and_port_and_then_insecure_decides() {
    let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    let base = "OTEL_EXPORTER_OTLP_ENDPOINT";
    assert_eq!(
        urls(&[grpc, (base, "c:4317")]),
        both("https://c:4317/", "https://c:4317/")
    );
    let insecure = ("OTEL_EXPORTER_OTLP_INSECURE", "true");
    assert_eq!(
        urls(&[grpc, insecure, (base, "c:4317")]),
        both("http://c:4317/", "http://c:4317/")
    );
    // A scheme wins over INSECURE.
    assert_eq!(
        urls(&[grpc, insecure, (base, "https://c:4317")]),
        both("https://c:4317/", "https://c:4317/")
    );
}

#[test]
fn each_signal_may_differ() {
    let settings = read(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=a"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2000"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
        ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "grpc"),
        (
            "OTEL_EXPORTER_OTLP_LOGS_HEADERS",
            "x-tenant=b,Authorization=Basic%20Zm9v%3D",
        ),
        ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "500"),
        ("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
        ("OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE", "/logs-ca.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/me.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/me.key"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "15000"),
        ("OTEL_RESOURCE_ATTRIBUTES", "team=a%20b,service.name=other"),
    ])
    .unwrap();
    let (metrics, logs) = (settings.metrics.unwrap(), settings.findings.unwrap());
    assert_eq!(
        (metrics.protocol, logs.protocol),
        (Protocol::HttpProtobuf, Protocol::Grpc)
    );
    assert_eq!((metrics.gzip, logs.gzip), (false, true));
    assert_eq!(
        (metrics.timeout.as_millis(), logs.timeout.as_millis()),
        (2000, 500)
    );
    assert_eq!(
        metrics.headers,
        BTreeMap::from([("x-tenant".into(), "a".into())])
    );
    let want = [
        ("x-tenant".into(), "b".into()),
        ("authorization".into(), "Basic Zm9v=".into()),
    ];
    assert_eq!(logs.headers, BTreeMap::from(want));
    assert_eq!(metrics.tls.certificate, Some("/ca.pem".into()));
    assert_eq!(logs.tls.certificate, Some("/logs-ca.pem".into()));
    assert_eq!(logs.tls.client, Some(("/me.pem".into(), "/me.key".into())));
    assert_eq!(settings.metric_interval.as_secs(), 15);
    assert_eq!(settings.own.service_name, "other");
    assert_eq!(
        settings.own.attributes,
        BTreeMap::from([("team".into(), "a b".into())])
    );
}

#[test]
fn defaults() {
    let settings = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c")]).unwrap();
    let metrics = settings.metrics.unwrap();
    assert_eq!(
        (metrics.protocol, metrics.gzip),
        (Protocol::HttpProtobuf, true)
    );
    assert_eq!(
        (metrics.timeout, settings.metric_interval),
        (REQUEST_TIMEOUT, METRIC_INTERVAL)
    );
    assert_eq!(settings.own.service_name, "plumbline");
    assert!(metrics.is_tls());
    assert_eq!(metrics.origin(), "https://c");
}

#[test]
fn all_problems_are_told_at_once() {
    let problems = read(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4318"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "-1"),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "a=b,secret,content-type=x,bad name=1",
        ),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/k"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "yes"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1"),
        ("OTEL_METRICS_EXPORTER", "prometheus"),
        ("OTEL_RESOURCE_ATTRIBUTES", "nokey"),
    ])
    .unwrap_err();
    expect_test::expect![[r#"
        [
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE: must be set too when a client key is",
            "OTEL_EXPORTER_OTLP_COMPRESSION: must be gzip or none",
            "OTEL_EXPORTER_OTLP_ENDPOINT: must begin with http:// or https://",
            "OTEL_EXPORTER_OTLP_HEADERS: entry 2: must be key=value",
            "OTEL_EXPORTER_OTLP_HEADERS: entry 3: names a header that the protocol itself sets",
            "OTEL_EXPORTER_OTLP_HEADERS: entry 4: is not a valid header name",
            "OTEL_EXPORTER_OTLP_INSECURE: must be true or false",
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE: only cumulative is supported: let the collector turn it into deltas",
            "OTEL_EXPORTER_OTLP_PROTOCOL: must be grpc or http/protobuf (http/json is not supported)",
            "OTEL_EXPORTER_OTLP_TIMEOUT: must be a whole number of milliseconds from 1 to 300000",
            "OTEL_METRICS_EXPORTER: must be otlp or none: there is no other exporter",
            "OTEL_METRIC_EXPORT_INTERVAL: must be a whole number of milliseconds from 1000 to 3600000",
            "OTEL_RESOURCE_ATTRIBUTES: `nokey`: must be key=value",
        ]
    "#]]
    .assert_debug_eq(&problems);
}

#[test]
fn bad_endpoints_are_refused_and_not_repeated() {
    let cases = [
        ("http://user:hunter2@c:4318", "user name or password"),
        ("file:///etc/passwd", "http:// or https://"),
        ("http://169.254.169.254/latest", "metadata service"),
        ("http://[fd00:ec2::254]/x", "metadata service"),
        ("http://", "is not a URL"),
        ("http://c:4318/?q=1", "must not have a query"),
    ];
    for (value, message) in cases {
        let problems = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", value)])
            .unwrap_err()
            .join("\n");
        assert!(problems.contains(message), "{value}: {problems}");
        assert!(!problems.contains("hunter2"), "{problems}");
    }
    let grpc = [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317/v1/metrics"),
    ];
    assert!(
        read(&grpc)
            .unwrap_err()
            .join("\n")
            .contains("has a path, which gRPC cannot use")
    );
}

#[test]
fn secrets_are_not_shown() {
    let settings = read(&[
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "https://c/token-in-path-hunter2",
        ),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization=Bearer%20hunter2",
        ),
    ]);
    let shown = format!("{settings:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("authorization"), "{shown}");
}
