//! How the API server is reached: the client, made anew when its credentials are refused.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use http::{Request, Response};
use kube::Client;
use kube::client::{Body, ClientBuilder};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use serde_json::Value;

use super::trouble::{Failure, chain};
use super::{KubeError, KubeSettings};

/// `sendInitialEvents` is on by default, with a gap, since this minor version; a server that does not want it says so.
const STREAMS_SINCE_MINOR: u32 = 32;

/// The way to the server.
#[derive(Debug)]
pub(super) struct Access {
    settings: KubeSettings,
    url: String,
    server: Option<SocketAddr>,
    current: Mutex<Current>,
    /// Whether the server sends lists as watches; `None` until it was asked.
    streams: tokio::sync::Mutex<Option<bool>>,
}

#[derive(Clone)]
struct Current {
    client: Client,
    generation: u64,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Current")
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl Access {
    /// Reads the configuration.
    pub(super) async fn new(settings: KubeSettings) -> Result<Self, KubeError> {
        let config = config(settings.kubeconfig.as_deref()).await?;
        let url = config.cluster_url.to_string();
        let server = address_of(&config);
        let current = Current {
            client: client(config)?,
            generation: 0,
        };
        Ok(Self {
            settings,
            url: url.trim_end_matches('/').to_owned(),
            server,
            current: Mutex::new(current),
            streams: tokio::sync::Mutex::new(None),
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The server's address, where the configuration has one.
    pub(super) fn server(&self) -> Option<SocketAddr> {
        self.server
    }

    /// Asks the server. With the answer, of whatever status, comes the generation of the credentials that were used.
    pub(super) async fn get(&self, path_and_query: &str) -> (Result<Response<Body>, Failure>, u64) {
        let Current { client, generation } = self.current();
        let request = Request::get(path_and_query).body(Body::empty());
        let answer = match request {
            Ok(request) => client.send(request).await.map_err(|error| chain(&error)),
            Err(error) => Err(error.to_string()),
        };
        (answer.map_err(Failure::Transport), generation)
    }

    /// The credentials of this generation were refused: reads them anew, token and certificates too.
    pub(super) async fn renew(&self, refused: u64) {
        if self.current().generation != refused {
            return;
        }
        let made = match config(self.settings.kubeconfig.as_deref()).await {
            Ok(config) => client(config),
            Err(error) => Err(error),
        };
        match made {
            Ok(client) => {
                let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
                if current.generation == refused {
                    let generation = refused + 1;
                    *current = Current { client, generation };
                }
            }
            Err(error) => tracing::warn!(error = %error, "the credentials cannot be read anew"),
        }
    }

    /// Whether to ask the server for its lists as watches.
    pub(super) async fn streams(&self) -> Result<bool, Failure> {
        let mut streams = self.streams.lock().await;
        if let Some(known) = *streams {
            return Ok(known);
        }
        let answer = self.get("/version").await.0?;
        let newer = if answer.status().is_success() {
            let body = answer.into_body().collect_bytes().await;
            let body = body.map_err(|error| Failure::Transport(chain(&error)))?;
            is_new_enough(&body)
        } else {
            false
        };
        *streams = Some(newer);
        Ok(newer)
    }

    /// The server does not send lists as watches after all.
    pub(super) async fn no_streams(&self) {
        *self.streams.lock().await = Some(false);
    }

    fn current(&self) -> Current {
        self.current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// `minor` may end with a `+`.
fn is_new_enough(version: &[u8]) -> bool {
    let version: Value = serde_json::from_slice(version).unwrap_or_default();
    let number = |key: &str| {
        let text = version.get(key).and_then(Value::as_str).unwrap_or_default();
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        digits.parse::<u32>().unwrap_or(0)
    };
    (number("major"), number("minor")) >= (1, STREAMS_SINCE_MINOR)
}

fn client(config: Config) -> Result<Client, KubeError> {
    let url = config.cluster_url.clone();
    let builder = ClientBuilder::try_from(config);
    builder
        .map(ClientBuilder::build)
        .map_err(|error| KubeError(format!("client for {url}: {}", chain(&error))))
}

async fn config(kubeconfig: Option<&Path>) -> Result<Config, KubeError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let wrong = |error| {
                KubeError(format!(
                    "kubeconfig {}: {error}: give one that works with kubectl",
                    path.display()
                ))
            };
            let kubeconfig = Kubeconfig::read_from(path).map_err(wrong)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .map_err(wrong)?
        }
        None => Config::incluster().map_err(|error| {
            let fix = "give --kubeconfig, or run as a pod with automountServiceAccountToken: true";
            KubeError(format!(
                "no kubeconfig, and not in a cluster ({error}): {fix}"
            ))
        })?,
    };
    // The watches have times of their own, and are the only ones to ask again.
    config.read_timeout = None;
    config.default_retry = false;
    Ok(config)
}

/// The server's address, if the configuration has one and not a name: names change their addresses. Not on loopback, which is
/// another server in each network namespace.
fn address_of(config: &Config) -> Option<SocketAddr> {
    let host = config.cluster_url.host()?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let ip: IpAddr = host.parse().ok()?;
    let by_scheme = match config.cluster_url.scheme_str() {
        Some("http") => 80,
        _ => 443,
    };
    let port = config.cluster_url.port_u16().unwrap_or(by_scheme);
    (!ip.is_loopback()).then(|| SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::is_new_enough;

    #[test]
    fn streams_are_asked_of_new_servers_only() {
        for (version, expected) in [
            (r#"{"major":"1","minor":"20"}"#, false),
            (r#"{"major":"1","minor":"31+"}"#, false),
            (r#"{"major":"1","minor":"32"}"#, true),
            (r#"{"major":"1","minor":"34+"}"#, true),
            (r#"{"major":"2","minor":"0"}"#, true),
            (r#"{"major":1}"#, false),
            ("<html>", false),
        ] {
            assert_eq!(is_new_enough(version.as_bytes()), expected, "{version}");
        }
    }
}
