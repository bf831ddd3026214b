//! OTLP/HTTP with protobuf bodies, by hyper. Follows no redirect, asks for no compressed answer.

use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use prost::Message as _;

use super::{RESPONSE_BYTES_MAX, with_causes};
use crate::clock;
use crate::export::encode::Payload;
use crate::export::settings::Endpoint;
use crate::export::verdict::{Reply, retry_after};

const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");

/// What the answer is about.
#[derive(Clone, Copy, Debug)]
enum Signal {
    Metrics,
    Logs,
}

#[derive(Debug)]
pub(super) struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: Uri,
    headers: HeaderMap,
}

impl HttpClient {
    pub(super) fn new(
        connector: HttpsConnector<HttpConnector>,
        endpoint: &Endpoint,
        headers: &HeaderMap,
    ) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(90))
            .pool_max_idle_per_host(super::IDLE_CONNECTIONS_MAX)
            .build(connector);
        Self {
            client,
            url: endpoint.url.clone(),
            headers: headers.clone(),
        }
    }

    pub(super) async fn send(&self, payload: &Payload, gzip: bool) -> Reply {
        let signal = match payload {
            Payload::Metrics(_) => Signal::Metrics,
            Payload::Logs(_) => Signal::Logs,
        };
        self.post(Bytes::from(payload.to_bytes()), gzip, signal)
            .await
    }

    pub(super) async fn send_records(&self, request: Bytes, gzip: bool) -> Reply {
        self.post(request, gzip, Signal::Logs).await
    }

    async fn post(&self, body: Bytes, gzip: bool, signal: Signal) -> Reply {
        let body = if gzip {
            Bytes::from(compress(&body))
        } else {
            body
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.clone();
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().insert(header::CONTENT_TYPE, PROTOBUF);
        if gzip {
            request
                .headers_mut()
                .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        match self.client.request(request).await {
            Ok(response) => read(response, signal).await,
            Err(error) => Reply::Transport(with_causes(&error)),
        }
    }
}

/// At level 1: three times as fast as the default on this data, for 10 % more bytes.
fn compress(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 8), Compression::fast());
    encoder
        .write_all(body)
        .and_then(|()| encoder.finish())
        .expect("writing to a Vec cannot fail")
}

async fn read(response: Response<Incoming>, signal: Signal) -> Reply {
    let (head, body) = response.into_parts();
    let body = match Limited::new(body, RESPONSE_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Reply::TooLong,
        Err(error) => return Reply::Transport(with_causes(&*error)),
    };
    if head.status.is_success() {
        return accepted(&body, signal);
    }
    let after = head
        .headers
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok());
    Reply::Http {
        status: head.status.as_u16(),
        retry_after: after
            .and_then(|value| retry_after(value, Duration::from_nanos(clock::unix_ns()))),
        message: message(
            &body,
            head.headers.get(header::CONTENT_TYPE) == Some(&PROTOBUF),
        ),
    }
}

/// A body that is no response message (some stores answer with none) says nothing about partial success.
fn accepted(body: &Bytes, signal: Signal) -> Reply {
    let partial = match signal {
        Signal::Metrics => ExportMetricsServiceResponse::decode(&body[..])
            .ok()
            .and_then(|response| response.partial_success)
            .map(|partial| (partial.rejected_data_points, partial.error_message)),
        Signal::Logs => ExportLogsServiceResponse::decode(&body[..])
            .ok()
            .and_then(|response| response.partial_success)
            .map(|partial| (partial.rejected_log_records, partial.error_message)),
    };
    let (rejected, message) = partial.unwrap_or_default();
    Reply::Accepted { rejected, message }
}

/// The text of a `google.rpc.Status`, or of whatever a proxy on the way may have said.
fn message(body: &Bytes, protobuf: bool) -> String {
    if protobuf {
        return tonic_types::Status::decode(&body[..])
            .map(|status| status.message)
            .unwrap_or_default();
    }
    String::from_utf8_lossy(&body[..body.len().min(1024)])
        .trim()
        .to_owned()
}
