//! Carries what the SDK has encoded over the exporter's transport: HTTP or gRPC, with our certificates and limits.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use prost::Message as _;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use crate::export::encode::Payload;
use crate::export::transport::Transport;
use crate::export::verdict::{Attempt, Reply, Verdict, decide};

/// Called on the SDK's thread; the request itself runs on the agent's runtime, since connections live there.
#[derive(Debug)]
pub(super) struct SelfClient {
    line: Arc<Mutex<Line>>,
    runtime: Handle,
}

#[derive(Debug)]
struct Line {
    transport: Transport,
    gzip: bool,
    failing: bool,
}

impl SelfClient {
    pub(super) fn new(transport: Transport, runtime: Handle) -> Self {
        let gzip = transport.endpoint().gzip;
        Self {
            line: Arc::new(Mutex::new(Line {
                transport,
                gzip,
                failing: false,
            })),
            runtime,
        }
    }
}

#[async_trait]
impl HttpClient for SelfClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // Address and headers are the transport's own: only the body is the SDK's.
        let message = ExportMetricsServiceRequest::decode(request.into_body())?;
        let line = Arc::clone(&self.line);
        let reply = self
            .runtime
            .spawn(async move { line.lock().await.send(Payload::Metrics(message)).await })
            .await?;
        let status = match &reply {
            Reply::Accepted { .. } => StatusCode::OK,
            Reply::Http { status, .. } => StatusCode::from_u16(*status)?,
            Reply::Grpc { .. } | Reply::Transport(_) | Reply::Deadline(_) | Reply::TooLong => {
                return Err(reply.describe().into());
            }
        };
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = status;
        Ok(response)
    }
}

impl Line {
    async fn send(&mut self, payload: Payload) -> Reply {
        let attempt = Attempt {
            items: 0,
            gzip_unproven: self.gzip,
        };
        let mut reply = self
            .transport
            .send(&payload, self.gzip, Duration::MAX)
            .await;
        if decide(&reply, attempt) == Verdict::Uncompressed {
            reply = self.transport.send(&payload, false, Duration::MAX).await;
            self.gzip = !matches!(reply, Reply::Accepted { .. });
        }
        self.transport.reconnect(&reply);
        let failing = !matches!(reply, Reply::Accepted { .. });
        if failing && !self.failing {
            tracing::warn!(
                error = reply.describe(),
                "the agent's own metrics were not taken"
            );
        }
        self.failing = failing;
        reply
    }
}
