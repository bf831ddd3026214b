//! OTLP/gRPC, by tonic's generated clients over the same hyper and rustls as OTLP/HTTP.

mod raw;

use std::error::Error as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Request, Response, StatusCode, header, response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use tonic::client::Grpc;
use tonic::codec::CompressionEncoding;
use tonic::codegen::Service;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{RESPONSE_BYTES_MAX, with_causes};
use crate::clock;
use crate::export::encode::Payload;
use crate::export::settings::Endpoint;
use crate::export::verdict::{RETRY_AFTER_MAX, Reply, retry_after};

/// As the generated client has it.
const LOGS_PATH: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
const GRPC_STATUS: &str = "grpc-status";
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct GrpcClient {
    metrics: MetricsServiceClient<Http2>,
    logs: LogsServiceClient<Http2>,
    /// For messages that are encoded already.
    raw: Grpc<Http2>,
}

impl GrpcClient {
    pub(super) fn new(
        connector: HttpsConnector<HttpConnector>,
        endpoint: &Endpoint,
        headers: &HeaderMap,
    ) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .http2_keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .build(connector);
        let http2 = Http2 {
            client,
            headers: headers.clone(),
        };
        let origin = endpoint.url.clone();
        let raw = Grpc::with_origin(http2.clone(), origin.clone())
            .max_decoding_message_size(RESPONSE_BYTES_MAX);
        Self {
            raw,
            metrics: MetricsServiceClient::with_origin(http2.clone(), origin.clone())
                .max_decoding_message_size(RESPONSE_BYTES_MAX),
            logs: LogsServiceClient::with_origin(http2, origin)
                .max_decoding_message_size(RESPONSE_BYTES_MAX),
        }
    }

    pub(super) async fn send(&self, payload: &Payload, gzip: bool, limit: Duration) -> Reply {
        let spoke = Spoke::default();
        let answer = match payload {
            Payload::Metrics(request) => {
                self.send_metrics(prepare(request, limit, &spoke), gzip)
                    .await
            }
            Payload::Logs(request) => self.send_logs(prepare(request, limit, &spoke), gzip).await,
        };
        match answer {
            Ok(partial) => {
                let (rejected, message) = partial.unwrap_or_default();
                Reply::Accepted { rejected, message }
            }
            Err(status) => refused(&status, &spoke),
        }
    }

    pub(super) async fn send_records(&self, message: Bytes, gzip: bool, limit: Duration) -> Reply {
        let spoke = Spoke::default();
        let mut client = self.raw.clone();
        if gzip {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        let request = prepare(&message, limit, &spoke);
        let answer = async {
            // hyper's client is always ready; tonic wants to hear it.
            client.ready().await.map_err(Status::from_error)?;
            let path = PathAndQuery::from_static(LOGS_PATH);
            client.unary(request, path, raw::Codec).await
        };
        match answer.await {
            Ok(response) => {
                let partial = response.into_inner().partial_success.unwrap_or_default();
                Reply::Accepted {
                    rejected: partial.rejected_log_records,
                    message: partial.error_message,
                }
            }
            Err(status) => refused(&status, &spoke),
        }
    }

    // A generated client is a handle: the connection pool is shared by its clones.
    async fn send_metrics(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
        gzip: bool,
    ) -> Partial {
        let mut client = self.metrics.clone();
        if gzip {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        let partial = client.export(request).await?.into_inner().partial_success;
        Ok(partial.map(|partial| (partial.rejected_data_points, partial.error_message)))
    }

    async fn send_logs(
        &self,
        request: tonic::Request<ExportLogsServiceRequest>,
        gzip: bool,
    ) -> Partial {
        let mut client = self.logs.clone();
        if gzip {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        let partial = client.export(request).await?.into_inner().partial_success;
        Ok(partial.map(|partial| (partial.rejected_log_records, partial.error_message)))
    }
}

/// Items rejected and why, if any.
type Partial = Result<Option<(i64, String)>, Status>;

fn prepare<T: Clone>(message: &T, limit: Duration, spoke: &Spoke) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message.clone());
    request.set_timeout(limit);
    request.extensions_mut().insert(spoke.clone());
    request
}

/// Whether the server itself gave a status. What tonic makes up when a connection dies, a proxy answers or a stream ends
/// early looks the same, often as UNKNOWN or INTERNAL, which the specification would have us drop.
#[derive(Clone, Debug, Default)]
struct Spoke(Arc<AtomicBool>);

impl Spoke {
    fn note(&self, headers: &HeaderMap) {
        self.0
            .fetch_or(headers.contains_key(GRPC_STATUS), Ordering::Relaxed);
    }
}

fn refused(status: &Status, spoke: &Spoke) -> Reply {
    let details = || {
        status
            .get_details_retry_info()
            .and_then(|info| info.retry_delay)
    };
    if spoke.0.load(Ordering::Relaxed) {
        return Reply::Grpc {
            code: status.code(),
            retry_info: details().map(|delay| delay.min(RETRY_AFTER_MAX)),
            message: status.message().to_owned(),
        };
    }
    let mut cause = status.source();
    while let Some(error) = cause {
        if let Some(answer) = error.downcast_ref::<NotGrpc>() {
            return answer.reply();
        }
        if error.is::<LengthLimitError>() {
            return Reply::TooLong;
        }
        cause = error.source();
    }
    match (status.code(), status.source()) {
        // tonic's decoder, about a message over the limit that was set above.
        (Code::OutOfRange, None) => Reply::TooLong,
        (_, None) => Reply::Transport(status.message().to_owned()),
        (_, Some(source)) => Reply::Transport(with_causes(source)),
    }
}

/// An answer of something that is no gRPC server: a proxy, or the collector's other port.
#[derive(Debug, thiserror::Error)]
#[error("the answer is not gRPC: HTTP status {status}")]
struct NotGrpc {
    status: StatusCode,
    retry_after: Option<Duration>,
}

impl NotGrpc {
    fn of(head: &response::Parts) -> Option<Self> {
        let content_type = head
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let is_grpc = content_type.is_some_and(|value| value.starts_with("application/grpc"));
        if head.headers.contains_key(GRPC_STATUS) || is_grpc && head.status == StatusCode::OK {
            return None;
        }
        let after = head
            .headers
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok());
        let now = Duration::from_nanos(clock::unix_ns());
        Some(Self {
            status: head.status,
            retry_after: after.and_then(|value| retry_after(value, now)),
        })
    }

    fn reply(&self) -> Reply {
        let message = "not a gRPC answer".to_owned();
        if self.status.is_success() {
            return Reply::Grpc {
                code: Code::Unimplemented,
                retry_info: None,
                message,
            };
        }
        Reply::Http {
            status: self.status.as_u16(),
            retry_after: self.retry_after,
            message,
        }
    }
}

/// hyper's client as tonic wants it: with our headers on each request and a bound on each answer.
#[derive(Clone, Debug)]
struct Http2 {
    client: Client<HttpsConnector<HttpConnector>, tonic::body::Body>,
    headers: HeaderMap,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<Request<tonic::body::Body>> for Http2 {
    type Response = Response<BoxBody<Bytes, BoxError>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<tonic::body::Body>) -> Self::Future {
        for (name, value) in &self.headers {
            request.headers_mut().insert(name.clone(), value.clone());
        }
        let spoke = request
            .extensions()
            .get::<Spoke>()
            .cloned()
            .unwrap_or_default();
        let answer = self.client.request(request);
        Box::pin(async move {
            let (head, body) = answer.await?.into_parts();
            spoke.note(&head.headers);
            if let Some(error) = NotGrpc::of(&head) {
                return Err(error.into());
            }
            let noted = body.map_frame(move |frame| {
                frame
                    .trailers_ref()
                    .into_iter()
                    .for_each(|trailers| spoke.note(trailers));
                frame
            });
            // One message and its frame; the decoder holds the message itself to the limit.
            let limited = Limited::new(noted, RESPONSE_BYTES_MAX + 1024);
            Ok(Response::from_parts(head, BoxBody::new(limited)))
        })
    }
}
