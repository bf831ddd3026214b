//! One request to one collector: encode, compress, send, read the answer, within a deadline. No retries here.

mod grpc;
mod http;

use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue, header};
use anyhow::Context as _;
use bytes::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use plumbline_core::settings::NodeIdentity;

use super::encode::Payload;
use super::settings::{Endpoint, Protocol};
use super::tls;
use super::verdict::Reply;

/// Bytes of an answer. The specification asks to refuse longer ones.
const RESPONSE_BYTES_MAX: usize = 4 << 20;

/// Connections kept for the next request: as many as the lane of container logs has requests under way.
const IDLE_CONNECTIONS_MAX: usize = 4;

/// A client for one endpoint.
#[derive(Debug)]
pub(crate) struct Transport {
    endpoint: Endpoint,
    headers: HeaderMap,
    client: Client,
}

#[derive(Debug)]
enum Client {
    Http(Box<http::HttpClient>),
    Grpc(Box<grpc::GrpcClient>),
}

impl Transport {
    /// Reads the certificate files; connects to nobody yet.
    pub(crate) fn new(endpoint: Endpoint, node: &NodeIdentity) -> anyhow::Result<Self> {
        let headers = headers(&endpoint, node)?;
        let client = client(&endpoint, &headers)?;
        Ok(Self {
            endpoint,
            headers,
            client,
        })
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// One attempt, at most `limit` long.
    pub(crate) async fn send(&self, payload: &Payload, gzip: bool, limit: Duration) -> Reply {
        let limit = limit.min(self.endpoint.timeout);
        let answer = async {
            match &self.client {
                Client::Http(client) => client.send(payload, gzip).await,
                Client::Grpc(client) => client.send(payload, gzip, limit).await,
            }
        };
        tokio::time::timeout(limit, answer)
            .await
            .unwrap_or(Reply::Deadline(limit))
    }

    /// One attempt to send an encoded `ExportLogsServiceRequest`, at most `limit` long, which may be more than the endpoint's.
    pub(crate) async fn send_records(&self, request: Bytes, gzip: bool, limit: Duration) -> Reply {
        let answer = async {
            match &self.client {
                Client::Http(client) => client.send_records(request, gzip).await,
                Client::Grpc(client) => client.send_records(request, gzip, limit).await,
            }
        };
        tokio::time::timeout(limit, answer)
            .await
            .unwrap_or(Reply::Deadline(limit))
    }

    /// After a request without an answer. A failed connection may mean that the certificate files have changed. One over
    /// which no answer came in time is given up where requests share it (gRPC): to a peer that vanished without a word it
    /// looks well until the kernel or HTTP/2's pings find out, and each request until then would meet its deadline.
    pub(crate) fn reconnect(&mut self, reply: &Reply) {
        let silent =
            matches!(reply, Reply::Deadline(_)) && self.endpoint.protocol == Protocol::Grpc;
        let changed = matches!(reply, Reply::Transport(_)) && self.endpoint.is_tls();
        if !silent && !changed {
            return;
        }
        match client(&self.endpoint, &self.headers) {
            Ok(client) => self.client = client,
            Err(error) => {
                tracing::warn!(error = %format!("{error:#}"), "cannot read the certificates again; going on with the old ones");
            }
        }
    }
}

fn client(endpoint: &Endpoint, headers: &HeaderMap) -> anyhow::Result<Client> {
    let connector = connector(endpoint)?;
    Ok(match endpoint.protocol {
        Protocol::HttpProtobuf => Client::Http(Box::new(http::HttpClient::new(
            connector, endpoint, headers,
        ))),
        Protocol::Grpc => Client::Grpc(Box::new(grpc::GrpcClient::new(
            connector, endpoint, headers,
        ))),
    })
}

fn connector(endpoint: &Endpoint) -> anyhow::Result<HttpsConnector<HttpConnector>> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    // Shorter than the deadline: that nobody is there is another thing than that somebody is slow.
    tcp.set_connect_timeout(Some(endpoint.timeout.mul_f64(0.75)));
    if !endpoint.is_tls() {
        // TLS is never spoken here, so that no certificate store is needed.
        let empty = rustls::RootCertStore::empty();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("set up TLS")?
            .with_root_certificates(empty)
            .with_no_client_auth();
        let builder = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http();
        return Ok(builder.enable_http1().wrap_connector(tcp));
    }
    let builder = HttpsConnectorBuilder::new()
        .with_tls_config(tls::client_config(&endpoint.tls)?)
        .https_only();
    Ok(match endpoint.protocol {
        Protocol::HttpProtobuf => builder.enable_http1().wrap_connector(tcp),
        Protocol::Grpc => builder.enable_http2().wrap_connector(tcp),
    })
}

fn headers(endpoint: &Endpoint, node: &NodeIdentity) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    let agent = HeaderValue::try_from(format!("plumbline/{}", node.agent_version))
        .context("make the user-agent header")?;
    headers.insert(header::USER_AGENT, agent);
    for (name, value) in &endpoint.headers {
        let key = HeaderName::try_from(name).with_context(|| format!("use header {name}"))?;
        let mut value = HeaderValue::try_from(value)
            .with_context(|| format!("use the value of header {name}"))?;
        value.set_sensitive(true);
        headers.insert(key, value);
    }
    Ok(headers)
}

/// An error with all its causes: hyper's own text says only which part failed.
fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
