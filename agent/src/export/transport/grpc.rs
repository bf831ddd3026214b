//! OTLP/gRPC, by tonic's generated clients over the same hyper and rustls as OTLP/HTTP.

use std::error::Error as _;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use http_body_util::{LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use tonic::codec::CompressionEncoding;
use tonic::codegen::Service;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{RESPONSE_BYTES_MAX, with_causes};
use crate::export::encode::Payload;
use crate::export::settings::Endpoint;
use crate::export::verdict::{RETRY_AFTER_MAX, Reply};

const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct GrpcClient {
    metrics: MetricsServiceClient<Http2>,
    logs: LogsServiceClient<Http2>,
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
        Self {
            metrics: MetricsServiceClient::with_origin(http2.clone(), origin.clone())
                .max_decoding_message_size(RESPONSE_BYTES_MAX),
            logs: LogsServiceClient::with_origin(http2, origin)
                .max_decoding_message_size(RESPONSE_BYTES_MAX),
        }
    }

    pub(super) async fn send(&self, payload: &Payload, gzip: bool, limit: Duration) -> Reply {
        // A generated client is a handle; the connection pool is shared.
        let answer = match payload {
            Payload::Metrics(request) => {
                let mut client = self.metrics.clone();
                if gzip {
                    client = client.send_compressed(CompressionEncoding::Gzip);
                }
                let answer = client.export(with_limit(request.clone(), limit)).await;
                answer
                    .map(|response| response.into_inner().partial_success)
                    .map(|partial| {
                        partial.map(|partial| (partial.rejected_data_points, partial.error_message))
                    })
            }
            Payload::Logs(request) => {
                let mut client = self.logs.clone();
                if gzip {
                    client = client.send_compressed(CompressionEncoding::Gzip);
                }
                let answer = client.export(with_limit(request.clone(), limit)).await;
                answer
                    .map(|response| response.into_inner().partial_success)
                    .map(|partial| {
                        partial.map(|partial| (partial.rejected_log_records, partial.error_message))
                    })
            }
        };
        match answer {
            Ok(partial) => {
                let (rejected, message) = partial.unwrap_or_default();
                Reply::Accepted { rejected, message }
            }
            Err(status) => refused(&status),
        }
    }
}

fn with_limit<T>(message: T, limit: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(limit);
    request
}

/// Tells what the server said from what happened on the way: a dead connection surfaces as UNKNOWN or CANCELLED, which
/// the specification would have us drop. Only what happened on the way has a source.
fn refused(status: &Status) -> Reply {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<LengthLimitError>() {
            return Reply::TooLong;
        }
        cause = error.source();
    }
    if let Some(source) = status.source() {
        return Reply::Transport(with_causes(source));
    }
    // tonic's own decoder says this, with a code that from a server would mean "try again".
    if status.code() == Code::OutOfRange
        && status
            .message()
            .starts_with("Error, decoded message length too large")
    {
        return Reply::TooLong;
    }
    let delay = status
        .get_details_retry_info()
        .and_then(|info| info.retry_delay);
    Reply::Grpc {
        code: status.code(),
        retry_info: delay.map(|delay| delay.min(RETRY_AFTER_MAX)),
        message: status.message().to_owned(),
    }
}

/// hyper's client as tonic wants it: with our headers on each request and a bound on each answer.
#[derive(Clone, Debug)]
struct Http2 {
    client: Client<HttpsConnector<HttpConnector>, tonic::body::Body>,
    headers: HeaderMap,
}

impl Service<Request<tonic::body::Body>> for Http2 {
    type Response = Response<Limited<Incoming>>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<tonic::body::Body>) -> Self::Future {
        for (name, value) in &self.headers {
            request.headers_mut().insert(name.clone(), value.clone());
        }
        let answer = self.client.request(request);
        // One message and its frame; the decoder holds the message itself to the limit.
        Box::pin(async move {
            Ok(answer
                .await?
                .map(|body| Limited::new(body, RESPONSE_BYTES_MAX + 1024)))
        })
    }
}
