//! A collector in this process: OpenTelemetry's own generated gRPC servers, and OTLP/HTTP on hyper. It records what it is
//! sent and answers by a script.

use std::collections::VecDeque;
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use flate2::read::GzDecoder;
use http::{HeaderMap, Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{
    LogsService, LogsServiceServer,
};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use plumbline::clock;
use plumbline::export::settings::Protocol;
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic::codegen::Service as _;

/// What to answer.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Ok,
    /// Accepted, but for so many, with this text.
    Partial(i64, &'static str),
    /// A gRPC status, by the server itself.
    Status(tonic::Status),
    /// An HTTP answer.
    Http(u16, Vec<(&'static str, String)>, &'static str),
    /// 503, and not before the date that is so many seconds ahead, cut to the second.
    Date(u64),
    /// Accepted, with an answer of 5 MiB.
    Huge,
    /// Never.
    Stall,
    /// The stream (gRPC) or the connection (HTTP) is torn down.
    Reset,
}

/// One request as it came in.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) at: tokio::time::Instant,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

#[derive(Default)]
struct State {
    script: Mutex<VecDeque<Answer>>,
    seen: Mutex<Vec<Seen>>,
    metrics: Mutex<Vec<ExportMetricsServiceRequest>>,
    logs: Mutex<Vec<ExportLogsServiceRequest>>,
    connections: Mutex<u32>,
    /// 403 to requests over HTTP that contain this.
    unwanted: Mutex<Option<&'static [u8]>>,
    /// Answers come this late.
    delay: Mutex<Duration>,
    /// Requests under way, and the most that were.
    at_once: Mutex<(u32, u32)>,
}

pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    protocol: Protocol,
    tls: bool,
    state: Arc<State>,
    task: JoinHandle<()>,
}

/// How to serve.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) protocol: Protocol,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) takes_gzip: bool,
}

impl Collector {
    pub(crate) async fn start(protocol: Protocol) -> Self {
        Self::with(Options {
            protocol,
            tls: None,
            takes_gzip: true,
        })
        .await
    }

    pub(crate) async fn with(options: Options) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, options)
    }

    /// At an address where one was before.
    pub(crate) async fn again(address: SocketAddr, protocol: Protocol) -> Self {
        let options = Options {
            protocol,
            tls: None,
            takes_gzip: true,
        };
        Self::again_with(address, options).await
    }

    pub(crate) async fn again_with(address: SocketAddr, options: Options) -> Self {
        // Connections of the one before may still be closing.
        for _ in 0..500 {
            if let Ok(listener) = TcpListener::bind(address).await {
                return Self::on(listener, options);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{address} is not free");
    }

    fn on(listener: TcpListener, options: Options) -> Self {
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let (protocol, tls) = (options.protocol, options.tls.is_some());
        let task = tokio::spawn(accept(listener, options, Arc::clone(&state)));
        Self {
            address,
            protocol,
            tls,
            state,
            task,
        }
    }

    /// What the next requests are answered; after that, [`Answer::Ok`].
    pub(crate) fn script(&self, answers: impl IntoIterator<Item = Answer>) {
        lock(&self.state.script).extend(answers);
    }

    /// From now on requests over HTTP with these bytes in them are refused, as a filter before a collector would.
    pub(crate) fn refuse_what_contains(&self, bytes: &'static [u8]) {
        *lock(&self.state.unwanted) = Some(bytes);
    }

    /// From now on answers come this late.
    pub(crate) fn answer_after(&self, delay: Duration) {
        *lock(&self.state.delay) = delay;
    }

    /// The most requests that were under way at one time.
    pub(crate) fn at_once_max(&self) -> u32 {
        lock(&self.state.at_once).1
    }

    /// The variables that lead a sender here.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        let scheme = if self.tls { "https" } else { "http" };
        let protocol = match self.protocol {
            Protocol::Grpc => "grpc",
            Protocol::HttpProtobuf => "http/protobuf",
        };
        let endpoint = format!("{scheme}://localhost:{}", self.address.port());
        vec![
            ("OTEL_EXPORTER_OTLP_ENDPOINT".into(), endpoint),
            ("OTEL_EXPORTER_OTLP_PROTOCOL".into(), protocol.into()),
        ]
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        lock(&self.state.seen).clone()
    }

    pub(crate) fn metrics(&self) -> Vec<ExportMetricsServiceRequest> {
        lock(&self.state.metrics).clone()
    }

    pub(crate) fn logs(&self) -> Vec<ExportLogsServiceRequest> {
        lock(&self.state.logs).clone()
    }

    pub(crate) fn connections(&self) -> u32 {
        *lock(&self.state.connections)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

async fn accept(listener: TcpListener, options: Options, state: Arc<State>) {
    // Dropped, and so torn down, with the collector.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        *lock(&state.connections) += 1;
        let (options, state) = (options.clone(), Arc::clone(&state));
        connections.spawn(async move {
            match &options.tls {
                None => serve(stream, &options, state).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => serve(stream, &options, state).await,
                    Err(error) => eprintln!("TLS handshake failed: {error}"),
                },
            }
        });
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    options: &Options,
    state: Arc<State>,
) {
    let stream = TokioIo::new(stream);
    let takes_gzip = options.takes_gzip;
    // A sender that goes away is no failure of the collector.
    let ended = match options.protocol {
        Protocol::Grpc => {
            let service = service_fn(move |request| grpc(request, takes_gzip, Arc::clone(&state)));
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(stream, service)
                .await
        }
        Protocol::HttpProtobuf => {
            let service = service_fn(move |request| http1(request, takes_gzip, Arc::clone(&state)));
            hyper::server::conn::http1::Builder::new()
                .serve_connection(stream, service)
                .await
        }
    };
    if let Err(error) = ended {
        eprintln!("connection ended: {error}");
    }
}

type Answered = Result<Response<Body>, Box<dyn std::error::Error + Send + Sync>>;

impl State {
    /// Counts a request, and makes it wait.
    async fn count(self: &Arc<Self>) -> Counted {
        {
            let mut at_once = lock(&self.at_once);
            at_once.0 += 1;
            at_once.1 = at_once.1.max(at_once.0);
        }
        let counted = Counted(Arc::clone(self));
        let delay = *lock(&self.delay);
        tokio::time::sleep(delay).await;
        counted
    }

    fn note(&self, request: &Request<Incoming>) -> Answer {
        let seen = Seen {
            path: request.uri().path().to_owned(),
            headers: request.headers().clone(),
            at: tokio::time::Instant::now(),
        };
        lock(&self.seen).push(seen);
        lock(&self.script).pop_front().unwrap_or(Answer::Ok)
    }
}

/// A request under way.
struct Counted(Arc<State>);

impl Drop for Counted {
    fn drop(&mut self) {
        lock(&self.0.at_once).0 -= 1;
    }
}

fn plain(status: u16, headers: &[(&'static str, String)], body: impl Into<Bytes>) -> Answered {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    Ok(response.body(Body::new(Full::new(body.into())))?)
}

async fn stall() -> Answered {
    std::future::pending().await
}

/// The script's own answers; what remains is for the service.
async fn by_script(answer: &Answer) -> Option<Answered> {
    match answer {
        Answer::Http(status, headers, body) => Some(plain(*status, headers, *body)),
        Answer::Date(seconds) => {
            let unix = Duration::from_nanos(clock::unix_ns()) + Duration::from_secs(*seconds);
            let date = httpdate::fmt_http_date(std::time::UNIX_EPOCH + unix);
            Some(plain(503, &[("retry-after", date)], "later"))
        }
        Answer::Stall => Some(stall().await),
        Answer::Reset => Some(Err("reset by script".into())),
        Answer::Ok | Answer::Partial(..) | Answer::Status(_) | Answer::Huge => None,
    }
}

async fn grpc(mut request: Request<Incoming>, takes_gzip: bool, state: Arc<State>) -> Answered {
    let _counted = state.count().await;
    let answer = state.note(&request);
    if let Some(answered) = by_script(&answer).await {
        return answered;
    }
    request.extensions_mut().insert(answer);
    let is_metrics = request.uri().path().contains("MetricsService");
    let service = Service(state);
    if is_metrics {
        let mut server = MetricsServiceServer::new(service);
        if takes_gzip {
            server = server.accept_compressed(CompressionEncoding::Gzip);
        }
        return Ok(server.call(request).await?);
    }
    let mut server = LogsServiceServer::new(service);
    if takes_gzip {
        server = server.accept_compressed(CompressionEncoding::Gzip);
    }
    Ok(server.call(request).await?)
}

/// Behind the generated servers.
struct Service(Arc<State>);

fn partial<T>(request: &tonic::Request<T>) -> Result<Option<(i64, String)>, tonic::Status> {
    match request.extensions().get::<Answer>().unwrap() {
        Answer::Partial(rejected, message) => Ok(Some((*rejected, (*message).to_owned()))),
        Answer::Huge => Ok(Some((0, "x".repeat(5 << 20)))),
        Answer::Status(status) => Err(status.clone()),
        _ => Ok(None),
    }
}

#[async_trait]
impl MetricsService for Service {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, tonic::Status> {
        let partial = partial(&request)?;
        lock(&self.0.metrics).push(request.into_inner());
        Ok(tonic::Response::new(metrics_response(partial)))
    }
}

#[async_trait]
impl LogsService for Service {
    async fn export(
        &self,
        request: tonic::Request<ExportLogsServiceRequest>,
    ) -> Result<tonic::Response<ExportLogsServiceResponse>, tonic::Status> {
        let partial = partial(&request)?;
        lock(&self.0.logs).push(request.into_inner());
        Ok(tonic::Response::new(logs_response(partial)))
    }
}

fn metrics_response(partial: Option<(i64, String)>) -> ExportMetricsServiceResponse {
    let partial_success =
        partial.map(
            |(rejected_data_points, error_message)| ExportMetricsPartialSuccess {
                rejected_data_points,
                error_message,
            },
        );
    ExportMetricsServiceResponse { partial_success }
}

fn logs_response(partial: Option<(i64, String)>) -> ExportLogsServiceResponse {
    let partial_success =
        partial.map(
            |(rejected_log_records, error_message)| ExportLogsPartialSuccess {
                rejected_log_records,
                error_message,
            },
        );
    ExportLogsServiceResponse { partial_success }
}

async fn http1(request: Request<Incoming>, takes_gzip: bool, state: Arc<State>) -> Answered {
    let answer = state.note(&request);
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let _counted = state.count().await;
    let unwanted = *lock(&state.unwanted);
    if unwanted.is_some_and(|bytes| body.windows(bytes.len()).any(|window| window == bytes)) {
        return plain(403, &[], "not this one");
    }
    if let Some(answered) = by_script(&answer).await {
        return answered;
    }
    let body = match head.headers.get(header::CONTENT_ENCODING) {
        None => body,
        Some(_) if !takes_gzip => return plain(415, &[], "no gzip here"),
        Some(_) => {
            let mut plain = Vec::new();
            GzDecoder::new(&body[..]).read_to_end(&mut plain)?;
            Bytes::from(plain)
        }
    };
    let partial = match answer {
        Answer::Partial(rejected, message) => Some((rejected, message.to_owned())),
        Answer::Huge => Some((0, "x".repeat(5 << 20))),
        _ => None,
    };
    let response = match head.uri.path() {
        "/v1/metrics" => {
            lock(&state.metrics).push(ExportMetricsServiceRequest::decode(body)?);
            metrics_response(partial).encode_to_vec()
        }
        "/v1/logs" => {
            lock(&state.logs).push(ExportLogsServiceRequest::decode(body)?);
            logs_response(partial).encode_to_vec()
        }
        _ => return plain(404, &[], "no such path"),
    };
    plain(
        200,
        &[("content-type", "application/x-protobuf".to_owned())],
        response,
    )
}

/// Waits until `done`, at most 30 s.
pub(crate) async fn until(what: &str, done: impl Fn() -> bool) {
    for _ in 0..3_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain for: {what}");
}
