//! Health and status over a Unix socket, by HTTP: `GET /status`, `/findings`, `/suppressed`, `/readyz`, `/livez`. And the
//! client of `plumbline status`.

mod view;

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use plumbline_core::finding::Finding;
use plumbline_core::observation::Health;
use plumbline_core::snapshot::Snapshot;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

use crate::config::reload::ConfigStats;
use crate::export::stats::LaneStats;
use crate::findings_state::keeper::StateStats;

/// Connections served at once; further ones wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 16;

/// A connection may take this long in all.
const CONNECTION_TIME: Duration = Duration::from_secs(5);

/// A status larger than this is not read by the client.
const STATUS_BYTES_MAX: usize = 64 << 20;

/// What the loop last said.
#[derive(Debug)]
pub struct Published {
    /// The node.
    pub snapshot: Arc<Snapshot>,
    /// Open findings.
    pub open: Vec<Finding>,
    /// Hidden findings.
    pub suppressed: Vec<Finding>,
    /// The export lanes.
    pub lanes: Vec<LaneStats>,
    /// The reader of container logs, if there is one.
    pub logs: Option<plumbline_logs::stats::Stats>,
    /// What outlives an evaluation.
    pub kept: Kept,
}

/// How configuration and state file fare.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Kept {
    /// The configuration.
    pub config: ConfigStats,
    /// The state file; absent without one.
    pub state: Option<StateStats>,
}

/// What is published, once something is.
pub type Latest = watch::Receiver<Option<Arc<Published>>>;

/// The bound socket. Removed when dropped.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "the status socket was not removed");
        }
    }
}

impl Listener {
    /// Binds it, readable and writable by its owner only. A socket that a dead agent left is replaced. `None` when no path
    /// is given.
    ///
    /// # Errors
    ///
    /// Another agent answers there, or the path cannot be used.
    pub fn bind(path: Option<&Path>) -> anyhow::Result<Option<Self>> {
        let Some(path) = path else { return Ok(None) };
        let fix = "give another one with --socket";
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)
                .with_context(|| format!("make {} for the status socket; {fix}", dir.display()))?;
        }
        if path.exists() {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                bail!("another plumbline serves {}; {fix}", path.display());
            }
            std::fs::remove_file(path)
                .with_context(|| format!("remove the stale socket {}", path.display()))?;
        }
        let listener =
            UnixListener::bind(path).with_context(|| format!("bind {}; {fix}", path.display()))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .with_context(|| format!("restrict {}", path.display()))?;
        Ok(Some(Self {
            listener,
            path: path.to_owned(),
        }))
    }

    /// Serves until aborted.
    pub async fn serve(self, latest: Latest) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a status connection was not accepted");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            let latest = latest.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let response = answer(&request, latest.borrow().as_deref());
                    async { Ok::<_, Infallible>(response) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                match tokio::time::timeout(CONNECTION_TIME, connection).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "a status connection failed"),
                    Err(_) => tracing::debug!("a status connection took too long"),
                }
                drop(slot);
            });
        }
    }
}

fn answer(request: &Request<Incoming>, latest: Option<&Published>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    }
    match (request.uri().path(), latest) {
        ("/livez", _) => text(StatusCode::OK, "ok\n"),
        ("/readyz", latest) => match latest.map(not_ready) {
            Some(None) => text(StatusCode::OK, "ok\n"),
            Some(Some(why)) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("{why}\n")),
            None => text(
                StatusCode::SERVICE_UNAVAILABLE,
                "nothing has been observed yet\n",
            ),
        },
        ("/status" | "/findings" | "/suppressed", None) => text(
            StatusCode::SERVICE_UNAVAILABLE,
            "nothing has been observed yet\n",
        ),
        ("/status", Some(published)) => json(&view::Status::new(published)),
        ("/findings", Some(published)) => json(&published.open),
        ("/suppressed", Some(published)) => json(&published.suppressed),
        _ => text(
            StatusCode::NOT_FOUND,
            "GET /status, /findings, /suppressed, /readyz or /livez\n",
        ),
    }
}

/// What the agent still waits for, if anything.
fn not_ready(published: &Published) -> Option<&'static str> {
    let snapshot = &published.snapshot;
    let off = snapshot
        .probes
        .iter()
        .any(|probe| probe.probe == "declared" && probe.health == Health::Off);
    if snapshot.scans == 0 {
        Some("the node's sockets have not been scanned yet")
    } else if snapshot.declared.is_none() && !off {
        Some("declarations have not been read yet")
    } else {
        None
    }
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_owned()));
    *response.status_mut() = status;
    response
}

fn json(value: &impl serde::Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(body) => {
            let mut response = Response::new(Full::from(body));
            let kind = http::HeaderValue::from_static("application/json");
            response
                .headers_mut()
                .insert(http::header::CONTENT_TYPE, kind);
            response
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}

/// `plumbline status`.
///
/// # Errors
///
/// No agent answers on the socket.
pub fn print(socket: &Path, as_json: bool, ready: bool) -> anyhow::Result<ExitCode> {
    let path = if ready { "/readyz" } else { "/status" };
    let (status, body) = ask(socket, path)?;
    if ready {
        return Ok(if status == StatusCode::OK {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    if status != StatusCode::OK {
        bail!("{}", String::from_utf8_lossy(&body).trim());
    }
    let shown = if as_json {
        String::from_utf8_lossy(&body).into_owned() + "\n"
    } else {
        view::table(
            &serde_json::from_slice(&body).context("the agent's answer is not of this version")?,
        )
    };
    io::Write::write_all(&mut io::stdout().lock(), shown.as_bytes()).context("write to stdout")?;
    Ok(ExitCode::SUCCESS)
}

/// The running agent's answer to `GET path`.
pub(crate) fn ask(socket: &Path, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let limited = tokio::time::timeout(CONNECTION_TIME, get(socket, path)).await;
        limited.with_context(|| {
            format!(
                "no answer on {} in {} s",
                socket.display(),
                CONNECTION_TIME.as_secs()
            )
        })?
    })
}

async fn get(socket: &Path, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    let stream = UnixStream::connect(socket).await.with_context(|| {
        format!(
            "no agent answers on {}; is `plumbline run` running, with this --socket?",
            socket.display()
        )
    })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = Request::get(path)
        .header(http::header::HOST, "plumbline")
        .body(Empty::<Bytes>::new())?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, STATUS_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!(error))?
        .to_bytes();
    drop(sender);
    driver.abort();
    Ok((head.status, body))
}
