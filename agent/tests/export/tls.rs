//! TLS: who is trusted, who is not, and that nothing is sent to whom is not.

use std::path::Path;
use std::time::Duration;

use plumbline::export::Exporter;
use plumbline::export::settings::Protocol;
use plumbline::export::stats::LaneStats;
use tempfile::TempDir;

use crate::common::collector::{Collector, Options, until};
use crate::common::data::{finding, node};
use crate::common::pki::{Authority, Leaf};
use crate::{findings_stats, settings};

const BOTH: [Protocol; 2] = [Protocol::Grpc, Protocol::HttpProtobuf];

async fn collector(protocol: Protocol, leaf: &Leaf, clients: Option<&Authority>) -> Collector {
    let tls = Some(leaf.acceptor(protocol, clients));
    Collector::with(Options {
        protocol,
        tls,
        takes_gzip: true,
    })
    .await
}

fn start(collector: &Collector, more: &[(&str, &Path)]) -> Exporter {
    let more: Vec<(&str, &str)> = more
        .iter()
        .map(|(key, path)| (*key, path.to_str().unwrap()))
        .collect();
    Exporter::start(settings(collector, &more), node()).unwrap()
}

/// One finding; the stats once it has arrived, or has failed once.
async fn try_one(exporter: &Exporter) -> LaneStats {
    exporter.offer_findings(vec![finding("web-1", 1)]);
    until("an attempt", || {
        findings_stats(exporter).sent + findings_stats(exporter).failed > 0
    })
    .await;
    findings_stats(exporter)
}

#[tokio::test]
async fn a_known_authority_is_trusted() {
    for protocol in BOTH {
        let (directory, authority) = (TempDir::new().unwrap(), Authority::new());
        let collector = collector(protocol, &authority.server("localhost"), None).await;
        let ca = authority.write(directory.path(), "ca.pem");
        let exporter = start(&collector, &[("OTEL_EXPORTER_OTLP_CERTIFICATE", &ca)]);
        assert_eq!(try_one(&exporter).await.sent, 1, "{protocol:?}");
        assert_eq!(collector.logs().len(), 1);
    }
}

#[tokio::test]
async fn nothing_is_sent_to_whom_is_not_trusted() {
    for protocol in BOTH {
        let (directory, authority, stranger) =
            (TempDir::new().unwrap(), Authority::new(), Authority::new());
        let ca = authority.write(directory.path(), "ca.pem");
        let cases = [
            (stranger.server("localhost"), "invalid peer certificate"),
            (
                authority.server("elsewhere"),
                "not valid for name \"localhost\"",
            ),
            (authority.expired_server("localhost"), "expired"),
            (
                authority.client(),
                "does not allow extended key usage for server authentication",
            ),
        ];
        for (leaf, reason) in cases {
            let collector = collector(protocol, &leaf, None).await;
            let exporter = start(&collector, &[("OTEL_EXPORTER_OTLP_CERTIFICATE", &ca)]);
            let stats = try_one(&exporter).await;
            let error = stats.last_error.unwrap();
            assert!(error.contains(reason), "{protocol:?} {reason}: {error}");
            assert_eq!(
                (stats.sent, collector.seen().len()),
                (0, 0),
                "{protocol:?} {reason}"
            );
            assert!(collector.connections() > 0);
        }
    }
}

#[tokio::test]
async fn the_systems_authorities_do_not_know_ours() {
    let authority = Authority::new();
    let collector = collector(Protocol::HttpProtobuf, &authority.server("localhost"), None).await;
    let directory = TempDir::new().unwrap();
    // Without the variable the system's store counts, where there is one.
    match Exporter::start(settings(&collector, &[]), node()) {
        Ok(exporter) => assert_eq!(try_one(&exporter).await.sent, 0),
        Err(error) => assert!(
            format!("{error:#}").contains("no CA certificates"),
            "{error:#}"
        ),
    }
    assert_eq!(collector.seen().len(), 0);
    drop(directory);
}

#[tokio::test]
async fn a_client_certificate_is_shown_when_asked_for() {
    for protocol in BOTH {
        let (directory, authority) = (TempDir::new().unwrap(), Authority::new());
        let collector = collector(protocol, &authority.server("localhost"), Some(&authority)).await;
        let ca = authority.write(directory.path(), "ca.pem");
        let without = start(&collector, &[("OTEL_EXPORTER_OTLP_CERTIFICATE", &ca)]);
        assert_eq!(try_one(&without).await.sent, 0, "{protocol:?}");
        assert_eq!(collector.seen().len(), 0);
        let (certificate, key) = authority.client().write(directory.path());
        let exporter = start(
            &collector,
            &[
                ("OTEL_EXPORTER_OTLP_CERTIFICATE", &ca),
                ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &certificate),
                ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &key),
            ],
        );
        assert_eq!(try_one(&exporter).await.sent, 1, "{protocol:?}");
    }
}

#[tokio::test]
async fn a_changed_authority_is_read_again_without_a_restart() {
    for protocol in BOTH {
        let (directory, old, new) = (TempDir::new().unwrap(), Authority::new(), Authority::new());
        let collector = collector(protocol, &new.server("localhost"), None).await;
        let ca = old.write(directory.path(), "ca.pem");
        let exporter = start(&collector, &[("OTEL_EXPORTER_OTLP_CERTIFICATE", &ca)]);
        assert_eq!(try_one(&exporter).await.sent, 0, "{protocol:?}");
        new.write(directory.path(), "ca.pem");
        until("the finding", || findings_stats(&exporter).sent == 1).await;
        assert_eq!(collector.logs().len(), 1, "{protocol:?}");
    }
}

#[tokio::test]
async fn an_unusable_file_is_told_at_the_start() {
    let directory = TempDir::new().unwrap();
    let authority = Authority::new();
    let collector = collector(Protocol::Grpc, &authority.server("localhost"), None).await;
    let missing = directory.path().join("missing.pem");
    let empty = directory.path().join("empty.pem");
    std::fs::write(&empty, "no certificate").unwrap();
    for (path, message) in [
        (&missing, "missing.pem"),
        (&empty, "no certificate in PEM form"),
    ] {
        let more = [("OTEL_EXPORTER_OTLP_CERTIFICATE", path.to_str().unwrap())];
        let error = Exporter::start(settings(&collector, &more), node()).unwrap_err();
        assert!(format!("{error:#}").contains(message), "{error:#}");
    }
}

#[tokio::test]
async fn plain_text_is_not_spoken_to_a_tls_port_nor_tls_to_a_plain_one() {
    let (directory, authority) = (TempDir::new().unwrap(), Authority::new());
    let tls = collector(Protocol::HttpProtobuf, &authority.server("localhost"), None).await;
    let plain = Collector::start(Protocol::HttpProtobuf).await;
    let ca = authority.write(directory.path(), "ca.pem");
    let (to_tls, to_plain) = (
        format!("http://localhost:{}", tls.address.port()),
        format!("https://localhost:{}", plain.address.port()),
    );
    for endpoint in [to_tls, to_plain] {
        let more = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", ca.to_str().unwrap()),
        ];
        let exporter = Exporter::start(settings(&tls, &more), node()).unwrap();
        assert_eq!(try_one(&exporter).await.sent, 0, "{endpoint}");
        exporter.shutdown(Duration::from_secs(5)).await;
    }
    assert_eq!(tls.seen().len() + plain.seen().len(), 0);
}
