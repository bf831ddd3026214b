//! What the reader of container logs tells.

use serde::{Deserialize, Serialize};

/// Counts of one container's logs since the reader began, and what waits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogRow {
    /// Namespace of the pod, by the name of its log directory.
    pub namespace: String,
    /// Name of the pod, likewise.
    pub pod: String,
    /// UID of the pod, likewise.
    pub pod_uid: String,
    /// Name of the container, likewise.
    pub container: String,
    /// Bytes that it is known to have written since the reader began: read, waiting or lost.
    pub seen_bytes: u64,
    /// Bytes that the collector has not acknowledged, decompressed.
    pub lag_bytes: u64,
    /// Bytes of its files on disk.
    pub retained_bytes: u64,
    /// What will not arrive, by reason.
    pub lost: Vec<LogLossRow>,
}

/// What will not arrive, for one reason; cumulative.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLossRow {
    /// `rotated`, `deleted`, `truncated`, or what a collector said.
    pub reason: String,
    /// Records, as far as they were seen as such.
    pub records: u64,
    /// Bytes, as far as they are known.
    pub bytes: u64,
    /// Whole pods, of which neither records nor bytes are known.
    #[serde(default)]
    pub pods: u64,
}
